"""Read images and labels as arrays: JPEG and PNG by OpenCV, TIFF and GeoTIFF by rasterio."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.files import write_bytes
from SSLRemoteSensing.data.geotiff import open_tiff, require_file

# A file of a few bytes can claim any size. OpenCV refuses more than this before it allocates,
# Pillow warns above its limit and refuses above twice that.
MAX_PIXELS = 2**30
MAX_BYTES = 2**33  # of the bands to read, as the file stores them
PART = 2**22  # values that are converted at a time
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
TIFF_ENDINGS = {".tif", ".tiff"}
PNG = b"\x89PNG\r\n\x1a\n"


def read_image(
    path: str | Path,
    in_channels: int = 3,
    bands: Sequence[int] | None = None,
    max_value: float | None = None,
) -> np.ndarray:
    """Read the image at `path` as uint8 (H, W, in_channels), as stored (no EXIF rotation).

    With three channels greyscale is repeated, a palette is looked up, alpha is dropped and CMYK is
    converted, so that any photograph gives R, G, B. Values of more than 8 bits are scaled linearly:
    `max_value` becomes 255, by default the largest value of the file's integer type.

    Args:
        bands: which bands of a multi-band file, counted from 1 as in GIS tools; default all.
        max_value: the value that becomes 255, e.g. 1023 for 10-bit data; values above are clipped.

    Raises:
        UserError: missing, empty, truncated or undecodable file; another number of bands; floating
            point data without `max_value`.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in TIFF_ENDINGS:
            return _read_tiff(path, in_channels, bands, max_value)
        data = _read_bytes(path)
        is_deep = data.startswith(PNG) and data[24:25] == b"\x10"  # 16 bits a value
        if in_channels == 3 and bands is None and max_value is None and not is_deep:
            return decode(path, data)
        return _choose_bands(
            path, decode(path, data, cv2.IMREAD_UNCHANGED), in_channels, bands, max_value
        )
    except MemoryError as error:
        raise UnreadableImage(
            f"image {path}: there is no memory to decode it; cut it into tiles, or remove it"
        ) from error


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, number of bands and numpy's name of the values' type.

    A palette counts as three bands but in a TIFF, where it is one of indices.
    """

    height: int
    width: int
    bands: int
    dtype: str

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def size(self) -> str:
        return f"{self.width} x {self.height}"


def read_header(path: str | Path) -> Header:
    """What an image or label says of itself before its pixels are decoded.

    Raises:
        UnreadableImage: missing, no regular file, damaged, more pixels than any reader takes.
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
    # OpenCV passes over junk in a JPEG, and refuses the sizes that Pillow does.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pixels = decode(path, _read_bytes(path), cv2.IMREAD_UNCHANGED)
        return Header(*pixels.shape[:2], pixels[0, 0].size, pixels.dtype.name)


def encode_png(pixels: np.ndarray, compression: int | None = None) -> bytes:
    """A PNG of R, G, B (H, W, 3) or grey (H, W), uint8 or uint16, as bytes.

    Args:
        compression: 0 to 9, by zlib's usual strategy, which makes pages of few colours a third as
            large; None: OpenCV's quick setting, for photographs and labels.
    """
    options = [cv2.IMWRITE_PNG_COMPRESSION, compression, cv2.IMWRITE_PNG_STRATEGY, 0]
    options = [] if compression is None else options
    # Several times as quick as a view of the bands in reverse order.
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    return cv2.imencode(".png", pixels, options)[1].tobytes()


def write_png(path: str | Path, pixels: np.ndarray, compression: int | None = None) -> None:
    """Write `encode_png` to a file, whole or not at all; raises `CannotWrite`."""
    write_bytes(path, encode_png(pixels, compression))


def to_uint8(image: np.ndarray, max_value: float | None, path: str | Path) -> np.ndarray:
    """Scale `image` linearly to uint8 so that `max_value` becomes 255."""
    if max_value is not None and not max_value > 0:
        raise UserError(f"max_value={max_value}: must be above 0")
    if image.dtype == np.uint8 and max_value is None:
        return image
    if max_value is None:
        if not np.issubdtype(image.dtype, np.unsignedinteger):
            raise UserError(
                f"{path}: holds {image.dtype}; set max_value, the value that becomes 255"
            )
        max_value = np.iinfo(image.dtype).max
    if image.dtype in (np.uint8, np.uint16):
        return _table(image.dtype.name, max_value)[image]
    return _scale(image, max_value)


@lru_cache(8)
def _table(dtype: str, max_value: float) -> np.ndarray:
    """What every value of an integer type becomes."""
    return _scale(np.arange(np.iinfo(dtype).max + 1, dtype=dtype), max_value)


