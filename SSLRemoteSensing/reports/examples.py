"""The best, the median and the worst tiles: image, label, map, errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.data.scenes import ScoredScene, TiledImage
from SSLRemoteSensing.evaluation.scoring import Scoring
from SSLRemoteSensing.evaluation.tile_errors import Place
from SSLRemoteSensing.inference.windows import predict_scene
from SSLRemoteSensing.reports.figures import error_map
from SSLRemoteSensing.reports.html import embed, percent
from SSLRemoteSensing.reports.image_grid import as_rgb

SIDES = (512, 384, 256, 128)  # pixels of a picture, the largest with which all are below BYTES
BYTES = 4_000_000  # of all pictures together, as they stand in the page
RGB = ("red", "green", "blue")
# Full colour resolution, as the errors are thin coloured lines.
FULL = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, FULL)


@dataclass(frozen=True)
class Example:
    """A tile: image uint8 (H, W, C), label and map uint8 (H, W), where it is, its scores."""

    place: Place
    name: str
    image: np.ndarray
    label: np.ndarray
    classes: np.ndarray

    def describe(self, names: Sequence[str]) -> str:
        """How much of it is wrong, and the mistake that most of that is of, in words."""
        text = f"{percent(self.place.share)} % of {self.place.scored:,} scored pixels wrong"
        wrong = (self.label != IGNORE) & (self.label != self.classes)
        if not wrong.any():
            return text
        pairs = self.label[wrong].astype(np.int64) * len(names) + self.classes[wrong]
        counts = np.bincount(pairs)
        label, prediction = divmod(int(counts.argmax()), len(names))
        share = percent(counts.max() / wrong.sum())
        return f"{text}, {share} % of them {names[label]} taken for {names[prediction]}"

    def pictures(self, palette: Sequence, side: int) -> dict[str, str]:
        """Image, label, map and errors by these names, for a page, no side longer than `side`."""
        image = shrink(as_rgb(self.image), side, cv2.INTER_AREA)
        maps = self.label, self.classes
        label, classes = (shrink(pixels, side, cv2.INTER_NEAREST) for pixels in maps)
        # Not by Pillow, whose optimized JPEG fails on noise.
        image_file, error_file = (
            cv2.imencode(".jpg", picture[:, :, ::-1], JPEG)[1].tobytes()
            for picture in (image, error_map(image, label, classes))
        )
        label_file, map_file = (encode_classes(pixels, palette) for pixels in (label, classes))
        files = {"image": image_file, "label": label_file, "map": map_file, "errors": error_file}
        return {title: embed(data) for title, data in files.items()}


def look_at(scoring: Scoring, place: Place, root: Path) -> Example:
    """Read a tile again, and predict the windows that it lies in, as they were for its score.

    Args:
        root: the folder that names of files are told from.
    """
    scene = scoring.scored.scenes[place.scene]
    classes = predict_part(scoring, scene, place)
    image, label = (
        read_part(tiles, place) for tiles in (scene.image, next(iter(scene.labels.values())))
    )
    name, below, right = file_name(scene.name, root), place.y + place.height, place.x + place.width
    if (place.height, place.width) != (scene.height, scene.width):
        name += f", rows {place.y} to {below}, columns {place.x} to {right}"
    return Example(place, name, image, label, classes)


def predict_part(scoring: Scoring, scene: ScoredScene, place: Place) -> np.ndarray:
    """Classes uint8 (height, width) of a part of a scene, from the windows that touch it."""
    settings = scoring.scored.settings
    window, overlap = settings.window, settings.overlap
    step = max(1, round(window * (1 - overlap)))
    top, below = reach(scene.height, window, step, place.y, place.y + place.height)
    left, right = reach(scene.width, window, step, place.x, place.x + place.width)
    strips = predict_scene(
        scoring.predict, lambda y, count: scene.image.rows(top + y, count)[:, left:right],
        below - top, right - left, window, overlap, settings.batch_size, scoring.device,
    )  # fmt: skip
    classes = torch.cat([strip.argmax(0).to(torch.uint8).cpu() for _, strip in strips])
    rows, columns = place.y - top, place.x - left
    return classes[rows : rows + place.height, columns : columns + place.width].numpy()


def reach(length: int, window: int, step: int, low: int, high: int) -> tuple[int, int]:
    """From where to where the windows reach that touch `low` to `high` along an axis."""
    window = min(window, length)
    starts = [
        start for start in positions(length, window, step) if start < high and start + window > low
    ]
    return starts[0], starts[-1] + window


def read_part(mosaic: TiledImage, place: Place) -> np.ndarray:
    rows = mosaic.rows(place.y, place.height)
    mosaic.let_go()
    # A copy, since a view would keep all rows of the scene that were read with these.
    return rows[:, place.x : place.x + place.width].copy()


def file_name(name: str, root: Path) -> str:
    """A scene's name, without `root` where it is the path of a file below it."""
    path = Path(name)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else name


def bands_shown(names: Sequence[str] | None, count: int) -> str:
    """Which of `count` bands a picture shows, in words; empty where it is plain."""
    if count == 2:
        return " Of two bands the first is shown."
    shown_as = f"shown as {', '.join(RGB)}."
    is_named = names and not any(name.startswith("band ") for name in names)
    if is_named and len(set(names)) == count >= 3:
        first = tuple(names[:3])
        return "" if first == RGB else f" {', '.join(first).capitalize()} are {shown_as}"
    return f" Of {count} bands the first three are {shown_as}" if count > 3 else ""


def draw(examples: Sequence[Example], palette: Sequence) -> dict[Place, dict[str, str]]:
    """The pictures of each, as large as all together may be."""
    for side in SIDES:
        pictures = {example.place: example.pictures(palette, side) for example in examples}
        if sum(len(data) for files in pictures.values() for data in files.values()) <= BYTES:
            break
    return pictures


def encode_classes(classes: np.ndarray, palette: Sequence) -> bytes:
    """Classes (H, W) as a PNG of a palette, a third of its size with R, G, B."""
    picture = Image.fromarray(classes)
    picture.putpalette(colour_map(np.arange(256, dtype=np.uint8), palette).tobytes())
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def shrink(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """`pixels` as they are, or smaller, so that no side is longer than `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    pixels = np.ascontiguousarray(pixels)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=interpolation)
