"""Open labelled tiles to be looked at: a part of a config, of a prepared set, or two folders."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.data.file_lists import EVERY_IMAGE, find_images
from SSLRemoteSensing.data.images import TIFF_ENDINGS, read_header
from SSLRemoteSensing.data.prepared import LABEL_FOLDERS, read_card
from SSLRemoteSensing.data.scale import Scale, read_scale
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.workflows.kinds import require_kind
from SSLRemoteSensing.workflows.segmentation import check_segmentation
from SSLRemoteSensing.workflows.settled_scale import settle_scale


@dataclass(frozen=True)
class Part:
    """Tiles with what is needed to draw them: a title, the classes, R, G, B of each."""

    dataset: SegmentationDataset
    title: str
    classes: Sequence[str]
    palette: Sequence


def open_part(args: Namespace, config: dict | None) -> Part:
    """What the flags of `show labels` name, which go together; `config` is of --config_file.

    Raises:
        UserError: a config of pre-training; no such part, or one without labels; as
            `SegmentationDataset`.
    """
    if args.tiles is not None:
        part, key = part_of_prepared(args.tiles, args.part), "--tiles"
    elif args.images is not None:
        part, key = part_of_folders(args), "--images"
    else:
        require_kind(config, "finetune", args.config_file, to_see=True)
        check_segmentation(config)
        part, key = part_of_config(config, args.part), f"train_cfg.{args.part}_data"
    with about(key):
        part.dataset.check_values(key)
    return part


def part_of_config(config: dict, part: str) -> Part:
    """`part` ('train', 'val', 'test') of a config of finetune_seg.py, opened as it opens it."""
    in_channels = config["backbone_cfg"].get("in_channels", 3)
    config = settle_scale(config, in_channels)
    classes, train_cfg = list(config["classes"]), config["train_cfg"]
    seed = train_cfg.get("seed", 0)

    def open_split(name: str, train: SegmentationDataset | None = None) -> SegmentationDataset:
        coding, reading = (None, None) if train is None else (train.coding, train.reading)
        with about(f"train_cfg.{name}_data"):
            settings, given = TileSettings(**train_cfg[f"{name}_data"]), (seed, coding, classes)
            return SegmentationDataset(settings, len(classes), in_channels, *given, train=reading)

    if train_cfg.get(f"{part}_data") is None:
        raise UserError(f"--part {part}: the config has no train_cfg.{part}_data")
    # What is neither prepared nor stated is read and coded as the training tiles are.
    prepared = read_card(train_cfg[f"{part}_data"]["label_path"]) is not None
    train = None if part == "train" or prepared else open_split("train")
    palette = config.get("palette") or default_palette(len(classes))
    return Part(open_split(part, train), f"{config['name']}, {part}_data", classes, palette)


def part_of_prepared(folder: str, part: str) -> Part:
    """`part` of a folder that tools/prepare.py made."""
    card = read_card(folder)
    if card is None or card["root"] != Path(folder).absolute():
        raise UserError(
            f"--tiles {folder}: has no dataset.json of tools/prepare.py; use --images and --labels"
        )
    kinds = [kind for kind in LABEL_FOLDERS if kind in card.get("labels", ())]
    if not kinds:
        raise UserError(f"--tiles {folder}: was prepared without labels")
    labels = Path(folder) / LABEL_FOLDERS[kinds[0]] / part
    if not labels.is_dir():
        parts = ", ".join(sorted(path.name for path in labels.parent.iterdir()))
        raise UserError(f"--part {part}: {folder} has no labels of it, but of {parts}")
    classes, count = card["classes"], len(card["bands"])
    settings = TileSettings(str(Path(folder) / "images" / part), str(labels))
    dataset = SegmentationDataset(settings, len(classes), in_channels=count)
    palette = card.get("palette") or default_palette(len(classes))
    return Part(dataset, f"{card['root'].name}, {part}", classes, palette)


def part_of_folders(args: Namespace) -> Part:
    """Two folders of images and labels of the same names; a TIFF's bands are all read."""
    images, classes = args.images, args.classes
    with about("--images, --labels"):
        first = find_images(images, EVERY_IMAGE, keys=("folder", None))[0]
        is_tiff = Path(first).suffix.lower() in TIFF_ENDINGS
        given = {key: vars(args)[key] for key in ("label_offset", "label_codes", "max_value")}
        scale = read_scale(args.scale)
        given["scale"] = scale.numbers() if isinstance(scale, Scale) else scale
        label_format = args.label_format or "{stem}.png"
        settings = TileSettings(images, args.labels, EVERY_IMAGE, label_format, **given)
        channels = max(3, read_header(first).bands) if is_tiff else 3
        dataset = SegmentationDataset(settings, len(classes), in_channels=channels)
    return Part(dataset, Path(images).name, classes, default_palette(len(classes)))
