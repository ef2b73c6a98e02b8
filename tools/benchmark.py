"""Measure, within one run: a sample, a step, what the loop adds; and how data sets are prepared.

    python tools/benchmark.py --images FOLDER
    python tools/benchmark.py --device cuda --batch_size 64 --output benchmark.json

Ratios are of figures taken in turn within this run, so that a machine's drift meets both sides.
    sample_ms            one image file to occluded, anchor and transformed, on one core
    speedup_over_fp32    a step in fp32 and contiguous memory, over one in the precision that this
                         machine does in hardware and channels_last
    loop_efficiency      images a second of the whole loop, over a bare step on a ready batch
    prepare_over_copy    speed of preparing a scene of 6000 x 6000 on one core, over copying its
                         pixels to PNG tiles with rasterio and OpenCV
    prepare_scaling      speed of preparing with up to four threads, over one
    open_s               seconds to open a prepared set of 100,000 tiles
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmark_preparing import measure_opening, measure_preparing
from torch import nn

from SSLRemoteSensing import build_pretext, load_config
from SSLRemoteSensing.command import device_name, versions
from SSLRemoteSensing.datasets.pretext import PretextDataset, collate
from SSLRemoteSensing.engine import fit
from SSLRemoteSensing.errors import run_command
from SSLRemoteSensing.step import TrainStep, choose_device, choose_precision

CONFIG = Path(__file__).parents[1] / "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "--config_file", default=str(CONFIG), help="network and data (default VGG16)"
    )
    flags.add_argument("--images", help="folder of images (default: drawn 256 x 256 JPEG files)")
    flags.add_argument("--device", default="auto", help="cpu, cuda or auto")
    flags.add_argument("--batch_size", type=int, default=4)
    flags.add_argument("--img_size", type=int, default=256)
    flags.add_argument("--steps", type=int, default=5, help="counted steps of each kind")
    flags.add_argument("--num_workers", type=int, default=1)
    flags.add_argument(
        "--only", choices=("training", "preparing"), help="one half of the measurements"
    )
    flags.add_argument("--output", help="write the figures to this JSON file")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = {
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(sys.argv),
            "machine": device_name(),
            "versions": versions(),
        }
        if args.only != "preparing":
            figures |= measure(args, Path(scratch))
        if args.only != "training":
            figures |= measure_preparing(Path(scratch)) | measure_opening(Path(scratch, "open"))
    for key, value in figures.items():
        print(f"{key:<22}{value:.4g}" if isinstance(value, float) else f"{key:<22}{value}")
    if args.output:
        Path(args.output).write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace, scratch: Path) -> dict:
    with contextlib.redirect_stderr(io.StringIO()):
        config = load_config(args.config_file)
    train_cfg = config["train_cfg"]
    folder = args.images or draw_images(scratch / "images", max(64, 2 * args.batch_size))
    train_cfg["train_data"] |= {
        "data_path": str(folder),
        "data_format": "**/*.jpg",
        "img_size": args.img_size,
        "post_transforms_cfg": None,
    }
    dataset = PretextDataset(**train_cfg["train_data"])
    device = choose_device(args.device)
    fast = choose_precision("auto", device)
    figures = {
        "network": config["backbone_cfg"]["name"],
        "img_size": args.img_size,
        "batch_size": args.batch_size,
        "fast_precision": fast,
        "sample_ms": sample_ms(dataset),
    }
    published = bare_step(config, device, "fp32", False)
    quick = bare_step(config, device, fast, True)
    samples = [dataset[(0, i % len(dataset))] for i in range(args.batch_size)]
    batch = collate(samples)
    slow, rapid = in_turn(lambda: published(batch), lambda: quick(batch), args.steps)
    figures |= {
        "fp32_step_s": slow,
        "fast_step_s": rapid,
        "speedup_over_fp32": slow / rapid,
    }

    train_cfg |= {"batch_size": args.batch_size, "num_epoch": None, "device": str(device)}
    train_cfg |= {"num_step": args.steps + 2, "num_workers": args.num_workers}
    train_cfg |= {"precision": fast, "channels_last": True}
    train_cfg["log"] = {"log_path": str(scratch / "log"), "log_step": 1}
    train_cfg["checkpoints"] = {"checkpoints_path": str(scratch / "run"), "save_step": 10**6}
    settings = {k: v for k, v in train_cfg.items() if k not in ("train_data", "losses")}
    model = Alternating(build_pretext(config), lambda: quick(batch), device)
    with contextlib.redirect_stdout(io.StringIO()):
        fit(model, dataset, collate, **settings)
    bare, loop = (args.batch_size / statistics.median(t[1:]) for t in (model.bare, model.loop))
    lines = (scratch / "log/metrics.jsonl").read_text().splitlines()
    figures |= {
        "bare_images_per_second": bare,
        "loop_images_per_second": loop,
        "loop_efficiency": loop / bare,
        "data_wait": statistics.median(json.loads(line)["data_wait"] for line in lines[1:]),
    }
    if device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


class Alternating(nn.Module):
    """A network for fit() that runs and times a bare step before each of the loop's own.

    A step of the loop is what passes from one forward to the next: forward, backward, update, log,
    data. Taken in turn, both meet the same drift of the machine.
    """

    def __init__(self, net: nn.Module, bare_step: Callable[[], None], device: torch.device):
        super().__init__()
        self.net, self.bare_step, self.device = net, bare_step, device
        self.loop, self.bare, self.left = [], [], None

    def forward(self, batch: dict) -> dict:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.left is not None:
            self.loop.append(time.perf_counter() - self.left)
        self.bare.extend(repeated(self.bare_step, 1))
        self.left = time.perf_counter()
        return self.net(batch)


def sample_ms(dataset: PretextDataset, rounds: int = 7) -> float:
    """Milliseconds a sample on one core, the median over `rounds` passes of up to 200 files."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    count = min(200, len(dataset))
    passes = []
    for epoch in range(rounds + 1):  # the first warms the file cache up
        start = time.perf_counter()
        for index in range(count):
            dataset[(epoch, index)]
        passes.append((time.perf_counter() - start) / count * 1000)
    cv2.setNumThreads(threads)
    return statistics.median(passes[1:])


def bare_step(
    config: dict, device: torch.device, precision: str, channels_last: bool
) -> Callable[[dict], None]:
    """A function that runs one whole training step on a ready batch, and waits for it."""
    torch.manual_seed(0)
    optimizer = config["train_cfg"]["optimizer"]
    step = TrainStep(build_pretext(config), optimizer, device, precision, channels_last)

    def run(batch: dict) -> None:
        step.forward_backward(batch)
        step.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def in_turn(one: Callable, other: Callable, count: int) -> tuple[float, float]:
    """Median seconds of two functions called A B A B ..., after one call of each."""
    times = ([], [])
    for round_ in range(count + 1):
        for function, taken in zip((one, other), times, strict=True):
            seconds = repeated(function, 1)
            taken.extend(seconds if round_ else [])
    return statistics.median(times[0]), statistics.median(times[1])


def repeated(function: Callable, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return taken


def draw_images(folder: Path, count: int) -> Path:
    """Smooth noise with edges in it, which compresses about as a photograph does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_NEAREST)
        image = cv2.GaussianBlur(image, (3, 3), 0)
        noise = rng.normal(0, 6, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder


if __name__ == "__main__":
    run_command(main)
