"""Read images and labels as arrays: JPEG and PNG by OpenCV and Pillow, TIFF and others by GDAL.

What a file holds decides, not its ending.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.files import write_bytes
from SSLRemoteSensing.data.channels import Channels, check_bands, choose_channels, usable_count
from SSLRemoteSensing.data.formats import (
    HEAD,
    JPEG,
    JPEG_2000_BEGINS,
    PNG,
    TIFF_BEGINS,
    has_transparency,
    is_whole,
    orientation_fault,
    png_kind,
)
from SSLRemoteSensing.data.geotiff import DRIVER_OF, Tiff, has_sidecar, open_tiff
from SSLRemoteSensing.data.image_files import open_image
from SSLRemoteSensing.data.remote import is_remote
from SSLRemoteSensing.data.scale import Scale, to_uint8

# A file of a few bytes can claim any size. OpenCV refuses more than this before it allocates,
# Pillow warns above its limit and refuses above twice that.
MAX_PIXELS = 2**30
MAX_BYTES = 2**33  # of the bands to read, as the file stores them
PART = 2**22  # values that are converted at a time
NO_MEMORY = "there is no memory to decode it; cut it into tiles, or remove it"
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
TIFF_ENDINGS = {".tif", ".tiff"}
UNKNOWN = "no JPEG, PNG, TIFF or JPEG 2000"


def read_image(
    path: str | Path,
    in_channels: int = 3,
    bands: Sequence[int] | None = None,
    scale: Scale | None = None,
) -> np.ndarray:
    """Read the image at `path` as uint8 (H, W, in_channels), as stored (no EXIF rotation).

    With three channels greyscale is repeated, a palette is looked up, alpha is dropped and CMYK is
    converted, so that any photograph gives R, G, B. Values of more than 8 bits are scaled linearly,
    by default so that the largest value of the file's integer type becomes 255. What the file says
    is no data, by a value, a mask or alpha, becomes 0.

    Args:
        bands: which bands of a multi-band file, counted from 1 as in GIS tools; default all.
        scale: what becomes 0 and 255 in each of them, e.g. `up_to(1023)` for 10-bit data.

    Raises:
        UserError: missing, empty, truncated or undecodable file; another number of bands; floating
            point data without `scale`.
    """
    return _read(Path(path), in_channels, bands, scale, with_0=False)[0]


def read_masked(
    path: str | Path,
    in_channels: int = 3,
    bands: Sequence[int] | None = None,
    scale: Scale | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """`read_image`, and which of its pixels hold data in any band, bool (H, W), None: all do.

    The file says so, by a nodata value, a mask, alpha or NaN.
    """
    return _read(Path(path), in_channels, bands, scale, with_0=True)


def read_valid(
    path: str | Path, in_channels: int = 3, bands: Sequence[int] | None = None
) -> np.ndarray | None:
    """The second of `read_masked`; pixels are decoded only where some may be empty."""
    path = Path(path)
    data = _read_bytes(path)
    if data is not None and not may_be_empty(path, data):
        return None
    with open_tiff(path) as source:
        channels = choose_channels(source, in_channels, bands)
        if not channels.may_be_empty(source):
            return None
        require_room(source, channels.numbers)
        parts = (channels.read(source, *strip, with_0=True)[1] for strip in source.strips())
        return join_valid(source, [None if empty is None else ~empty.all(0) for empty in parts])


def _read(
    path: Path,
    in_channels: int,
    bands: Sequence[int] | None,
    scale: Scale | None,
    with_0: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """`read_masked`; without `with_0` only the image is meant."""
    try:
        data = _read_bytes(path)
        is_png = data is not None and data.startswith(PNG)
        if data is None or may_be_empty(path, data):
            return _read_by_gdal(path, in_channels, bands, scale, with_0)
        is_deep = is_png and data[24:25] == b"\x10"  # 16 bits a value
        if in_channels == 3 and bands is None and scale is None and not is_deep:
            return decode(path, data), None
        pixels = decode(path, data, cv2.IMREAD_UNCHANGED)
        return _choose_bands(path, pixels, in_channels, bands, scale), None
    except MemoryError as error:
        raise UnreadableImage(f"image {path}: {NO_MEMORY}") from error


def may_be_empty(path: Path, data: bytes) -> bool:
    """Whether some pixels may be no data: of a PNG, GIF or WebP by transparency, of any but a JPEG
    by what lies beside the file."""
    if data.startswith(JPEG):
        return False
    shows = has_transparency(data) if data.startswith(PNG) else data.startswith((b"RIFF", b"GIF8"))
    return shows or has_sidecar(path)


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
    if is_remote(path):
        return _header_by_gdal(path)
    try:
        with open_image(path) as file:
            head = file.read(HEAD)
            if not needs_gdal(path, head):
                with Image.open(file) as image:
                    deep = image.mode.startswith("I;16") or (png_kind(head) or (8,))[0] > 8
                    bands = 3 if image.mode == "P" else len(image.getbands())
                    kind = "uint16" if deep else "uint8"
                    return Header(image.height, image.width, bands, kind)
    except UnreadableImage:
        raise
    # OpenCV passes over junk in a JPEG, and refuses the sizes that Pillow does.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pixels = decode(path, _read_bytes(path), cv2.IMREAD_UNCHANGED)
        return Header(*pixels.shape[:2], pixels[0, 0].size, pixels.dtype.name)
    return _header_by_gdal(path)


def _header_by_gdal(path: Path) -> Header:
    with open_tiff(path) as source:
        return Header(source.height, source.width, source.count, source.dtype.name)


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


def read_label(path: str | Path) -> np.ndarray:
    """Read a label map as uint8 (H, W) of class indices; a palette image gives its indices.

    Raises:
        UserError: missing or undecodable file, bands that differ, or values that are no whole
            numbers of 0..255.
    """
    path = Path(path)
    if not path.is_file():  # reading a pipe or a device may never end
        is_there = path.exists()
        fault = "is no regular file; replace it" if is_there else "not found; every image needs one"
        raise UserError(f"label {path}: {fault}")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            depth, colour = png_kind(head) or (8, 0)
            # Of 16 bits of colour, Pillow gives the upper 8.
            if needs_gdal(path, head) or (depth == 16 and colour != 0):
                return _read_label_by_gdal(path)
            with Image.open(file) as image:
                values = np.asarray(image)
        if depth < 8 and image.mode == "L":  # Pillow stretches grey of 2 or 4 bits to 0..255
            values = values // {2: 85, 4: 17}.get(depth, 1)
    except UserError as error:
        text = str(error)
        raise UserError(f"label {text[6:]}" if text.startswith("image ") else text) from error
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = UNKNOWN if is_unknown else str(error) or "no memory to decode it"
        raise UserError(f"label {path}: cannot be read ({reason}); replace or remove it") from error
    return class_values(values[None] if values.ndim == 2 else values.transpose(2, 0, 1), path)


def _read_label_by_gdal(path: Path) -> np.ndarray:
    with open_tiff(path) as source:
        require_room(source, range(1, source.count + 1))
        return np.concatenate([label_rows(source, *strip, path) for strip in source.strips()])


def label_rows(
    source: Tiff, y: int, height: int, name: str | Path, x: int = 0, width: int | None = None
) -> np.ndarray:
    """Class indices uint8 (height, width) of an open label from (y, x), whole rows by default; a
    declared nodata value that cannot be a class is 255, not scored. Raises as `class_values`."""
    planes = source.rows(range(1, source.count + 1), y, height, x, width)
    nodata = nodata_beyond(source)
    if nodata is not None:
        empty = np.isnan(planes) if np.isnan(nodata) else planes == nodata
        planes = np.where(empty, np.int16(IGNORE), planes)
    return class_values(planes, name)


def nodata_beyond(label: Tiff) -> float | None:
    """The declared nodata value of an open label, where that cannot be a class."""
    nodata = label.source.nodata
    return nodata if nodata is not None and not 0 <= nodata <= IGNORE else None  # NaN too


def has_nodata_beyond(path: str | Path) -> bool:
    """Whether pixels of a label are read as 255 by a nodata value that cannot be a class."""
    path = Path(path)
    with path.open("rb") as file:
        if not needs_gdal(path, file.read(HEAD)):
            return False
    with open_tiff(path) as source:
        return nodata_beyond(source) is not None


def require_one_orientation(image: str | Path, label: str | Path) -> None:
    """Raise a `UserError` where viewers turn an image and its label differently."""
    with open(image, "rb") as image_file, open(label, "rb") as label_file:
        if fault := orientation_fault(image_file, label_file):
            raise UserError(fault)


def class_values(planes: np.ndarray, name: str | Path) -> np.ndarray:
    """Class indices uint8 (H, W) of the bands (C, H, W) of the label `name`: one, or three that
    are equal, each with alpha or without where that is opaque.

    Raises:
        UserError: bands that differ; values that are no whole numbers of 0 to 255.
    """
    count = len(planes)
    colours = planes[:-1] if count in (2, 4) else planes
    if count > 4 or (colours[1:] != colours[:1]).any():
        raise UnreadableImage(
            f"label {name}: has {count} bands, expected class values in one; colours must be "
            "decoded to them first (tools/prepare.py folder --palette)"
        )
    is_whole_number = planes.dtype.kind in "iu"
    top = np.iinfo(planes.dtype).max if is_whole_number else planes[-1].max()
    if len(colours) < count and (planes[-1] != top).any():
        raise UnreadableImage(
            f"label {name}: its last of {count} bands, which would be alpha, is not {top:g} "
            "everywhere; save the class values as one band"
        )
    return as_bytes(colours[0], name)


def as_bytes(values: np.ndarray, name: str | Path) -> np.ndarray:
    """Values of a label of any type as uint8; an error where they are no whole numbers 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "biuf":
        raise UnreadableImage(f"label {name}: holds {values.dtype}; convert it to uint8")
    odd = values[values != np.rint(values)] if values.dtype.kind == "f" else values[:0]
    if odd.size:  # NaN too
        raise UnreadableImage(
            f"label {name}: holds {values.dtype} values such as {odd.flat[0]:g}, no whole numbers; "
            "save class values of uint8, 255 for what is not scored"
        )
    if values.min() < 0 or values.max() > 255:
        raise UnreadableImage(
            f"label {name}: holds {values.dtype} values outside 0 to 255, {values.min():g} to "
            f"{values.max():g}; save class values of uint8, 255 for what is not scored"
        )
    return values.astype(np.uint8)


