"""The part of benchmark.py that measures what figures and pictures take of the time of training."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from benchmark_data import open_images
from benchmark_steps import base_setting, build_step, ready_batch, run_step
from benchmark_timing import say, seconds

from SSLRemoteSensing import load_config
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.settings import LogSettings
from SSLRemoteSensing.workflows.monitor import BatchMonitor, SampleMonitor
from SSLRemoteSensing.workflows.pretraining import check_pretext


def measure_watching(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """The config's step, an entry of the log and a look, in turn; `args` are benchmark.py's."""
    config = load_config(args.config_file)
    check_pretext(config)
    dataset = open_images(config, args.images, args.img_size, args.batch_size, scratch)
    device = choose_device(args.device)
    fast = choose_precision("auto", device)
    step = build_step(config, device, base_setting(fast, args.batch_size))
    batch = ready_batch(dataset, args.batch_size, device)
    classes = list(config["train_cfg"]["train_data"]["agr_transforms_cfg"]["transforms_cfg"])
    batches = BatchMonitor(step.model, classes)
    samples = SampleMonitor(step.model, dataset, collate, args.batch_size, classes)
    (scratch / "log").mkdir()
    log = RunLog(scratch / "log", 0, 1, scratch)

    def entry() -> None:
        step.observe(batches.observe, step.to_device(batch), {}, step.to_device)

    def look() -> None:
        seen = step.observe(samples.observe, {}, {}, step.to_device)
        log.show(seen.pictures, 1)

    say("steps, entries and looks, in turn")
    turns = [
        [spent(part, device) for part in (lambda: run_step(step, batch), entry, look)]
        for _ in range(args.steps + 1)
    ]
    log.close()
    # The first turn plans, allocates and, in the look, reads the fixed images.
    step_s, entry_s, look_s = (statistics.median(part) for part in zip(*turns[1:], strict=True))

    def share(log_step: int, vis_step: int) -> float:
        """Of all the time, what an entry each `log_step` and a look each `vis_step` take."""
        a_step = entry_s / log_step + (look_s / vis_step if vis_step else 0)
        return a_step / (step_s + a_step)

    usual, own = LogSettings(""), LogSettings(**config["train_cfg"]["log"])
    yield {
        "network": config["backbone_cfg"]["name"],
        "img_size": args.img_size,
        "batch_size": args.batch_size,
        "fast_precision": fast,
        "watching_step_s": step_s,
        "watching_entry_s": entry_s,
        "watching_look_s": look_s,
        "watching_first_look_s": turns[0][2],
        "watching_share": share(usual.log_step, usual.vis_step),
        "log_step": own.log_step,
        "vis_step": own.vis_step,
        "watching_share_of_config": share(own.log_step, own.vis_step),
    }


def spent(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call: on the CPU those of this process, however many share the machine."""
    if device.type != "cpu":
        return seconds(function, device)
    start = time.process_time()
    function()
    return time.process_time() - start
