"""The part of benchmark.py that runs fit(): straight, and in turn with bare steps."""

import contextlib
import gc
import io
import json
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from benchmark_steps import build_network
from benchmark_timing import seconds, wait
from torch import nn

from SSLRemoteSensing.data.pretext import PretextDataset, collate
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task

LAPS = 10  # of a straight run
WARM_UP = 0.4  # of its laps, not counted: the loader's stock of ready batches is used up in them


def fit_settings(
    config: dict, device: torch.device, fast: str, batch_size: int, num_workers: int
) -> dict:
    """The arguments of fit() that all runs here share."""
    ours = ("train_data", "losses", "joint_pass", "probe", "num_epoch")
    return {k: v for k, v in config["train_cfg"].items() if k not in ours} | {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "device": str(device),
        "precision": fast,
        "channels_last": fast == "bf16",
        "compile": False,
        "accumulate_steps": 1,
    }


def run_fit(
    model: nn.Module, dataset: PretextDataset, settings: dict, steps: int, log_step: int, folder
) -> list[dict]:
    """Train for `steps` steps in `folder`; the lines of metrics.jsonl."""
    log = {"log_path": str(folder / "log"), "log_step": log_step}
    checkpoints = {"checkpoints_path": str(folder), "save_step": 10**6}
    with contextlib.redirect_stdout(io.StringIO()):
        loop = settings | {"log": log, "checkpoints": checkpoints, "num_step": steps}
        fit(Task(model, dataset, collate), LoopSettings(**loop))
    lines = (folder / "log/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def straight_run(
    config: dict, dataset: PretextDataset, settings: dict, steps: int, scratch: Path
) -> dict:
    """Images a second from files to weights, nothing in between; peak memory.

    On CUDA the memory is what this run allocated at most, on the CPU what the process so far did.
    """
    device = torch.device(settings["device"])
    free_memory(device)
    held = 0
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    laps = run_fit(
        build_network(config), dataset, settings, steps, max(1, steps // LAPS), scratch / "straight"
    )
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - held
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return mean_laps(laps, settings["batch_size"]) | {"peak_memory_gib": peak / 2**30}


def mean_laps(laps: list[dict], batch_size: int) -> dict:
    """Images a second and share of waiting over the laps after the warm-up: all images, all time.

    Args:
        laps: entries of metrics.jsonl, from the first step.
    """
    ends = [0, *(lap["step"] for lap in laps)]
    images = [(end - start) * batch_size for start, end in pairwise(ends)]
    first = max(1, round(WARM_UP * len(laps))) if len(laps) > 1 else 0
    counted = list(zip(laps, images, strict=True))[first:]
    spent = [count / lap["images_per_second"] for lap, count in counted]
    waited = [lap["data_wait"] * time_ for (lap, _), time_ in zip(counted, spent, strict=True)]
    return {
        "counted_steps": ends[-1] - ends[first],
        "images_per_second": sum(count for _, count in counted) / sum(spent),
        "data_wait": sum(waited) / sum(spent),
    }


def run_in_turn(
    config: dict,
    dataset: PretextDataset,
    settings: dict,
    steps: int,
    bare_step: Callable[[], None],
    scratch: Path,
) -> dict:
    """Images a second of the loop and of bare steps on a ready batch, and their ratio."""
    net = build_network(config)
    if settings["compile"]:  # the network alone: the clocks around it are no part of a graph
        net = torch.compile(net)
    model = Alternating(net, bare_step, torch.device(settings["device"]))
    eager = settings | {"compile": False}
    run_fit(model, dataset, eager, steps + 2, 1, scratch / "in_turn")
    bare, loop = (
        settings["batch_size"] / statistics.median(t[1:]) for t in (model.bare, model.loop)
    )
    return {
        "bare_images_per_second": bare,
        "loop_images_per_second": loop,
        "loop_efficiency": loop / bare,
    }


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
        wait(self.device)
        if self.left is not None:
            self.loop.append(time.perf_counter() - self.left)
        # The bare step sets its own precision; its backward and update must not inherit the loop's.
        with torch.autocast(self.device.type, enabled=False):
            self.bare.append(seconds(self.bare_step, self.device))
        self.left = time.perf_counter()
        return self.net(batch)


def free_memory(device: torch.device) -> None:
    """Give back what dropped networks held, so that the next has the device to itself."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
