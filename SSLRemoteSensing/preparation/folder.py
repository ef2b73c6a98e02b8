"""Images and labels of one's own, or tiles that another tool cut, as a data set."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import (
    IMAGE_ENDINGS,
    IMAGE_FOLDER,
    LABEL_FOLDER,
    LABEL_SUFFIX,
    stem,
)
from SSLRemoteSensing.data.labels import (
    ColourCoding,
    ValueCoding,
    count_values,
    detect_coding,
    value_coding,
)
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.preparation import isprs
from SSLRemoteSensing.preparation.catalog import (
    BAND_NAMES,
    Catalog,
    SourceScene,
)
from SSLRemoteSensing.preparation.sources import SourceFile, list_files
from SSLRemoteSensing.preparation.splits import assign_folders, of_labelled
from SSLRemoteSensing.preparation.tiling import open_raster
from SSLRemoteSensing.preparation.unlabelled import unlabelled_scenes

# Of two files with one stem, the label is the one whose ending stands later.
ENDINGS = (".jpg", ".jpeg", ".tiff", ".tif", ".png")
IMAGE_SUFFIX = re.compile(r"(.+)[_-](?:images?|img|sat)", re.IGNORECASE)
BANDS = {"rgb": (1, 2, 3), "irrg": (4, 1, 2), "rgbir": (1, 2, 3, 4)}
Pair = tuple[SourceFile, SourceFile | None]  # an image, and its label if there is one


def read_folder(
    files: Sequence[SourceFile],
    bands: str | None,
    splits: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None,
    scale: Scale | None,
    label_offset: int | None,
    label_codes: Sequence[int] | None,
    unlabelled: Literal["leave_out", "keep"] | None = None,
) -> Catalog:
    """Images with labels in partner folders (img_dir/ and ann_dir/, images/ and labels/, ...), or
    beside them under the same stem with another ending, or with _label or _mask after it.

    Splits are sub-folders named train, val, test. Where there are none, 'val=0.1' of `splits` (the
    default) is that share of the scenes, by a hash of their names, tiles of one scene together.
    Where there are, it is that share of the scenes that are not in a folder test.

    Args:
        bands: 'rgb', 'irrg', 'rgbir' of files in the order R, G, B, near infrared; None: all.
        classes: in order; empty where there are no labels.
        palette: given where the labels are colours of 0 and 255, see `ColourCoding`.
        scale: of the images; needed for those of more than 8 bits.
        label_offset, label_codes: see `value_coding`; neither: found out, and said.
        unlabelled: of images without a label beside others that have one: None: those of train and
            val are problems; 'leave_out'; 'keep': they are the split 'unlabelled', but for those
            that are of validation or test, or copies of labelled ones.

    Raises:
        UserError: no images, two images of one name, labels without `classes`, an unclear coding.
    """
    pairs, orphans = pair_files([file for file in files if file.ending in ENDINGS])
    labels = [label for _, label in pairs if label]
    if not pairs:
        raise UserError(f"no image ({', '.join(ENDINGS)}) among {len(files)} files of --source")
    if labels and not classes:
        raise UserError("there are labels, so name their classes in order: --classes A B ...")
    if classes and not labels:
        raise UserError(
            "--classes are given, but no label was found: put images and labels into images/ and "
            "labels/, or beside each other as a.jpg and a.png"
        )
    shares = isprs.SHARES if tuple(classes) == isprs.CLASSES else {}
    band_names = BAND_NAMES.get(bands)
    catalog = Catalog("folder", classes, palette, band_names, scale, None, shares=shares)
    catalog.notes = [f"{name}: a label without a scene; not used" for name in orphans]
    catalog.notes += other_formats(files)
    others = [image for image, label in pairs if label is None] if labels and unlabelled else []
    pairs = [pair for pair in pairs if pair[1]] if others else pairs
    names = [image.name for image, _ in pairs]
    requests = of_labelled(splits, names, [image.name for image in others]) if others else splits
    split_of = assign_folders(names, requests, catalog.notes)
    for image, label in pairs:
        if image.name in split_of:
            own, split = {"full": label} if label else {}, split_of[image.name]
            scene = SourceScene(stem(image.name), split, image, own, BANDS.get(bands))
            catalog.add_scene(scene, ["full"] if labels else [])
    if others and unlabelled == "leave_out":
        count = len(others) + len(pairs)
        catalog.notes.append(f"{len(others)} of {count} images have no label and are left out")
    elif others:
        of_labels = {image: split_of.get(image.name, "train") for image, _ in pairs}
        catalog.scenes += unlabelled_scenes(
            others, of_labels, splits, BANDS.get(bands), catalog.notes
        )
    catalog.require_own_names()
    if not labels:
        catalog.notes.append("no labels found: tiles for pre-training only")
    elif palette is None:
        labels = [label for scene in catalog.scenes for label in scene.labels.values()]
        stated = label_offset, label_codes
        catalog.coding = read_coding(labels, len(classes), *stated, catalog.notes)
    elif len(palette) != len(classes):
        raise UserError(f"--palette: {len(palette)} colours for {len(classes)} classes")
    else:
        catalog.coding = ColourCoding(palette)
    return catalog


def other_formats(files: Sequence[SourceFile]) -> list[str]:
    """A sentence for each format of images that is not read."""
    others = Counter(file.ending for file in files if file.ending in IMAGE_ENDINGS - {*ENDINGS})
    return [
        f"{count} {ending} files are left out; convert them to PNG or TIFF"
        for ending, count in others.items()
    ]


def beside_labels(images: Sequence[SourceFile], labels: str) -> list[SourceFile]:
    """`images` and the files of a folder of labels, as if they lay in images/ and labels/."""
    return [*below("images", images), *below("labels", list_files(labels, "--labels"))]


def below(folder: str, files: Sequence[SourceFile]) -> list[SourceFile]:
    """The files as if they lay in a folder of that name."""
    return [
        replace(file, name=f"{folder}/{file.name}", beside=tuple(below(folder, file.beside)))
        for file in files
    ]


def pair_files(files: Sequence[SourceFile]) -> tuple[list[Pair], list[str]]:
    """Images with their labels, sorted by what both share; and the names of labels left alone."""
    images: dict[str, list[SourceFile]] = defaultdict(list)
    labels: dict[str, list[SourceFile]] = defaultdict(list)
    loose_files: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        path = PurePosixPath(file.name)
        parts = [part.lower() for part in path.parent.parts]
        in_labels = any(map(LABEL_FOLDER.fullmatch, parts))
        in_images = any(map(IMAGE_FOLDER.fullmatch, parts)) and not in_labels
        suffix = None if in_images else LABEL_SUFFIX.fullmatch(path.stem)
        ending = suffix or (None if in_labels else IMAGE_SUFFIX.fullmatch(path.stem))
        rest = [p for p in parts if not (LABEL_FOLDER.fullmatch(p) or IMAGE_FOLDER.fullmatch(p))]
        key = "/".join([*rest, ending[1] if ending else path.stem])
        is_label = in_labels or suffix
        (images if in_images else labels if is_label else loose_files)[key].append(file)
    for key, group in loose_files.items():
        if len(group) == 2 and key not in labels and key not in images:
            group.sort(key=lambda file: ENDINGS.index(file.ending))
            labels[key].append(group.pop())
        images[key] += group
    for group in [*images.values(), *labels.values()]:
        if len(group) > 1:
            raise UserError(
                f"{' and '.join(file.name for file in group)}: which is the one to take, or which "
                "the label? Keep one of a kind, or put them into images/ and labels/"
            )
    orphans = sorted(labels[key][0].name for key in labels.keys() - images.keys())
    return [(images[key][0], labels.get(key, [None])[0]) for key in sorted(images)], orphans


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
    counts = np.array(list(map_files(label_values, labels, "reading labels"))).reshape(-1, 256)
    if not counts.any():
        return value_coding(num_classes)  # each scene will be refused by its own fault
    try:
        coding, remark = detect_coding(counts.sum(0), num_classes, "the labels")
    except UserError as error:
        first = int(np.argmax(counts[:, num_classes:IGNORE].any(1)))
        raise UserError(
            f"{error} (flags: --label_offset -1, --label_codes 0 255; look at {labels[first].name})"
        ) from error
    notes += [remark] if remark else []
    return coding


def label_values(file: SourceFile) -> np.ndarray:
    """Pixels of each value of a label, read as it will be when it is cut; none where it cannot be,
    which is told then."""
    with suppress(UserError), ExitStack() as stack:
        label = open_raster(file, (1,), stack, has_colours=False)
        strips = (label.rows(y, min(1024, label.height - y)) for y in range(0, label.height, 1024))
        return sum(count_values(strip[0]) for strip, _ in strips)
    return np.zeros(256, np.int64)
