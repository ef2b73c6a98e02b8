"""Open a TIFF, GeoTIFF or PNG and read rows of it, by rasterio, with errors that name the file."""

import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage

# Read whole by GDAL's own quick way, a PNG that is cut short would give anything, and no error.
os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")
# Filters of warnings belong to the process: two threads must not change them at a time.
_filters = threading.Lock()
# Of GDAL's many drivers some follow addresses and paths that a file names, whatever its ending.
DRIVERS = ("GTiff", "PNG")
# What a file is read as where its name says so, and whoever names it means that.
DRIVER_OF = {".jpg": "JPEG", ".jpeg": "JPEG", ".jp2": "JP2OpenJPEG", ".img": "HFA", ".vrt": "VRT"}
# What GDAL only logs of a JPEG inside a file, where it fills what is missing with grey.
DAMAGE = re.compile(r"jpeglib|libjpeg|corrupt|premature", re.IGNORECASE)
TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Tiff:
    """An open file: height, width, count of bands, dtype, crs and transform (None where absent).

    has_nodata, has_alpha: whether some pixels may be empty by a value or mask, or by a band that
    is called alpha.
    """

    def __init__(self, path: Path, source):
        self.path, self.source = path, source
        self.height, self.width, self.count = source.height, source.width, source.count
        self.dtype = np.dtype(source.dtypes[0])
        self.crs = source.crs
        self.transform = None if source.transform.is_identity else source.transform
        flags = {flag.name for flag in source.mask_flag_enums[0]}
        self.has_alpha, self.has_nodata = "alpha" in flags, flags.isdisjoint(("all_valid", "alpha"))

    @cached_property
    def palette(self) -> np.ndarray | None:
        """Colours uint8 (256 or 65536, 3) where the file holds indices of a palette."""
        has_palette = self.colours[0] == "palette"
        return np.ascontiguousarray(self.colour_table[:, :3]) if has_palette else None

    @cached_property
    def colour_table(self) -> np.ndarray:
        """Red, green, blue and alpha of each index, uint8 (256 or 65536, 4), of a palette file."""
        table = np.zeros((65536 if self.dtype == np.uint16 else 256, 4), np.uint8)
        with reading(self.path):
            for value, colour in self.source.colormap(1).items():
                table[value] = colour
        return table

    @property
    def data_bands(self) -> list[int]:
        """The bands, counted from 1, that are not called alpha."""
        return [band for band, name in enumerate(self.colours, start=1) if name != "alpha"]

    @property
    def is_cmyk(self) -> bool:
        return "cyan" in self.colours

    @cached_property
    def colours(self) -> list[str]:
        """What each band is called; here GDAL reads tags of a damaged file that it left so far."""
        with reading(self.path):
            return [colour.name for colour in self.source.colorinterp]

    def rows(
        self, bands: Sequence[int], y: int, height: int, x: int = 0, width: int | None = None
    ) -> np.ndarray:
        """Planes (bands, height, width) of the pixels from (y, x); whole rows by default.

        A damaged JPEG in the file is told once, by the window that decodes it: GDAL keeps the grey.
        """
        with reading(self.path), no_damage():
            return self.source.read(list(bands), window=((y, y + height), (x, width and x + width)))

    def mask(self, y: int, height: int, x: int = 0, width: int | None = None) -> np.ndarray:
        """uint8 (height, width), 0 where there is no data; whole rows by default."""
        with reading(self.path):
            return self.source.dataset_mask(window=((y, y + height), (x, width and x + width)))

    def strips(self) -> Iterator[tuple[int, int]]:
        """First row and height of strips that are whole blocks of the file, some 2^22 pixels each,
        or a block's height of them."""
        block = self.source.block_shapes[0][0]
        height = max(1, 2**22 // (self.width * block)) * block
        for y in range(0, self.height, height):
            yield y, min(height, self.height - y)


@contextmanager
def open_tiff(path: str | Path, beside: bool = False) -> Iterator[Tiff]:
    """Open the file at `path`, a TIFF or PNG whatever its ending, or what `DRIVER_OF` says of it.

    Args:
        path: a file, or what GDAL calls a member of a zip file, /vsizip/{FILE}/MEMBER.
        beside: look at the files beside it too, which may hold its place on the map and a mask.

    Raises:
        UnreadableImage: missing, truncated or damaged, here or when rows are read; of another
            format.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    path = Path(path)
    if path.parts[:2] != ("/", "vsizip"):  # which has been looked through when it was listed
        require_file(path)
        if beside:
            require_tiff_masks(path)
    options = {} if beside else {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    with reading(path), rasterio.Env(**options), _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        driver = DRIVER_OF.get(path.suffix.lower())
        source = DatasetReader(path, driver=[driver] if driver else list(DRIVERS))
    with source:
        yield Tiff(path, source)


def require_file(path: str | Path) -> None:
    """Raise `UnreadableImage` for a pipe, a device or a folder: reading those may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise UnreadableImage(f"image {path}: is no regular file; remove it")


def require_tiff_masks(path: Path) -> None:
    """Raise `UnreadableImage` where a mask or overview beside `path`, which GDAL opens with any
    driver, is no TIFF."""
    for name in os.listdir(path.parent):
        if name.lower() in (f"{path.name}.msk".lower(), f"{path.name}.ovr".lower()):
            other = path.with_name(name)
            require_file(other)
            with other.open("rb") as file:
                if file.read(4) not in TIFF_BEGINS:
                    raise UnreadableImage(f"image {path}: {name} beside it is no TIFF; remove it")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    from rasterio._err import CPLE_BaseError  # GDAL's own, which no RasterioError always wraps
    from rasterio.errors import RasterioError

    try:
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
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    count, height, width = planes.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "crs": crs}
    profile |= {"dtype": planes.dtype, "transform": transform, "photometric": "MINISBLACK"}
    with MemoryFile() as memory:
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = memory.open(**profile, compress="deflate", zlevel=1, predictor=2)
        with file:
            file.write(planes)
        return memory.read()
