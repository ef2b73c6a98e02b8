"""How fast tools/predict.py's core maps a scene, and how its memory grows with the height.

    python tools/benchmark_predict.py --network vgg16_bn --output predict.json
    python tools/benchmark_predict.py --network vgg16_bn --only speed --width 2048 --height 2048
    python tools/benchmark_predict.py --network pointwise --only memory --output memory.json

Speed: a scene from file to file at overlap 0, in turn with the bare forward of as many ready
batches; pixels a second of both and their ratio, the median over the rounds. Memory: the peak of a
process that maps a scene of 20,000 x 5,000 pixels and of one that maps 20,000 x 20,000, by the
system's account of them; with vgg16_bn on a CPU that is a night's work, so --network pointwise,
whose strips are the same, shows the growth, and --scene_width/--scene_heights make it shorter.
Weights are random. What is measured is written after each part: a run that is cut off has shown
what it did.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmark_timing import say, seconds
from demo_scenes.town import draw_town
from torch import nn

from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import run_command
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import choose_device, choose_precision, device_name
from SSLRemoteSensing.inference.mapper import MapSettings, map_scene
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import plan_outputs
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.segmentation import build_segmentation

CLASSES = ["impervious surface", "building", "low vegetation", "tree", "car", "clutter"]
TOWN = 1024  # side of what is drawn, and repeated


class Pointwise(nn.Module):
    """The cheapest network: what is left is reading, blending and writing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, len(CLASSES), 1)

    def logits(self, images):
        return self.layer(images.float() / 255 - 0.5)


def build_network(name: str, device: torch.device, precision: str) -> MapNetwork:
    torch.manual_seed(0)
    if name == "pointwise":
        model = Pointwise()
    else:
        backbone = {"name": name, "in_channels": 3, "pretrained": False}
        model = build_segmentation({"classes": CLASSES, "backbone_cfg": backbone})
    network = MapNetwork(
        model=model.eval(),
        device=device,
        precision=precision,
        classes=CLASSES,
        palette=default_palette(len(CLASSES)),
        in_channels=3,
        bands=None,
        max_value=None,
        source=name,
    )
    last = network.channels_last
    model.to(device, memory_format=torch.channels_last if last else torch.preserve_format)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    return network


