"""The values of images in the bands that are taken: their percentiles, and what is clipped."""

from collections.abc import Sequence
from math import floor, isqrt, log10

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.channels import choose_channels
from SSLRemoteSensing.data.file_lists import spread_evenly
from SSLRemoteSensing.data.geotiff import Tiff, open_tiff
from SSLRemoteSensing.data.prepared import agreed_scale
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import PERCENTILE, Scale, require_real, stated_scale

LOW, HIGH = 2, 98  # percentiles that become 0 and 255
FILES, FEW = 128, 32  # looked at, spread evenly: to find a scale, and to tell what it clips
# Squares read of a file, SIDE pixels wide, as many across as down: together about PARTS.
SIDE, PARTS, LEAST, MOST = 64, 1024, 2, 16
NO_DATA, FILL = -9999, 1e20  # and below, and above: seldom a value


def chosen_scale(
    settings,
    card: dict | None,
    files: Sequence[str],
    in_channels: int,
    train: Reading | None = None,
) -> Scale | None:
    """The scale of a data set's `settings`; 'percentile' is found over its `files`.

    Args:
        card: the dataset.json that they are of, if any, whose scale is taken.
        train: how the training images are read, for other sets: 'percentile' is theirs.

    Raises:
        UserError: two that contradict each other; values that have no percentiles.
    """
    stated = stated_scale(settings.max_value, settings.scale)
    if settings.scale != PERCENTILE or train is not None:
        return agreed_scale(card, stated, settings.bands)
    if card is not None:
        raise UserError(f"scale='percentile': {card['root']} is prepared; leave it out")
    return percentile_scale(files, in_channels, settings.bands)


def percentile_scale(
    files: Sequence[str],
    in_channels: int,
    bands: Sequence[int] | None,
    rows: Sequence[tuple[int, int] | None] | None = None,
) -> Scale:
    """The 2nd and 98th percentile of each band over some of the `files`, where they hold data, to
    a thousandth of what lies between.

    Where these are one value, as of a band that is 0 nearly everywhere, the least and the largest.

    Args:
        rows: of each file the first row that is looked at, and the end; None: all.

    Raises:
        UserError: no file that holds data, or a band of one value.
    """
    samples = sampled_values(files, in_channels, bands, FILES, rows)
    if not samples:
        raise UserError("scale='percentile': no file can be read that holds data; set max_value")
    ends = []
    for number, values in enumerate(zip(*samples, strict=True), start=1):
        together = np.concatenate(values).astype(np.float64)
        low, high = np.percentile(together, (LOW, HIGH))
        if low == high:
            low, high = together.min(), together.max()
        if low == high:
            name = bands[number - 1] if bands else number
            raise UserError(
                f"scale='percentile': band {name} holds one value alone, {low:g}, in "
                f"{len(samples)} files that were looked at; leave it out by bands, or state numbers"
            )
        digits = 3 - floor(log10(high - low))
        ends.append([round(float(end), digits) for end in (low, high)])
    return Scale(*zip(*ends, strict=True))


def clipped_shares(
    files: Sequence[str], in_channels: int, bands: Sequence[int] | None, scale: Scale
) -> tuple[float, float]:
    """Which shares of the values of some of the `files` lie below `scale`, and above."""
    below = above = count = 0
    for sample in sampled_values(files, in_channels, bands, FEW):
        for band, values in enumerate(sample):
            place = min(band, scale.count - 1)
            below += int((values < scale.minimum[place]).sum())
            above += int((values > scale.maximum[place]).sum())
            count += values.size
    return below / max(1, count), above / max(1, count)


def sampled_values(
    files: Sequence[str],
    in_channels: int,
    bands: Sequence[int] | None,
    most: int,
    rows: Sequence[tuple[int, int] | None] | None = None,
) -> list[list[np.ndarray]]:
    """Values (N,) of each channel of at most so many of the `files`, but for those of no data;
    damaged files, which are told where they are read, and those without data in any band are passed
    over. The fewer the files, the more is read of each."""
    samples, places = [], spread_evenly(len(files), most)
    parts = min(MOST, max(LEAST, isqrt(PARTS // max(1, len(places)))))
    for place in places:
        try:
            with open_tiff(files[place]) as source:
                own = (rows and rows[place]) or (0, source.height)
                values = values_of_bands(source, in_channels, bands, parts, own)
        except UnreadableImage:
            continue
        if all(band.size for band in values):
            samples.append(values)
    return samples


def values_of_bands(
    source: Tiff,
    in_channels: int,
    bands: Sequence[int] | None,
    parts: int,
    rows: tuple[int, int],
) -> list[np.ndarray]:
    """Values (N,) of each channel of the `rows`, first and end, of an open file, or of `parts`
    squares across and down, spread evenly over more of them."""
    require_real(source.dtype, source.path)
    channels = choose_channels(source, in_channels, bands)
    first, height, width = rows[0], rows[1] - rows[0], source.width
    windows = [(first, height, 0, width)]
    if height * width > (parts * SIDE) ** 2:
        tall, wide = min(SIDE, height), min(SIDE, width)
        tops = np.linspace(first, rows[1] - tall, parts).astype(int).tolist()
        lefts = np.linspace(0, width - wide, parts).astype(int).tolist()
        windows = [(y, tall, x, wide) for y in dict.fromkeys(tops) for x in dict.fromkeys(lefts)]
    read = []
    for y, tall, x, wide in windows:
        planes, empty = channels.read(source, y, tall, x, wide, with_0=True)
        colours = np.moveaxis(channels.colours(planes), 2, 0)
        empty = np.zeros((1, 1, 1), bool) if empty is None else empty
        empty = empty.any(0, keepdims=True) if len(empty) != len(colours) else empty
        holds_data = np.broadcast_to(~empty, colours.shape)
        read.append([band[mask] for band, mask in zip(colours, holds_data, strict=True)])
    return [usual(np.concatenate(band)) for band in zip(*read, strict=True)]


def usual(values: np.ndarray) -> np.ndarray:
    """`values` but for those that stand for no data where a file does not say so: -9999, what
    programs fill floats with, and the largest of an integer type of more than 8 bits."""
    if values.dtype.kind not in "iu":
        return values[np.isfinite(values) & (values > NO_DATA) & (values < np.float64(FILL))]
    if values.dtype.itemsize == 1:
        return values
    return values[(values > NO_DATA) & (values < np.iinfo(values.dtype).max)]
