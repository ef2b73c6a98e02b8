"""What is examined: the splits of a config as lists of files, with how training reads them."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.pretext import PretextDataset, choose_images
from SSLRemoteSensing.data.segmentation import (
    SegmentationDataset,
    find_pairs,
    read_prepared_card,
    stated_coding,
)
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
    train_cfg, found = config["train_cfg"], []
    in_channels = config["backbone_cfg"].get("in_channels", 3)
    classes = len(config["classes"]) if is_fine_tuning(config) else None
    for name in ("train", "val", "test"):
        data = train_cfg.get(f"{name}_data")
        if data is None:
            continue
        other = Section("")
        if classes is None:
            split = other.attempt(pretext_split, data, in_channels)
        else:
            split = other.attempt(labelled_split, name, data, in_channels, classes)
        key = f"train_cfg.{name}_data"
        section.findings += [replace(one, text=f"{key}: {one.text}") for one in other.findings]
        if split is not None:
            section.ok(f"{name}: {len(split.images)} images")
            found.append(split)
    return found


def pretext_split(data: dict, in_channels: int) -> Split:
    """Raises: UserError, as `PretextDataset`."""
    data = default_values(PretextDataset) | data
    given = (data[key] for key in ("data_path", "data_format", "exclude", "max_value"))
    images, max_value = choose_images(*given)
    return Split(
        "train", images, None, in_channels, data["bands"], max_value,
        data["crop_size"] or data["img_size"], skips=data["on_bad_image"] == "skip",
    )  # fmt: skip


def labelled_split(name: str, data: dict, in_channels: int, classes: int) -> Split:
    """Raises: UserError, as `SegmentationDataset` does before it opens a label."""
    data = default_values(SegmentationDataset) | data
    if not Path(data["label_path"]).is_dir():
        raise UserError(f"label_path {data['label_path']}: no such folder")
    keys = ("image_path", "label_path", "data_format", "label_format", "hash_range", "exclude")
    pairs = find_pairs(*(data[key] for key in keys))
    keys = ("image_path", "max_value", "fraction", "fraction_seed")
    card, max_value, kept = read_prepared_card(pairs, *(data[key] for key in keys))
    given = (data["label_path"], classes, data["label_offset"], data["label_codes"])
    _, coding = stated_coding(card, *given)
    images, labels = zip(*pairs, strict=True)
    return Split(
        name, images, labels, in_channels, data["bands"], max_value, data["crop_size"],
        data["turns"], kept=kept, coding=coding,
    )  # fmt: skip


def default_values(owner: type) -> dict:
    known = inspect.signature(owner).parameters.values()
    return {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}
