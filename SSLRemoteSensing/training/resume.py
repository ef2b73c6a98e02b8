"""What of a config must be as it was where a run goes on, and what may have changed."""

import json
from pathlib import Path

from SSLRemoteSensing.core.config import differences, without
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import sha256

# Parts of a config without which the weights of a checkpoint mean nothing.
NETWORK_KEYS = ("backbone_cfg", "inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
NETWORK_KEYS += ("distillation_head_cfg", "decoder_cfg", "classes")
# Those that say which moments an optimizer keeps.
OPTIMIZER_KEYS = {"train_cfg.optimizer.name", "train_cfg.optimizer.amsgrad"}


def is_fixed(key: str, before: object) -> bool:
    """Whether a run that has `before` at the path `key` of its config, None for nothing, goes on
    with no other value there; all other keys may change."""
    is_set = before is not None or key.endswith("pretrained")  # else a default, now written
    return key in OPTIMIZER_KEYS or (is_set and key.startswith(NETWORK_KEYS))


def start_digest(config: dict) -> dict[str, str]:
    """What a card says of the file of weights that the backbone of `config` begins with:
    `start_sha256`, where it is a file."""
    weights = config["backbone_cfg"].get("pretrained")
    return {"start_sha256": sha256(weights)} if isinstance(weights, str) else {}


def digests(card: dict) -> dict[str, str]:
    """The SHA-256 of the files of weights that a card's config names, by their keys."""
    named = {
        "backbone_cfg.pretrained": card.get("start_sha256"),
        "distillation_head_cfg.teacher.pretrained": (card.get("teacher") or {}).get("sha256"),
    }
    return {key: digest for key, digest in named.items() if digest}


def json_card(card: dict) -> dict:
    """A card in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card, default=str))


def compare_cards(old: dict, new: dict, path: Path, says: bool = True) -> None:
    """Name, where it `says` so, what changed in the config since the checkpoint at `path`; raise a
    `UserError` for another network or optimizer."""
    before_files, files = digests(old), digests(new)
    known = before_files.keys() & files.keys()  # where these lie may change
    old, new = ({"config": without(card.get("config", {}), known)} for card in (old, new))
    refusals = []
    for key, before, now in differences(old.get("config", {}), new.get("config", {})):
        if is_fixed(key, before):
            refusals.append(f"{key} was {before!r} and is now {now!r}")
        elif says:
            warn(f"going on with {key}={now!r}, so far {before!r}")
    others = sorted(key for key in known if before_files[key] != files[key])
    refusals += [f"{key} is another file than it was" for key in others]
    if refusals:
        raise UserError(
            f"{path}: {', '.join(refusals)}; set another checkpoints_path (--output) for a new "
            f"run, or the old value to go on"
        )
