"""How fast scenes are cut into tiles and mapped, beside plain copying and the bare network."""

import argparse
import os
import resource
import statistics
from collections.abc import Iterable, Iterator
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


class Pointwise(nn.Module):
    """The cheapest network: what is left is reading, blending and writing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, len(CLASSES), 1)

    def logits(self, images):
        return self.layer(images.float() / 255 - 0.5)


def build_network(args: argparse.Namespace) -> MapNetwork:
    """With random weights."""
    device = choose_device(args.device, "--device ")
    precision = choose_precision(args.precision, device, "--precision ")
    torch.manual_seed(0)
    if args.network == "pointwise":
        model = Pointwise()
    else:
        backbone = {"name": args.network, "in_channels": 3, "pretrained": False}
        model = build_segmentation({"classes": list(CLASSES), "backbone_cfg": backbone})
    palette = default_palette(len(CLASSES))
    torch.backends.cudnn.benchmark = device.type == "cuda"
    model = model.eval().to(device)
    classes, name = list(CLASSES), args.network
    network = MapNetwork(model, device, precision, classes, palette, 3, None, None, name)
    if network.channels_last:
        model.to(memory_format=torch.channels_last)
    return network


def draw_scene(path: Path, height: int, width: int) -> Path:
    """A drawn town, repeated, as a tiled and compressed GeoTIFF."""
    town = draw_town(np.random.default_rng(0), TOWN, TOWN)[0][:, :, :3]
    strip = np.tile(town, (1, -(-width // TOWN), 1))[:, :width]
    strips = ((y, strip[: height - y]) for y in range(0, height, TOWN))
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    write_scene(path, strips, height, width, layout | {"zlevel": 1})
    return path


def measure_predict(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """A scene from file to file, in turn with the bare forward of as many ready batches, without
    and with the probabilities; then the peak memory of this process."""
    network, tile, size = build_network(args), args.tile, args.batch_size or 1
    settings = MapSettings(tile, args.overlap, size, workers=args.workers)
    device, precision = network.device, network.precision
    scene = draw_scene(scratch / "scene.tif", args.height, args.width)
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
    for name in works if args.rounds else ():
        yield {f"{name}_pixels_per_second": statistics.median(r[name] for r in rounds[1:])}
    if ratios := [rates["map"] / rates["bare"] for rates in rounds[1:]]:
        yield {"map_over_bare": statistics.median(ratios), "map_over_bare_rounds": ratios}
    yield {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