def needs_gdal(path: Path, head: bytes) -> bool:
    """Whether the file at `path`, which begins with `head`, is read by GDAL."""
    if head.startswith((JPEG, PNG)):
        return False
    by_name = path.suffix.lower() in TIFF_ENDINGS | DRIVER_OF.keys()
    return by_name or head.startswith((*TIFF_BEGINS, *JPEG_2000_BEGINS))


def has_windows(path: str | Path) -> bool:
    """Whether parts of a file can be read: of what GDAL reads, and of PNG, row by row. Of a JPEG
    GDAL would fill what is missing with grey."""
    if is_remote(path):
        return True
    try:
        with open_image(path) as source:
            head = source.read(HEAD)
    except OSError as error:
        raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
    depth, _ = png_kind(head) or (0, 0)
    return depth >= 8 or needs_gdal(Path(path), head)


def _read_bytes(path: Path) -> bytes | None:
    """The contents of a file; None of what GDAL is to read."""
    if is_remote(path):
        return None
    try:
        with open_image(path, buffering=0) as file:
            head = file.read(HEAD)
            data = None if needs_gdal(path, head) else head + file.readall()
    except OSError as error:
        raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
    if data == b"":
        raise UnreadableImage(f"image {path}: is empty; replace or remove it")
    return data


