"""Decode every image of a split: what cannot be read, sizes, bands, a hash of the pixels."""

import hashlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.console import progress
from SSLRemoteSensing.core.errors import UnreadableImage, UserError, one_line
from SSLRemoteSensing.data.images import MAX_PIXELS, Header, read_header, read_image
from SSLRemoteSensing.data.pretext import MOST_SKIPPED
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.subject import Split

LARGE = 2**27  # bytes decoded; such images are read one at a time
MOST_ALIKE = 0.5  # share of the files; more with one fault speak against the config, not the files
one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class ImageFacts:
    """What is known of one image.

    Attributes:
        header: None where it cannot be read.
        digest: of the pixels as training sees them; None where they cannot be read.
        fault: why training cannot use it, as one line; None where it can.
        skippable: whether `on_bad_image='skip'` passes over that fault.
    """

    file: str
    header: Header | None = None
    digest: bytes | None = None
    fault: str | None = None
    skippable: bool = False


def examine_image(file: str, split: Split) -> ImageFacts:
    """Open and decode `file` as training would, unless it claims more than memory can hold."""
    header = None
    try:
        header = read_header(file)
        if header.pixels > MAX_PIXELS:
            text = f"image {file}: claims {header.size} pixels, more than {MAX_PIXELS}; remove it"
            return ImageFacts(file, header, fault=text, skippable=True)
        # As stored and as uint8; a TIFF, read by strips, takes less.
        bands = min(header.bands, split.in_channels)
        memory = header.pixels * bands * (np.dtype(header.dtype).itemsize + 1)
        if memory > available_memory():
            text = (
                f"image {file}: {header.size} pixels, {memory / 2**30:.1f} GiB to decode it, are "
                f"more than the memory has room for; cut it into tiles"
            )
            return ImageFacts(file, header, fault=text)
        if memory > LARGE:
            with one_at_a_time:
                return ImageFacts(file, header, digest(file, split))
        return ImageFacts(file, header, digest(file, split))
    except UserError as error:
        skippable = isinstance(error, UnreadableImage)
        return ImageFacts(file, header, fault=one_line(error), skippable=skippable)


def digest(file: str, split: Split) -> bytes:
    """A hash of size and pixels, the same for a file and a copy of it in another lossless format.

    Raises:
        UserError: as `read_image`.
    """
    image = read_image(file, split.in_channels, split.bands, split.max_value)
    pixel_hash = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
    pixel_hash.update(image.data if image.flags.c_contiguous else image.tobytes())
    return pixel_hash.digest()


def available_memory() -> float:
    """Bytes that can be taken without swapping; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")
    return int(kib) * 1024


def in_parallel(function: Callable, tasks: Sequence, workers: int, what: str) -> list:
    """`function` of each task, in threads, with a bar on a terminal.

    Threads suffice: reading, decoding and hashing all release Python's lock.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        results = pool.map(function, tasks)
        return list(progress(what, results, len(tasks), "file"))
    finally:  # Ctrl-C need not wait for all that is queued
        pool.shutdown(cancel_futures=True)


def default_workers() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scan(split: Split, workers: int) -> list[ImageFacts]:
    """`examine_image` for every image of `split`."""
    what = f"reading {split.name} images"
    return in_parallel(lambda file: examine_image(file, split), split.images, workers, what)


