"""The images of a config: what each split is, what cannot be read, sizes, bands, equal pixels."""

import contextlib
import hashlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage, UserError, about, one_line
from SSLRemoteSensing.data.file_lists import listing, spread_evenly
from SSLRemoteSensing.data.images import MAX_PIXELS, Header, read_header, read_image
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.pretext import MOST_SKIPPED, PretextSettings, choose_images
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.segmentation import TileSettings, find_tiles
from SSLRemoteSensing.data.values import (
    Levels,
    fault_of_sign,
    fault_of_values,
    levels,
    remedy_of_values,
)
from SSLRemoteSensing.workflows.doctor.findings import FAIL, OK, WARNING, Section
from SSLRemoteSensing.workflows.kinds import KINDS, kind_of

LARGE = 2**27  # bytes decoded; such images are read one at a time
MOST_ALIKE = 0.5  # share of the files; more with one fault speak against the config, not the files
MISLED = ", so the config is probably what is wrong"
one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Split:
    """Images of one split, with how training reads them.

    Attributes:
        name: train, val or test.
        reading: bands and scale of the images.
        labels: one an image; None in pre-training.
        classes: of the labels.
        dropped: the images that `fraction` leaves out.
        coding: of the labels, where it is stated or the set is prepared.
    """

    name: str
    settings: PretextSettings | TileSettings
    in_channels: int
    images: Sequence[str]
    reading: Reading
    labels: Sequence[str] | None = None
    classes: Sequence[str] = ()
    dropped: frozenset[str] = frozenset()
    coding: ValueCoding | None = None


def find_split(config: dict, name: str, train: Reading | None = None) -> Split:
    """The images of a split, those of `train` being read so; raises a `UserError` as the data sets
    do before they open an image or a label."""
    in_channels, data = config["backbone_cfg"].get("in_channels", 3), f"{name}_data"
    with about(f"train_cfg.{data}"):
        if kind_of(config) is KINDS["pretrain"]:
            settings = PretextSettings(**config["train_cfg"][data])
            return Split(name, settings, in_channels, *choose_images(settings, in_channels))
        settings, classes = TileSettings(**config["train_cfg"][data]), list(config["classes"])
        tiles = find_tiles(settings, len(classes), train, in_channels)
    images, labels = zip(*tiles.pairs, strict=True)
    chosen = range(len(images)) if tiles.chosen is None else tiles.chosen
    dropped = frozenset(images).difference(images[index] for index in chosen)
    labelled = (labels, classes, dropped, tiles.coding)
    return Split(name, settings, in_channels, images, tiles.reading, *labelled)


def listed_before(splits: Sequence[Split]) -> list[str]:
    """The images that the config excludes already; a new list takes the place of its own."""
    files = []
    for settings in (split.settings for split in splits if split.settings.exclude):
        path = settings.image_path if isinstance(settings, TileSettings) else settings.data_path
        root = os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path))
        files += [os.path.join(root, line) for line in listing(Path(settings.exclude), "exclude")]
    return list(dict.fromkeys(files))


@dataclass(frozen=True)
class ImageFacts:
    """What is known of one image.

    Attributes:
        header: None where it cannot be read.
        digest: a hash of size and pixels as training sees them; None where they cannot be read.
        levels: of its values as training sees them.
        fault: why training cannot use it, as one line; None where it can.
        skippable: whether `on_bad_image='skip'` passes over that fault.
        sides: height and width of a window in its pixels, where windows are drawn from it.
        valid: the share of its pixels that hold data.
    """

    file: str
    header: Header | None
    digest: bytes | None = None
    levels: Levels | None = None
    fault: str | None = None
    skippable: bool = False
    sides: tuple[int, int] | None = None
    valid: float = 1.0


def examine_image(file: str, split: Split) -> ImageFacts:
    """Open and decode `file` as training would, unless it claims more than memory can hold."""
    header = None
    try:
        header = read_header(file)
        claim = f"image {file}: {header.size} pixels"
        if header.pixels > MAX_PIXELS:
            raise UnreadableImage(f"{claim} are claimed, more than {MAX_PIXELS}; remove it")
        # As stored and as uint8; a TIFF, read by strips, takes less.
        value_bytes = np.dtype(header.dtype).itemsize + 1
        memory = header.pixels * min(header.bands, split.in_channels) * value_bytes
        if memory > available_memory():
            fault = "are more than memory has room for; cut it into tiles"
            raise UserError(f"{claim}, {memory / 2**30:.1f} GiB to decode it, {fault}")
        with one_at_a_time if memory > LARGE else contextlib.nullcontext():
            reading = split.reading
            image = read_image(file, split.in_channels, reading.bands, reading.scale)
            pixel_hash = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
            pixel_hash.update(np.ascontiguousarray(image))
            return ImageFacts(file, header, pixel_hash.digest(), levels(image))
    except UserError as error:
        is_skippable = isinstance(error, UnreadableImage)
        return ImageFacts(file, header, fault=one_line(error), skippable=is_skippable)


