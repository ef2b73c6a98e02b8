"""What one's own images are: which files, how many bands, of what size and values."""

import glob
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.data.file_lists import (
    EVERY_IMAGE,
    LABEL_FOLDER,
    NOT_ALLOWED,
    find_images,
    is_image,
    leave_out,
    spread_evenly,
)
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import Header, has_windows, read_header
from SSLRemoteSensing.data.percentiles import percentile_scale
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.remote import is_remote, require_allowed
from SSLRemoteSensing.data.scale import PERCENTILE, Scale, up_to
from SSLRemoteSensing.data.values import values_of

LOOKED_AT = 100  # files whose heads are read
DECODED = 16  # files whose values are read, where their type does not tell the largest
# What sensors write: the values that become white, of 8, 10, 11, 12, 14 bits and of reflectances.
SCALES = (255, 1023, 2047, 4095, 10_000, 16_383, 65_535)
MOST_NAMES = 20  # in a config; more files stand in a list


@dataclass(frozen=True)
class OwnImages:
    """Images for pre-training.

    Attributes:
        data_path, data_format: as `PretextSettings` has them.
        count: of the files.
        channels: of a network that takes them.
        bands: which bands are taken, from 1; None: all.
        dtype: of the values.
        scale: what becomes 0 and 255; None: that of their type, or of a prepared set.
        height, width: medians, in pixels.
        is_in_parts: whether a window of a file costs less than the file.
        facts: what was found, a line each, with the flag that changes it.
    """

    data_path: str
    data_format: str | tuple[str, ...]
    count: int
    channels: int
    bands: tuple[int, ...] | None
    dtype: str
    scale: Scale | None
    height: int
    width: int
    is_in_parts: bool
    facts: tuple[str, ...]

    @property
    def side(self) -> int:
        return min(self.height, self.width)


