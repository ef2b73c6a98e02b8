"""The folders that a run writes to, and the disk for its checkpoints."""

import os
import shutil
from pathlib import Path

from torch import nn

from SSLRemoteSensing import run_folder
from SSLRemoteSensing.doctor.report import Section

HEADROOM = 1.1  # of what is needed, for logs and pictures


def judge_folder(path: str, key: str, section: Section) -> bool:
    """Whether `path`, which may not be there yet, can be written to; nothing is made."""
    there = nearest(Path(path))
    longest = os.pathconf(there, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in Path(path).parts):
        section.fail(f"{key}={path[:40]}...: a name of more than {longest} bytes; shorten it")
    elif not there.is_dir():
        section.fail(f"{key}={path}: {there} is a file, not a folder")
    elif not os.access(there, os.W_OK | os.X_OK):
        section.fail(f"{key}={path}: {there} cannot be written to")
    else:
        section.ok(f"{key}={path}: " + ("is there" if there == Path(path) else "will be made"))
        return True
    return False


def judge_disk(needed: int, what: str, path: str, section: Section) -> None:
    """Whether `needed` bytes fit where `path` is or will be, what is there already included."""
    folder = nearest(Path(path))
    free = shutil.disk_usage(folder).free
    used = checkpoints_there(Path(path))
    more = max(0, needed - used)
    text = f"checkpoints take {gib(needed)} ({what}), {gib(used)} of it used now; {gib(free)} free"
    if more > free:
        section.fail(f"{text} at {folder}: make room, or lower checkpoints.max_keep")
    elif more * HEADROOM > free:
        section.warn(f"{text} at {folder}: hardly any room is left")
    else:
        section.ok(f"{text} at {folder}")


def checkpoint_bytes(
    model: nn.Module, optimizer: dict, max_keep: int, labelled: bool
) -> tuple[int, str]:
    """Bytes of all checkpoints of a run at its fullest, and of what they are.

    A full one has the weights and the optimizer's moments. `max_keep` of them are kept beside
    `latest.pth`, and one more is there while it is written, before the oldest is removed.
    """
    weights = sum(v.nbytes for v in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    full = weights + moments(optimizer) * trained
    small = weights if labelled else sum(v.nbytes for v in model.backbone.state_dict().values())
    name = "best.pth" if labelled else "backbone.pth"
    text = f"{gib(full)} each: {max_keep} kept, latest, one being written; {name} {gib(small)}"
    return full * (max_keep + 2) + small, text


def moments(optimizer: dict) -> int:
    """How many values an optimizer remembers of each weight."""
    if optimizer["name"] == "SGD":
        return 1 if optimizer.get("momentum") else 0
    return 3 if optimizer.get("amsgrad") else 2  # Adam and AdamW


def checkpoints_there(folder: Path) -> int:
    """Bytes of the files in `folder` that the run replaces or removes, each once whatever number
    of names it has."""
    if not folder.is_dir():
        return 0
    named = [folder / name for name in ("latest.pth", "best.pth", "backbone.pth")]
    files = [*named, *(file for _, file in run_folder.epochs(folder))]
    found = [file.stat() for file in files if file.is_file()]
    return sum({status.st_ino: status.st_size for status in found}.values())


def nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
