"""Image, label, map and errors of a tile as pictures, as small as can be."""

from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.reports.html import embed
from SSLRemoteSensing.reports.image_grid import as_rgb

ERROR = (230, 0, 200)
# Full colour resolution, as the errors are thin coloured lines.
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)  # fmt: skip


def error_map(image: np.ndarray, label: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The image pale, wrong pixels in one colour, what is not scored dark: R, G, B (H, W, 3).

    Args:
        image: uint8 (H, W, C).
        label, classes: uint8 (H, W).
    """
    grey = as_rgb(image).mean(2, keepdims=True)
    scored = label != IGNORE
    shade = np.where(scored[:, :, None], grey / 2 + 120, grey / 3)
    picture = np.repeat(shade, 3, axis=2).astype(np.uint8)
    picture[scored & (label != classes)] = ERROR
    return picture


def tile_pictures(
    image: np.ndarray, label: np.ndarray, classes: np.ndarray, palette: Sequence, side: int
) -> dict[str, str]:
    """Image, label, map and errors by these names, for a page, no side longer than `side`.

    Args:
        image: uint8 (H, W, C).
        label, classes: uint8 (H, W), 255 = not scored.
    """
    image = shrink(as_rgb(image), side, cv2.INTER_AREA)
    label, classes = (shrink(pixels, side, cv2.INTER_NEAREST) for pixels in (label, classes))
    files = {
        "image": encode_jpeg(image),
        "label": encode_classes(label, palette),
        "map": encode_classes(classes, palette),
        "errors": encode_jpeg(error_map(image, label, classes)),
    }
    return {title: embed(data) for title, data in files.items()}


def encode_classes(classes: np.ndarray, palette: Sequence) -> bytes:
    """Classes (H, W) as a PNG of a palette, a third of its size with R, G, B."""
    picture = Image.fromarray(classes)
    picture.putpalette(colour_map(np.arange(256, dtype=np.uint8), palette).tobytes())
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def encode_jpeg(picture: np.ndarray) -> bytes:
    # Not by Pillow, whose optimized JPEG fails on noise.
    return cv2.imencode(".jpg", picture[:, :, ::-1], JPEG)[1].tobytes()


def shrink(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """`pixels` as they are, or smaller, so that no side is longer than `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    pixels = np.ascontiguousarray(pixels)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=interpolation)
