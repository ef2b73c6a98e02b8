"""How fast scenes are cut into tiles and mapped, beside plain copying and the bare network."""

import argparse
import os
import resource
import statistics
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import rasterio
import torch
from demo_scenes.town import draw_town
from rasterio.windows import Window
from torch import nn

from benchmarking.timing import in_turn, say, seconds
from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.inference.mapper import MapSettings, map_scene
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import plan_outputs
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.segmentation import build_segmentation
from SSLRemoteSensing.preparation.isprs import CLASSES, PALETTE, potsdam
from SSLRemoteSensing.preparation.prepare import cut_scenes, make_tile_folders
from SSLRemoteSensing.preparation.sources import list_files
from SSLRemoteSensing.preparation.tiling import TilingSettings, tile_scene

TOWN = 1024  # side of what is drawn, and repeated
TILE = 256
SCENES = ("2_10", "2_12", "3_10", "3_11")
PROFILE = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
PROFILE["transform"] = rasterio.Affine(0.05, 0, 366000, 0, -0.05, 5808000)
# Of the scene to map.
TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}


def measure_prepare(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """Seconds of one scene, its speed over copying the same pixels, and what threads bring."""
    say("preparing data sets")
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    cv2.setNumThreads(1)
    workers, size = min(os.cpu_count() or 1, len(SCENES)), (args.side, args.side)
    town, classes = draw_town(np.random.default_rng(0), TOWN, TOWN)
    for name in SCENES[:workers]:
        scene = scratch / f"potsdam/2_Ortho_RGB/top_potsdam_{name}_RGB.tif"
        write_scene(scene, town[:, :, :3], *size)
        label = scratch / f"potsdam/5_Labels_all/top_potsdam_{name}_label.tif"
        write_scene(label, np.uint8(PALETTE)[classes], *size)
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
    yield {"open_tiles": args.open_tiles, "open_s": opening_s(scratch / "open", args.open_tiles)}


def opening_s(folder: Path, count: int) -> float:
    """Seconds to open a prepared set of `count` tiles; names alone are looked at."""
    folders = [folder / "images/train", folder / "labels/train"]
    for part in folders:
        part.mkdir(parents=True)
        for number in range(count):
            (part / f"{number // 500}_0_{number % 500}.png").touch()
    card = '{"version": 1, "scale": 255, "classes": ["a", "b"], "bands": ["r", "g", "b"]}'
    write_text(folder / "dataset.json", card)
    settings = TileSettings(*map(str, folders))
    return in_turn([lambda: SegmentationDataset(settings, num_classes=2)])[0]


def write_scene(
    path: Path, town: np.ndarray, height: int, width: int, layout: dict | None = None
) -> None:
    """A town (TOWN, TOWN, 3), repeated, strip by strip, as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.tile(town, (1, -(-width // TOWN), 1))[:, :width].transpose(2, 0, 1)
    profile = PROFILE | {"height": height, "width": width} | (layout or {})
    with rasterio.open(path, "w", **profile) as file:
        for y in range(0, height, TOWN):
            rows = min(TOWN, height - y)
            file.write(strip[:, :rows], window=Window(0, y, width, rows))


def copy_pixels(scene, folder: Path) -> None:
    """The same tiles with nothing done to them: windows by rasterio, PNG by OpenCV."""
    paths = (scene.image.path, scene.labels["full"].path)
    with rasterio.open(paths[0]) as image, rasterio.open(paths[1]) as label:
        for y in positions(image.height, TILE, TILE):
            for x in positions(image.width, TILE, TILE):
                window = Window(x, y, TILE, TILE)
                r, g, b = image.read(window=window)
                cv2.imwrite(str(folder / f"{y}_{x}.png"), cv2.merge([b, g, r]))
                cv2.imwrite(str(folder / f"{y}_{x}_label.png"), label.read(1, window=window))


class Pointwise(nn.Conv2d):
    """The cheapest network: what is left is reading, blending and writing."""

    def logits(self, images):
        return self(images.float() / 255 - 0.5)


def build_network(args: argparse.Namespace) -> MapNetwork:
    """With random weights."""
    device = choose_device(args.device, "--device ")
    precision = choose_precision(args.precision, device, "--precision ")
    torch.manual_seed(0)
    classes, palette = list(CLASSES), default_palette(len(CLASSES))
    if args.network == "pointwise":
        model = Pointwise(3, len(classes), kernel_size=1)
    else:
        backbone = {"name": args.network, "in_channels": 3, "pretrained": False}
        model = build_segmentation({"classes": classes, "backbone_cfg": backbone})
    network = MapNetwork(
        model.eval().to(device), device, precision, classes, palette, 3, None, None, args.network
    )
    if network.channels_last:
        model.to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    return network


def measure_predict(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """A scene from file to file, in turn with the bare forward of as many ready batches, without
    and with the probabilities; then the peak memory of this process."""
    network, tile, size = build_network(args), args.tile, args.batch_size or 1
    settings = MapSettings(tile, args.overlap, size, workers=args.workers).for_network(network)
    device, precision, scene = network.device, network.precision, scratch / "scene.tif"
    town = draw_town(np.random.default_rng(0), TOWN, TOWN)[0][:, :, :3]
    write_scene(scene, town, args.height, args.width, TILED)
    outputs = plan_outputs([scene], str(scratch / "map.tif"))[0]
    batches = -(-(-(-args.height // tile) * -(-args.width // tile)) // size)
    batch = torch.randint(0, 256, (size, 3, tile, tile), dtype=torch.uint8).to(device)
    if network.channels_last:
        batch = batch.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(batches):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                network.model.logits(batch)

    def softmax() -> None:
        for _ in range(batches):
            probabilities(network.model, device, precision, batch)

    pixels, ready = args.height * args.width, batches * size * tile**2
    works = {"map": (lambda: map_scene(network, outputs, settings), pixels)}
    if args.rounds:
        works |= {"bare": (bare, ready), "forward_and_softmax": (softmax, ready)}
    rounds = []
    for turn in range(args.rounds + 1):  # the first one plans and allocates
        rates = {name: count / seconds(work, device) for name, (work, count) in works.items()}
        say(f"round {turn}: " + ", ".join(f"{k} {v / 1e6:.4g} Mpx/s" for k, v in rates.items()))
        rounds.append(rates)
    yield {"network": args.network, "precision": precision, "scene": [args.width, args.height]}
    yield {"tile": tile, "batch_size": size, "overlap": args.overlap}
    if args.rounds:
        for name in works:
            yield {f"{name}_pixels_per_second": statistics.median(r[name] for r in rounds[1:])}
        ratios = [rates["map"] / rates["bare"] for rates in rounds[1:]]
        yield {"map_over_bare": statistics.median(ratios), "map_over_bare_rounds": ratios}
    yield {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
