"""Pictures inside the page: as small as they can be looked at, as data URIs."""

import base64
from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.reports.figures import ERROR
from SSLRemoteSensing.reports.html import Markup, tag

# Full colour resolution, as the errors are thin coloured lines.
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)  # fmt: skip


def photograph(image: np.ndarray, side: int) -> bytes:
    """uint8 (H, W, C) as JPEG, its longer side at most `side`; of more bands the first three."""
    return encode_jpeg(shrink(visible(image), side, cv2.INTER_AREA))


def class_picture(classes: np.ndarray, palette: Sequence, side: int) -> bytes:
    """Classes (H, W), 255 = not scored, as a palette PNG."""
    small = shrink(classes, side, cv2.INTER_NEAREST)
    picture = Image.fromarray(small)
    colours = colour_map(np.arange(256, dtype=np.uint8), palette)
    picture.putpalette(colours.tobytes())
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def error_picture(
    image: np.ndarray, label: np.ndarray, classes: np.ndarray, side: int
) -> bytes:  # fmt: skip
    """The image pale, wrong pixels in one colour, what is not scored dark; as JPEG."""
    grey = shrink(visible(image), side, cv2.INTER_AREA).mean(2, keepdims=True)
    picture = np.repeat(grey / 2 + 120, 3, axis=2).astype(np.uint8)
    label, classes = (shrink(pixels, side, cv2.INTER_NEAREST) for pixels in (label, classes))
    mask = label != IGNORE
    picture[~mask] = (grey[~mask] / 3).astype(np.uint8)
    picture[mask & (label != classes)] = ERROR
    return encode_jpeg(picture)


def encode_jpeg(picture: np.ndarray) -> bytes:
    # Not by Pillow, whose optimized JPEG fails on noise.
    return cv2.imencode(".jpg", picture[:, :, ::-1], JPEG)[1].tobytes()


def visible(image: np.ndarray) -> np.ndarray:
    """R, G, B (H, W, 3) of an image of any number of bands."""
    return image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)


def shrink(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """`pixels` as they are, or smaller, so that no side is longer than `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    pixels = np.ascontiguousarray(pixels)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=interpolation)


def img(data: bytes, alt: str) -> Markup:
    """An image inside the page, of its own size."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    width, height = Image.open(BytesIO(data)).size
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("img", src=source, alt=alt, width=width, height=height)
