"""A fine-tuned network from its checkpoint, with all that its maps need to be read."""

from dataclasses import dataclass
from pathlib import Path

import torch

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.segmentation import SegmentationNet, trained_network

RGB = ("red", "green", "blue")
WANTED = "take best.pth, latest.pth or epoch_*.pth of finetune_seg.py"


@dataclass(frozen=True)
class MapNetwork:
    """A network and what its card says.

    Attributes:
        model: in eval mode, on `device`; float (N, C, H, W) in 0..1 or uint8 to logits.
        bands: those of the scenes that training had, from 1, one a channel; None: all in order.
        max_value: the value of the training files that became 1; None: the largest of `dtype`.
        source: the checkpoint's name.
        band_names: of the channels, where they are known.
        prepared: the training tiles were cut from scenes with `bands`, and have only these.
        dtype: of the training files.
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
    band_names: tuple[str, ...] | None = None
    prepared: bool = False
    dtype: str = "uint8"

    @property
    def channels_last(self) -> bool:
        """Whether weights and batches are; with fp32 a CPU is slower by it, with bf16 faster."""
        return likes_channels_last(self.device, self.precision)

    @property
    def is_rgb(self) -> bool:
        """Whether grey, repeated, and colours of a palette may stand for the channels."""
        has_rgb_names = self.band_names is None or self.band_names == RGB
        return self.in_channels == 3 and has_rgb_names and self.bands in (None, (1, 2, 3))


def open_network(path: str | Path, device: torch.device, precision: str) -> MapNetwork:
    """The network of a checkpoint that finetune_seg.py wrote.

    Raises:
        UserError: no such file, a damaged one, or one of something else: a backbone alone, a
            pre-training, a network without its card.
    """
    path = Path(path)
    contents = checkpoints.read(path)
    card = required_card(path, contents)
    model = trained_network(contents, path)
    channels_last = likes_channels_last(device, precision)
    model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # windows are all of one size
    classes = list(card["classes"])
    return MapNetwork(
        model=model,
        device=device,
        precision=precision,
        classes=classes,
        palette=[tuple(colour) for colour in card.get("palette") or default_palette(len(classes))],
        in_channels=model.backbone.in_channels,
        source=path.name,
        **inputs_of(card, model.backbone.in_channels),
    )


def likes_channels_last(device: torch.device, precision: str) -> bool:
    return device.type == "cuda" or precision == "bf16"


def inputs_of(card: dict, in_channels: int) -> dict:
    """What a card says of the training files; one of an earlier version has it in its config."""
    bands = card.get("bands")
    if "prepared" not in card:
        bands = card["config"].get("train_cfg", {}).get("train_data", {}).get("bands")
        if bands and in_channels == 3 and len(bands) < 3:  # the first one was repeated
            bands = list(bands)[:1] * 3
    names = card.get("band_names")
    if names and any(name.startswith("band ") for name in names):  # only numbered
        names = None
    top = card.get("max_value")
    return {
        "bands": tuple(bands) if bands else None,
        "band_names": tuple(names) if names else None,
        "prepared": bool(card.get("prepared")),
        "max_value": top,
        "dtype": card.get("dtype") or ("uint16" if (top or 0) > 255 else "uint8"),
    }


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
