"""What the machine can do at most, what one sample takes, and what several processes are worth."""

import argparse
import cProfile
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

import SSLRemoteSensing
from benchmarking.bench import Bench
from benchmarking.timing import in_turn, say, untuned
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import choose_device

ROOT = Path(SSLRemoteSensing.__file__).parents[1]
SIZES = {"cuda": (1024, 2048, 4096, 8192, 16384), "cpu": (512, 1024, 2048, 4096)}
LONGEST = 0.5  # seconds of one product; larger ones are left out


def measure_ceilings(bench: Bench) -> Iterator[dict]:
    """Rates that no step, no data set and no transfer exceeds.

    Beside the fast precision fp32 is measured, and on CUDA tf32, in which PyTorch computes the
    convolutions of an fp32 step.
    """
    device, fast = bench.device, bench.settings["precision"]
    with_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    rates = {}
    for precision in dict.fromkeys([fast, *(["tf32"] if with_tf32 else []), "fp32"]):
        say(f"ceilings: matrix products in {precision}")
        rates[precision] = matmul_tflops(device, precision, SIZES[device.type])
    yield {"ceiling_matmul_tflops": max(rates[fast].values()), "matmul_tflops": rates}
    say("ceilings: JPEG decoding, transfer")
    yield decode_rates(bench.dataset.files[:200])
    if device.type == "cuda":
        host = torch.randint(0, 256, (2**28,), dtype=torch.uint8).pin_memory()
        copy = partial(torch.empty_like(host, device=device).copy_, host, non_blocking=True)
        yield {"host_to_device_gb_per_second": 2**28 / in_turn([copy], device, 10)[0] / 1e9}


def matmul_tflops(device: torch.device, precision: str, sizes: Sequence[int]) -> dict[str, float]:
    """10^12 operations a second of products of random square matrices, by their side.

    A product of side s is 2 s^3 operations. Random numbers, as zeros draw less power and so run at
    a higher clock.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates: dict[str, float] = {}
    with untuned("high" if precision == "tf32" else "highest"):
        for size in sizes:
            operations = 2 * size**3
            if rates and operations / (max(rates.values()) * 1e12) > LONGEST:
                break
            a, b, out = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(3))
            product = partial(torch.matmul, a, b, out=out)
            rates[str(size)] = operations / in_turn([product], device, 5)[0] / 1e12
    return rates


def decode_rates(files: Sequence[str | Path]) -> dict[str, float]:
    """Images and megapixels a second that one core decodes, from bytes in memory."""
    contents = [np.fromfile(file, np.uint8) for file in files]

    def decode() -> list[np.ndarray]:
        return [cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) for data in contents]

    megapixels, taken = sum(image.size for image in decode()) / 3e6, in_turn([decode])[0]
    rates = {"images": len(contents) / taken, "megapixels": megapixels / taken}
    return {f"decode_{name}_per_second": rate for name, rate in rates.items()}


def measure_data(bench: Bench) -> Iterator[dict]:
    """Milliseconds a sample on one core, and of each function of the package with all it calls."""
    say("samples, on one core")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    count, profile = min(200, len(bench.dataset)), cProfile.Profile()

    def read(epoch: int = 0) -> None:
        for index in range(count):
            bench.dataset[(epoch, index)]

    sample = in_turn([read], count=7)[0]
    for epoch in range(5):
        profile.runcall(read, epoch)
    cv2.setNumThreads(threads)
    ours = str(ROOT / "SSLRemoteSensing")
    parts = {
        entry.code.co_qualname: entry.totaltime * 200 / count
        for entry in sorted(profile.getstats(), key=lambda entry: -entry.totaltime)
        if ours in getattr(entry.code, "co_filename", "")
    }
    yield {"sample_ms": sample * 1000 / count, "sample_parts_ms": parts}


def measure_processes(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """On a CPU N processes of one thread stand against one process of N threads and N times the
    batch; on GPUs against one process, whose rate N processes should have N times. The two are run
    in turn; the first half of each, which warms up, does not count."""
    if not args.images:
        raise UserError("--images: name a folder of JPEG files, which all processes read")
    args.batch_size, args.steps = args.batch_size or 4, args.steps or 5
    args.device, count = choose_device(args.device).type, args.processes
    on_cpu = args.device == "cpu"
    if args.num_workers is None:
        args.num_workers = 0 if on_cpu else max(1, min(16, (os.cpu_count() or 1) // count))
    one, several, ideal = [], [], 1 if on_cpu else count
    for number in range(args.rounds):
        one.append(training_rate(args, scratch / f"one_{number}", 1, count if on_cpu else 1))
        several.append(training_rate(args, scratch / f"all_{number}", count, 1))
        say(f"round {number + 1}: {one[-1]:.2f} and {several[-1]:.2f} images/s")
    yield {"processes": count, "rounds_one": one, "rounds_all": several}
    yield {"images_per_second_one": statistics.median(one)}
    yield {"images_per_second_all": statistics.median(several)}
    ratios = [b / a / ideal for a, b in zip(one, several, strict=True)]
    yield {"efficiency": statistics.median(ratios)}


def training_rate(args: argparse.Namespace, folder: Path, processes: int, share: int) -> float:
    """Images a second of train.py: `processes` of them, each with `share` threads and batches."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    settings = {
        "device": args.device,
        "batch_size": args.batch_size * share,
        "num_workers": args.num_workers,
        "num_epoch": None,
        "num_step": 2 * args.steps,
        "precision": "auto",
        "channels_last": args.device != "cpu",
        "train_data.data_path": args.images,
        "train_data.data_format": "**/*.jpg",
        "train_data.img_size": args.img_size,
        "train_data.post_transforms_cfg": None,
        "checkpoints.checkpoints_path": folder / "run",
        "log.log_path": folder / "log",
        "log.log_step": args.steps,
    }
    command = [sys.executable, *(launch if processes > 1 else []), str(ROOT / "train.py")]
    command += ["--config_file", args.config_file, "--set"]
    command += [f"train_cfg.{key}={value}" for key, value in settings.items()]
    threads = {"OMP_NUM_THREADS": str(share)}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"processes: {processes} of them failed: {done.stderr[-2000:]}")
    lines = (folder / "log/metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["images_per_second"]
