"""What is examined: the splits of a config as lists of files, with how training reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.pretext import PretextSettings, choose_images
from SSLRemoteSensing.data.segmentation import TileSettings, find_tiles
from SSLRemoteSensing.workflows.doctor.findings import Section


@dataclass(frozen=True)
class Split:
    """Images of one split, and their labels where it has such.

    Attributes:
        name: train, val or test.
        images, labels: paths, one label an image; labels None in pre-training.
        in_channels, bands, max_value: as `read_image` takes them.
        side: pixels of a training image's side, None where tiles are taken whole.
        turns: whether tiles are turned by 90 degrees.
        skips: whether training passes over images that cannot be read.
        kept: indices of the images that `fraction` keeps, None where it keeps all.
        coding: of the labels, where it is stated or the set is prepared.
    """

    name: str
    images: Sequence[str]
    labels: Sequence[str] | None
    in_channels: int
    bands: Sequence[int] | None = None
    max_value: float | None = None
    side: int | None = None
    turns: bool = False
    skips: bool = False
    kept: Sequence[int] | None = None
    coding: ValueCoding | None = None


def is_fine_tuning(config: dict) -> bool:
    """Whether `config` is one of finetune_seg.py, rather than of train.py."""
    train_cfg = config.get("train_cfg")
    return "classes" in config or (isinstance(train_cfg, dict) and "val_data" in train_cfg)


def find_splits(config: dict, section: Section) -> list[Split]:
    """The splits of `config` that can be found; each other one is a finding that would fail."""
    train_cfg, splits = config["train_cfg"], []
    in_channels = config["backbone_cfg"].get("in_channels", 3)
    classes = len(config["classes"]) if is_fine_tuning(config) else None
    for name in ("train", "val", "test"):
        data = train_cfg.get(f"{name}_data")
        if data is None:
            continue
        split_section = Section("")
        if classes is None:
            split = split_section.attempt(pretext_split, data, in_channels)
        else:
            split = split_section.attempt(labelled_split, name, data, in_channels, classes)
        key = f"train_cfg.{name}_data"
        section.findings += [
            replace(finding, text=f"{key}: {finding.text}") for finding in split_section.findings
        ]
        if split is not None:
            section.ok(f"{name}: {len(split.images)} images")
            splits.append(split)
    return splits


def pretext_split(data: dict, in_channels: int) -> Split:
    """Raises: UserError, as `PretextDataset`."""
    settings = PretextSettings(**data)
    images, max_value = choose_images(settings)
    return Split(
        "train", images, None, in_channels, settings.bands, max_value,
        settings.crop_size or settings.img_size, skips=settings.on_bad_image == "skip",
    )  # fmt: skip


def labelled_split(name: str, data: dict, in_channels: int, classes: int) -> Split:
    """Raises: UserError, as `SegmentationDataset` does before it opens a label."""
    settings = TileSettings(**data)
    tiles = find_tiles(settings, classes)
    images, labels = zip(*tiles.pairs, strict=True)
    return Split(
        name, images, labels, in_channels, settings.bands, tiles.max_value, settings.crop_size,
        settings.turns, kept=tiles.chosen, coding=tiles.coding,
    )  # fmt: skip
