"""Which bands of a file that GDAL reads make the network's channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import Tiff


@dataclass(frozen=True)
class Channels:
    """Which bands of an open file make the network's channels, and how.

    Attributes:
        numbers: the bands to read, counted from 1.
        count: of them, or of the colours made of them: one is repeated.
        palette: colours uint8 (N, 3) where the band holds indices.
        is_cmyk: the four bands are cyan, magenta, yellow and black.
        alpha, clear: what tells pixels without data, as `Tiff.read` takes them.
    """

    numbers: list[int]
    count: int
    palette: np.ndarray | None
    is_cmyk: bool
    alpha: int | None
    clear: np.ndarray | None

    def read(
        self,
        source: Tiff,
        y: int,
        height: int,
        x: int = 0,
        width: int | None = None,
        shape: tuple[int, int] | None = None,
        with_0: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`Tiff.read` of the bands. A 0 that says no data becomes 0 anyway; it is found only where
        it would not, or `with_0`."""
        with_0 = with_0 or self.palette is not None or self.is_cmyk
        place = y, height, x, width
        return source.read(self.numbers, *place, self.alpha, self.clear, with_0, shape)

    def may_be_empty(self, source: Tiff) -> bool:
        """Whether `read` may find pixels without data."""
        says_so = self.alpha is not None or self.clear is not None or source.has_nodata
        return says_so or source.dtype.kind == "f"  # NaN

    def colours(self, planes: np.ndarray) -> np.ndarray:
        """What planes (bands, H, W) of the file show, (H, W, count): as they are, or colours."""
        part = planes.transpose(1, 2, 0)
        if self.palette is not None:
            part = self.palette[part[:, :, 0]]
        elif self.is_cmyk:
            light = 255 - part.astype(np.uint16)
            part = (light[:, :, :3] * light[:, :, 3:] // 255).astype(np.uint8)
        return part[:, :, : self.count]


def choose_channels(source: Tiff, in_channels: int, bands: Sequence[int] | None) -> Channels:
    """The channels of an open file, as `read_image` takes them; raises as it does."""
    path = source.path
    if bands is not None:
        check_bands(path, bands, source.count)
        numbers, palette, is_cmyk = list(bands), None, False
    else:
        palette = source.palette
        # The fourth band of many a file is called alpha only because nobody said otherwise.
        all_bands = list(range(1, source.count + 1))
        numbers = all_bands if source.count == in_channels else source.data_bands
        numbers = numbers if palette is None else [1]
        is_cmyk = source.is_cmyk and len(numbers) == 4
    count = 3 if is_cmyk or palette is not None else len(numbers)
    count = usable_count(path, count, in_channels)
    clear = None if palette is None else source.clear
    return Channels(numbers, count, palette, is_cmyk, source.alpha_beside(numbers), clear)


def usable_count(path: Path, count: int, in_channels: int) -> int:
    """How many of `count` bands make the channels: of grey one, which is repeated."""
    if in_channels == 3 and count == 1:
        return 1
    if count != in_channels:
        raise UserError(
            f"{path}: has {count} bands where {in_channels} are expected; set in_channels={count} "
            f"or choose with bands=(...)"
        )
    return count


def check_bands(path: Path, bands: Sequence[int], count: int) -> None:
    if not bands or min(bands) < 1 or max(bands) > count:
        raise UserError(f"image {path}: bands={tuple(bands)} where the file has bands 1 to {count}")
