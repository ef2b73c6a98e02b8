"""A training step part by part, the loop of fit() around it, and the monitors that watch it."""

import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

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


def measure_step(bench: Bench) -> Iterator[dict]:
    """Operations of a step, and the mean seconds of its parts, fed by a loader.

    The device is waited for after each part. So the parts add up to this step, which is slower than
    one that is not interrupted where launching or loading could have overlapped with computing.
    """
    say("the parts of a step")
    args, batch = bench.args, bench.batch()
    # Counted on one that is not compiled, where they can be seen.
    flops = count_flops(partial(run_step, bench.step({"compile": False}), batch))
    yield {"flops_per_image": flops / args.batch_size}
    free_memory()
    step = bench.step()
    keys = [(0, i % len(bench.dataset)) for i in range((args.steps + 2) * args.batch_size)]
    loader = DataLoader(
        bench.dataset, args.batch_size, sampler=keys, num_workers=args.num_workers,
        collate_fn=collate, pin_memory=bench.device.type == "cuda", worker_init_fn=one_thread,
    )  # fmt: skip
    batches = iter(loader)

    def forward(batch: dict) -> dict:
        with step.autocast():
            return step.net(batch)

    parts = {
        "data_wait": lambda _: next(batches),
        "transfer": step.to_device,
        "forward": forward,
        "backward": lambda losses: sum(losses.values()).backward(),
        "optimizer": lambda _: step.update(),
    }
    step.model.train()
    split = split_seconds(parts, bench.device, args.steps)
    total = sum(split.values())
    yield {"step_split_s": split, "step_split_total_s": total}
    yield {"step_split_share": {part: taken / total for part, taken in split.items()}}
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


def split_seconds(parts: dict[str, Callable], device: torch.device, count: int) -> dict:
    """Mean seconds of functions, each given the result of the one before, after two turns."""
    turns: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(count + 2):
        result = None
        for name, part in parts.items():
            wait(device)
            start = time.perf_counter()
            result = part(result)
            wait(device)
            turns[name].append(time.perf_counter() - start)
    return {name: statistics.mean(taken[2:]) for name, taken in turns.items()}


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

    The first half, in which the loader's stock of ready batches is used up, does not count.
    """
    steps, folder = bench.args.loop_steps, bench.scratch / "loop"
    settings = bench.settings | {
        "num_step": steps,
        "log": {"log_path": str(folder / "log"), "log_step": steps - steps // 2},
        "checkpoints": {"checkpoints_path": str(folder), "save_step": 10**6},
    }
    bare = [bare_step(bench)]
    say(f"fit(), {steps} steps")
    task = Task(bench.network(), bench.dataset, collate)
    with contextlib.redirect_stdout(io.StringIO()):
        peak = peak_gib(lambda: fit(task, LoopSettings(**settings)), bench.device)
    bare.append(bare_step(bench))
    last = json.loads((folder / "log/metrics.jsonl").read_text().splitlines()[-1])
    figures = {key: last[key] for key in ("images_per_second", "data_wait")}
    yield {"counted_steps": steps // 2, **figures, "peak_memory_gib": peak}
    rate = bench.args.batch_size / statistics.mean(bare)
    yield {"bare_images_per_second": rate, "loop_efficiency": figures["images_per_second"] / rate}


def bare_step(bench: Bench) -> float:
    """Seconds of a step on a ready batch; nothing of it is left on the device."""
    say("bare steps")
    step, batch = bench.step(), bench.batch()
    seconds(partial(run_step, step, batch), bench.device, calls=2)  # plans and compiles
    taken = seconds(partial(run_step, step, batch), bench.device, calls=bench.args.steps)
    del step
    free_memory()
    return taken


def measure_watching(bench: Bench) -> Iterator[dict]:
    """The config's step, an entry of the log and a look, in turn."""
    step, batch, train_cfg = bench.step(), bench.batch(), bench.config["train_cfg"]
    classes = list(train_cfg["train_data"]["agr_transforms_cfg"]["transforms_cfg"])
    batches = BatchMonitor(step.model, classes)
    samples = SampleMonitor(step.model, bench.dataset, collate, bench.args.batch_size, classes)
    (bench.scratch / "log").mkdir()
    log = RunLog(bench.scratch / "log", 0, 1, bench.scratch)
    parts = (
        lambda: run_step(step, batch),
        lambda: step.observe(batches.observe, step.to_device(batch), {}, step.to_device),
        lambda: log.show(step.observe(samples.observe, {}, {}, step.to_device).pictures, 1),
    )
    say("steps, entries and looks, in turn")
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
