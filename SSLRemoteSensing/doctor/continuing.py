"""Whether a run goes on in its folder, and from a whole checkpoint of this network."""

import contextlib
from pathlib import Path

from SSLRemoteSensing import checkpoint, run_folder
from SSLRemoteSensing.doctor.report import Section
from SSLRemoteSensing.errors import UserError, told
from SSLRemoteSensing.resuming import config_changes


def judge_run_folder(folder: Path, section: Section) -> dict | None:
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
    except checkpoint.Damaged as error:
        return earlier_epoch(folder, told(error), section)
    except UserError as error:
        section.fail(told(error))
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


def judge_changes(state: dict, card: dict, section: Section) -> None:
    """What differs between the config of a checkpoint's run and that of `card`."""
    for path, before, now, refused in config_changes(state["card"], card):
        if refused:
            section.fail(
                f"{path} was {before!r} and is now {now!r}; set another checkpoints_path for a new "
                f"run, or the old value to go on"
            )
        else:
            section.warn(f"going on with {path}={now!r}, so far {before!r}")
