"""A fine-tuned network from its checkpoint, with all that its maps need to be read."""

from dataclasses import dataclass
from pathlib import Path

import torch

from SSLRemoteSensing import checkpoint
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.figures import default_palette
from SSLRemoteSensing.models.segmentation import SegmentationNet, trained_network

WANTED = "take best.pth, latest.pth or epoch_*.pth of finetune_seg.py"


@dataclass(frozen=True)
class MapNetwork:
    """A network and what its card says.

    Attributes:
        model: in eval mode, on `device`; float (N, C, H, W) in 0..1 or uint8 to logits.
        bands: those that training read of its files, counted from 1; None: all.
        max_value: the value of the training files that became 1; None: 255 of 8 bits.
        source: the checkpoint's name.
    """

    model: SegmentationNet
    device: torch.device
    precision: str
    classes: list[str]
    palette: list[tuple[int, int, int]]
    in_channels: int
    bands: tuple[int, ...] | None
    max_value: float | None
    source: str


def open_network(path: str | Path, device: torch.device, precision: str) -> MapNetwork:
    """The network of a checkpoint that finetune_seg.py wrote.

    Raises:
        UserError: no such file, a damaged one, or one of something else: a backbone alone, a
            pre-training, a network without its card.
    """
    path = Path(path)
    contents = checkpoint.read(path)
    card = required_card(path, contents)
    model = trained_network(contents, path)
    fast = device.type == "cuda"
    model.to(device, memory_format=torch.channels_last if fast else torch.preserve_format)
    if fast:
        torch.backends.cudnn.benchmark = True  # windows are all of one size
    bands = card["config"].get("train_cfg", {}).get("train_data", {}).get("bands")
    classes = list(card["classes"])
    return MapNetwork(
        model, device, precision, classes,
        [tuple(colour) for colour in card.get("palette") or default_palette(len(classes))],
        model.backbone.in_channels, tuple(bands) if bands else None, card.get("max_value"),
        path.name,
    )  # fmt: skip


def required_card(path: Path, contents: dict) -> dict:
    """The card of a fine-tuned network; raises a `UserError` that names what the file is instead.

    A list of classes alone would do to draw a map, but not to tell bands and scale.
    """
    if "model" not in contents:
        raise UserError(
            f"--checkpoint {path}: no fine-tuned network, a backbone alone or another tool's "
            f"weights; {WANTED}"
        )
    card = contents.get("card")
    if not isinstance(card, dict) or not isinstance(card.get("config"), dict):
        raise UserError(
            f"--checkpoint {path}: has no card, which says classes, bands and scale; {WANTED}"
        )
    if "classes" not in card or "backbone_cfg" not in card["config"]:
        raise UserError(
            f"--checkpoint {path}: is of a pre-training, which has no classes; {WANTED}"
        )
    return card
