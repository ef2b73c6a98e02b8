"""Scenes that windows are drawn from: read some rows at a time, and what a window of each costs."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.errors import UnreadableImage, UserError, one_line
from SSLRemoteSensing.data.channels import choose_channels
from SSLRemoteSensing.data.geotiff import Tiff, open_tiff
from SSLRemoteSensing.data.images import has_windows, read_header, scaled
from SSLRemoteSensing.data.values import count_bands, levels_of
from SSLRemoteSensing.data.windows import Measure, WindowSettings
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import (
    ImageFacts,
    Split,
    available_memory,
    examine_image,
    one_at_a_time,
)

BLOCK = 256  # pixels a side of the blocks that are advised
DEAR = 2  # times the pixels that a window would take to decode in such blocks
FAR = 4  # times the side of a window: from there overviews save much


def examine_scene(file: str, split: Split) -> ImageFacts:
    """`examine_image` of a scene of any size, of which some rows are in memory at a time."""
    header = None
    try:
        header = read_header(file)
        sides, _ = Measure(WindowSettings(**split.settings.windows), skips=False)(file)
        if not has_windows(file):
            return replace(examine_image(file, split), sides=sides)
        with open_tiff(file) as source:
            rows = next(source.strips())[1]
            memory = 2 * rows * source.width * source.count * source.dtype.itemsize
            if memory > available_memory():
                raise UserError(
                    f"image {file}: {memory / 2**30:.1f} GiB to decode one of its blocks are more "
                    f"than memory has room for; {remedy(file)}"
                )
            with one_at_a_time:
                return read_scene(file, source, split, ImageFacts(file, header, sides=sides))
    except UserError as error:
        is_skippable = isinstance(error, UnreadableImage)
        return ImageFacts(file, header, fault=one_line(error), skippable=is_skippable)


def read_scene(file: str, source: Tiff, split: Split, facts: ImageFacts) -> ImageFacts:
    """`facts` with what its pixels tell."""
    channels, how = choose_channels(source, split.in_channels, split.reading.bands), split.reading
    shape = source.height, source.width, split.in_channels
    pixel_hash = hashlib.blake2b(f"{shape}".encode(), digest_size=16)
    counts, valid = np.zeros((split.in_channels, 256), np.int64), 0
    for y, height in source.strips():
        planes, empty = channels.read(source, y, height, with_0=True)
        part = scaled(channels, planes, empty, how.scale, source.path)
        part = part.repeat(split.in_channels, 2) if part.shape[2] < split.in_channels else part
        pixel_hash.update(np.ascontiguousarray(part))
        counts += count_bands(part)
        valid += part[:, :, 0].size if empty is None else int((~empty.all(0)).sum())
    if not valid:
        raise UnreadableImage(f"image {file}: no pixel of it holds data; exclude it")
    share = valid / (source.height * source.width)
    return replace(facts, digest=pixel_hash.digest(), levels=levels_of(counts), valid=share)


def check_windows(split: Split, facts: Sequence[ImageFacts], section: Section) -> None:
    """How many windows there are, scenes with little data, and files that are dear to read in."""
    scenes = [scene for scene in facts if scene.fault is None]
    settings, name = WindowSettings(**split.settings.windows), split.name
    if not scenes:
        return
    sparse = [f"{x.file}: {x.valid:.1%}" for x in scenes if x.valid < settings.min_valid]
    if sparse:
        text = f"{len(sparse)} of {len(scenes)} scenes hold data on less than min_valid"
        section.warn(
            f"{name}: {text}={settings.min_valid:g} of their pixels; many windows are drawn again",
            sparse,
        )
    files, sides = [scene.file for scene in scenes], [scene.sides for scene in scenes]
    check_blocks(name, "scenes", files, sides, section)
    if split.labels is not None:
        label_of = dict(zip(split.images, split.labels, strict=True))
        check_blocks(name, "labels", [label_of[file] for file in files], sides, section)
    far = [scene.file for scene in scenes if min(scene.sides) >= FAR * settings.size]
    without = [file for file in far if not has_overviews(file)]
    if without:
        text = f"{len(without)} of {len(files)} scenes are much finer than gsd={settings.gsd:g}"
        section.warn(
            f"{name}: {text} and have no overviews; add them, as in: rio overview --build 2,4,8,16 "
            f"--resampling average {shlex.quote(without[0])}",
            without,
        )


def check_blocks(
    name: str,
    what: str,
    files: Sequence[str],
    sides: Sequence[tuple[int, int]],
    section: Section,
) -> None:
    """Warn of files of which a window takes many more pixels to decode than blocks would."""
    pairs = list(zip(files, sides, strict=True))
    costs = map_files(lambda pair: cost(*pair), pairs, f"looking at {what} of {name}")
    dear = [
        (file, *known)
        for file, known in zip(files, costs, strict=True)
        if known is not None and known[0] > DEAR
    ]
    if dear:
        file, times, block = max(dear, key=lambda entry: entry[1])
        text = (
            f"{len(dear)} of {len(files)} {what} are dear to read windows of, up to {times:.0f} "
            f"times the pixels of blocks of {BLOCK} x {BLOCK} ({block})"
        )
        section.warn(f"{name}: {text}; {remedy(file)}", [entry[0] for entry in dear])


def cost(file: str, sides: tuple[int, int]) -> tuple[float, str] | None:
    """Pixels to decode for a window of `sides`, over those of a file in blocks of BLOCK a side, and
    what the blocks are; None of a file that cannot be opened, which is told elsewhere."""
    try:
        if has_windows(file):
            with open_tiff(file) as source:
                shape, block = (source.height, source.width), source.source.block_shapes[0]
        else:
            shape = block = read_header(file).shape
    except UserError:
        return None
    own, usual = (decoded(shape, sides, blocks) for blocks in (block, (BLOCK, BLOCK)))
    return own / usual, f"{file} has blocks of {block[1]} x {block[0]}"


def decoded(shape: Sequence[int], sides: Sequence[int], block: Sequence[int]) -> float:
    """Pixels of the blocks that a window at any place touches, on average."""
    lengths = zip(shape, sides, block, strict=True)
    return np.prod([min(length, side - 1 + edge) for length, side, edge in lengths])


def has_overviews(file: str) -> bool:
    if not has_windows(file):
        return False
    with open_tiff(file) as source:
        return bool(source.source.overviews(1))


def remedy(file: str) -> str:
    """How to write a file in blocks."""
    return (
        f"write it in blocks: rio convert {shlex.quote(file)} tiled.tif --format GTiff --co "
        f"TILED=YES --co BLOCKXSIZE={BLOCK} --co BLOCKYSIZE={BLOCK} --co COMPRESS=DEFLATE --co "
        "BIGTIFF=IF_SAFER"
    )
