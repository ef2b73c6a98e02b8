"""The clocks of benchmark.py: seconds of one function, of several in turn; progress on stderr."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

START = time.perf_counter()


def say(text: str) -> None:
    """What is measured now, with the seconds since the start."""
    print(f"[{time.perf_counter() - START:4.0f} s] {text}", file=sys.stderr, flush=True)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Seconds a call of `function`, from an idle device to an idle device."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait(device)
    return (time.perf_counter() - start) / calls


def in_turn(
    functions: Sequence[Callable[[], object]], device: torch.device, count: int
) -> list[float]:
    """Median seconds a call of each of the functions, called A B A B ... at least `count` times.

    Taken in turn, all meet the same drift of the machine. On CUDA a turn is three calls, so that
    launching one overlaps with computing another as it does in training. The first turn is not
    counted: it plans, allocates and compiles.
    """
    calls = 3 if device.type == "cuda" else 1
    turns: list[list[float]] = [[] for _ in functions]
    for _ in range(1 - (-count // calls)):
        for function, taken in zip(functions, turns, strict=True):
            taken.append(seconds(function, device, calls))
    return [statistics.median(taken[1:]) for taken in turns]