def _scale(image: np.ndarray, max_value: float) -> np.ndarray:
    if image.dtype.itemsize > 4:
        image = image.astype(np.float32)
    scaled = np.nan_to_num(image * np.float32(255.0 / max_value), nan=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def read_label(path: str | Path) -> np.ndarray:
    """Read a label map as uint8 (H, W) of class indices; a palette image gives its indices.

    Raises:
        UserError: missing or undecodable file, more than one band, or values outside 0..255.
    """
    if not os.path.isfile(path):  # reading a pipe or a device may never end
        is_there = os.path.exists(path)
        fault = "is no regular file; replace it" if is_there else "not found; every image needs one"
        raise UserError(f"label {path}: {fault}")
    try:
        with Image.open(path) as image:
            label = np.asarray(image)
            if image.format == "PNG" and image.mode == "L":
                # Pillow stretches grey of 2 or 4 bits to 0..255; the indices are wanted.
                stretch = {2: 85, 4: 17}.get(png_depth(Path(path)))
                label = label // stretch if stretch else label
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        reason = str(error) or "no memory to decode it"
        raise UserError(f"label {path}: cannot be read ({reason}); replace or remove it") from error
    if label.dtype == bool:
        label = label.astype(np.uint8)
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        raise UserError(
            f"label {path}: is {label.dtype} {label.shape}, expected one band of class indices; "
            f"colours must be decoded to indices first (tools/prepare.py folder --palette)"
        )
    if label.dtype != np.uint8 and (label.min() < 0 or label.max() > 255):
        raise UserError(f"label {path}: values {label.min()} to {label.max()}, expected 0 to 255")
    return label.astype(np.uint8, copy=False)


def png_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _read_bytes(path: Path) -> bytes:
    require_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise UnreadableImage(f"image {path}: is empty; replace or remove it")
    return data


def decode(
    path: str | Path,
    data: bytes,
    flags: int = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
) -> np.ndarray:
    """What `data`, the contents of the file `path`, shows: R, G, B uint8 (H, W, 3) by default."""
    # Some decoders fill what is missing with grey. A whole JPEG ends its last scan (FFDA) with
    # FFD9.
    ends = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if ends else None
    except cv2.error:
        image = None
    if image is None:
        fault = "cannot be decoded" if ends else "is truncated"
        try:
            with Image.open(io.BytesIO(data)):
                pass
        except Image.DecompressionBombError as error:  # which Pillow raises above MAX_PIXELS
            fault = f"claims too many pixels ({error})"
        except (OSError, SyntaxError, ValueError):
            pass
        raise UnreadableImage(f"image {path}: {fault}; replace or remove it")
    return image


def _choose_bands(
    path: Path,
    image: np.ndarray,
    in_channels: int,
    bands: Sequence[int] | None,
    max_value: float | None,
) -> np.ndarray:
    """The requested bands of an image (H, W) or (H, W, C) as OpenCV decodes it, as uint8."""
    image = image[:, :, None] if image.ndim == 2 else image
    count = image.shape[2]
    order = [2, 1, 0, *range(3, count)] if count >= 3 else list(range(count))  # blue comes first
    if bands is not None:
        _check_bands(path, bands, count)
        order = [order[band - 1] for band in bands]
    if in_channels == 3 and len(order) == 4:  # alpha
        order = order[:3]
    order = order[: _usable_count(path, len(order), in_channels)]
    if image.dtype == np.uint8 and max_value is None and order == list(range(in_channels)):
        return image
    result = np.empty((*image.shape[:2], in_channels), np.uint8)
    rows = max(1, PART * len(image) // max(1, image.size))
    for y in range(0, len(image), rows):
        result[y : y + rows] = to_uint8(image[y : y + rows, :, order], max_value, path)
    return result


def _read_tiff(
    path: Path, in_channels: int, bands: Sequence[int] | None, max_value: float | None
) -> np.ndarray:
    with open_tiff(path) as source:
        if bands is not None:
            _check_bands(path, bands, source.count)
            numbers, palette, is_cmyk = list(bands), None, False
        else:
            palette = source.palette
            # The fourth band of many a file is called alpha only because nobody said otherwise.
            all_bands = list(range(1, source.count + 1))
            numbers = all_bands if source.count == in_channels else source.data_bands
            numbers = numbers if palette is None else [1]
            is_cmyk = source.is_cmyk and len(numbers) == 4
        count = 3 if is_cmyk or palette is not None else len(numbers)
        count = _usable_count(path, count, in_channels)
        pixels = source.height * source.width
        if pixels > MAX_PIXELS or pixels * len(numbers) * source.dtype.itemsize > MAX_BYTES:
            raise UnreadableImage(
                f"image {path}: claims {source.width} x {source.height} pixels of {len(numbers)} "
                f"bands {source.dtype}, more than {MAX_PIXELS} pixels or {MAX_BYTES} bytes; cut it "
                "into tiles, or remove it"
            )
        image = np.empty((source.height, source.width, in_channels), np.uint8)
        for y, height in source.strips():
            part = source.rows(numbers, y, height).transpose(1, 2, 0)
            if palette is not None:
                part = palette[part[:, :, 0]]
            elif is_cmyk:
                light = 255 - part.astype(np.uint16)
                part = (light[:, :, :3] * light[:, :, 3:] // 255).astype(np.uint8)
            image[y : y + height] = to_uint8(part[:, :, :count], max_value, path)
        return image


def _usable_count(path: Path, count: int, in_channels: int) -> int:
    """How many of `count` bands make the channels: of grey one, which is repeated."""
    if in_channels == 3 and count <= 2:
        return 1
    if count != in_channels:
        raise UserError(
            f"{path}: has {count} bands where {in_channels} are expected; set in_channels={count} "
            f"or choose with bands=(...)"
        )
    return count


def _check_bands(path: Path, bands: Sequence[int], count: int) -> None:
    if not bands or min(bands) < 1 or max(bands) > count:
        raise UserError(f"image {path}: bands={tuple(bands)} where the file has bands 1 to {count}")
