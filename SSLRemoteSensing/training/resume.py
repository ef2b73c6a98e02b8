"""What of a config must be as it was where a run goes on, and what may have changed."""

import json
from pathlib import Path

from SSLRemoteSensing.core.config import differences
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError

# Parts of a config without which the weights of a checkpoint mean nothing.
NETWORK_KEYS = ("backbone_cfg", "inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
NETWORK_KEYS += ("decoder_cfg", "classes")
# Those that say which moments an optimizer keeps.
OPTIMIZER_KEYS = {"train_cfg.optimizer.name", "train_cfg.optimizer.amsgrad"}


def json_card(card: dict) -> dict:
    """A card in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card, default=str))


def compare_cards(old: dict, new: dict, path: Path) -> None:
    """Name what changed in the config since the checkpoint at `path`; raise a `UserError` for
    another network or optimizer."""
    changes = config_changes(old, new)
    for key, before, now, is_refused in changes:
        if not is_refused:
            warn(f"going on with {key}={now!r}, so far {before!r}")
    refusals = [f"{k} was {was!r} and is now {now!r}" for k, was, now, bad in changes if bad]
    if refusals:
        raise UserError(
            f"{path}: {', '.join(refusals)}; set another checkpoints_path for a new run, or the "
            f"old value to go on"
        )


def config_changes(old: dict, new: dict) -> list[tuple[str, object, object, bool]]:
    """What differs between the configs of two cards: key, before, now, and whether a run cannot go
    on with it."""
    changes = []
    for key, before, now in differences(old.get("config", {}), new.get("config", {})):
        given = before is not None or key.endswith("pretrained")  # else a default, now written
        is_refused = key in OPTIMIZER_KEYS or (given and key.startswith(NETWORK_KEYS))
        changes.append((key, before, now, is_refused))
    return changes
