"""Panels of pixels with text on a page, pixel for pixel: nothing on it is resampled."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder

FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
LINE = 20  # pixels of a line of text
GAP, MARGIN = 8, 12  # between panels, and around all
COMPRESSION = 6  # of pages as PNG: enlarged pixels take a third of what they take at OpenCV's own
INK, PAPER, FRAME = (40, 40, 40), (255, 255, 255), (150, 150, 150)


def as_rgb(image: np.ndarray, white: float | None = None) -> np.ndarray:
    """`image` (H, W) or (H, W, C) of any number type as R, G, B uint8 (H, W, 3).

    Of more than three bands the first three are shown; of one or two the first, in grey.

    Args:
        white: the value that becomes 255, above 0; default the largest of an integer type, 1 of
            floating point. Values outside 0..white are clipped, NaN is 0.
    """
    image = image[:, :, None] if image.ndim == 2 else image
    rgb = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, :1]
    if white is None:
        white = np.iinfo(rgb.dtype).max if np.issubdtype(rgb.dtype, np.integer) else 1.0
    if rgb.dtype != np.uint8 or white != 255:
        values = np.nan_to_num(rgb.astype(np.float32), nan=0.0) * np.float32(255 / white)
        rgb = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))


def panel_scale(height: int, width: int, least: int = 256, most: int = 1024) -> int:
    """For `sized`, so that the longer side of a picture becomes `least` to `most` pixels, about."""
    longest = max(height, width)
    return max(1, least // longest) if longest <= most else -math.ceil(longest / most)


def sized(picture: np.ndarray, scale: int) -> np.ndarray:
    """`picture` (H, W, ...) with each pixel `scale` x `scale` times, or every -`scale`-th one."""
    if scale < 0:
        return picture[-scale // 2 :: -scale, -scale // 2 :: -scale]
    return np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)


def describe_scale(scale: int) -> str:
    """What `sized` does, in words."""
    if scale < 0:
        return f"one pixel of {-scale} x {-scale} is shown"
    return f"each pixel is shown as {scale} x {scale}" if scale > 1 else "shown pixel for pixel"


def plain(text: str) -> str:
    """`text` in the characters of OpenCV's font, which are those of ASCII: accents are dropped."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(
        char if char.isascii() and char.isprintable() else "?"
        for char in parts
        if not unicodedata.combining(char)
    )


def text_width(text: str) -> int:
    """Pixels that `write` takes for `text`."""
    return cv2.getTextSize(plain(text), FONT, SIZE, 1)[0][0]


def fitted(text: str, width: int) -> str:
    """`text`, its middle left out where it is wider than `width` pixels."""
    text, length = plain(text), len(text)
    short = text
    while text_width(short) > width and length > 2:
        length -= 1
        short = f"{text[: length // 2]}...{text[len(text) - (length - length // 2) :]}"
    return short


def write(page: np.ndarray, text: str, y: int, x: int, colour: Sequence[int] = INK) -> None:
    """Draw a line of text on `page`, its upper left corner at (y, x), LINE pixels high."""
    cv2.putText(page, plain(text), (x, y + 14), FONT, SIZE, colour, 1, cv2.LINE_AA)


@dataclass(frozen=True)
class Grid:
    """Where panels stand on a page, in pixels.

    From above: lines of text over the whole page, the titles of the columns, then each row: its
    lines of text, its panels.

    Attributes:
        height, width: of a panel.
        header, captions: lines of text above all, and above each row.
    """

    height: int
    width: int
    rows: int
    columns: int
    header: int = 0
    captions: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the page."""
        y, x = self.corner(self.rows, self.columns)
        return y - self.captions * LINE - GAP + MARGIN, x - GAP + MARGIN

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """y and x of the upper left pixel of a panel."""
        top = MARGIN + (self.header + 1 + self.captions) * LINE
        step = self.captions * LINE + self.height + GAP
        return top + row * step, MARGIN + column * (self.width + GAP)


def draw_page(
    panels: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    captions: Sequence[Sequence[str | Sequence[str]]],
    header: Sequence[str],
    scale: int = 1,
) -> np.ndarray:
    """A page of a `Grid`, uint8 (height, width, 3).

    Args:
        panels: rows of R, G, B uint8 (h, w, 3); the largest gives the grid its size.
        captions: the lines above each row: a text over the whole width, or one a column.
        header: as the captions, which are shortened to what fits.
        scale: of the panels, see `sized`.
    """
    panels = [[sized(picture, scale) for picture in row] for row in panels]
    height, width = np.max([row[0].shape[:2] for row in panels], axis=0).tolist()
    grid = Grid(height, width, len(panels), len(titles), len(header), len(captions[0]))
    page = np.full((*grid.shape, 3), PAPER, np.uint8)
    write_lines(page, grid, [*header, titles], MARGIN)
    for row, (pictures, lines) in enumerate(zip(panels, captions, strict=True)):
        write_lines(page, grid, lines, grid.corner(row, 0)[0] - len(lines) * LINE)
        for column, picture in enumerate(pictures):
            y, x = grid.corner(row, column)
            bottom, right = y + picture.shape[0], x + picture.shape[1]
            page[y - 1 : bottom + 1, x - 1 : right + 1] = FRAME  # paper may be a panel's colour
            page[y:bottom, x:right] = picture
    return page


def write_lines(
    page: np.ndarray, grid: Grid, lines: Sequence[str | Sequence[str]], top: int
) -> None:
    """Lines of text from row `top` of the page: over its whole width, or one a column."""
    for number, line in enumerate(lines):
        whole = isinstance(line, str)
        width = page.shape[1] - 2 * MARGIN if whole else grid.width
        for column, text in enumerate([line] if whole else line):
            write(page, fitted(text, width), top + number * LINE, grid.corner(0, column)[1])


def png_path(path: str, key: str) -> Path:
    """`path` of a PNG to write, its folder made.

    Raises:
        UserError: another ending, or a folder that cannot be written; `key` names what to change.
    """
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"{key} {path}: the picture is a PNG; name it like pictures.png")
    make_folder(Path(path).parent, key)
    return Path(path)
