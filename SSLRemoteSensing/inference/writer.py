"""Write a map as a GeoTIFF, rows as they come: tiles, palette, class names, overviews."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import CannotWrite, UnreadableImage
from SSLRemoteSensing.data.geotiff import open_tiff, reading
from SSLRemoteSensing.inference.scene import InputScene

PNG_MARK = "MAP BY SSLREMOTESENSING"  # a PNG has no tags of any name; rasterio makes it capitals
BLOCK = 256  # side of the tiles of the files written


class MapWriter:
    """The files of one map: class indices, 255 = nodata, and perhaps a band of each probability.

    Rows come in order by `add`, and are written a row of tiles at a time. `finish` ends the files
    and looks whether they are whole; without it they are not to be used.

    Args:
        map_file, probability_file: where to write; they carry temporary names. None: no such file.
        tags: what the map's metadata say besides.

    Raises (here, in `add` and in `finish`):
        CannotWrite: the disk is full, say.
    """

    def __init__(
        self,
        map_file: Path,
        probability_file: Path | None,
        scene: InputScene,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        tags: dict[str, str],
    ):
        self.files = [map_file] if probability_file is None else [map_file, probability_file]
        self.masked = scene.masked
        self.stack = ExitStack()
        class_tags = {f"class_{index}": name for index, name in enumerate(classes)}
        try:
            with writing(map_file):
                maps = create(map_file, scene, 1, nodata=IGNORE, photometric="palette")
                self.stack.callback(close, maps)
                colours = {index: (*colour, 255) for index, colour in enumerate(palette)}
                maps.write_colormap(1, colours | {IGNORE: (0, 0, 0, 0)})
                maps.set_band_description(1, "class")
                maps.update_tags(**tags, **class_tags)
                self.maps, self.probabilities = TileRows(maps, map_file), None
            if probability_file is not None:
                with writing(probability_file):
                    share = create(probability_file, scene, len(classes), photometric="minisblack")
                    self.stack.callback(close, share)
                    for index, name in enumerate(classes, start=1):
                        share.set_band_description(index, name)
                    share.update_tags(**tags, scale="255 is a probability of 1")
                    self.probabilities = TileRows(share, probability_file, scene.may_be_empty)
        except BaseException:
            self.stack.close()
            raise

    def add(self, classes: np.ndarray, shares: np.ndarray | None, valid: np.ndarray | None) -> None:
        """The next rows: uint8 (h, width), uint8 (K, h, width), bool (h, width); None: all valid.

        Classes must be 255 already where there is no data.
        """
        self.maps.add(classes[None], None)
        if self.probabilities is not None:
            self.probabilities.add(shares, valid)

    def finish(self) -> None:
        self.maps.flush()
        if self.probabilities is not None:
            self.probabilities.flush()
        self.close()
        for number, path in enumerate(self.files):
            with writing(path):
                require_whole(path)
                add_overviews(path, "mode" if number == 0 else "average")
                require_whole(path)
                with path.open("rb+") as file:
                    os.fsync(file.fileno())

    def close(self) -> None:
        self.stack.close()


class TileRows:
    """Rows gathered to rows of tiles, so that each tile is compressed once.

    Args:
        masked: also write which pixels hold data, as a mask band.
    """

    def __init__(self, target, path: Path, masked: bool = False):
        self.target, self.path = target, path
        self.rows = np.empty((target.count, BLOCK, target.width), np.uint8)
        self.valid = np.empty((BLOCK, target.width), bool) if masked else None
        self.top = self.filled = 0

    def add(self, planes: np.ndarray, valid: np.ndarray | None) -> None:
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


def create(path: Path, scene: InputScene, count: int, **profile):
    """A new GeoTIFF of `count` bands of 8 bits where `scene` lies."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    place = {"crs": scene.crs, "transform": scene.transform}
    if scene.gcps:
        place = {"crs": scene.crs, "gcps": scene.gcps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        target = rasterio.open(
            path, "w", driver="GTiff", count=count, height=scene.height, width=scene.width,
            dtype="uint8", tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate",
            interleave="band", BIGTIFF="IF_SAFER", **place, **profile,
        )  # fmt: skip
    if scene.rpcs is not None:
        target.rpcs = scene.rpcs
    return target


def close(target) -> None:
    """Close a file; GDAL writes the last tiles now, and what fails shows in `require_whole`."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        target.close()
    except (RasterioError, CPLE_BaseError, OSError):
        return


def require_whole(path: Path) -> None:
    """Raise an OSError where a tile of the file at `path` is not in it.

    rasterio does not tell of all that fails while a file is closed.
    """
    import rasterio

    size = path.stat().st_size
    with quiet(), rasterio.open(path) as file:
        tall, wide = file.block_shapes[0]
        down, right = -(-file.height // tall), -(-file.width // wide)
        for band in file.indexes:
            for y in range(down):
                for x in range(right):
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
        longest, factors = max(file.height, file.width), []
        while longest > BLOCK * 2 ** len(factors):
            factors.append(2 ** (len(factors) + 1))
        if factors:
            file.build_overviews(factors, Resampling[resampling])


def is_map(path: Path) -> bool:
    """Whether the file at `path` is a map that was written here."""
    try:
        with open_tiff(path) as file, reading(path):
            tags = file.source.tags()
    except UnreadableImage:
        return False
    return {"checkpoint", "class_0"} <= tags.keys() or tags.get("Description") == PNG_MARK


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


def write_png(map_file: Path, target: Path) -> None:
    """The finished map at `map_file` as a palette PNG, row by row; it has no place on Earth.

    Raises:
        CannotWrite: the disk is full, say.
    """
    from rasterio.shutil import copy

    with writing(target), quiet():
        copy(map_file, target, driver="PNG", description=PNG_MARK)
        with target.open("rb+") as file:
            file.seek(-12, os.SEEK_END)
            if file.read(8) != b"\0\0\0\0IEND":
                raise OSError("its end is missing")
            os.fsync(file.fileno())
