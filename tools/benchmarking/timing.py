"""The clocks: seconds of one function, of several in turn; memory; progress on stderr."""

import contextlib
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from SSLRemoteSensing.core.machine import wait

CPU = torch.device("cpu")
START = time.perf_counter()


def say(text: str) -> None:
    """What is measured now, with the seconds since the start."""
    print(f"[{time.perf_counter() - START:4.0f} s] {text}", file=sys.stderr, flush=True)


def seconds(function: Callable[[], object], device: torch.device = CPU, calls: int = 1) -> float:
    """Seconds a call of `function`, from an idle device to an idle device."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait(device)
    return (time.perf_counter() - start) / calls


def in_turn(
    functions: Sequence[Callable[[], object]], device: torch.device = CPU, count: int = 3
) -> list[float]:
    """Median seconds a call of each of the functions, called A B A B ... at least `count` times.

    Taken in turn, all meet the same drift of the machine. On CUDA a turn is three calls, so that
    launching one overlaps with computing another as it does in training. The first turn is not
    counted: it plans, allocates and compiles.
    """
    calls = 3 if device.type == "cuda" else 1
    turns = [
        [seconds(function, device, calls) for function in functions]
        for _ in range(1 - (-count // calls))
    ]
    return [statistics.median(times) for times in zip(*turns[1:], strict=True)]


def allocated_bytes(device: torch.device) -> int:
    """What tensors take on a GPU now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_gib(function: Callable[[], object], device: torch.device, others: int = 0) -> float:
    """GiB that tensors take at most on a GPU during a call, less the bytes of `others`; on the CPU
    what the process so far took."""
    if device.type != "cuda":
        function()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - others) / 2**30


def free_memory() -> None:
    """Give back what dropped networks held, so that the next has the device to itself."""
    gc.collect()
    torch.cuda.empty_cache()  # without a GPU it does nothing


@contextlib.contextmanager
def untuned(matmul_precision: str = "highest") -> Iterator[None]:
    """Matrix products in a precision as torch names it; cuDNN's algorithms are not tried out."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]
