"""The part of benchmark.py that measures what this machine can do at most."""

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmark_timing import say, seconds

SIZES = {"cuda": (1024, 2048, 4096, 8192, 16384), "cpu": (512, 1024, 2048, 4096)}
LONGEST = 0.5  # seconds of one product; larger ones are left out


def measure_ceilings(device: torch.device, fast: str, files: Sequence[str | Path]) -> dict:
    """Rates that no step, no data set and no transfer of this machine exceeds.

    Args:
        fast: the precision of the fast step; fp32 is measured too, and on CUDA tf32, in which
            PyTorch computes the convolutions of an fp32 step.
        files: JPEG files to decode.
    """
    with_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    rates = {}
    for precision in dict.fromkeys([fast, *(["tf32"] if with_tf32 else []), "fp32"]):
        say(f"ceilings: matrix products in {precision}")
        rates[precision] = matmul_tflops(device, precision, SIZES[device.type])
    say("ceilings: JPEG decoding, transfer")
    return {
        "ceiling_matmul_tflops": max(rates[fast].values()),
        "matmul_tflops": rates,
        **decode_rates(files),
        "host_to_device_gb_per_second": host_to_device(device),
    }


def matmul_tflops(
    device: torch.device, precision: str, sizes: Sequence[int], repeats: int = 5
) -> dict[str, float]:
    """10^12 operations a second of products of random square matrices, by their side.

    Each is the median of `repeats` of some 50 ms; a product of side s is 2 s^3 operations. Random
    numbers, as zeros draw less power and so run at a higher clock.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates: dict[str, float] = {}
    with matmul_precision("high" if precision == "tf32" else "highest"):
        for size in sizes:
            operations = 2 * size**3
            if rates and operations / (max(rates.values()) * 1e12) > LONGEST:
                break
            a, b, out = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(3))

            def multiply(a=a, b=b, out=out) -> None:
                torch.matmul(a, b, out=out)

            seconds(multiply, device)  # plans and allocates
            calls = max(1, math.ceil(0.05 / seconds(multiply, device)))
            taken = [seconds(multiply, device, calls) for _ in range(repeats)]
            rates[str(size)] = operations / statistics.median(taken) / 1e12
    return rates


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """torch.set_float32_matmul_precision(name), and back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def decode_rates(files: Sequence[str | Path], rounds: int = 5) -> dict[str, float]:
    """Images and megapixels a second that one core decodes, from bytes in memory."""
    contents = [np.frombuffer(Path(file).read_bytes(), np.uint8) for file in files[:200]]
    taken, pixels = [], 0
    for _ in range(rounds):
        start = time.perf_counter()
        images = [cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) for data in contents]
        taken.append(time.perf_counter() - start)
        pixels = sum(image.shape[0] * image.shape[1] for image in images if image is not None)
    median = statistics.median(taken)
    return {
        "decode_images_per_second": len(contents) / median,
        "decode_megapixels_per_second": pixels / median / 1e6,
    }


def host_to_device(device: torch.device, size: int = 2**28, repeats: int = 10) -> float | str:
    """10^9 bytes a second of copying pinned memory to the device."""
    if device.type != "cuda":
        return "not measured: no GPU"
    host = torch.randint(0, 256, (size,), dtype=torch.uint8).pin_memory()
    target = torch.empty_like(host, device=device)

    def copy() -> None:
        target.copy_(host, non_blocking=True)

    seconds(copy, device)
    return size / statistics.median(seconds(copy, device) for _ in range(repeats)) / 1e9
