"""How fast a scene is mapped, and what memory that takes."""

import argparse
import resource
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from demo_scenes.town import draw_town
from torch import nn

from benchmarking.prepare import write_scene
from benchmarking.timing import say, seconds
from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.inference.mapper import MapSettings, map_scene
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import plan_outputs
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.segmentation import build_segmentation
from SSLRemoteSensing.preparation.isprs import CLASSES

TOWN = 1024  # side of what is drawn, and repeated


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
    network = MapNetwork(
        model.eval(), device, precision, list(CLASSES), palette, 3, None, None, args.network
    )
    last = network.channels_last
    model.to(device, memory_format=torch.channels_last if last else torch.preserve_format)
    torch.backends.cudnn.benchmark = device.type == "cuda"
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
    rounds = []
    for turn in range(args.rounds + 1):  # the first one plans and allocates
        rates = {"map": pixels / seconds(lambda: map_scene(network, outputs, settings), device)}
        if args.rounds:
            rates["bare"] = ready / seconds(bare, device)
            rates["forward_and_softmax"] = ready / seconds(softmax, device)
        say(f"round {turn}: " + ", ".join(f"{k} {v / 1e6:.4g} Mpx/s" for k, v in rates.items()))
        rounds.append(rates)
    yield {"network": args.network, "precision": precision, "scene": [args.width, args.height]}
    yield {"tile": tile, "batch_size": size, "overlap": args.overlap}
    if args.rounds:
        for key in rounds[0]:
            rate = statistics.median(rates[key] for rates in rounds[1:])
            yield {f"{key}_pixels_per_second": rate}
        ratios = [rates["map"] / rates["bare"] for rates in rounds[1:]]
        yield {"map_over_bare": statistics.median(ratios), "map_over_bare_rounds": ratios}
    yield {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
