"""Open what GDAL reads, TIFF above all, and read rows of it, with errors that name the file."""

import logging
import os
import re
import shlex
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, reduce
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.formats import TIFF_BEGINS
from SSLRemoteSensing.data.image_files import gdal_path, require_file
from SSLRemoteSensing.data.remote import is_remote, remote_options

# Read whole by GDAL's own quick way, a PNG that is cut short would give anything, and no error.
os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")
# Filters of warnings belong to the process: two threads must not change them at a time.
_filters = threading.Lock()
# Of GDAL's many drivers some follow addresses and paths that a file names, whatever its ending.
DRIVERS = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "BMP", "GIF", "WEBP")
# Those that are tried where a file's name says so, and whoever names it means that.
DRIVER_OF = {".img": "HFA", ".vrt": "VRT", ".asc": "AAIGrid"}
# What GDAL only logs of a JPEG inside a file, where it fills what is missing with grey.
DAMAGE = re.compile(r"jpeglib|libjpeg|corrupt|premature", re.IGNORECASE)


class Tiff:
    """An open file: height, width, count of bands, dtype, crs and transform (None where absent).

    options: of GDAL for each reading; None: as they are.
    has_nodata: whether some pixels may be empty by a value or mask; has_nodata_but_0: by other than
    the value 0, which the network takes for an empty pixel.
    """

    def __init__(self, path: Path, source, options: dict[str, str] | None = None):
        self.path, self.source, self.options = path, source, options
        self.height, self.width, self.count = source.height, source.width, source.count
        self.dtype = np.dtype(source.dtypes[0])
        self.crs = source.crs
        self.transform = None if source.transform.is_identity else source.transform
        flags = [{flag.name for flag in band} for band in source.mask_flag_enums]
        masking = [
            (names, value)
            for names, value in zip(flags, source.nodatavals, strict=True)
            if names.isdisjoint(("all_valid", "alpha"))
        ]
        self.has_nodata = bool(masking)
        self.has_nodata_but_0 = any(names != {"nodata"} or value != 0 for names, value in masking)

    def reading(self) -> AbstractContextManager[None]:
        """`reading` of this file, and of what it leads to, with GDAL's own options."""
        return reading(self.path, self.options)

    @cached_property
    def palette(self) -> np.ndarray | None:
        """Colours uint8 (256 or 65536, 3) where the file holds indices of a palette."""
        has_palette = self.colours[0] == "palette"
        return np.ascontiguousarray(self.colour_table[:, :3]) if has_palette else None

    @property
    def clear(self) -> np.ndarray | None:
        """Which indices of a palette stand for transparent pixels, bool (N,); None: none does."""
        clear = self.palette is not None and self.colour_table[:, 3] == 0
        return clear if np.any(clear) else None

    @cached_property
    def colour_table(self) -> np.ndarray:
        """Red, green, blue and alpha of each index, uint8 (256 or 65536, 4), of a palette file."""
        table = np.zeros((65536 if self.dtype == np.uint16 else 256, 4), np.uint8)
        with self.reading():
            for value, colour in self.source.colormap(1).items():
                table[value] = colour
        return table

    @property
    def data_bands(self) -> list[int]:
        """The bands, counted from 1, that are not called alpha."""
        return [band for band, name in enumerate(self.colours, start=1) if name != "alpha"]

    def alpha_beside(self, bands: Sequence[int]) -> int | None:
        """The band called alpha that masks where `bands` are taken and it is none of them, as near
        infrared is often called so."""
        others = {*range(1, self.count + 1)}.difference(self.data_bands, bands)
        return min(others, default=None)

    @property
    def is_cmyk(self) -> bool:
        return "cyan" in self.colours

    @cached_property
    def colours(self) -> list[str]:
        """What each band is called; here GDAL reads tags of a damaged file that it left so far."""
        with self.reading():
            return [colour.name for colour in self.source.colorinterp]

    def rows(
        self,
        bands: Sequence[int],
        y: float,
        height: float,
        x: int = 0,
        width: int | None = None,
        shape: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Planes (bands, height, width) of the pixels from (y, x); whole rows by default.

        A damaged JPEG in the file is told once, by the window that decodes it: GDAL keeps the grey.

        Args:
            shape: scale to this (height, width): the area mean of the pixels that hold data where
                that shrinks, by the file's overviews where it has them, else bilinear. `y` and
                `height` may then be fractions of rows.
        """
        from rasterio.enums import Resampling

        columns, scaled = width or self.width - x, {}
        if shape is not None and shape != (height, columns):
            shrinks = shape[0] <= height and shape[1] <= columns
            scaled["resampling"] = Resampling.average if shrinks else Resampling.bilinear
            scaled["out_shape"] = len(bands), *shape
        with self.reading(), no_damage():
            window = (y, y + height), (x, x + columns)
            return self.source.read(list(bands), window=window, **scaled)

    def read(
        self,
        bands: Sequence[int],
        y: float,
        height: float,
        x: int = 0,
        width: int | None = None,
        alpha: int | None = None,
        clear: np.ndarray | None = None,
        with_0: bool = True,
        shape: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`rows`, and where these hold no data: bool (bands or 1, height, width), None: nowhere.

        By the value or mask of each band, or NaN in any.

        Args:
            alpha: a band that is 0 there.
            clear: whether an index of a palette, the value of the band, stands for it.
            with_0: find also where a 0 says so, which the network takes for an empty pixel anyway.
            shape: as `rows` takes it; of masks the nearest pixel is taken.
        """
        empty = []
        planes = self.rows(bands if alpha is None else [*bands, alpha], y, height, x, width, shape)
        if alpha is not None:
            planes, empty = planes[:-1], [planes[-1:] == 0]
        if self.has_nodata if with_0 else self.has_nodata_but_0:
            window, scaled = ((y, y + height), (x, width and x + width)), {}
            if shape is not None:
                scaled["out_shape"] = len(bands), *shape
            with self.reading():
                empty.append(self.source.read_masks(list(bands), window=window, **scaled) == 0)
        if clear is not None:
            empty.append(clear[planes[:1]])
        if planes.dtype.kind == "f" and (nan := np.isnan(planes).any(0, keepdims=True)).any():
            empty.append(nan)
        return planes, reduce(np.logical_or, empty) if empty else None

    def strips(self) -> Iterator[tuple[int, int]]:
        """First row and height of strips that are whole blocks of the file, some 2^22 pixels each,
        or a block's height of them."""
        block = self.source.block_shapes[0][0]
        height = max(1, 2**22 // (self.width * block)) * block
        for y in range(0, self.height, height):
            yield y, min(height, self.height - y)


@contextmanager
def unplaced() -> Iterator[None]:
    """No warning in the block of a raster that lies nowhere on the map."""
    from rasterio.errors import NotGeoreferencedWarning

    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def open_tiff(path: str | Path, beside: bool = False) -> Iterator[Tiff]:
    """Open the file at `path`, of one of `DRIVERS` whatever its ending, or as `DRIVER_OF` says.

    Args:
        path: a file, a member of a shard, an address for which `is_remote` holds, or what GDAL
            calls a member of a zip file, /vsizip/{FILE}/MEMBER.
        beside: look at all files beside it, which may hold its place on the map; else at those
            alone that may hold a mask or nodata value, where there are such.

    Raises:
        UnreadableImage: missing, truncated or damaged, here or when rows are read; of another
            format.
        UserError: several pages.
    """
    from rasterio.io import DatasetReader

    path, listing = Path(path), None
    name = gdal_path(path)
    if is_remote(path) or name != str(path):  # or of a shard: nothing beside it is looked for
        listing = "EMPTY_DIR"
    elif path.parts[:2] != ("/", "vsizip"):  # which has been looked through when it was listed
        require_file(path)
        listing = None if beside else "TRUE" if has_sidecar(path) else "EMPTY_DIR"
        if beside:
            require_tiff_masks(path, os.listdir(path.parent))
        elif listing == "TRUE":  # a folder of many files takes long to list
            endings = (".msk", ".MSK", ".ovr", ".OVR")
            require_tiff_masks(
                path, [path.name + x for x in endings if os.path.exists(f"{path}{x}")]
            )
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": listing} if listing else {}
    elsewhere = remote_options(name if is_remote(path) else None)
    with reading(path, options | elsewhere), unplaced():
        own = [driver for ending, driver in DRIVER_OF.items() if path.suffix.lower() == ending]
        source = DatasetReader(name, driver=[*DRIVERS, *own])
        try:
            require_one_page(path, source)
        except BaseException:
            source.close()
            raise
    with source:
        # A VRT opens its sources as they are read. Other files lead nowhere, and options take time.
        yield Tiff(path, source, elsewhere if is_remote(path) or source.driver == "VRT" else None)


def require_one_page(path: Path, source) -> None:
    """Raise a `UserError` for a TIFF of several pages. Smaller copies of the first are none: some
    programs write overviews and thumbnails without saying what they are."""
    from rasterio.io import DatasetReader

    def is_copy(page: str) -> bool:
        with DatasetReader(page, driver=["GTiff"]) as other:
            height, width = other.shape
        strays = abs(width * source.height - height * source.width) > max(source.shape)
        return 2 * height <= source.height + 1 and not strays

    # Of other formats the parts of one file are no images of their own.
    pages = source.subdatasets if source.driver == "GTiff" else []
    if len(pages) > 1 and not all(map(is_copy, pages[1:])):
        command = f"rio convert {shlex.quote(pages[0])} page.tif"
        raise UserError(
            f"image {path}: has {len(pages)} pages; save the bands of an image as one page "
            f"(tifffile: planarconfig='separate'), or one page alone: {command}"
        )


def has_sidecar(path: Path) -> bool:
    """Whether there may be a mask or nodata value beside the file."""
    return any(os.path.exists(f"{path}{ending}") for ending in (".msk", ".MSK", ".aux.xml"))


def require_tiff_masks(path: Path, names: Sequence[str]) -> None:
    """Raise `UnreadableImage` where a mask or overview among the `names` beside `path`, which GDAL
    opens with any driver, is no TIFF."""
    for name in names:
        if name.lower() in (f"{path.name}.msk".lower(), f"{path.name}.ovr".lower()):
            other = path.with_name(name)
            require_file(other)
            with other.open("rb") as file:
                if file.read(4) not in TIFF_BEGINS:
                    raise UnreadableImage(f"image {path}: {name} beside it is no TIFF; remove it")


@contextmanager
def reading(path: Path, options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Raise `UnreadableImage` for what goes wrong in the block; GDAL has these `options` there."""
    import rasterio
    from rasterio._err import CPLE_BaseError  # GDAL's own, which no RasterioError always wraps
    from rasterio.errors import RasterioError

    try:
        with rasterio.Env(**options) if options else nullcontext():
            yield
    except (RasterioError, CPLE_BaseError, OSError, UnicodeError) as error:
        # rasterio's own says 'See previous exception for details', which is the cause.
        reason = " ".join(str(error.__cause__ or error).split())
        raise UnreadableImage(
            f"image {path}: cannot be read ({reason}); replace or remove it"
        ) from error


@contextmanager
def no_damage() -> Iterator[None]:
    """Raise an OSError for damage that GDAL logs in the block, in this thread, and goes on."""
    logger, thread, messages = logging.getLogger("rasterio._err"), threading.get_ident(), []

    def note(record: logging.LogRecord) -> bool:
        if record.thread == thread and DAMAGE.search(record.getMessage()):
            messages.append(record.getMessage())
        return True

    logger.addFilter(note)
    try:
        yield
    finally:
        logger.removeFilter(note)
    if messages:
        raise OSError(messages[0].rpartition("CPLE_AppDefined:")[2])


def encode_tiff(planes: np.ndarray, crs=None, transform=None) -> bytes:
    """A compressed GeoTIFF of planes (bands, height, width) as bytes."""
    from rasterio.io import MemoryFile

    count, height, width = planes.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "crs": crs}
    profile |= {"dtype": planes.dtype, "transform": transform, "photometric": "MINISBLACK"}
    predictor = 3 if planes.dtype.kind == "f" else 2
    with MemoryFile() as memory:
        with unplaced():
            file = memory.open(**profile, compress="deflate", zlevel=1, predictor=predictor)
        with file:
            file.write(planes)
        return memory.read()
