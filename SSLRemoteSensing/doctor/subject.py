"""What is examined: the splits of a config as lists of files, with how training reads them."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from SSLRemoteSensing.datasets.files import find_images, stem
from SSLRemoteSensing.datasets.fraction import choose_fraction
from SSLRemoteSensing.datasets.labels import ValueCoding, value_coding
from SSLRemoteSensing.datasets.opening import agreed_scale, read_card
from SSLRemoteSensing.datasets.pretext import PretextDataset
from SSLRemoteSensing.datasets.segmentation import SegmentationDataset, find_pairs
from SSLRemoteSensing.doctor.report import Section
from SSLRemoteSensing.errors import UserError


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
    defaults = default_values(PretextDataset)
    data = defaults | data
    images = find_images(data["data_path"], data["data_format"], data["exclude"])
    max_value = agreed_scale(read_card(data["data_path"]), data["max_value"])
    side = data["crop_size"] or data["img_size"]
    skips = data["on_bad_image"] == "skip"
    return Split(
        "train", images, None, in_channels, data["bands"], max_value, side, skips=skips
    )  # fmt: skip


def labelled_split(name: str, data: dict, in_channels: int, classes: int) -> Split:
    """Raises: UserError, as `SegmentationDataset` does before it opens a label."""
    data = default_values(SegmentationDataset) | data
    if not Path(data["label_path"]).is_dir():
        raise UserError(f"label_path {data['label_path']}: no such folder")
    keys = ("image_path", "label_path", "data_format", "label_format", "hash_range", "exclude")
    images, labels = zip(*find_pairs(*(data[key] for key in keys)), strict=True)
    # As in SegmentationDataset: what a list file lists tells where the set is.
    folder = data["image_path"] if Path(data["image_path"]).is_dir() else Path(images[0]).parent
    card = read_card(folder)
    kept = coding = None
    if data["fraction"] != 1:
        stems = [stem(image) for image in images]
        given = (stems, data["fraction"], data["fraction_seed"])
        kept = choose_fraction(*given, prepared=card is not None)
    if card is not None and Path(data["label_path"]).absolute().is_relative_to(card["root"]):
        coding = value_coding(classes)
    elif data["label_offset"] is not None or data["label_codes"] is not None:
        coding = value_coding(classes, data["label_offset"], data["label_codes"])
    return Split(
        name, images, labels, in_channels, data["bands"], agreed_scale(card, data["max_value"]),
        data["crop_size"], data["turns"], kept=kept, coding=coding,
    )  # fmt: skip


def default_values(owner: type) -> dict:
    known = inspect.signature(owner).parameters.values()
    return {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}
