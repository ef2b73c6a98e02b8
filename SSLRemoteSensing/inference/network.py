"""A fine-tuned network from its checkpoint, with all that its maps need to be read."""

from dataclasses import dataclass
from pathlib import Path

import torch

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.scale import Scale, scale_of_card
from SSLRemoteSensing.models.segmentation import SegmentationNet, trained_network

RGB = ("red", "green", "blue")
WANTED = "take best.pth, latest.pth or epoch_*.pth of finetune_seg.py"


@dataclass(frozen=True)
class MapNetwork:
    """A network and what its card says.

    Attributes:
        model: in eval mode, on `device`; float (N, C, H, W) in 0..1 or uint8 to logits.
        bands: those of the scenes that training had, from 1, one a channel; None: all in order.
        scale: of the training files; None: the largest of `dtype` became 1.
        source: the checkpoint's name.
        band_names: of the channels, where they are known.
        prepared: the training tiles were cut from scenes with `bands`, and have only these.
        dtype: of the training files.
        gsd: size in metres of the pixels that training saw; None: not known.
        side: of the windows in pixels, of a network that takes one size alone; else None.
    """

    model: SegmentationNet
    device: torch.device
    precision: str
    classes: list[str]
    palette: list[tuple[int, int, int]]
    in_channels: int
    bands: tuple[int, ...] | None
    scale: Scale | None
    source: str
    band_names: tuple[str, ...] | None = None
    prepared: bool = False
    dtype: str = "uint8"
    gsd: float | None = None
    side: int | None = None

    @property
    def channels_last(self) -> bool:
        """Whether weights and batches are; with fp32 a CPU is slower by it, with bf16 faster."""
        return self.device.type == "cuda" or self.precision == "bf16"

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
    model = trained_network(contents, path).to(device)
    classes, in_channels = list(card["classes"]), model.backbone.in_channels
    palette = [tuple(colour) for colour in card.get("palette") or default_palette(len(classes))]
    bands, names, scale = card.get("bands"), card.get("band_names"), scale_of_card(card)
    if "prepared" not in card:  # of an earlier version, which has the bands in its config
        bands = card["config"].get("train_cfg", {}).get("train_data", {}).get("bands")
        if bands and in_channels == 3 and len(bands) < 3:  # the first one was repeated
            bands = list(bands)[:1] * 3
    if any(name.startswith("band ") for name in names or ()):  # only numbered
        names = None
    network = MapNetwork(
        model, device, precision, classes, palette, in_channels,
        bands=tuple(bands) if bands else None,
        scale=scale,
        source=path.name,
        band_names=tuple(names) if names else None,
        prepared=bool(card.get("prepared")),
        dtype=card.get("dtype") or ("uint16" if (card.get("max_value") or 0) > 255 else "uint8"),
        gsd=card.get("gsd"),
        side=model.backbone.fixed_size,
    )  # fmt: skip
    if network.channels_last:
        model.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # windows are all of one size
    return network


def required_card(path: Path, contents: dict) -> dict:
    """The card of a fine-tuned network; raises a `UserError` that names what the file is instead.

    A list of classes alone would do to draw a map, but not to tell bands and scale.
    """
    card = contents.get("card")
    if "model" not in contents:
        reason = "no fine-tuned network, a backbone alone or another tool's weights"
    elif not isinstance(card, dict) or not isinstance(card.get("config"), dict):
        reason = "has no card, which says classes, bands and scale"
    elif "classes" not in card or "backbone_cfg" not in card["config"]:
        reason = "is of a pre-training, which has no classes"
    else:
        return card
    raise UserError(f"--checkpoint {path}: {reason}; {WANTED}")