def available_memory() -> float:
    """Bytes that can be taken without swapping; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def check_images(
    split: Split, facts: Sequence[ImageFacts], section: Section
) -> dict[str, str] | None:
    """What can be read, sizes and bands of one split.

    Returns:
        The images that training cannot use, and why; None where the config is what is wrong.
    """
    name, total = split.name, len(facts)
    bad_images = [image for image in facts if image.fault is not None]
    if len(bad_images) < total:
        check_sizes(split, [image for image in facts if image.fault is None], section)
        check_bands(split, [image for image in facts if image.header], section)
        check_levels(split, [image for image in facts if image.fault is None], section)
    if not bad_images:
        section.ok(f"{name}: all {total} images can be read")
        return {}
    lasting = [image for image in bad_images if not image.skippable]
    reasons = Counter(image.fault.replace(image.file, "") for image in lasting)
    if max(reasons.values(), default=0) > MOST_ALIKE * total:
        faults = [image.fault for image in bad_images]
        section.fail(f"{name}: most images have one fault{MISLED}", faults)
        return None
    # Of tiles that a fraction leaves out, opening the data set takes the header and no more.
    no_matter = split.dropped & {image.file for image in bad_images if image.header}
    dropped_images = [image for image in bad_images if image.file in no_matter]
    others = [image for image in bad_images if image.file not in no_matter]
    passes = split.labels is None and split.settings.on_bad_image == "skip" and not lasting
    row = longest_run([image.fault is not None for image in facts])
    mark, what = FAIL, "cannot be used; mend or exclude them"
    if passes and row >= min(MOST_SKIPPED, total):
        what += f": {row} in a row are more than training passes over"
    elif passes and len(others) > max(1, total // 100):  # as the training loop counts them
        what += ": they are more than 1 %"
    elif passes:
        mark, what = WARNING, "cannot be used; training passes over them"
    dropping = "cannot be decoded; fraction drops them, another one may not"
    for images, say, text in ((dropped_images, WARNING, dropping), (others, mark, what)):
        if images:
            faults = [image.fault for image in images]
            section.add(say, f"{name}: {len(images)} of {total} images {text}", faults)
    return {image.file: image.fault for image in bad_images}


def longest_run(marks: Sequence[bool]) -> int:
    """The most marks that are true in a row; the last and the first are neighbours."""
    runs = [len(list(run)) for mark, run in groupby([*marks, *marks]) if mark]
    return min(max(runs, default=0), len(marks))


def check_sizes(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    name, images = split.name, sorted(facts, key=lambda image: image.header.pixels)
    smallest, median, largest = (images[index].header.size for index in (0, len(images) // 2, -1))
    sizes = f"{smallest} to {largest} pixels, median {median}"
    section.ok(f"{name}: {f'all of {smallest} pixels' if smallest == largest else sizes}")
    side = split.settings.crop_size or getattr(split.settings, "img_size", None)
    if split.settings.windows is not None:
        small = [
            f"{x.file}: {x.header.size}" for x in images if np.less(x.header.shape, x.sides).any()
        ]
        if small:
            text = f"{len(small)} scenes are smaller than a window and are padded"
            section.warn(f"{name}: {text}", small)
    elif side is not None:
        small = [f"{x.file}: {x.header.size}" for x in images if min(x.header.shape) < side]
        how = "enlarged" if split.labels is None else "padded"
        if small:
            text = f"{len(small)} images are smaller than {side} pixels and are {how}"
            section.warn(f"{name}: {text}", small)
    elif name == "train":  # whole tiles
        shapes = {image.header.shape for image in images}
        if len(shapes) > 1:
            section.fail("train: tiles of a batch must be of one size; set crop_size")
        elif split.settings.turns and any(height != width for height, width in shapes):
            section.fail("train: tiles that are no squares cannot be turned; set crop_size")


def check_bands(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    files = defaultdict(list)
    for image in facts:
        files[f"{image.header.bands} bands {image.header.dtype}"].append(image.file)
    kinds = sorted(files, key=lambda kind: -len(files[kind]))
    text = ", ".join(f"{kind} ({len(files[kind])} files)" for kind in kinds)
    rare_files = [f"{file}: {kind}" for kind in kinds[1:] for file in files[kind]]
    mark, text = (WARNING, f"bands differ: {text}") if rare_files else (OK, text)
    section.add(mark, f"{split.name}: {text}", rare_files)


def check_levels(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    """Images that come out nearly constant, by those that opening the data set looks at too; all
    of one colour."""
    uniform = [image.file for image in facts if image.levels.range == 0]
    text = f"{len(uniform)} of {len(facts)} images are of one colour; exclude them"
    sample = [facts[place] for place in spread_evenly(len(facts))]
    sample_files = [image.file for image in sample]
    fault = fault_of_values([image.levels for image in sample], split.reading.is_scaled)
    if fault := fault or fault_of_sign(split.reading, sample_files):
        text = f"{fault}; {remedy_of_values(split.reading, sample_files)}"
    if fault or uniform:
        mark = FAIL if len(uniform) > MOST_ALIKE * len(facts) else WARNING
        section.add(mark, f"train_cfg.{split.name}_data: {text}", uniform)


def check_duplicates(image_facts: dict[str, Sequence[ImageFacts]], section: Section) -> None:
    """Same pixels within each split and in each two of them; `image_facts` is by the split's name.

    Neither makes a run fail, but scores on images that were trained on say nothing.
    """
    files = {name: defaultdict(list) for name in image_facts}
    for name, facts in image_facts.items():
        for image in facts:
            if image.digest is not None:
                files[name][image.digest].append(image.file)
        twins = [" = ".join(names) for names in files[name].values() if len(names) > 1]
        copies = sum(map(len, files[name].values())) - len(files[name])
        text = f"{copies} images are there again ({len(twins)} groups of equal pixels)"
        mark, text = (WARNING, text) if twins else (OK, "no image is there twice")
        section.add(mark, f"{name}: {text}", twins)
    for first, second in combinations(files, 2):
        digests = [digest for digest in files[first] if digest in files[second]]
        pairs = [f"{files[first][digest][0]} = {files[second][digest][0]}" for digest in digests]
        text = f"share {len(pairs)} images: scores would not be of unseen images"
        mark, text = (WARNING, text) if pairs else (OK, "share no image")
        section.add(mark, f"{first} and {second} {text}", pairs)
