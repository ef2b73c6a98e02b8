"""The part of benchmark.py that measures the preparation and the opening of data sets."""

import itertools
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
from demo_scenes.town import draw_town

from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.preparation.catalog import Catalog
from SSLRemoteSensing.preparation.isprs import CLASSES, PALETTE, potsdam
from SSLRemoteSensing.preparation.prepare import cut_scenes, make_tile_folders
from SSLRemoteSensing.preparation.sources import list_files
from SSLRemoteSensing.preparation.tiling import TilingSettings, tile_scene

TILE = 256


def measure_preparing(scratch: Path, rounds: int = 3, size: int = 6000) -> dict:
    """Seconds of one scene, its speed over copying the same pixels, and what threads bring."""
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    cv2.setNumThreads(1)
    workers = min(os.cpu_count() or 1, 4)
    collection = draw_potsdam(scratch / "potsdam", workers, size)
    scene = collection.scenes[0]
    output = scratch / "tiles"
    make_tile_folders(output, collection.scenes)
    copies = scratch / "copies"
    copies.mkdir()

    def new_job() -> TilingSettings:
        return TilingSettings(TILE, TILE, output, collection.coding, collection.scale)

    times = {"prepare": [], "copy": [], "one": [], "many": []}
    for _ in range(rounds):  # in turn, so that a machine's drift meets all
        times["copy"].append(seconds(lambda: copy_pixels(scene, copies)))
        times["prepare"].append(seconds(lambda: tile_scene(scene, new_job())))
        for key, count in (("one", 1), ("many", workers)):
            taken = seconds(lambda n=count: list(cut_scenes(collection.scenes, new_job(), n)))
            times[key].append(taken)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        "prepare_scene_s": medians["prepare"],
        "copy_scene_s": medians["copy"],
        "prepare_over_copy": medians["copy"] / medians["prepare"],
        "prepare_workers": workers,
        "prepare_scaling": medians["one"] / medians["many"],
    }


def measure_opening(scratch: Path, count: int = 100_000) -> dict:
    """Seconds to open a prepared set of `count` tiles; names alone are looked at."""
    for folder in ("images/train", "labels/train"):
        (scratch / folder).mkdir(parents=True)
    for number in range(count):
        name = f"{number // 500}_0_{number % 500}.png"
        (scratch / "images/train" / name).touch()
        (scratch / "labels/train" / name).touch()
    write_text(
        scratch / "dataset.json",
        '{"version": 1, "scale": 255, "classes": ["a", "b"], "bands": ["r", "g", "b"]}',
    )
    settings = TileSettings(str(scratch / "images/train"), str(scratch / "labels/train"))
    taken = [seconds(lambda: SegmentationDataset(settings, num_classes=2)) for _ in range(3)]
    return {"open_tiles": count, "open_s": statistics.median(taken)}


def draw_potsdam(folder: Path, count: int, size: int) -> Catalog:
    """`count` scenes of Potsdam's size: a drawn town of 1500 x 1500, repeated."""
    import rasterio

    image, label = draw_town(np.random.default_rng(0), 1500, 1500)
    repeats = -(-size // 1500)
    image = np.tile(image[:, :, :3], (repeats, repeats, 1))[:size, :size]
    colours = np.array(PALETTE, np.uint8)[np.tile(label, (repeats, repeats))[:size, :size]]
    assert label.max() < len(CLASSES)
    names = itertools.islice(("2_10", "2_12", "3_10", "3_11"), count)
    for name in names:
        for product, pixels in (("2_Ortho_RGB/{}_RGB", image), ("5_Labels_all/{}_label", colours)):
            file = folder / (product.format(f"top_potsdam_{name}") + ".tif")
            file.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(
                file, "w", driver="GTiff", count=3, height=size, width=size, dtype="uint8",
                crs="EPSG:32633", transform=rasterio.Affine(0.05, 0, 366000, 0, -0.05, 5808000),
            ) as target:  # fmt: skip
                target.write(pixels.transpose(2, 0, 1))
    return potsdam(list_files(folder), "rgb", ["full"], [])


def copy_pixels(scene, folder: Path) -> None:
    """The same tiles with nothing done to them: windows by rasterio, PNG by OpenCV."""
    import rasterio
    from rasterio.windows import Window

    with (
        rasterio.open(scene.image.path, driver="GTiff") as image,
        rasterio.open(scene.labels["full"].path, driver="GTiff") as label,
    ):
        for y in positions(image.height, TILE, TILE):
            for x in positions(image.width, TILE, TILE):
                window = Window(x, y, TILE, TILE)
                r, g, b = image.read(window=window)
                cv2.imwrite(str(folder / f"{y}_{x}.png"), cv2.merge([b, g, r]))
                cv2.imwrite(str(folder / f"{y}_{x}_label.png"), label.read(1, window=window))


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
