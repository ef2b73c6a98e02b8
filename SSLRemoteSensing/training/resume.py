"""Go on from a checkpoint: what must be as it was, what may have changed, what is said of it."""

from pathlib import Path

import torch

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.config import differences
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.training.meters import LossMeter
from SSLRemoteSensing.training.plan import Plan
from SSLRemoteSensing.training.train_step import TrainStep

# Parts of a config without which the weights of a checkpoint mean nothing.
NETWORK_KEYS = ("backbone_cfg", "inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
NETWORK_KEYS += ("decoder_cfg", "classes")
# Those that say which moments an optimizer keeps.
OPTIMIZER_KEYS = {"train_cfg.optimizer.name", "train_cfg.optimizer.amsgrad"}


def resume(
    state: dict,
    folder: Path,
    card: dict,
    plan: Plan,
    images: int,
    step: TrainStep,
    losses: LossMeter,
) -> bool:
    """Give network, optimizer, generators and losses what `state` holds of them; say what differs.

    Args:
        state: of `folder`, from `run_folder.read`.
        card: what is known of the weights now, in plain types; `images`: how many there are now.

    Returns:
        Whether anything is left to do.

    Raises:
        UserError: another network or optimizer; a last epoch that these steps cannot end.
    """
    compare_cards(state["card"], card, folder)
    if plan.first >= plan.total:
        if not plan.counts_steps and state["epoch"] < plan.epoch(plan.total):
            raise UserError(
                f"train_cfg.batch_size: the rest of the last epoch is less than a step of "
                f"{plan.per_step} images; go on with steps of {state['per_step']}"
            )
        print(f"{folder}: all {plan.total} steps are done, nothing is left to do")
        return False
    step.load_state_dict(state, f"{folder}/latest.pth")
    rank, processes = distributed.rank(), distributed.size()
    for part in state["processes"][rank::processes]:
        losses.load_state_dict(part["history"])
    if rank < len(state["processes"]):
        set_random_state(state["processes"][rank]["random"], step.device)
    if state["images"] != images:
        warn(f"going on with {images} images, so far {state['images']}: their order is another one")
    if state["per_step"] != plan.per_step:
        print(
            f"going on with steps of {plan.per_step} images, so far {state['per_step']}: at "
            f"image {plan.position(plan.first)['offset']} of the epoch"
        )
    place = f"step {plan.first} of {plan.total}, epoch {plan.epoch(plan.first)}"
    print(f"going on from {folder}/latest.pth: {place}")
    return True


def random_state(device: torch.device) -> dict:
    """The states of torch's generators, which dropout draws from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def compare_cards(old: dict, new: dict, folder: Path) -> None:
    """Name what changed in the config since the checkpoint; refuse another network or optimizer."""
    refusals = []
    for path, before, now, is_refused in config_changes(old, new):
        if is_refused:
            refusals.append(f"{path} was {before!r} and is now {now!r}")
        else:
            warn(f"going on with {path}={now!r}, so far {before!r}")
    if refusals:
        raise UserError(
            f"{folder}/latest.pth: {', '.join(refusals)}; set another checkpoints_path for a new "
            f"run, or the old value to go on"
        )


def config_changes(old: dict, new: dict) -> list[tuple[str, object, object, bool]]:
    """What differs between the configs of two cards: key, before, now, and whether a run cannot go
    on with it."""
    changed = []
    for path, before, now in differences(old.get("config", {}), new.get("config", {})):
        given = before is not None or path.endswith("pretrained")  # else a default, now written
        network = path.startswith(NETWORK_KEYS) and given
        changed.append((path, before, now, network or path in OPTIMIZER_KEYS))
    return changed
