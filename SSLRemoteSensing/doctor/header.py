"""What a file says of itself before anything is decoded: a small file can claim any size."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from SSLRemoteSensing.errors import UnreadableImage
from SSLRemoteSensing.geotiff import open_tiff
from SSLRemoteSensing.raster import PNG, TIFF_ENDINGS

PNG_BANDS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; a palette is looked up
NO_FRAME = {0xC4, 0xC8, 0xCC}  # of the markers C0 to CF those that begin no JPEG frame


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, number of bands and type of the values, as the file has them."""

    height: int
    width: int
    bands: int
    dtype: str

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def decoded(self) -> int:
        """Bytes of the decoded image."""
        return self.pixels * self.bands * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> str:
        return f"{self.width} x {self.height}"


def read_header(path: str | Path) -> Header | None:
    """The header of the image or label at `path`; None for a format that only decoding shows.

    Raises:
        UnreadableImage: missing, empty, or cut off within the header.
    """
    path = Path(path)
    if path.suffix.lower() in TIFF_ENDINGS:
        return by_gdal(path)
    try:
        with path.open("rb") as file:
            begin = file.read(26)
            if begin.startswith(PNG):
                width, height, depth, colours = struct.unpack(">IIBB", begin[16:26])
                dtype = "uint16" if depth == 16 else "uint8"
                return Header(height, width, PNG_BANDS.get(colours, 1), dtype)
            if begin.startswith(b"\xff\xd8"):
                file.seek(2)
                return jpeg_frame(file)
    except OSError as error:
        raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
    except (struct.error, IndexError) as error:
        raise UnreadableImage(f"image {path}: is truncated in its header; replace it") from error
    if not begin:
        raise UnreadableImage(f"image {path}: is empty; replace or remove it")
    try:
        return by_gdal(path)
    except UnreadableImage:
        return None


def by_gdal(path: Path) -> Header:
    with open_tiff(path) as source:
        return Header(source.height, source.width, source.count, source.dtype.name)


def jpeg_frame(file: BinaryIO) -> Header:
    """Size and components from the first frame of a JPEG, whose segments begin at the place of
    `file` (ITU-T T.81, annex B.1 and B.2.2).
    """
    while True:
        marker = file.read(2)[1]
        while marker == 0xFF:  # fill bytes
            marker = file.read(1)[0]
        (length,) = struct.unpack(">H", file.read(2))
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            depth, height, width, bands = struct.unpack(">BHHB", file.read(6))
            return Header(height, width, bands, "uint8" if depth == 8 else "uint16")
        file.seek(length - 2, 1)
