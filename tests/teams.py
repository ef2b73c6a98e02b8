"""Teams of processes that meet without torchrun, and what each of them found."""

import contextlib
import fcntl
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import ROOT
from preloaded import python

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.errors import UserError


def start_team(script: str, folder: Path, groups: list[int], timeout: int = 800) -> None:
    """Run `script FOLDER` in as many processes as the largest of `groups`, which they join in turn.

    The stores at which they meet are this process's, on ports that the system gave: another test at
    the same time cannot have the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stores = [dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False) for _ in groups]
    env = os.environ | dict(MASTER_ADDR="127.0.0.1", TORCHELASTIC_USE_AGENT_STORE="True")
    env |= dict(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    env |= {f"PORT_{size}": str(store.port) for size, store in zip(groups, stores, strict=True)}
    team = []
    for rank in range(max(groups)):
        own = env | dict(RANK=str(rank), LOCAL_RANK=str(rank))
        with (folder / f"said.{rank}").open("w") as said:
            command = [python(), script, str(folder)]
            team.append(subprocess.Popen(command, stdout=said, stderr=said, env=own, cwd=ROOT))
    end = time.monotonic() + timeout
    try:
        while any(process.poll() is None for process in team):
            assert time.monotonic() < end, "the processes wait for each other"
            assert not any(process.poll() for process in team), "a process failed"
            time.sleep(0.1)
        assert not any(process.poll() for process in team), "a process failed"
    except AssertionError as error:
        said = [(folder / f"said.{rank}").read_text()[-3000:] for rank in range(len(team))]
        raise AssertionError(f"{error}\n" + "\n".join(said)) from None
    finally:
        for process in team:
            process.kill()
            process.wait()


@contextlib.contextmanager
def joined(size: int):
    """Be one of `size` processes; as of torchrun's, number RANK of them."""
    os.environ |= dict(WORLD_SIZE=str(size), MASTER_PORT=os.environ[f"PORT_{size}"])
    with distributed.processes():
        yield


def team_results(name: str, factory, start: Callable) -> tuple[Path, list[dict]]:
    """The folder of the team `name`, and what each process found; the first test starts it.

    pytest-xdist's processes share it: whoever comes first holds the lock.
    """
    shared = factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / name).exists():
            start(shared / name)
    files = sorted((shared / name).glob("found.*.pt"))
    assert files, f"{name}: the processes failed, see the first test that asked for them"
    return shared / name, [torch.load(file, weights_only=False) for file in files]


def attempt(function: Callable):
    """What it gives, or the error it raises, as text: it must not keep the others from theirs."""
    try:
        return function()
    except UserError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
