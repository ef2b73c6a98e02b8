"""Images and labels of one's own, or tiles that another tool cut, as a data set."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.console import progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.labels import (
    ColourCoding,
    ValueCoding,
    detect_coding,
    histogram,
    value_coding,
)
from SSLRemoteSensing.data.subsets import scene_of
from SSLRemoteSensing.preparation import isprs
from SSLRemoteSensing.preparation.catalog import BAND_NAMES, UNLABELLED, Catalog, SourceScene
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.splits import SHARE, pick_scenes
from SSLRemoteSensing.preparation.tiling import open_label, to_uint8_values

# Of two files with one stem, the label is the one whose ending stands later.
ENDINGS = (".jpg", ".jpeg", ".tiff", ".tif", ".png")
IMAGE_FOLDER = re.compile(r"(?:images?|imgs?|img_dir)(?:_(?:png|tif|jpg))?")
LABEL_FOLDER = re.compile(r"(?:labels?|masks?|ann_dir|annotations?|gts?)(?:_(?:png|tif))?")
IMAGE_SUFFIX = re.compile(r"(.+)[_-](?:images?|img|sat)", re.IGNORECASE)
LABEL_SUFFIX = re.compile(r"(.+)[_-](?:labels?|masks?|gt)", re.IGNORECASE)
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
BANDS = {"rgb": (1, 2, 3), "irrg": (4, 1, 2), "rgbir": (1, 2, 3, 4)}


def read_folder(
    files: Sequence[SourceFile],
    bands: str | None,
    splits: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None,
    max_value: float | None,
    label_offset: int | None,
    label_codes: Sequence[int] | None,
) -> Catalog:
    """Images with labels in partner folders (img_dir/ and ann_dir/, images/ and labels/, ...), or
    beside them under the same stem with another ending, or with _label or _mask after it.

    Splits are sub-folders named train, val, test. Where there are none, 'val=0.1' of `splits` (the
    default) is that share of the scenes, by a hash of their names, tiles of one scene together.

    Args:
        bands: 'rgb', 'irrg', 'rgbir' of files in the order R, G, B, near infrared; None: all.
        classes: in order; empty where there are no labels.
        palette: given where the labels are colours of 0 and 255, see `ColourCoding`.
        max_value: the value that becomes 1, for images of more than 8 bits.
        label_offset, label_codes: see `value_coding`; neither: found out, and said.

    Raises:
        UserError: no images, two images of one name, labels without `classes`, an unclear coding.
    """
    pictures = [file for file in files if PurePosixPath(file.name).suffix.lower() in ENDINGS]
    pairs, orphans = pair_files(pictures)
    if not pairs:
        raise UserError(f"no image ({', '.join(ENDINGS)}) among {len(files)} files of --source")
    has_labels = any(label for _, label in pairs.values())
    notes = [f"{file}: a label without a scene; not used" for file in orphans]
    problems = []
    split_of = assign_folders([image.name for image, _ in pairs.values()], splits, notes)
    scenes: dict[str, SourceScene] = {}
    for image, label in pairs.values():
        name, split = stem(image.name), split_of.get(image.name)
        if split is None:
            continue
        if has_labels and label is None and split != "test":
            problems.append((name, f"{image.name} has no label"))
            continue
        split = UNLABELLED if has_labels and label is None else split
        scene_labels = {} if label is None else {"full": label}
        scene = SourceScene(name, split, image, scene_labels, BANDS.get(bands))
        if scene.key in scenes:
            other = scenes[scene.key].image.name
            raise UserError(f"{other} and {image.name} are of one name, as their tiles would be; "
                            "rename one")  # fmt: skip
        scenes[scene.key] = scene
    scenes = list(scenes.values())
    if has_labels and not classes:
        raise UserError("there are labels, so name their classes in order: --classes A B ...")
    coding = None
    if has_labels and palette is not None:
        coding = ColourCoding(palette)
        if coding.num_classes != len(classes):
            raise UserError(f"--palette: {len(palette)} colours for {len(classes)} classes")
    elif has_labels:
        labels = [label for scene in scenes for label in scene.labels.values()]
        coding = read_coding(labels, len(classes), label_offset, label_codes, notes)
    elif classes:
        raise UserError("--classes are given, but no label was found: put images and labels into "
                        "images/ and labels/, or beside each other as a.jpg and a.png")  # fmt: skip
    else:
        notes.append("no labels found: tiles for pre-training only")
    return Catalog(
        "folder", classes, palette, BAND_NAMES.get(bands), max_value, coding, scenes,
        isprs.SHARES if tuple(classes) == isprs.CLASSES else {}, notes=notes, problems=problems,
    )  # fmt: skip


def pair_files(
    files: Sequence[SourceFile],
) -> tuple[dict[str, tuple[SourceFile, SourceFile | None]], list[str]]:
    """(image, label or None) by the key that both share; and the names of labels left alone."""
    images: dict[str, list[SourceFile]] = defaultdict(list)
    labels: dict[str, list[SourceFile]] = defaultdict(list)
    loose_files = defaultdict(list)
    for file in files:
        path = PurePosixPath(file.name)
        parts = [part.lower() for part in path.parent.parts]
        in_labels = any(map(LABEL_FOLDER.fullmatch, parts))
        in_images = any(map(IMAGE_FOLDER.fullmatch, parts)) and not in_labels
        rest = [
            part
            for part in parts
            if not LABEL_FOLDER.fullmatch(part) and not IMAGE_FOLDER.fullmatch(part)
        ]
        suffix = None if in_images else LABEL_SUFFIX.fullmatch(path.stem)
        ending = suffix or (None if in_labels else IMAGE_SUFFIX.fullmatch(path.stem))
        key = "/".join([*rest, ending[1] if ending else path.stem])
        if in_images:
            images[key].append(file)
        elif in_labels or suffix:
            labels[key].append(file)
        else:
            loose_files[key].append(file)
    for key, group in loose_files.items():
        if len(group) == 2 and key not in labels and key not in images:
            group.sort(key=lambda file: ENDINGS.index(PurePosixPath(file.name).suffix.lower()))
            labels[key].append(group.pop())
        images[key] += group
    for group in [*images.values(), *labels.values()]:
        if len(group) > 1:
            raise UserError(
                f"{' and '.join(file.name for file in group)}: which is the one to take, or which "
                "the label? Keep one of a kind, or put them into images/ and labels/"
            )
    orphans = sorted(labels[key][0].name for key in labels.keys() - images.keys())
    pairs = {key: (images[key][0], labels[key][0] if key in labels else None) for key in images}
    return dict(sorted(pairs.items())), orphans


def assign_folders(
    images: Sequence[str], splits: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """Image -> split, by sub-folder, or by a hash of the scene that a tile is of."""
    requests = {text.partition("=")[0]: text.partition("=")[2] for text in splits}
    strange = sorted(requests.keys() - {"train", "val", "test"})
    if strange:
        raise UserError(f"--splits {strange[0]}: known are train, val, test")
    split_of = {}
    for image in images:
        parts = [part.lower() for part in PurePosixPath(image).parent.parts]
        folder_splits = [SPLITS[part] for part in parts if part in SPLITS]
        if folder_splits:
            split_of[image] = folder_splits[-1]
    if split_of:
        strays = [image for image in images if image not in split_of]
        if strays:
            raise UserError(f"{strays[0]}: lies in no folder train, val or test as others do")
        conflicts = [text for text, which in requests.items() if which]
        if conflicts:
            raise UserError(f"--splits {conflicts[0]}=...: the folders say the split already")
    else:
        scenes = {image: scene_of(stem(image)) or stem(image) for image in images}
        split_by_scene = dict.fromkeys(scenes.values(), "train")
        shares = {split: which for split, which in requests.items() if which} or {"val": "0.1"}
        named_images = {}
        by_name = {stem(image): image for image in images}
        start = 0.0  # each share has its own part of the hashes
        for split, which in shares.items():
            remaining = [scene for scene, current in split_by_scene.items() if current == "train"]
            if all(name in by_name and name not in split_by_scene for name in which.split(",")):
                named_images |= {by_name[name]: split for name in which.split(",")}
            else:
                picks = pick_scenes(remaining, which, f"{split}={which}", start)
                share = float(which) if SHARE.fullmatch(which) else None
                start += share or 0
                if requests.get(split) and not picks and share != 0:
                    raise UserError(f"--splits {split}={which}: no scene falls to it; name some")
                split_by_scene |= dict.fromkeys(picks, split)
        split_of = {image: split_by_scene[scene] for image, scene in scenes.items()} | named_images
        counts = Counter(split_of.values())
        notes.append(
            "no folders train, val, test, so scenes are dealt by a hash of their names: "
            f"{len(images)} images of {len(split_by_scene)} scenes, "
            + ", ".join(f"{split} {count}" for split, count in sorted(counts.items()))
        )
        if all(requests.values()):
            return split_of
    return {name: split for name, split in split_of.items() if not requests or split in requests}


def value_counts(path: Path) -> np.ndarray:
    """Pixels of each value of a label, strip by strip."""
    counts = np.zeros(256, np.int64)
    with open_label(path, 1) as label:
        for y in range(0, label.height, 1024):
            rows = label.rows(y, min(1024, label.height - y))[0]
            counts += histogram(to_uint8_values(rows, path.name)[0], 256)
    return counts


def read_coding(
    labels: Sequence[SourceFile],
    num_classes: int,
    label_offset: int | None,
    label_codes: Sequence[int] | None,
    notes: list[str],
) -> ValueCoding:
    """The coding that is stated, or else found in the values of all labels, and noted."""
    if label_offset is not None or label_codes is not None:
        return value_coding(num_classes, label_offset, label_codes)
    counts = np.zeros((max(1, len(labels)), 256), np.int64)
    for i, file in enumerate(progress("reading labels", labels, unit="file")):
        try:
            with file.local() as path:
                # As it will be cut: another reader might take another file for readable.
                counts[i] = value_counts(path)
        except UserError:
            continue  # told by its name when the scene is cut
    if not counts.any():
        return value_coding(num_classes)  # each scene will be refused by its own fault
    try:
        coding, remark = detect_coding(counts.sum(0), num_classes, "labels of --source")
    except UserError as error:
        first = int(np.argmax(counts[:, num_classes:IGNORE].any(1)))
        raise UserError(
            f"{error} (flags: --label_offset -1, --label_codes 0 255; look at {labels[first].name})"
        ) from error
    if remark:
        notes.append(remark)
    return coding
