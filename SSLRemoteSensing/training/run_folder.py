"""A run's folder: `latest.pth`, all that going on needs; `epoch_0007.pth`, the same after an epoch.

One run at a time writes there. The newest good epoch takes the place of a lost `latest.pth`.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch.nn import Module

from SSLRemoteSensing.core import checkpoints, distributed, locks
from SSLRemoteSensing.core.console import this_command, warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import atomic, nearest, read_json, write_text
from SSLRemoteSensing.core.machine import device_name, versions
from SSLRemoteSensing.training.settings import LoopSettings

RUN_KEYS = {"model", "optimizer", "step", "epoch", "offset", "per_step", "best", "images"}
RUN_KEYS |= {"processes", "card"}
FOLDER = "train_cfg.checkpoints.checkpoints_path"
EPOCH_FILE = re.compile(r"epoch_(\d+)\.pth")


@contextlib.contextmanager
def locked(folder: Path, key: str = FOLDER) -> Iterator[None]:
    """Keep other runs out of `folder`, that of a config's `key`, while the block lasts, or raise a
    `UserError` where one is there; clear up after killed ones. The lock on `.lock` ends with the
    process, however that ends."""
    path = folder / ".lock"
    try:
        unlock = locks.take(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
    except locks.Taken as error:
        raise taken_by(str(error), folder, key) from error
    try:
        for pattern in (".*.part", ".writable.*", ".shared.*"):  # of files that were being written
            for left in folder.glob(pattern):
                left.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # a mount that is lost hides no other error
            path.unlink(missing_ok=True)
        unlock()


def holder(folder: Path) -> str | None:
    """Which run writes in `folder` now, None where none does or where that cannot be seen. The run
    must be another process's."""
    return locks.holder(folder / ".lock")


def require_free(folder: Path, key: str = FOLDER) -> None:
    """Raise the `UserError` that `locked` would where another process's run writes in `folder`."""
    if (other := holder(folder)) is not None:
        raise taken_by(other, folder, key)


def taken_by(other: str, folder: Path, key: str) -> UserError:
    return UserError(
        f"{folder}: another run is writing there ({other}); wait for it, or set another {key}"
    )


def epochs(folder: Path) -> list[tuple[int, Path]]:
    """The epochs' checkpoints in `folder`, oldest first."""
    named = ((EPOCH_FILE.fullmatch(file.name), file) for file in folder.glob("epoch_*"))
    return sorted((int(match[1]), file) for match, file in named if match)


def saved(folder: Path) -> list[Path]:
    """The checkpoints that a run in `folder` can go on from, newest first."""
    latest = folder / "latest.pth"
    files = [file for _, file in reversed(epochs(folder))]
    return [latest, *files] if latest.exists() else files


def save(folder: Path, state: dict, finished_epoch: int | None, max_keep: int) -> None:
    """Write `latest.pth`; after an epoch `epoch_NNNN.pth` too, the newest `max_keep` kept. Where a
    `CannotWrite` is raised no file has been replaced by less."""
    if finished_epoch is None:
        checkpoints.write(folder / "latest.pth", state)
        return
    epoch = folder / f"epoch_{finished_epoch:04d}.pth"
    checkpoints.write(epoch, state)
    # Later epochs are left where a run went back past damaged ones; they must not push this out.
    ours = [file for number, file in epochs(folder) if number <= finished_epoch]
    for old in ours[:-max_keep]:
        with contextlib.suppress(OSError):  # the next epoch tries again
            old.unlink()
    # A file of its own, not a second name of the epoch's: what damages one leaves the other. Last,
    # as a run that is killed before it does the epoch's end again.
    with atomic(folder / "latest.pth") as part:
        shutil.copyfile(epoch, part)


