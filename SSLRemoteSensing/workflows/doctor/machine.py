"""The machine and the folders of a run: versions, device, disk, and what it would go on from."""

import contextlib
import os
import shutil
from pathlib import Path

import torch
from torch import nn

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.core.machine import choose_device, device_name, has_fast_bf16, versions
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.resume import config_changes
from SSLRemoteSensing.workflows.doctor.findings import Section

HEADROOM = 1.1  # of what is needed, for logs and pictures


def check_machine(train_cfg: dict, section: Section) -> None:
    """Versions, device and precision of a config's `train_cfg`."""
    section.ok(", ".join(f"{name} {version}" for name, version in versions().items()))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    section.ok(f"{device_name()}; {cuda}, {torch.cuda.device_count()} GPUs to be seen")
    device = section.attempt(choose_device, train_cfg.get("device", "auto"))
    if device is None:
        return
    if device.type == "cpu" and torch.cuda.is_available():
        section.warn("train_cfg.device is the CPU, and there is a GPU; set train_cfg.device=auto")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = f"{device}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
        (section.ok if free > 0.8 * total else section.warn)(text)
    setting, fast_bf16 = train_cfg.get("precision", "fp32"), has_fast_bf16(device)
    precision = ("bf16" if fast_bf16 else "fp32") if setting == "auto" else setting
    section.ok(
        f"device {device}, precision {setting}" + (f": {precision}" if setting == "auto" else "")
    )
    if precision == "bf16" and not fast_bf16:
        section.warn(f"bf16 is emulated on this {device.type}, very slowly; set precision='auto'")
    if precision == "fp32" and device.type == "cuda" and fast_bf16:
        section.warn("this GPU computes faster in bf16; set train_cfg.precision=auto")


def check_folder(path: str, key: str, section: Section) -> bool:
    """Whether `path`, which may not be there yet, can be written to; nothing is made."""
    place = nearest(Path(path))
    longest_name = os.pathconf(place, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest_name for part in Path(path).parts):
        section.fail(f"{key}={path[:40]}...: a name of more than {longest_name} bytes; shorten it")
    elif not place.is_dir():
        section.fail(f"{key}={path}: {place} is a file, not a folder")
    elif not os.access(place, os.W_OK | os.X_OK):
        section.fail(f"{key}={path}: {place} cannot be written to")
    else:
        section.ok(f"{key}={path}: " + ("is there" if place == Path(path) else "will be made"))
        return True
    return False


def check_disk(needed_bytes: int, breakdown: str, path: str, section: Section) -> None:
    """Whether `needed_bytes` fit where `path` is or will be, what is there already included."""
    folder = nearest(Path(path))
    free_bytes = shutil.disk_usage(folder).free
    used_bytes = checkpoints_there(Path(path))
    further_bytes = max(0, needed_bytes - used_bytes)
    text = (
        f"checkpoints take {format_gib(needed_bytes)} ({breakdown}), {format_gib(used_bytes)} of "
        f"it used now; {format_gib(free_bytes)} free"
    )
    if further_bytes > free_bytes:
        section.fail(f"{text} at {folder}: make room, or lower checkpoints.max_keep")
    elif further_bytes * HEADROOM > free_bytes:
        section.warn(f"{text} at {folder}: hardly any room is left")
    else:
        section.ok(f"{text} at {folder}")


def checkpoint_bytes(
    model: nn.Module, optimizer: dict, max_keep: int, fine_tuning: bool
) -> tuple[int, str]:
    """Bytes of all checkpoints of a run at its fullest, and of what they are.

    A full one has the weights and the optimizer's moments. `max_keep` of them are kept beside
    `latest.pth`, and one more is there while it is written, before the oldest is removed.
    """
    weights = sum(v.nbytes for v in model.state_dict().values())
    trained_weights = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    full = weights + moments(optimizer) * trained_weights
    small = weights if fine_tuning else sum(v.nbytes for v in model.backbone.state_dict().values())
    name = "best.pth" if fine_tuning else "backbone.pth"
    text = (
        f"{format_gib(full)} each: {max_keep} kept, latest, one being written; "
        f"{name} {format_gib(small)}"
    )
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
    fixed_files = [folder / name for name in ("latest.pth", "best.pth", "backbone.pth")]
    files = [*fixed_files, *(file for _, file in run_folder.epochs(folder))]
    statuses = [file.stat() for file in files if file.is_file()]
    return sum({status.st_ino: status.st_size for status in statuses}.values())


def nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def format_gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def check_run_folder(folder: Path, section: Section) -> dict | None:
    """Locked or not, and the state that training would go on from; nothing is written or moved."""
    holder = run_folder.holder(folder)
    if holder is not None:
        section.fail(f"{folder}: another run is writing there ({holder}); wait for it to end")
    latest = folder / "latest.pth"
    if not latest.exists():
        if run_folder.epochs(folder):
            return earlier_epoch(folder, f"{latest}: is not there", section)
        section.ok(f"{folder}: no checkpoint there, the run starts anew")
        return None
    try:
        state = run_folder.read_state(latest)
    except checkpoints.Damaged as error:
        return earlier_epoch(folder, one_line(error), section)
    except UserError as error:
        section.fail(one_line(error))
        return None
    section.ok(f"{latest}: whole, step {state['step']}, epoch {state['epoch']}")
    return state


def earlier_epoch(folder: Path, damage: str, section: Section) -> dict | None:
    """The newest whole epoch, which training would take in place of latest.pth."""
    for _, file in reversed(run_folder.epochs(folder)):
        with contextlib.suppress(UserError):
            state = run_folder.read_state(file)
            section.warn(f"{damage}; training would go back to {file.name}, step {state['step']}")
            return state
    section.fail(f"{damage}; no epoch_*.pth beside it is whole, move them away to start anew")
    return None


def check_changes(state: dict, card: dict, section: Section) -> None:
    """What differs between the config of a checkpoint's run and that of `card`."""
    for path, before, now, refused in config_changes(state["card"], card):
        if refused:
            section.fail(
                f"{path} was {before!r} and is now {now!r}; set another checkpoints_path for a new "
                f"run, or the old value to go on"
            )
        else:
            section.warn(f"going on with {path}={now!r}, so far {before!r}")