def decode(
    path: str | Path,
    data: bytes,
    flags: int = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
) -> np.ndarray:
    """What `data`, the contents of the file `path`, shows: R, G, B uint8 (H, W, 3) by default."""
    # Some decoders fill what is missing with grey.
    ends = not data.startswith(JPEG) or is_whole(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if ends else None
    except cv2.error:
        image = None
    except MemoryError as error:
        raise UnreadableImage(f"image {path}: {NO_MEMORY}") from error
    if image is None:
        fault = "cannot be decoded" if ends else "is truncated"
        try:
            with Image.open(io.BytesIO(data)):
                pass
        except Image.DecompressionBombError as error:  # which Pillow raises above MAX_PIXELS
            fault = f"claims too many pixels ({error})"
        except UnidentifiedImageError:
            fault = fault if data.startswith((JPEG, PNG)) else f"cannot be decoded ({UNKNOWN})"
        except (OSError, SyntaxError, ValueError):
            pass
        raise UnreadableImage(f"image {path}: {fault}; replace or remove it")
    return image


def _choose_bands(
    path: Path,
    image: np.ndarray,
    in_channels: int,
    bands: Sequence[int] | None,
    scale: Scale | None,
) -> np.ndarray:
    """The requested bands of an image (H, W) or (H, W, C) as OpenCV decodes it, as uint8."""
    image = image[:, :, None] if image.ndim == 2 else image
    count = image.shape[2]
    order = [2, 1, 0, *range(3, count)] if count >= 3 else list(range(count))  # blue comes first
    if bands is not None:
        check_bands(path, bands, count)
        order = [order[band - 1] for band in bands]
    if in_channels == 3 and len(order) == 4:  # alpha
        order = order[:3]
    order = order[: usable_count(path, len(order), in_channels)]
    if image.dtype == np.uint8 and scale is None and order == list(range(in_channels)):
        return image
    result = np.empty((*image.shape[:2], in_channels), np.uint8)
    rows = max(1, PART * len(image) // max(1, image.size))
    for y in range(0, len(image), rows):
        result[y : y + rows] = to_uint8(image[y : y + rows, :, order], scale, path)
    return result


def _read_by_gdal(
    path: Path, in_channels: int, bands: Sequence[int] | None, scale: Scale | None, with_0: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    with open_tiff(path) as source:
        channels = choose_channels(source, in_channels, bands)
        require_room(source, channels.numbers)
        image = np.empty((source.height, source.width, in_channels), np.uint8)
        with_0 = with_0 or (scale is not None and not scale.keeps_0)
        masks = []
        for y, height in source.strips():
            part, empty = channels.read(source, y, height, with_0=with_0)
            image[y : y + height] = scaled(channels, part, empty, scale, path)
            masks.append(None if empty is None else ~empty.all(0))
        return image, join_valid(source, masks)


def join_valid(source: Tiff, masks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Which pixels of `source` hold data, bool (H, W), by those of each of its strips; None: all
    do."""
    if all(mask is None or mask.all() for mask in masks):
        return None
    valid = np.ones((source.height, source.width), bool)
    for (y, height), mask in zip(source.strips(), masks, strict=True):
        if mask is not None:
            valid[y : y + height] = mask
    return valid


def scaled(
    channels: Channels,
    planes: np.ndarray,
    empty: np.ndarray | None,
    scale: Scale | None,
    path: Path,
) -> np.ndarray:
    """What `channels.read` gave as uint8 (H, W, channels.count), 0 where it is `empty`."""
    image = to_uint8(channels.colours(planes), scale, path)
    if empty is not None:
        empty = empty.any(0, keepdims=True) if channels.is_cmyk else empty
        image = image * ~empty.transpose(1, 2, 0)
    if image.shape[2] > 32:  # OpenCV merges no more than some
        return np.ascontiguousarray(image)
    # Tens of times as quick as a copy of the planes in another order.
    bands = [np.ascontiguousarray(band) for band in np.moveaxis(image, 2, 0)]
    return cv2.merge(bands).reshape(image.shape)


def require_room(source: Tiff, bands: Sequence[int]) -> None:
    """Raise an `UnreadableImage` where the bands take more than any reader of whole files has."""
    pixels = source.height * source.width
    if pixels > MAX_PIXELS or pixels * len(bands) * source.dtype.itemsize > MAX_BYTES:
        raise UnreadableImage(
            f"image {source.path}: claims {source.width} x {source.height} pixels of {len(bands)} "
            f"bands {source.dtype}, more than {MAX_PIXELS} pixels or {MAX_BYTES} bytes; cut it "
            "into tiles, or remove it"
        )
