"""A training step part by part, the loop of fit() around it, and the monitors that watch it."""

import contextlib
import io
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.bench import Bench, run_step
from benchmarking.timing import free_memory, peak_gib, say, seconds, wait
from SSLRemoteSensing.core.workers import one_thread
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.settings import LogSettings, LoopSettings
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.training.train_step import TrainStep
from SSLRemoteSensing.workflows.monitor import BatchMonitor, SampleMonitor

PARTS = ("data_wait", "transfer", "forward", "backward", "optimizer")
LAPS = 10  # of a run
WARM_UP = 0.4  # of its laps, not counted: the loader's stock of ready batches is used up in them


def measure_step(bench: Bench) -> Iterator[dict]:
    say("the parts of a step")
    args, batch = bench.args, bench.batch()
    # Counted on one that is not compiled, where they can be seen.
    flops = count_flops(partial(run_step, bench.step({"compile": False}), batch))
    yield {"flops_per_image": flops / args.batch_size}
    free_memory(bench.device)
    step = bench.step()
    yield split_step(step, bench.dataset, args.batch_size, args.num_workers, args.steps)
    if args.profile:
        write_profile(step, batch, args.profile)


def count_flops(function: Callable[[], object]) -> int:
    """Operations of the products and convolutions in a call, a multiplication and an addition each.

    Counted from shapes: forward and, where the function does one, backward. All else (batch
    normalization, interpolation, the optimizer) counts as none.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def split_step(step: TrainStep, dataset, batch_size: int, num_workers: int, count: int) -> dict:
    """Mean seconds of the parts of a step, fed by a loader, over `count` steps after two.

    The device is waited for after each part. So the parts add up to this step, which is slower than
    one that is not interrupted where launching or loading could have overlapped with computing.
    """
    keys = [(0, i % len(dataset)) for i in range((count + 2) * batch_size)]
    pinned = step.device.type == "cuda"
    batches = iter(
        DataLoader(
            dataset, batch_size, sampler=keys, num_workers=num_workers, collate_fn=collate,
            pin_memory=pinned, worker_init_fn=one_thread,
        )
    )  # fmt: skip
    parts = (
        lambda _: next(batches),
        step.to_device,
        step.forward,
        lambda losses: sum(losses.values()).backward(),
        lambda _: step.update(),
    )
    turns = []
    step.model.train()
    for _ in range(count + 2):
        wait(step.device)
        times, result = [time.perf_counter()], None
        for part in parts:
            result = part(result)
            wait(step.device)
            times.append(time.perf_counter())
        turns.append([end - start for start, end in pairwise(times)])
    means = [statistics.mean(taken) for taken in zip(*turns[2:], strict=True)]
    return {
        "step_split_s": dict(zip(PARTS, means, strict=True)),
        "step_split_share": {part: s / sum(means) for part, s in zip(PARTS, means, strict=True)},
        "step_split_total_s": sum(means),
    }


def write_profile(step: TrainStep, batch: dict, path: str) -> None:
    """A Chrome trace (chrome://tracing, ui.perfetto.dev) of three steps, after two others."""
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if step.device.type == "cuda" else []
    seconds(partial(run_step, step, batch), step.device, calls=2)
    with profile(activities=activities, record_shapes=True) as trace:
        seconds(partial(run_step, step, batch), step.device, calls=3)
    trace.export_chrome_trace(path)


def measure_loop(bench: Bench) -> Iterator[dict]:
    """fit() from files, between bare steps on a ready batch, so that a drift meets both.

    Peak memory is, on CUDA, what this run allocated at most, on the CPU what the process so far
    did.
    """
    args, on_cuda, laps = bench.args, bench.device.type == "cuda", []
    run = partial(run_fit, bench, laps)
    bare = [bare_step(bench)]
    say(f"fit(), {args.loop_steps} steps")
    peak = peak_gib(run, bench.device) if on_cuda else run()
    bare.append(bare_step(bench))
    if not on_cuda:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = mean_laps(laps, args.batch_size) | {"peak_memory_gib": peak}
    rate = args.batch_size / statistics.mean(bare)
    efficiency = figures["images_per_second"] / rate
    yield figures | {"bare_images_per_second": rate, "loop_efficiency": efficiency}


def bare_step(bench: Bench) -> float:
    """Seconds of a step on a ready batch; nothing of it is left on the device."""
    say("bare steps")
    step, batch = bench.step(), bench.batch()
    seconds(partial(run_step, step, batch), bench.device, calls=2)  # plans and compiles
    taken = seconds(partial(run_step, step, batch), bench.device, calls=bench.args.steps)
    del step
    free_memory(bench.device)
    return taken


def run_fit(bench: Bench, laps: list[dict]) -> None:
    """Train for `loop_steps` steps; the entries of the log go to `laps`."""
    steps, folder = bench.args.loop_steps, bench.scratch / "loop"
    settings = bench.settings | {
        "num_step": steps,
        "log": {"log_path": str(folder / "log"), "log_step": max(1, steps // LAPS)},
        "checkpoints": {"checkpoints_path": str(folder), "save_step": 10**6},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        fit(Task(bench.network(), bench.dataset, collate), LoopSettings(**settings))
    lines = (folder / "log/metrics.jsonl").read_text().splitlines()
    laps += [json.loads(line) for line in lines]


def mean_laps(laps: list[dict], batch_size: int) -> dict:
    """Images a second and share of waiting over the laps after the warm-up: all images, all time.

    Args:
        laps: entries of metrics.jsonl, from the first step.
    """
    ends = [0, *(lap["step"] for lap in laps)]
    first = max(1, round(WARM_UP * len(laps))) if len(laps) > 1 else 0
    images = [(end - start) * batch_size for start, end in pairwise(ends)][first:]
    laps = laps[first:]
    spent = [count / lap["images_per_second"] for lap, count in zip(laps, images, strict=True)]
    waited = sum(lap["data_wait"] * taken for lap, taken in zip(laps, spent, strict=True))
    return {
        "counted_steps": ends[-1] - ends[first],
        "images_per_second": sum(images) / sum(spent),
        "data_wait": waited / sum(spent),
    }


def measure_watching(bench: Bench) -> Iterator[dict]:
    """The config's step, an entry of the log and a look, in turn."""
    step, batch, train_cfg = bench.step(), bench.batch(), bench.config["train_cfg"]
    classes = list(train_cfg["train_data"]["agr_transforms_cfg"]["transforms_cfg"])
    batches = BatchMonitor(step.model, classes)
    samples = SampleMonitor(step.model, bench.dataset, collate, bench.args.batch_size, classes)
    (bench.scratch / "log").mkdir()
    log = RunLog(bench.scratch / "log", 0, 1, bench.scratch)

    def entry() -> None:
        step.observe(batches.observe, step.to_device(batch), {}, step.to_device)

    def look() -> None:
        seen = step.observe(samples.observe, {}, {}, step.to_device)
        log.show(seen.pictures, 1)

    say("steps, entries and looks, in turn")
    parts = (lambda: run_step(step, batch), entry, look)
    turns = [[spent(part, bench.device) for part in parts] for _ in range(bench.args.steps + 1)]
    log.close()
    # The first turn plans, allocates and, in the look, reads the fixed images.
    step_s, entry_s, look_s = (statistics.median(part) for part in zip(*turns[1:], strict=True))

    def share(settings: LogSettings) -> float:
        """Of all the time, what entries and looks take."""
        a_look = look_s / settings.vis_step if settings.vis_step else 0
        a_step = entry_s / settings.log_step + a_look
        return a_step / (step_s + a_step)

    own = LogSettings(**train_cfg["log"])
    yield {"watching_step_s": step_s, "watching_entry_s": entry_s, "watching_look_s": look_s}
    yield {"watching_first_look_s": turns[0][2], "watching_share": share(LogSettings(""))}
    yield {"log_step": own.log_step, "vis_step": own.vis_step}
    yield {"watching_share_of_config": share(own)}


def spent(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call: on the CPU those of this process, however many share the machine."""
    if device.type != "cpu":
        return seconds(function, device)
    start = time.process_time()
    function()
    return time.process_time() - start
