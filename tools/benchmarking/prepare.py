"""The preparation of a data set beside plain copying of its pixels, and its opening."""

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import rasterio
from demo_scenes.town import draw_town
from rasterio.windows import Window

from benchmarking.timing import in_turn, say
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.preparation.isprs import PALETTE, potsdam
from SSLRemoteSensing.preparation.prepare import cut_scenes, make_tile_folders
from SSLRemoteSensing.preparation.sources import list_files
from SSLRemoteSensing.preparation.tiling import TilingSettings, tile_scene

TILE = 256
SCENES = ("2_10", "2_12", "3_10", "3_11")
PLACE = rasterio.Affine(0.05, 0, 366000, 0, -0.05, 5808000)


def measure_prepare(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """Seconds of one scene, its speed over copying the same pixels, and what threads bring."""
    say("preparing data sets")
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    cv2.setNumThreads(1)
    workers = min(os.cpu_count() or 1, len(SCENES))
    draw_potsdam(scratch / "potsdam", workers, args.side)
    catalog = potsdam(list_files(scratch / "potsdam"), "rgb", ["full"], [])
    scenes, copies, tiles = catalog.scenes, scratch / "copies", scratch / "tiles"
    make_tile_folders(tiles, scenes)
    copies.mkdir()

    def job() -> TilingSettings:
        return TilingSettings(TILE, TILE, tiles, catalog.coding, catalog.scale)

    works = (
        lambda: copy_pixels(scenes[0], copies),
        lambda: tile_scene(scenes[0], job()),
        lambda: list(cut_scenes(scenes, job(), 1)),
        lambda: list(cut_scenes(scenes, job(), workers)),
    )
    copy_s, prepare_s, one_s, many_s = in_turn(works, count=args.rounds)
    yield {"prepare_scene_s": prepare_s, "copy_scene_s": copy_s}
    yield {"prepare_over_copy": copy_s / prepare_s, "prepare_workers": workers}
    yield {"prepare_scaling": one_s / many_s}
    say("opening a prepared set")
    yield measure_opening(scratch / "open", args.open_tiles)


def measure_opening(folder: Path, count: int) -> dict:
    """Seconds to open a prepared set of `count` tiles; names alone are looked at."""
    folders = [folder / "images/train", folder / "labels/train"]
    for part in folders:
        part.mkdir(parents=True)
        for number in range(count):
            (part / f"{number // 500}_0_{number % 500}.png").touch()
    card = '{"version": 1, "scale": 255, "classes": ["a", "b"], "bands": ["r", "g", "b"]}'
    write_text(folder / "dataset.json", card)
    settings = TileSettings(*map(str, folders))
    taken = in_turn([lambda: SegmentationDataset(settings, num_classes=2)])
    return {"open_tiles": count, "open_s": taken[0]}


def draw_potsdam(folder: Path, count: int, side: int) -> None:
    """`count` scenes of Potsdam's size: a drawn town of 1500 x 1500, repeated."""
    image, label = draw_town(np.random.default_rng(0), 1500, 1500)
    repeats = -(-side // 1500)
    image = np.tile(image[:, :, :3], (repeats, repeats, 1))[:side, :side]
    colours = np.uint8(PALETTE)[np.tile(label, (repeats, repeats))[:side, :side]]
    for name in SCENES[:count]:
        scene = f"top_potsdam_{name}"
        write_scene(folder / f"2_Ortho_RGB/{scene}_RGB.tif", [(0, image)], side, side)
        write_scene(folder / f"5_Labels_all/{scene}_label.tif", [(0, colours)], side, side)


def write_scene(
    path: Path, strips: Iterable, height: int, width: int, layout: dict | None = None
) -> None:
    """Pairs of a first row and colours (h, width, 3) uint8 from there on, as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32633", "transform": PLACE}
    profile |= {"count": 3, "height": height, "width": width} | (layout or {})
    with rasterio.open(path, "w", **profile) as file:
        for y, pixels in strips:
            file.write(pixels.transpose(2, 0, 1), window=Window(0, y, width, len(pixels)))


def copy_pixels(scene, folder: Path) -> None:
    """The same tiles with nothing done to them: windows by rasterio, PNG by OpenCV."""
    with (
        rasterio.open(scene.image.path) as image,
        rasterio.open(scene.labels["full"].path) as label,
    ):
        for y in positions(image.height, TILE, TILE):
            for x in positions(image.width, TILE, TILE):
                window = Window(x, y, TILE, TILE)
                r, g, b = image.read(window=window)
                cv2.imwrite(str(folder / f"{y}_{x}.png"), cv2.merge([b, g, r]))
                cv2.imwrite(str(folder / f"{y}_{x}_label.png"), label.read(1, window=window))
