"""What of a config must be as it was where a run goes on, and what may have changed."""

import json
from pathlib import Path

from SSLRemoteSensing.core.config import differences
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError

# Parts of a config without which the weights of a checkpoint mean nothing.
NETWORK_KEYS = ("backbone_cfg", "inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
NETWORK_KEYS += ("distillation_head_cfg", "decoder_cfg", "classes")
# Those that say which moments an optimizer keeps.
OPTIMIZER_KEYS = {"train_cfg.optimizer.name", "train_cfg.optimizer.amsgrad"}


def json_card(card: dict) -> dict:
    """A card in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card, default=str))


def is_fixed(key: str, before: object) -> bool:
    """Whether a run that has `before` at the path `key` of its config, None for nothing, goes on
    with no other value there; all other keys may change."""
    is_set = before is not None or key.endswith("pretrained")  # else a default, now written
    return key in OPTIMIZER_KEYS or (is_set and key.startswith(NETWORK_KEYS))


def compare_cards(old: dict, new: dict, path: Path, says: bool = True) -> None:
    """Name, where it `says` so, what changed in the config since the checkpoint at `path`; raise a
    `UserError` for another network or optimizer."""
    refusals = []
    for key, before, now in differences(old.get("config", {}), new.get("config", {})):
        if is_fixed(key, before):
            refusals.append(f"{key} was {before!r} and is now {now!r}")
        elif says:
            warn(f"going on with {key}={now!r}, so far {before!r}")
    # The path of a teacher may be the same, and the file another one.
    files = [(card.get("teacher") or {}).get("sha256") for card in (old, new)]
    if all(files) and files[0] != files[1]:
        refusals.append("distillation_head_cfg.teacher.pretrained is another file than it was")
    if refusals:
        raise UserError(
            f"{path}: {', '.join(refusals)}; set another checkpoints_path (--output) for a new "
            f"run, or the old value to go on"
        )