def require_room(model: Module, loop: LoopSettings, epochs_kept: int) -> str:
    """Raise a `UserError` where `latest.pth` and so many epochs' checkpoints, of weights and
    moments, do not fit on the disk; else what they take.

    One more is there while it is written, before the oldest is removed; what is there already makes
    room.
    """
    moments = 2 if loop.optimizer["name"] != "SGD" else bool(loop.optimizer.get("momentum"))
    moments += bool(loop.optimizer.get("amsgrad"))
    weights = sum(value.nbytes for value in model.state_dict().values())
    size = weights + moments * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    size = size * (2 + epochs_kept) + weights  # of best.pth or backbone.pth
    files = [loop.folder / "latest.pth", *(file for _, file in epochs(loop.folder))]
    free = shutil.disk_usage(nearest(loop.folder)).free
    free += sum(file.stat().st_size for file in files if file.exists())
    text = f"{2 + epochs_kept} checkpoints take {size / 2**30:.2f} GiB of {free / 2**30:.2f} free"
    if size > free:
        raise UserError(f"{loop.folder}: {text}: make room, or lower checkpoints.max_keep")
    return text


class SavedRun(NamedTuple):
    """The checkpoint that a run goes on from.

    Attributes:
        path: `latest.pth`, or the epoch that takes its place.
        state: what it holds.
        damage: what is wrong with `latest.pth`; None: nothing, or it is not there.
        is_complete: whether all files of its epoch were written, as they are since version 2.
    """

    path: Path
    state: dict
    damage: checkpoints.Damaged | None
    is_complete: bool


def find_state(folder: Path) -> SavedRun | None:
    """The newest good checkpoint in `folder`, of which nothing is written or moved; None where it
    has none at all.

    Raises:
        UserError: none of them is good; one cannot be read, or is no checkpoint of a run.
    """
    files, damage = saved(folder), None
    for is_complete in (True, False):
        for file in files:
            try:
                return SavedRun(file, read_state(file, is_complete), damage, is_complete)
            except checkpoints.Damaged as error:
                damage = damage or (error if file.name == "latest.pth" else None)
    if files:
        raise UserError(
            f"{folder / 'latest.pth'}: damaged or gone, and no epoch_*.pth beside it is whole; "
            f"move them away to start anew"
        ) from damage
    return None


def read(folder: str | Path) -> dict | None:
    """What `find_state` finds, for a run that goes on. Where an epoch takes the place of
    `latest.pth` it is copied there, a damaged one is put aside as `latest.damaged.pth`, and that is
    said on stderr."""
    folder = Path(folder)
    saved_run, latest = find_state(folder), folder / "latest.pth"
    if saved_run is None:
        return None
    if not saved_run.is_complete:
        text = "other files of its epoch could not be written; going on without them"
        warn(f"{saved_run.path}: {text}")
    elif saved_run.path != latest:
        what = "is not there"
        if saved_run.damage is not None:
            os.replace(latest, folder / "latest.damaged.pth")
            what = "damaged, put aside as latest.damaged.pth"
        checkpoints.write(latest, saved_run.state)
        step = saved_run.state["step"]
        warn(f"{latest}: {what}; going back to {saved_run.path.name}, step {step}")
    return saved_run.state


def read_state(path: Path, is_complete: bool = True) -> dict:
    state = checkpoints.read(path)
    if missing := RUN_KEYS - state.keys():
        earlier = {"model", "optimizer", "step"} <= state.keys()
        reason = "is of an earlier version of the code" if earlier else "is no checkpoint of a run"
        raise UserError(
            f"{path}: {reason}, lacks {', '.join(sorted(missing))}; move it away or set another "
            f"checkpoints_path (--output)"
        )
    if state.pop("pending", False) and is_complete:  # at version 1, where the disk was full
        raise checkpoints.Damaged(f"{path}: other files of its epoch could not be written")
    return state


def write_run_card(config: dict) -> None:
    """Add what makes this run to `run.json`: config, versions, command, processes, device."""
    path = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"]) / "run.json"
    card = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": this_command().removeprefix("python "),
        "versions": versions(),
        "device": device_name(),
        "processes": distributed.size(),
        "config": config,
    }
    runs = [*read_json(path).get("runs", []), card]
    write_text(path, json.dumps({"runs": runs}, indent=2, default=str) + "\n")
