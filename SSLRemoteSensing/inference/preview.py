"""A picture of a scene and its map side by side, small enough to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.core.drawing import plain_figures
from SSLRemoteSensing.data.images import encode_png
from SSLRemoteSensing.inference.grid import Grid
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.writer import writing

LONGEST = 1600  # pixels of the picture, about
SMALLEST = 400  # a side of it, at least
GAP = 8


class Preview:
    """Every n-th pixel of a scene and of its map, gathered from rows as they come: those of the
    image in the grid of the network, those of the map in the scene's own pixels."""

    def __init__(self, grid: Grid):
        height, width = grid.scene
        # Beside each other, or one above the other where the scene is wide.
        self.beside = height >= width
        limits = (LONGEST // 2, LONGEST) if self.beside else (LONGEST, LONGEST // 2)
        step = max(1, -(-width // limits[0]), -(-height // limits[1]))
        self.places = [np.arange(step // 2, side, step) for side in (height, width)]
        sides = zip(self.places, (grid.height, grid.width), grid.scene, strict=True)
        self.image_places = [((at + 0.5) * seen / own).astype(int) for at, seen, own in sides]
        self.image = np.zeros((*map(len, self.places), 3), np.uint8)
        self.classes = np.full(self.image.shape[:2], IGNORE, np.uint8)

    def add_image(self, y: int, pixels: np.ndarray) -> None:
        """uint8 (h, width, C); of more than three bands the first three are shown."""
        rows, samples = sample(self.image_places, y, pixels)
        self.image[rows] = samples[:, :, :3] if samples.shape[2] >= 3 else samples[:, :, :1]

    def add_classes(self, y: int, classes: np.ndarray) -> None:
        rows, samples = sample(self.places, y, classes)
        self.classes[rows] = samples

    def draw(self, title: str, network: MapNetwork, shares: Sequence[float], path: Path) -> None:
        """Write the picture: scene, map (black where there is no data), and the classes with their
        shares (0..1) of the pixels.

        Raises:
            CannotWrite: the disk is full, say.
        """
        zoom = max(1, SMALLEST // max(self.classes.shape))
        pictures = (self.image, colour_map(self.classes, network.palette))
        panels = [np.kron(picture, np.ones((zoom, zoom, 1), np.uint8)) for picture in pictures]
        axis = 1 if self.beside else 0
        gap = np.full_like(panels[0], 255).take(range(GAP), axis, mode="clip")
        panels = np.concatenate([panels[0], gap, panels[1]], axis)
        key = legend(title, network, shares, max(panels.shape[1], SMALLEST))
        page = np.full((len(panels) + len(key), key.shape[1], 3), 255, np.uint8)
        page[: len(panels), : panels.shape[1]] = panels
        page[len(panels) :] = key
        with writing(path):
            path.write_bytes(encode_png(page))


def sample(places: Sequence[np.ndarray], y: int, values: np.ndarray) -> tuple[slice, np.ndarray]:
    """The rows of a picture of the pixels at `places` (rows, columns) that lie in `values`, rows
    from `y`, and what they show."""
    ys, xs = places
    first, last = np.searchsorted(ys, (y, y + len(values)))
    return slice(first, last), values[ys[first:last, None] - y, xs]


@plain_figures()
def legend(title: str, network: MapNetwork, shares: Sequence[float], width: int) -> np.ndarray:
    """Title and classes with their colours and shares, as pixels uint8 (h, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    entries = [
        Patch(
            facecolor=np.array(colour) / 255, edgecolor="grey", label=f"{name} {100 * share:.1f} %"
        )
        for name, colour, share in zip(network.classes, network.palette, shares, strict=True)
    ]
    columns = max(1, width // (60 + 8 * max(len(entry.get_label()) for entry in entries)))
    figure = Figure(figsize=(width / 100, 0.45 + 0.23 * -(-len(entries) // columns)), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.legend(
        handles=entries, title=title, title_fontsize=9, fontsize=9, loc="center", ncols=columns,
        frameon=False, borderpad=0,
    )  # fmt: skip
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :width, :3]