def look_at_images(
    paths: Sequence[str],
    output: Path,
    bands: Sequence[int] | None = None,
    scale: Scale | str | None = None,
    exclude: str | None = None,
    skips: bool = False,
) -> OwnImages:
    """What the images at `paths` are; the heads of some are read, and of few their values.

    Args:
        paths: a folder, a pattern, a text file with a path a line, or image files.
        output: the run's folder. Many single files are listed in its `images.txt`, which
            `write_list` writes.
        bands: which to take, from 1; None: all.
        scale: what becomes 0 and 255, or 'percentile'; None: by the values of some files.
        exclude: a text file of images to leave out; None: none.
        skips: pass over images that cannot be read.

    Raises:
        UserError: nothing there, images of several kinds or, but for `skips`, that cannot be read,
            values that tell no scale.
    """
    data_path, data_format = place_of(paths, output)
    listed = resolve(paths) if data_path == str(output / "images.txt") else None
    files = (
        leave_out(listed, output, exclude)
        if listed
        else find_images(
            data_path, data_format, exclude, keys=("--images", None), takes_shards=True
        )
    )
    data_format = (
        data_format if listed or os.path.isfile(data_path) else narrowed(data_format, files)
    )
    card = read_card(data_path)
    heads = read_heads([files[i] for i in spread_evenly(len(files), LOOKED_AT)], skips)
    picked = list(heads)
    shapes = sorted((head.height, head.width) for head in heads.values())
    dtype = only(heads, lambda head: head.dtype, "values of")
    channels = count_channels(heads, bands)
    if isinstance(scale, Scale) and scale.count not in (1, channels):
        raise UserError(
            f"--scale has numbers of {scale.count} bands where {channels} are taken; give a "
            "minimum and a maximum for each, or one pair for all"
        )
    height, width = shapes[len(shapes) // 2]
    size = f"{width} x {height} pixels" + ("" if shapes[0] == shapes[-1] else " (median)")
    images = OwnImages(
        data_path, data_format, len(files), channels, bands and tuple(bands), dtype,
        None, height, width, all(map(is_read_in_parts, picked)), (),
    )  # fmt: skip
    facts = [f"images: {len(files):,} in {data_path}, {size}, {dtype}; {len(picked)} looked at"]
    taken = f"{', '.join(map(str, bands))}" if bands else "all"
    facts.append(f"bands: {taken}, so {channels} channels (--bands)")
    if scale is None and card is None and dtype != "uint8":
        top = largest_value(picked, dtype)
        scale = PERCENTILE if top is None else up_to(top)
        if top is not None:
            facts.append(f"max_value: {top:g} becomes white (--max_value)")
    if scale == PERCENTILE:
        scale = percentile_scale(files, channels, bands)
        facts.append(
            f"scale: {scale.flag().removeprefix('--scale ')}, 2nd and 98th percentile of "
            f"{'the band' if scale.count == 1 else 'each band'}, become black and white (--scale)"
        )
    return replace(images, scale=scale, facts=tuple(facts))


def place_of(paths: Sequence[str], output: Path) -> tuple[str, str | tuple[str, ...]]:
    """`data_path` and `data_format` of what --images names; see `look_at_images`."""
    for path in filter(is_remote, paths):
        require_allowed(f"--images {path}", False, NOT_ALLOWED[None])
    if len(paths) == 1 and os.path.isdir(paths[0]):
        return str(image_folder(Path(paths[0]))), EVERY_IMAGE
    if len(paths) == 1 and not os.path.exists(paths[0]) and glob.has_magic(paths[0]):
        root, pattern = split_pattern(paths[0])
        return root, pattern
    is_other = not (is_image(paths[0]) or paths[0].lower().endswith(".vrt"))
    if len(paths) == 1 and os.path.isfile(paths[0]) and is_other:
        return paths[0], EVERY_IMAGE  # a list
    for path in paths:
        if os.path.isdir(path):
            raise UserError(f"--images {path}: is a folder; give one folder, or image files")
        if not os.path.isfile(path):
            raise UserError(f"--images {path}: no such file or folder")
    parents = {os.path.dirname(path) or "." for path in paths}
    if len(paths) <= MOST_NAMES and len(parents) == 1:
        return parents.pop(), tuple(glob.escape(os.path.basename(path)) for path in paths)
    return str(output / "images.txt"), EVERY_IMAGE


def write_list(images: OwnImages, paths: Sequence[str], output: Path) -> None:
    """The files of --images, where the config names them by a list of its own."""
    if images.data_path == str(output / "images.txt"):
        write_text(images.data_path, "".join(f"{path}\n" for path in resolve(paths)))


def resolve(paths: Sequence[str]) -> list[str]:
    return [os.path.abspath(path) for path in dict.fromkeys(paths)]


def image_folder(folder: Path) -> Path:
    """`folder`, or its sub-folder `images` where labels lie beside it.

    Raises:
        UserError: labels lie there too, and nothing says which are the images.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    labels = [name for name in names if LABEL_FOLDER.fullmatch(name.lower())]
    if "images" in names:
        return folder / "images"
    if labels:
        raise UserError(
            f"--images {folder}: {labels[0]} lies there too; name the folder of the images alone"
        )
    return folder


def split_pattern(text: str) -> tuple[str, str]:
    """The folder before the first part with a wildcard, and the pattern from there on."""
    parts = text.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or ("/" if text.startswith("/") else "."), "/".join(
        parts[first:]
    )


def narrowed(patterns: str | tuple[str, ...], files: Sequence[str]) -> str | tuple[str, ...]:
    """Of the patterns for every image those that the files need."""
    if patterns != EVERY_IMAGE:
        return patterns
    endings = {os.path.splitext(file)[1].lower() for file in files}
    spelled = {".jpeg": ".jpg", ".tiff": ".tif"}
    found = tuple(f"**/*{x}" for x in sorted({spelled.get(x, x) for x in endings}))
    return found[0] if len(found) == 1 else found


def is_read_in_parts(file: str) -> bool:
    """Whether a window of a file costs less than the file: a PNG is decoded from its first row."""
    return has_windows(file) and not file.lower().endswith(".png")


def read_heads(files: Sequence[str], skips: bool) -> dict[str, Header]:
    """The heads of `files`, by file, or with `skips` of those that can be read.

    Raises:
        UserError: one that cannot be, or all.
    """
    heads, faults = {}, []
    for file in files:
        try:
            heads[file] = read_header(file)
        except UnreadableImage as error:
            faults.append(error)
    if faults and not (skips and heads):
        which = f"{len(faults)} of {len(files)} looked at cannot be read, first "
        remedy = "the same command with --set train_cfg.train_data.on_bad_image=skip"
        raise UserError(
            f"--images: {which if len(faults) > 1 else ''}{faults[0]}"
            f"{f', or pass over it: {remedy}' if heads else ''}"
        )
    return heads


def only(heads: dict, key, what: str):
    """What all `heads` agree on.

    Raises:
        UserError: they do not; how many have which, and a file of each.
    """
    files = defaultdict(list)
    for file, head in heads.items():
        files[key(head)].append(file)
    if len(files) > 1:
        counts = sorted(files.items(), key=lambda item: -len(item[1]))
        text = ", ".join(
            f"{len(names)} with {what} {value} ({names[0]})" for value, names in counts
        )
        raise UserError(
            f"--images: of several kinds: {text}; name one kind by a pattern such as 'images/*.tif'"
        )
    return next(iter(files))


def count_channels(heads: dict, bands: Sequence[int] | None) -> int:
    """Channels of a network for such files: three of grey and colour, without a band of alpha."""
    if bands:
        fewest = min(head.bands for head in heads.values())
        if not 1 <= min(bands) <= max(bands) <= fewest:
            asked = " ".join(map(str, bands))
            raise UserError(f"--bands {asked}: the files have {fewest} bands, counted from 1")
        return 3 if len(bands) == 1 else len(bands)
    counts = {file: channels_of(file, head.bands) for file, head in heads.items()}
    return only(counts, lambda count: count, "channels:")


def channels_of(file: str, bands: int) -> int:
    if os.path.splitext(file)[1].lower() not in (".tif", ".tiff", ".vrt", ".jp2"):
        return 3  # grey is repeated, alpha is dropped
    if bands == 1:
        return 3
    with open_tiff(file) as source:
        return (
            max(3, len(source.data_bands))
            if len(source.data_bands) in (1, 3)
            else len(source.data_bands)
        )


def largest_value(files: Sequence[str], dtype: str) -> float | None:
    """The value that becomes white: the smallest of `SCALES` above nearly all values of some files,
    of floating point 1 or one of `SCALES`; None where some are negative, so that 0 is not black."""
    values = [values_of(files[i]) for i in spread_evenly(len(files), DECODED)]
    values = [x for x in values if x is not None]
    if not values:
        raise UserError("--images: hold no values but nodata; set --max_value")
    top = max(float(np.quantile(x, 0.999)) for x in values)
    low = min(float(x.min()) for x in values)
    if low < 0:
        return None
    scales = (1, *SCALES) if np.dtype(dtype).kind == "f" else SCALES
    return float(next((scale for scale in scales if top <= scale), math.ceil(top)))