def check_images(split: Split, facts: Sequence[ImageFacts], section: Section) -> list[str] | None:
    """What can be read, sizes and bands of one split.

    Returns:
        The images that training cannot use; None where the config is what is wrong.
    """
    bad_images = [image for image in facts if image.fault is not None]
    good_count, total = len(facts) - len(bad_images), len(facts)
    if good_count:
        check_sizes(
            split, [image for image in facts if image.fault is None and image.header], section
        )
        check_bands(split, [image for image in facts if image.header], section)
    if not bad_images:
        section.ok(f"{split.name}: all {total} images can be read")
        return []
    reasons = Counter(
        image.fault.replace(image.file, "") for image in bad_images if not image.skippable
    )
    if reasons and reasons.most_common(1)[0][1] > MOST_ALIKE * total:
        text = f"{split.name}: most images have one fault, so the config is probably what is wrong"
        section.fail(text, [image.fault for image in bad_images])
        return None
    kept_files = None if split.kept is None else {split.images[index] for index in split.kept}
    # Of tiles that a fraction leaves out, opening the data set takes the header and no more.
    leftovers = [
        image
        for image in bad_images
        if kept_files is not None and image.file not in kept_files and image.header
    ]
    if leftovers:
        text = f"{split.name}: {len(leftovers)} of {total} images cannot be decoded; fraction drops"
        section.warn(f"{text} them, another one may not", [image.fault for image in leftovers])
    bad_images = [image for image in bad_images if image not in leftovers]
    if bad_images:
        training_skips = split.skips and all(image.skippable for image in bad_images)
        remedy = "mend or exclude them"
        if training_skips:
            most_allowed = max(1, total // 100)  # as the training loop counts them
            row = longest_run([image.fault is not None for image in facts])
            if row >= min(MOST_SKIPPED, total):
                remedy += f": {row} in a row are more than training passes over"
            elif len(bad_images) > most_allowed:
                remedy += ": they are more than 1 %"
            else:
                remedy = "training passes over them"
        say = section.warn if remedy == "training passes over them" else section.fail
        text = f"{split.name}: {len(bad_images)} of {total} images cannot be used; {remedy}"
        say(text, [image.fault for image in bad_images])
    return [image.file for image in [*bad_images, *leftovers]]


def longest_run(marks: Sequence[bool]) -> int:
    """The most marks that are true in a row; the last and the first are neighbours."""
    if all(marks):
        return len(marks)
    begin = marks.index(False)
    runs = groupby([*marks[begin:], *marks[:begin]])
    return max((len(list(run)) for mark, run in runs if mark), default=0)


def check_sizes(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    if not facts:
        return
    ordered_images = sorted(facts, key=lambda image: image.header.pixels)
    smallest, median, largest = (
        ordered_images[index].header.size for index in (0, len(ordered_images) // 2, -1)
    )
    if smallest == largest:
        section.ok(f"{split.name}: all of {smallest} pixels")
    else:
        section.ok(f"{split.name}: {smallest} to {largest} pixels, median {median}")
    if split.side is not None:
        small_images = [
            image
            for image in ordered_images
            if min(image.header.height, image.header.width) < split.side
        ]
        if small_images:
            names = [f"{image.file}: {image.header.size}" for image in small_images]
            how = "enlarged" if split.labels is None else "padded"
            text = f"{len(small_images)} images are smaller than {split.side} pixels and are {how}"
            section.warn(f"{split.name}: {text}", names)
    elif split.name == "train":
        shapes = {(image.header.height, image.header.width) for image in facts}
        if len(shapes) > 1:
            section.fail("train: tiles of a batch must be of one size; set crop_size")
        elif split.turns and any(height != width for height, width in shapes):
            section.fail("train: tiles that are no squares cannot be turned; set crop_size")


def check_bands(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    kinds = Counter((image.header.bands, image.header.dtype) for image in facts)
    descriptions = [
        f"{bands} bands {dtype} ({file_count} files)"
        for (bands, dtype), file_count in kinds.most_common()
    ]
    if len(kinds) <= 1:
        section.ok(f"{split.name}: {''.join(descriptions)}")
        return
    files = defaultdict(list)
    for image in facts:
        files[image.header.bands, image.header.dtype].append(image.file)
    rare_files = [
        f"{file}: {kind[0]} bands {kind[1]}" for kind, _ in kinds.most_common()[1:]
        for file in files[kind]
    ]  # fmt: skip
    section.warn(f"{split.name}: bands differ: {', '.join(descriptions)}", rare_files)


def check_duplicates(image_facts: dict[str, Sequence[ImageFacts]], section: Section) -> None:
    """Same pixels within each split and in each two of them; `image_facts` is by the split's name.

    Neither makes a run fail, but scores on images that were trained on say nothing.
    """
    contents = {name: by_pixels(facts) for name, facts in image_facts.items()}
    for name, groups in contents.items():
        twins = [files for files in groups.values() if len(files) > 1]
        if twins:
            copies = sum(len(files) - 1 for files in twins)
            text = f"{name}: {copies} images are there again ({len(twins)} groups of equal pixels)"
            section.warn(text, [" = ".join(files) for files in twins])
        else:
            section.ok(f"{name}: no image is there twice")
    for first, second in combinations(contents, 2):
        hashes = [digest for digest in contents[first] if digest in contents[second]]
        if hashes:
            names = [
                f"{contents[first][digest][0]} = {contents[second][digest][0]}" for digest in hashes
            ]
            section.warn(
                f"{first} and {second} share {len(hashes)} images: scores would not be of unseen "
                f"images",
                names,
            )
        else:
            section.ok(f"{first} and {second} share no image")


def by_pixels(facts: Sequence[ImageFacts]) -> dict[bytes, list[str]]:
    """The files of each content, in the order of `facts`."""
    groups = defaultdict(list)
    for image in facts:
        if image.digest is not None:
            groups[image.digest].append(image.file)
    return groups