def draw_scene(path: Path, height: int, width: int) -> Path:
    """A drawn town, repeated, as a tiled and compressed GeoTIFF."""
    import rasterio
    from rasterio.windows import Window

    if path.exists():
        return path
    town = draw_town(np.random.default_rng(0), TOWN, TOWN)[0][:, :, :3].transpose(2, 0, 1)
    strip = np.tile(town, (1, 1, -(-width // TOWN)))[:, :, :width]
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=height, width=width, dtype="uint8", tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", zlevel=1, crs="EPSG:32633",
        transform=rasterio.Affine(0.05, 0, 366000, 0, -0.05, 5808000),
    ) as file:  # fmt: skip
        for y in range(0, height, TOWN):
            count = min(TOWN, height - y)
            file.write(strip[:, :count], window=Window(0, y, width, count))
    return path


def map_file(network: MapNetwork, scene: Path, output: Path, settings: MapSettings) -> None:
    map_scene(network, plan_outputs([scene], str(output))[0], settings)


def measure_speed(args: argparse.Namespace, scratch: Path) -> dict:
    device = choose_device(args.device, "--device ")
    precision = choose_precision(args.precision, device, "--precision ")
    network = build_network(args.network, device, precision)
    scene = draw_scene(scratch / "speed.tif", args.height, args.width)
    settings = MapSettings(
        tile=args.tile, overlap=0.0, batch_size=args.batch_size, workers=args.workers
    )
    # Whole batches only, so that both sides have the same pixels.
    windows = -(-args.height // args.tile) * -(-args.width // args.tile)
    batches = -(-windows // args.batch_size)
    batch = torch.randint(0, 256, (args.batch_size, 3, args.tile, args.tile), dtype=torch.uint8)
    batch = batch.to(device)
    if network.channels_last:
        batch = batch.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(batches):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                network.model.logits(batch)

    rates = {"bare": [], "forward_and_softmax": [], "map": []}
    bare_pixels = batches * batch.shape[0] * args.tile**2

    def softmax() -> None:
        for _ in range(batches):
            probabilities(network.model, device, precision, batch)

    for turn in range(args.rounds + 1):
        taken = {
            "bare": bare_pixels / seconds(bare, device),
            "forward_and_softmax": bare_pixels / seconds(softmax, device),
            "map": args.height * args.width
            / seconds(lambda: map_file(network, scene, scratch / "map.tif", settings), device),
        }  # fmt: skip
        say(f"round {turn}: " + ", ".join(f"{k} {v / 1e6:.4g} Mpx/s" for k, v in taken.items()))
        for key, value in taken.items() if turn else ():  # the first one plans and allocates
            rates[key].append(value)
    ratios = [m / b for m, b in zip(rates["map"], rates["bare"], strict=True)]
    found = {f"{key}_pixels_per_second": statistics.median(v) for key, v in rates.items()}
    return found | {
        "map_over_bare": statistics.median(ratios),
        "map_over_bare_rounds": ratios,
        "device": device_name(),
        "precision": precision,
        "scene": [args.width, args.height],
    }


def measure_memory(args: argparse.Namespace, scratch: Path) -> dict:
    """Peak memory in bytes of a process a height, and what the taller takes over the lower."""
    peaks = {}
    for height in args.scene_heights:
        scene = draw_scene(scratch / f"{height}.tif", height, args.scene_width)
        line = [sys.executable, __file__, "--one", str(scene), "--network", args.network]
        line += ["--device", args.device, "--precision", args.precision, "--tile", str(args.tile)]
        line += ["--batch_size", str(args.batch_size), "--overlap", str(args.overlap)]
        line += ["--workers", str(args.workers), "--scratch", str(scratch)]
        child = subprocess.Popen(line)
        _, status, used = os.wait4(child.pid, 0)  # this child's peak, not that of all
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"mapping {scene} ended with {child.returncode}")
        peaks[str(height)] = used.ru_maxrss * 1024
        say(f"{args.scene_width} x {height}: {used.ru_maxrss / 2**20:.3f} GiB")
        scene.unlink()
    low, high = min(args.scene_heights), max(args.scene_heights)
    return {
        "scene_width": args.scene_width,
        "overlap": args.overlap,
        "peak_bytes": peaks,
        "tall_over_low": peaks[str(high)] / peaks[str(low)],
    }


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--network", default="vgg16_bn", metavar="NAME",
        help="pointwise, or a backbone (vgg16_bn, resnet18, ...)")  # fmt: skip
    add("--only", choices=("speed", "memory"), help="one half of the measurements")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1; auto is a GPU if there is one")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of the network; auto is bf16 where the hardware has it")  # fmt: skip
    add("--tile", type=int, default=512, metavar="PIXELS", help="side of a window, in pixels")
    add("--batch_size", type=int, default=1, metavar="N", help="windows predicted at a time")
    add("--workers", type=int, default=1, metavar="N", help="threads that read and compress")
    add("--scratch", type=Path, metavar="FOLDER",
        help="for scenes and maps (default: a temporary one)")  # fmt: skip
    add("--output", type=Path, metavar="FILE", help="write the figures to this JSON file")
    add("--one", type=Path, help=argparse.SUPPRESS)  # map this scene, and end
    add = flags.add_argument_group("speed").add_argument
    add("--rounds", type=int, default=5, metavar="N", help="how often all is run, in turn")
    add("--width", type=int, default=2048, metavar="PIXELS", help="of the scene")
    add("--height", type=int, default=2048, metavar="PIXELS", help="of the scene")
    add = flags.add_argument_group("memory").add_argument
    add("--overlap", type=float, default=0.5, metavar="SHARE",
        help="share of its side by which a window overlaps the next")  # fmt: skip
    add("--scene_width", type=int, default=20_000, metavar="PIXELS", help="of the scenes")
    add("--scene_heights", type=int, nargs="+", default=[5_000, 20_000], metavar="PIXELS",
        help="of the scenes, the lowest and the tallest of which are compared")  # fmt: skip
    return flags


def main() -> None:
    args = parse(flags())
    if args.one is not None:
        device = choose_device(args.device, "--device ")
        network = build_network(args.network, device, choose_precision(args.precision, device))
        settings = MapSettings(
            tile=args.tile,
            overlap=args.overlap,
            batch_size=args.batch_size,
            workers=args.workers,
        )
        map_file(network, args.one, args.scratch / "map.tif", settings)
        return
    found = {"network": args.network, "tile": args.tile, "batch_size": args.batch_size}
    with tempfile.TemporaryDirectory() as folder:
        scratch = args.scratch or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        args.scratch = scratch
        for part, measure in (("speed", measure_speed), ("memory", measure_memory)):
            if args.only in (None, part):
                found[part] = measure(args, scratch)
                if args.output is not None:
                    write_text(args.output, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    run_command(main)
