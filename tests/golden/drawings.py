"""What the frozen commands read: tiles, scenes and labels drawn from seeds, in lossless files."""

from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio import Affine

CRS = "EPSG:32633"
ORIGIN = Affine(0.5, 0, 366000, 0, -0.5, 5806000)
CLASSES = ("ground", "roof")


def draw(height: int, width: int, seed: int, roofs: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright roofs on green ground: R, G, B uint8 (height, width, 3) and classes (height, width).

    Drawn from 1, so that 0 can stand for no data.
    """
    rng = np.random.default_rng(seed)
    image = rng.normal((70, 110, 60), 14, (height, width, 3))
    label = np.zeros((height, width), np.uint8)
    for _ in range(roofs):
        y, x = rng.integers(0, height - 16), rng.integers(0, width - 16)
        h, w = rng.integers(10, 30, 2)
        place = np.s_[y : y + h, x : x + w]
        image[place] = rng.normal((190, 120, 100), 10, image[place].shape)
        label[place] = 1
    return np.clip(image, 1, 255).astype(np.uint8), label


def draw_tiles(folder: Path, count: int = 16, side: int = 72) -> Path:
    """PNG images in images/ and labels 0, 1 in labels/."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        image, label = draw(side, side, number, 4)
        cv2.imwrite(str(folder / f"images/tile_{number:03d}.png"), image[:, :, ::-1])
        cv2.imwrite(str(folder / f"labels/tile_{number:03d}.png"), label)
    return folder


def write_scene(path: Path, image: np.ndarray, **profile) -> Path:
    """R, G, B (height, width, 3) or classes (height, width) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    count, height, width = planes.shape
    shape = dict(count=count, height=height, width=width, dtype="uint8")
    with rasterio.open(
        path, "w", driver="GTiff", crs=CRS, transform=ORIGIN, **shape, **profile
    ) as file:
        file.write(planes)
    return path


def draw_source(folder: Path) -> Path:
    """A folder for tools/prepare.py: scenes in train/, val/ and test/, labels beside them."""
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        image, label = draw(150, 160, 100 + number, 12)
        write_scene(folder / f"{split}/images/scene_{number}.tif", image)
        write_scene(folder / f"{split}/labels/scene_{number}.tif", label)
    return folder


def draw_scene(path: Path) -> Path:
    """A scene to map, without data in one corner."""
    image, _ = draw(140, 190, 200, 14)
    image[:40, :50] = 0
    return write_scene(path, image, nodata=0)
