"""Write a map as a GeoTIFF, rows as they come: tiles, palette, class names, overviews."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import CannotWrite
from SSLRemoteSensing.core.files import atomic
from SSLRemoteSensing.inference.scene import InputScene

BLOCK = 256  # side of the tiles of the files written


class MapFile:
    """A GeoTIFF of 8 bits that lies where a scene does, written a row of tiles at a time.

    Rows come in order by `add`, and are gathered so that each tile is compressed once. `finish`
    ends the file and looks whether it is whole; without it the file is not to be used.

    Args:
        names: of the bands.
        tags: what the file's metadata say.
        palette: colours of class indices, of which 255 is no data; None: the bands are measures.
        masked: also write which pixels hold data, as a mask band.

    Raises (here, in `add` and in `finish`):
        CannotWrite: the disk is full, say.
    """

    def __init__(
        self,
        path: Path,
        scene: InputScene,
        names: Sequence[str],
        tags: dict[str, str],
        palette: Sequence[tuple[int, int, int]] | None = None,
        masked: bool = False,
    ):
        import rasterio

        self.path, self.resampling = path, "average" if palette is None else "mode"
        self.rows = np.empty((len(names), BLOCK, scene.width), np.uint8)
        self.valid = np.empty((BLOCK, scene.width), bool) if masked else None
        self.top = self.filled = 0
        place = {"transform": scene.transform}
        if scene.gcps and scene.crs and scene.transform is None:  # a header holds no more
            place = {"gcps": scene.gcps}
        kind = {"photometric": "minisblack"}
        if palette is not None:
            kind = {"photometric": "palette", "nodata": IGNORE}
        with writing(path), quiet():
            self.target = rasterio.open(
                path, "w", driver="GTiff", count=len(names), height=scene.height,
                width=scene.width, dtype="uint8", tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
                compress="deflate", interleave="band", BIGTIFF="IF_SAFER", crs=scene.crs, **place,
                **kind,
            )  # fmt: skip
            if scene.rpcs is not None:
                self.target.rpcs = scene.rpcs
            if palette is not None:
                colours = {index: (*colour, 255) for index, colour in enumerate(palette)}
                self.target.write_colormap(1, colours | {IGNORE: (0, 0, 0, 0)})
            self.target.descriptions = names
            self.target.update_tags(**tags | scene.pixel_is)

    def add(self, planes: np.ndarray, valid: np.ndarray | None = None) -> None:
        """The next rows: uint8 (bands, h, width), bool (h, width); None: all valid."""
        start = 0
        while start < planes.shape[1]:
            count = min(BLOCK - self.filled, planes.shape[1] - start)
            part = slice(self.filled, self.filled + count)
            self.rows[:, part] = planes[:, start : start + count]
            if self.valid is not None:
                self.valid[part] = True if valid is None else valid[start : start + count]
            self.filled, start = self.filled + count, start + count
            if self.filled == BLOCK:
                self.flush()

    def flush(self) -> None:
        from rasterio.windows import Window

        if not self.filled:
            return
        window = Window(0, self.top, self.target.width, self.filled)
        with writing(self.path):
            self.target.write(self.rows[:, : self.filled], window=window)
            if self.valid is not None:
                self.target.write_mask(self.valid[: self.filled], window=window)
        self.top, self.filled = self.top + self.filled, 0

    def finish(self) -> None:
        self.flush()
        self.close()
        with writing(self.path):
            require_whole(self.path)
            add_overviews(self.path, self.resampling)
            require_whole(self.path)

    def close(self) -> None:
        """GDAL writes the last tiles now, and what fails shows in `require_whole`."""
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError

        with suppress(RasterioError, CPLE_BaseError, OSError):
            self.target.close()


def require_whole(path: Path) -> None:
    """Raise an OSError where a tile of the file at `path` is not in it.

    rasterio does not tell of all that fails while a file is closed.
    """
    import rasterio

    size = path.stat().st_size
    with quiet(), rasterio.open(path) as file:
        down, right = (range(-(-side // BLOCK)) for side in file.shape)
        for band, y, x in product(file.indexes, down, right):
            place = [
                file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=band)
                for what in ("OFFSET", "SIZE")
            ]
            if None in place or sum(map(int, place)) > size:
                raise OSError(f"tile {x}, {y} of band {band} is missing in the file")


def add_overviews(path: Path, resampling: str) -> None:
    """Halved again and again until a tile holds it all: maps by the most frequent class."""
    import rasterio
    from rasterio.enums import Resampling

    with quiet(), rasterio.open(path, "r+") as file:
        halvings = (max(file.shape) - 1) // BLOCK
        factors = [2 ** (number + 1) for number in range(halvings.bit_length())]
        if factors:
            file.build_overviews(factors, Resampling[resampling])


@contextmanager
def quiet() -> Iterator[None]:
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise CannotWrite(f"{path}: cannot be written ({reason}); is the disk full?") from error


def make_png(path: Path) -> None:
    """Make the map at `path` a palette PNG, row by row; it has no place on Earth.

    Raises:
        CannotWrite: the disk is full, say.
    """
    import rasterio
    from rasterio.shutil import copy

    quietly = rasterio.Env(GDAL_PAM_ENABLED="NO")  # no file beside it
    with atomic(path) as part, writing(path), quiet(), quietly:
        copy(path, part, driver="PNG")
        with part.open("rb") as file:
            file.seek(-12, os.SEEK_END)
            if file.read(8) != b"\0\0\0\0IEND":
                raise OSError("its end is missing")
