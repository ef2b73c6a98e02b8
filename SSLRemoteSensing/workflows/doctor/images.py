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
from PIL import Image

from SSLRemoteSensing.core.console import progress
from SSLRemoteSensing.core.errors import UnreadableImage, UserError, one_line
from SSLRemoteSensing.data.geotiff import open_tiff, require_file
from SSLRemoteSensing.data.images import MAX_PIXELS, TIFF_ENDINGS, png_depth, read_image
from SSLRemoteSensing.data.pretext import MOST_SKIPPED
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.subject import Split

LARGE = 2**27  # bytes decoded; such images are read one at a time
MOST_ALIKE = 0.5  # share of the files; more with one fault speak against the config, not the files
one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, number of bands and type of the values, as the file has them."""

    height: int
    width: int
    bands: int
    dtype: str

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def size(self) -> str:
        return f"{self.width} x {self.height}"

    def decoded(self, bands: int) -> int:
        """Bytes of `bands` bands as stored and as uint8; a TIFF, read by strips, takes less."""
        return self.pixels * bands * (np.dtype(self.dtype).itemsize + 1)


def read_header(path: str | Path) -> Header | None:
    """The header of the image or label at `path`; None where only decoding can tell.

    Raises:
        UnreadableImage: missing, no regular file, more pixels than any reader takes.
    """
    path = Path(path)
    require_file(path)
    if path.suffix.lower() in TIFF_ENDINGS:
        with open_tiff(path) as source:
            return Header(source.height, source.width, source.count, source.dtype.name)
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith("I;16") or (image.format == "PNG" and png_depth(path) > 8)
            bands = 3 if image.mode == "P" else len(image.getbands())
            return Header(image.height, image.width, bands, "uint16" if deep else "uint8")
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            f"image {path}: claims too many pixels ({error}); remove it"
        ) from error
    except (OSError, SyntaxError, ValueError):
        return None


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
        if header is not None and header.pixels > MAX_PIXELS:
            text = f"image {file}: claims {header.size} pixels, more than {MAX_PIXELS}; remove it"
            return ImageFacts(file, header, fault=text, skippable=True)
        needed = 0 if header is None else header.decoded(min(header.bands, split.in_channels))
        if needed > available_memory():
            text = (
                f"image {file}: {header.size} pixels, {needed / 2**30:.1f} GiB to decode it, are "
                f"more than the memory has room for; cut it into tiles"
            )
            return ImageFacts(file, header, fault=text)
        if header is None or needed > LARGE:
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
    found = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
    found.update(image.data if image.flags.c_contiguous else image.tobytes())
    return found.digest()


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
    """`look` at every image of `split`."""
    what = f"reading {split.name} images"
    return in_parallel(lambda file: examine_image(file, split), split.images, workers, what)


def check_images(split: Split, facts: Sequence[ImageFacts], section: Section) -> list[str] | None:
    """What can be read, sizes and bands of one split.

    Returns:
        The images that training cannot use; None where the config is what is wrong.
    """
    bad = [one for one in facts if one.fault is not None]
    good, total = len(facts) - len(bad), len(facts)
    if good:
        check_sizes(split, [one for one in facts if one.fault is None and one.header], section)
        check_bands(split, [one for one in facts if one.header], section)
    if not bad:
        section.ok(f"{split.name}: all {total} images can be read")
        return []
    reasons = Counter(one.fault.replace(one.file, "") for one in bad if not one.skippable)
    if reasons and reasons.most_common(1)[0][1] > MOST_ALIKE * total:
        text = f"{split.name}: most images have one fault, so the config is probably what is wrong"
        section.fail(text, [one.fault for one in bad])
        return None
    kept = None if split.kept is None else {split.images[index] for index in split.kept}
    # Of tiles that a fraction leaves out, opening the data set takes the header and no more.
    spared = [one for one in bad if kept is not None and one.file not in kept and one.header]
    if spared:
        text = f"{split.name}: {len(spared)} of {total} images cannot be decoded; fraction drops"
        section.warn(f"{text} them, another one may not", [one.fault for one in spared])
    bad = [one for one in bad if one not in spared]
    if bad:
        passed_over = split.skips and all(one.skippable for one in bad)
        mend = "mend or exclude them"
        if passed_over:
            allowed = max(1, total // 100)  # as the training loop counts them
            row = longest_run([one.fault is not None for one in facts])
            if row >= min(MOST_SKIPPED, total):
                mend += f": {row} in a row are more than training passes over"
            elif len(bad) > allowed:
                mend += ": they are more than 1 %"
            else:
                mend = "training passes over them"
        say = section.warn if mend == "training passes over them" else section.fail
        text = f"{split.name}: {len(bad)} of {total} images cannot be used; {mend}"
        say(text, [one.fault for one in bad])
    return [one.file for one in [*bad, *spared]]


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
    ordered = sorted(facts, key=lambda one: one.header.pixels)
    least, middle, most = (ordered[i].header.size for i in (0, len(ordered) // 2, -1))
    if least == most:
        section.ok(f"{split.name}: all of {least} pixels")
    else:
        section.ok(f"{split.name}: {least} to {most} pixels, median {middle}")
    if split.side is not None:
        small = [one for one in ordered if min(one.header.height, one.header.width) < split.side]
        if small:
            names = [f"{one.file}: {one.header.size}" for one in small]
            how = "enlarged" if split.labels is None else "padded"
            text = f"{len(small)} images are smaller than {split.side} pixels and are {how}"
            section.warn(f"{split.name}: {text}", names)
    elif split.name == "train":
        shapes = {(one.header.height, one.header.width) for one in facts}
        if len(shapes) > 1:
            section.fail("train: tiles of a batch must be of one size; set crop_size")
        elif split.turns and any(height != width for height, width in shapes):
            section.fail("train: tiles that are no squares cannot be turned; set crop_size")


def check_bands(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    kinds = Counter((one.header.bands, one.header.dtype) for one in facts)
    named = [f"{bands} bands {dtype} ({n} files)" for (bands, dtype), n in kinds.most_common()]
    if len(kinds) <= 1:
        section.ok(f"{split.name}: {''.join(named)}")
        return
    files = defaultdict(list)
    for one in facts:
        files[one.header.bands, one.header.dtype].append(one.file)
    rare = [
        f"{file}: {kind[0]} bands {kind[1]}" for kind, _ in kinds.most_common()[1:]
        for file in files[kind]
    ]  # fmt: skip
    section.warn(f"{split.name}: bands differ: {', '.join(named)}", rare)


def check_duplicates(scanned: dict[str, Sequence[ImageFacts]], section: Section) -> None:
    """Same pixels within each split and in each two of them; `scanned` is by the split's name.

    Neither makes a run fail, but scores on images that were trained on say nothing.
    """
    grouped = {name: by_pixels(facts) for name, facts in scanned.items()}
    for name, groups in grouped.items():
        twice = [files for files in groups.values() if len(files) > 1]
        if twice:
            spare = sum(len(files) - 1 for files in twice)
            text = f"{name}: {spare} images are there again ({len(twice)} groups of equal pixels)"
            section.warn(text, [" = ".join(files) for files in twice])
        else:
            section.ok(f"{name}: no image is there twice")
    for first, second in combinations(grouped, 2):
        shared = [digest for digest in grouped[first] if digest in grouped[second]]
        if shared:
            names = [f"{grouped[first][d][0]} = {grouped[second][d][0]}" for d in shared]
            section.warn(
                f"{first} and {second} share {len(shared)} images: scores would not be of unseen "
                f"images",
                names,
            )
        else:
            section.ok(f"{first} and {second} share no image")


def by_pixels(facts: Sequence[ImageFacts]) -> dict[bytes, list[str]]:
    """The files of each content, in the order of `facts`."""
    groups = defaultdict(list)
    for one in facts:
        if one.digest is not None:
            groups[one.digest].append(one.file)
    return groups
