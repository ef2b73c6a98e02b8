"""Loader workers: what is told where there is no shared memory, and that none can hang a run."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from tiny_run import at_call, images_of, train

from SSLRemoteSensing.core import workers
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.training import run_folder

SMALL = """
import subprocess, sys, torch
from torch.utils.data import DataLoader
from SSLRemoteSensing.core import workers
from SSLRemoteSensing.core.errors import UserError

class Images:
    def __getitem__(self, index):  # the first ones fit
        return torch.zeros(10_000 if index < 2 or sys.argv[1] == "all" else 10_000_000)
    def __len__(self):
        return 40

for size in sys.argv[2:]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)
    loader = DataLoader(Images(), 2, num_workers=2, worker_init_fn=workers.one_thread)
    batches = None
    try:
        with workers.name_lost_workers():
            batches = workers.start_workers(loader)
            print(size, sum(len(batch) for batch in workers.awaited(batches)))
    except UserError as error:
        print(size, error)
    finally:
        workers.end_workers(batches)
"""


@pytest.mark.parametrize(
    ("which", "sizes", "said"),
    [
        ("all", ["4k", "60k", "64m"], ["cannot be started", "found no room in /dev/shm", "40"]),
        ("later", ["2m"], ["found no room in /dev/shm"]),
    ],
)
def test_too_little_shared_memory_is_told_within_seconds(which, sizes, said):
    isolated = ["unshare", "-m", "bash", "-c"]
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"]).returncode:
        pytest.skip("only root may give a process a /dev/shm of its own")
    words = ["-W", "ignore", "-c", SMALL, which, *sizes]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, *words],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert (done.stderr, len(lines)) == ("", len(said))
    for line, text, size in zip(lines, said, sizes, strict=True):
        assert line.startswith(size)
        assert text in line
        assert line.endswith(" 40") or "num_workers" in line


@pytest.mark.parametrize(
    ("free", "outcome"), [(100, "refused"), (500, "warned of"), (5000, "enough"), (0, "refused")]
)
def test_room_for_the_batches_is_looked_at_before_the_run(monkeypatch, free, outcome):
    usage = shutil._ntuple_diskusage(free, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    batch = {"image": torch.zeros(10, 10, dtype=torch.uint8), "skipped": [3]}  # 100 bytes
    assert workers.shared_memory_remark(batch, 0) == ""
    if outcome == "refused":
        with pytest.raises(UserError, match=r"num_workers=3: /dev/shm, .*--shm-size"):
            workers.shared_memory_remark(batch, 3)
    else:
        remark = workers.shared_memory_remark(batch, 3)
        assert ("4 ahead" in remark) == (outcome == "warned of")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (workers.FAILED + errno.ENOSPC, "no room in /dev/shm"),
        (workers.FAILED + errno.EMFILE, "Too many open files"),
        (1, "was killed"),
    ],
)
def test_what_a_worker_died_of_is_told(status, text):
    reason = f"DataLoader worker (pid 7) exited unexpectedly with exit code {status}. Details"
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError(reason)  # as torch has it where it waits for a batch
    with pytest.raises(UserError, match=text) as told, workers.name_lost_workers():
        raise error
    assert "the same command goes on, with --set train_cfg.num_workers=0 too" in str(told.value)


class Fails:
    """Whose end an error interrupts, as a signal does that comes in just then."""

    def __init__(self, text: str):
        self.text = text

    def __del__(self):
        raise RuntimeError(self.text)


def test_a_worker_lost_while_a_finalizer_runs_prints_nothing(monkeypatch):
    """Python cannot raise there what torch's signal handler says; other errors are printed."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(str(error.exc_value)))
    before = sys.unraisablehook
    with workers.name_lost_workers():
        Fails("DataLoader worker (pid 7) is killed by signal: Killed. ")
        Fails("a file could not be closed")
    assert printed == ["a file could not be closed"]
    assert sys.unraisablehook is before


class Hanging:
    """The samples of `dataset`; those of `epoch` never come."""

    def __init__(self, dataset, epoch: int):
        self.dataset, self.epoch = dataset, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        if key[0] == self.epoch:
            time.sleep(1000)
        return self.dataset[key]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 1)


def in_a_moment(number: int) -> None:
    threading.Timer(1, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_workers_hang_saves_and_stops(pretext_config, tmp_path, quick, number):
    """And goes on from there as if nothing had been."""
    hanging = Hanging(images_of(pretext_config), 1)
    act = at_call(6, lambda: in_a_moment(number))  # six steps an epoch
    with pytest.raises(SystemExit) as stop:
        train(pretext_config, act, dataset=hanging, num_workers=2, num_step=8, num_epoch=None)
    assert stop.value.code == 128 + number
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert run_folder.read(tmp_path / "run")["step"] == 6
    lengths = dict(num_step=8, num_epoch=None)
    gone_on = train(pretext_config, **lengths).state_dict()
    shutil.rmtree(tmp_path / "run")
    straight = train(pretext_config, **lengths).state_dict()
    assert all(torch.equal(gone_on[name], straight[name]) for name in straight)


def test_a_run_that_hangs_before_its_first_step_ends(pretext_config, tmp_path, quick):
    in_a_moment(signal.SIGTERM)
    hanging = Hanging(images_of(pretext_config), 0)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on") as stop:
        train(pretext_config, dataset=hanging, num_workers=2)
    assert stop.value.args[0] == signal.SIGTERM
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "run/latest.pth").exists()


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    """Also those that hang, which ask nobody whether it is still there."""
    code = """if True:
        import os, signal, time
        from torch.utils.data import DataLoader
        from SSLRemoteSensing.core import workers
        class Hanging:
            def __getitem__(self, index):
                open(f"{os.getpid()}.pid", "w").close()
                time.sleep(1000)
            def __len__(self):
                return 2
        batches = iter(DataLoader(Hanging(), num_workers=2, worker_init_fn=workers.one_thread))
        while len([name for name in os.listdir() if name.endswith(".pid")]) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(words, cwd=tmp_path, env=paths, timeout=60).returncode == -signal.SIGKILL
    time.sleep(0.5)
    for file in tmp_path.glob("*.pid"):
        status = Path(f"/proc/{file.stem}/stat")
        assert not status.exists() or status.read_text().split()[2] == "Z"
