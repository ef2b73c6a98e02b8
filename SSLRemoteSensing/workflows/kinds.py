"""The two kinds of config: which script runs each, and how they are told apart."""

from collections.abc import Callable
from typing import NamedTuple

from SSLRemoteSensing.core.console import command_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.workflows.pretraining import PretextConfig, PretextData, check_pretext
from SSLRemoteSensing.workflows.segmentation import (
    SegmentationConfig,
    SegmentationData,
    check_segmentation,
)


class Kind(NamedTuple):
    """A kind of config.

    Attributes:
        name: of its task, as messages have it.
        script: what runs it.
        viewer: what draws its samples.
        schema: a TypedDict of its keys.
        keys: another of the task's own keys of `train_cfg`.
        check: raises a `UserError` that names every wrong key.
    """

    name: str
    script: str
    viewer: str
    schema: type
    keys: type
    check: Callable[[dict], None]


KINDS = {
    "pretrain": Kind(
        "pre-training", "train.py", "tools/show_pretext.py", PretextConfig, PretextData,
        check_pretext,
    ),
    "finetune": Kind(
        "fine-tuning", "finetune_seg.py", "tools/show_labels.py", SegmentationConfig,
        SegmentationData, check_segmentation,
    ),
}  # fmt: skip


def kind_of(config: dict) -> Kind:
    """The kind of which `config` has most keys that the other has not; the first of equals."""
    return max(KINDS.values(), key=lambda kind: marks(config, kind))


def marks(config: dict, kind: Kind) -> int:
    """How many keys of `config`, right or wrong otherwise, are those of `kind` alone."""
    train_cfg = config.get("train_cfg")
    count = 0
    for part, table in ((config, "schema"), (train_cfg, "keys")):
        others = [getattr(x, table).__annotations__ for x in KINDS.values() if x is not kind]
        own = getattr(kind, table).__annotations__.keys() - set().union(*others)
        count += len(own & part.keys()) if isinstance(part, dict) else 0
    return count


def require_kind(config: dict, task: str, file: object, to_see: bool = False) -> None:
    """Raise a `UserError` where the config in `file` is not one for `task` of `KINDS` but another
    one, which names the command that runs it, or draws it if this one is asked `to_see` it."""
    kind = kind_of(config)
    if marks(config, kind) > marks(config, KINDS[task]):
        command = command_line(kind.viewer if to_see else kind.script)
        does = "shows" if to_see else "runs"
        raise UserError(f"config file {file}: is for {kind.name}; {command} {does} it")
