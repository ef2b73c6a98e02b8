"""What figures and pictures of a run take of the time of training."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from benchmarking.bench import Bench, run_step
from benchmarking.timing import say, seconds
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.settings import LogSettings
from SSLRemoteSensing.workflows.monitor import BatchMonitor, SampleMonitor


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
    yield {
        "watching_step_s": step_s,
        "watching_entry_s": entry_s,
        "watching_look_s": look_s,
        "watching_first_look_s": turns[0][2],
        "watching_share": share(LogSettings("")),
        "log_step": own.log_step,
        "vis_step": own.vis_step,
        "watching_share_of_config": share(own),
    }


def spent(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call: on the CPU those of this process, however many share the machine."""
    if device.type != "cpu":
        return seconds(function, device)
    start = time.process_time()
    function()
    return time.process_time() - start
