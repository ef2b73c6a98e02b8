"""Images that come out nearly constant, as by a scale that is not theirs: found, and told."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UnreadableImage
from SSLRemoteSensing.data.file_lists import spread_evenly
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.labels import count_values
from SSLRemoteSensing.data.percentiles import clipped_shares, usual
from SSLRemoteSensing.data.reading import Reading

DARK = 64  # of 255; below it all that is shown looks black
FLAT = 16  # of 255; values of all pixels within less are nearly one
CLIPPED = 0.95  # share of values that became 255
MOST_OUTSIDE = 0.5  # share of values outside a scale, above which it can hardly be meant
PIXELS = 2**26  # of the images looked at when a data set is opened
SIDE = 1024  # of what is read of a file to tell its values


class Levels(NamedTuple):
    """Of an image as the network gets it: the least and the largest value; the largest range of a
    band; the same of 98 % of its values that are neither 0 nor 255; the share of 255."""

    low: int
    high: int
    range: int
    spread: int
    clipped: float


def levels(image: np.ndarray) -> Levels:
    """The levels of an image uint8 (H, W, C)."""
    return levels_of(count_bands(image))


def count_bands(image: np.ndarray) -> np.ndarray:
    """Pixels of each value in each band of an image uint8 (H, W, C), int64 (C, 256)."""
    bands = map(np.ascontiguousarray, np.moveaxis(image, 2, 0))
    return np.stack([count_values(band) for band in bands])


def levels_of(counts: np.ndarray) -> Levels:
    """The levels of an image by its counts (C, 256)."""
    values = [np.flatnonzero(row) for row in counts]
    inner = counts[:, 1:255].cumsum(1)
    ends = [np.searchsorted(row, row[-1] * np.array([0.01, 0.99])) for row in inner]
    return Levels(
        int(min(band[0] for band in values)),
        int(max(band[-1] for band in values)),
        int(max(band[-1] - band[0] for band in values)),
        int(max(right - left for left, right in ends)),
        float(counts[:, 255].sum() / counts.sum()),
    )


def fault_of_values(images: Sequence[Levels], is_scaled: bool = True) -> str:
    """What most `images` show of a wrong scale, '' for nothing.

    Args:
        is_scaled: they are not the 8 bits of their files as they are. Those may be dark, as at
            night, and are told where most are nearly of one colour.
    """
    middle = Levels(*(sorted(column)[len(images) // 2] for column in zip(*images, strict=True)))
    most, least = max(image.high for image in images), min(image.low for image in images)
    if most < (DARK if is_scaled else FLAT):
        return f"no value is above {most} of 255"
    if middle.range < FLAT:
        return f"most images are nearly of one colour ({least} to {most} of 255)"
    if is_scaled and middle.clipped > CLIPPED:
        return f"{middle.clipped:.0%} of the values are cut off at 255"
    if is_scaled and middle.spread < FLAT:
        return f"nearly all values of a band lie within {middle.spread + 1} of 255"
    return ""


def fault_of_sign(how: Reading, files: Sequence[str]) -> str:
    """What `files` show where most of their values become 0 for being below it, '' for nothing."""
    if how.dtype is None or how.dtype.startswith("u") or (how.scale and not how.max_value):
        return ""
    shares = [(values < 0).mean() for file in files if (values := values_of(file)) is not None]
    share = sorted(shares)[len(shares) // 2] if shares else 0
    return f"{share:.0%} of the values are below 0, and become 0" if share > 0.5 else ""


def remedy_of_values(how: Reading, files: Sequence[str]) -> str:
    """What to do, from the values that `files` hold, and those of the first one."""
    if how.prepared:
        return (
            "prepare the data set again, with the value that is to become 1 as --max_value, or "
            "--scale percentile"
        )
    contents = {file: values for file in files if (values := values_of(file)) is not None}
    if not contents:
        return "set max_value to the value that is to become 255"
    together = np.concatenate(list(contents.values()))
    low, high = float(together.min()), float(together.max())
    usual = float(np.percentile(together, 99.5))
    top = high if high <= 2 * usual else usual  # a few pixels may hold anything
    percentile = "set scale='percentile'" + (" in place of max_value" if how.scale else "")
    is_whole = how.whole_scale is not None and how.whole_scale.max_value == top
    if low == high:
        remedy = "every value is the same: replace or exclude the files"
    elif how.scale and how.max_value is None:
        remedy = "set scale='percentile' in place of these numbers"
    elif -low >= high or (together < 0).mean() > 0.5:
        remedy = percentile
    elif 255 * (top - max(low, 0)) < FLAT * top or is_whole:
        remedy = f"no max_value tells them apart: {percentile}"
    else:
        remedy = f"set max_value={top:g}, the value that becomes 255"
    file, values = next(iter(contents.items()))
    return f"{remedy} ({file} holds {how.dtype}, {values.min():g} to {values.max():g})"


def values_of(file: str) -> np.ndarray | None:
    """Values (N,) that `file` holds, but for those of no data; None where there are none."""
    try:
        with open_tiff(file) as source, source.reading():
            shape = [min(SIDE, length) for length in (source.height, source.width)]
            planes = source.source.read(out_shape=(source.count, *shape), masked=True)
    except UnreadableImage:
        return None
    values = usual(planes.compressed())
    return values if values.size else None


def check_values(
    files: Sequence[str],
    in_channels: int,
    how: Reading,
    key: str,
    example: Callable[[int, str, int, Reading], np.ndarray] | None = None,
) -> None:
    """Warn where images of `key`, a part of the config, come out nearly constant; some are read.

    Args:
        example: a file's number, itself and how it is read, to an image of it; None: all of it.

    Raises:
        UserError: bands or values that cannot be read so. Damaged files are told where they are
            read again.
    """
    images, readable_files, pixels = [], [], 0
    for place in spread_evenly(len(files)):
        if pixels >= PIXELS:
            break
        file = files[place]
        try:
            if example is None:
                image = read_image(file, in_channels, how.bands, how.scale)
            else:
                image = example(place, file, in_channels, how)
        except UnreadableImage:
            continue
        images.append(levels(image))
        readable_files.append(file)
        pixels += image.shape[0] * image.shape[1]
    fault = fault_of_values(images, how.is_scaled) if images else ""
    if fault := fault or fault_of_sign(how, readable_files):
        warn(f"{key}: {fault}; {remedy_of_values(how, readable_files)}")
    if how.scale and how.max_value is None:
        below, above = clipped_shares(files, in_channels, how.bands, how.scale)
        tell = warn if below + above > MOST_OUTSIDE else print
        tell(f"{key}: {below:.1%} of the values lie below scale and {above:.1%} above; clipped")
