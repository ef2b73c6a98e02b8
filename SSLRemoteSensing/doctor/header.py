"""What a file says of itself before anything is decoded: a small file can claim any size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from SSLRemoteSensing.errors import UnreadableImage
from SSLRemoteSensing.geotiff import open_tiff, require_file
from SSLRemoteSensing.raster import TIFF_ENDINGS, png_depth


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
    def size(self) -> str:
        return f"{self.width} x {self.height}"

    def decoded(self, bands: int) -> int:
        """Bytes of `bands` bands as stored and as uint8; a TIFF, read by strips, takes less."""
        return self.pixels * bands * (np.dtype(self.dtype).itemsize + 1)


def read_header(path: str | Path) -> Header | None:
    """The header of the image or label at `path`; None where only decoding can tell.

    Raises:
        UnreadableImage: missing, no regular file, more pixels than any reader takes.
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
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            f"image {path}: claims too many pixels ({error}); remove it"
        ) from error
    except (OSError, SyntaxError, ValueError):
        return None
