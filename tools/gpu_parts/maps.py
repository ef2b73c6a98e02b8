"""Megapixels a second of mapping a drawn scene: from memory to classes, and from file to file.

    python -m gpu_parts.maps --output maps.json --work FOLDER

From memory it is what tools/predict.py does but for GDAL's reading and writing: strips go to the
device, windows overlap by a half, probabilities are blended, classes come back. From file to file
it is tools/benchmark.py predict, where rasterio is installed.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from benchmarking.timing import in_turn, say
from demo_scenes.town import draw_town

from SSLRemoteSensing import build_segmentation
from SSLRemoteSensing.core.files import read_json, write_text
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.inference.windows import predict_scene, probabilities

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["a", "b", "c", "d", "e", "f"]
NETWORKS, TOWN = ("resnet18", "vgg16_bn", "resnet50"), 512


def flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--output", type=Path, required=True)
    flags.add_argument("--work", type=Path, required=True)
    flags.add_argument("--toy", action="store_true", help="on the CPU, as small as can be")
    return flags


def main() -> None:
    args = flags().parse_args()
    figures = read_json(args.output) or {"measured": {}}
    networks = NETWORKS[:1] if args.toy else NETWORKS
    device = choose_device("cpu" if args.toy else "auto", "--device ")
    side, tile, batch_size = (96, 64, 2) if args.toy else (8192, 512, 16)
    town = draw_town(np.random.default_rng(0), min(side, TOWN), min(side, TOWN))[0][:, :, :3]
    scene = np.tile(town, (-(-side // TOWN), -(-side // TOWN), 1))[:side, :side]
    for network in networks:
        if network in figures["measured"]:
            continue
        say(network)
        rate = memory_rate(network, scene, device, tile, batch_size)
        figures["measured"][network] = {"megapixels_per_second": rate, "scene": [side, side]}
        keep(args.output, figures)
    if "files" not in figures["measured"] and importlib.util.find_spec("rasterio"):
        figures["measured"]["files"] = file_rate(args, side, tile)
    keep(args.output, figures)


def memory_rate(
    network: str, scene: np.ndarray, device: torch.device, tile: int, batch_size: int
) -> float:
    """Megapixels a second of a scene (H, W, 3) in memory, by a network of random weights."""
    precision = choose_precision("auto", device, "--precision ")
    backbone = {"name": network, "in_channels": 3, "pretrained": False}
    torch.manual_seed(0)
    net = build_segmentation({"classes": CLASSES, "backbone_cfg": backbone}).eval().to(device)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    if device.type == "cuda":
        net.to(memory_format=torch.channels_last)
    height, width = scene.shape[:2]

    def map_it() -> None:
        strips = predict_scene(
            lambda images: probabilities(net, device, precision, images),
            lambda y, count: scene[y : y + count], height, width, tile, 0.5, batch_size, device,
        )  # fmt: skip
        for _, strip in strips:
            strip.argmax(0).byte().cpu()

    (taken,) = in_turn([map_it], device, 1)
    return height * width / taken / 1e6


def file_rate(args: argparse.Namespace, side: int, tile: int) -> dict:
    """The figures of tools/benchmark.py predict, of VGG16-BN, at toy size of one layer."""
    output = args.work / "predict.json"
    args.work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "predict", "--tile", str(tile)]
    command += ["--width", str(side), "--height", str(side), "--output", str(output)]
    command += ["--rounds", "1", "--overlap", "0.5", "--batch_size", "2" if args.toy else "16"]
    if args.toy:
        command += ["--network", "pointwise", "--device", "cpu"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    found = read_json(output)
    if done.returncode or not found:
        return {"not_measured": f"tools/benchmark.py predict: exit status {done.returncode}"}
    return {"megapixels_per_second": found["map_pixels_per_second"] / 1e6} | found


def keep(output: Path, figures: dict) -> None:
    told = [
        f"{name} {entry['megapixels_per_second']:.4g} megapixels/s"
        for name, entry in figures["measured"].items()
        if "megapixels_per_second" in entry
    ]
    figures["headline"] = "; ".join(told)
    write_text(output, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
