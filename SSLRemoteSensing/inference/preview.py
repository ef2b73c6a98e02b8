"""A picture of a scene and its map side by side, small enough to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.inference.writer import writing

LONGEST = 1600  # pixels of the picture, about
SMALLEST = 400  # a side of it, at least
GAP = 8


class Preview:
    """Every `step`-th pixel of a scene and of its map, gathered from rows as they come."""

    def __init__(self, height: int, width: int):
        # Beside each other, or one above the other where the scene is wide.
        self.beside = height >= width
        limits = (LONGEST // 2, LONGEST) if self.beside else (LONGEST, LONGEST // 2)
        self.step = max(1, -(-width // limits[0]), -(-height // limits[1]))
        shape = (
            len(range(self.step // 2, height, self.step)),
            len(range(self.step // 2, width, self.step)),
        )
        self.image = np.zeros((*shape, 3), np.uint8)
        self.classes = np.full(shape, IGNORE, np.uint8)

    def rows_of(self, y: int, height: int) -> tuple[slice, slice]:
        """Which rows of the picture lie in `height` rows of the scene from `y`, and which those
        are of the `height`."""
        half = self.step // 2
        first = -(-(y - half) // self.step)
        last = -(-(y + height - half) // self.step)
        first = max(0, first)
        return slice(first, last), slice(first * self.step + half - y, height, self.step)

    def add_image(self, y: int, pixels: np.ndarray) -> None:
        """uint8 (h, width, C); of more than three bands the first three are shown."""
        rows, scene_rows = self.rows_of(y, len(pixels))
        samples = pixels[scene_rows, self.step // 2 :: self.step]
        self.image[rows] = samples[:, :, :3] if samples.shape[2] >= 3 else samples[:, :, :1]

    def add_classes(self, y: int, classes: np.ndarray) -> None:
        rows, scene_rows = self.rows_of(y, len(classes))
        self.classes[rows] = classes[scene_rows, self.step // 2 :: self.step]

    def draw(
        self, title: str, classes: Sequence[str], palette: Sequence, shares: Sequence[float],
        path: Path,
    ) -> None:  # fmt: skip
        """Write the picture: scene, map (black where there is no data), and the classes with their
        shares (0..1) of the pixels.

        Raises:
            CannotWrite: the disk is full, say.
        """
        zoom = max(1, SMALLEST // max(self.classes.shape))
        pictures = [
            np.repeat(np.repeat(pixels, zoom, axis=0), zoom, axis=1)
            for pixels in (self.image, colour_map(self.classes, palette))
        ]
        height, width = pictures[0].shape[:2]
        gap = np.full((height, GAP, 3) if self.beside else (GAP, width, 3), 255, np.uint8)
        panels = np.concatenate([pictures[0], gap, pictures[1]], axis=1 if self.beside else 0)
        labels = [
            f"{name} {100 * share:.1f} %" for name, share in zip(classes, shares, strict=True)
        ]
        key = legend(title, labels, palette, max(panels.shape[1], SMALLEST))
        page = np.full((len(panels) + len(key), key.shape[1], 3), 255, np.uint8)
        page[: len(panels), : panels.shape[1]] = panels
        page[len(panels) :] = key
        with writing(path):
            path.write_bytes(cv2.imencode(".png", page[:, :, ::-1])[1])


def legend(title: str, labels: Sequence[str], palette: Sequence, width: int) -> np.ndarray:
    """Title and classes with their colours, as pixels uint8 (h, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = max(1, width // (60 + 8 * max(map(len, labels))))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(width / 100, 0.45 + 0.23 * lines), dpi=100)
    canvas = FigureCanvasAgg(figure)
    entries = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="grey", label=label)
        for label, colour in zip(labels, palette, strict=True)
    ]
    figure.legend(
        handles=entries, title=title, title_fontsize=9, fontsize=9, loc="center", ncols=columns,
        frameon=False, borderpad=0,
    )  # fmt: skip
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :width, :3]
