"""Try the step itself: what normalization sees, memory, time, and from it the end of the run."""

import datetime
import math
import time

import cv2
import torch
from torch import nn

from SSLRemoteSensing.training.plan import make_plan, require_images
from SSLRemoteSensing.training.rehearsal import measure_step
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.train_step import TrainStep
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import default_workers
from SSLRemoteSensing.workflows.doctor.trial import Trial

FEW_VALUES = 8  # of which batch normalization takes a mean and a variance
FEWEST_TIMED = 16  # images of which the loading is timed


def check_batch(
    settings: LoopSettings, processes: int, images: int, model: nn.Module, section: Section
) -> None:
    """Whether the images make a step, and a step's batch suits batch normalization."""
    batch, accumulate_steps = settings.batch_size, settings.accumulate_steps
    per_step = batch * accumulate_steps * processes
    if processes > 1:
        section.ok(f"{processes} processes of batch_size {batch} each; one of them is measured")
    norms = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    section.attempt(require_images, images, batch, accumulate_steps, processes)
    if images >= per_step:
        section.ok(f"{images} images, {images // per_step} steps of {per_step} an epoch")
    if batch == 1 and norms:
        section.warn(
            "train_cfg.batch_size=1: batch normalization has the statistics of single images; "
            "accumulate_steps does not change that"
        )


def prepare_step(trial: Trial, state: dict | None) -> TrainStep:
    """The step of `trial`, with the weights of `state` where a run goes on.

    Raises:
        UserError: as the training loop does.
    """
    step = TrainStep(trial.model, trial.settings, trial.param_groups)
    if state is not None:
        step.load_state_dict(state, "latest.pth")
    return step


def load_batch(trial: Trial, dataset) -> tuple[dict, float]:
    """A batch of the first images, which come round again if they are too few, and the seconds that
    one image took one process.

    Raises:
        UserError: as the data set; tiles that make no batch.
    """
    size, threads = trial.settings.batch_size, cv2.getNumThreads()
    count = max(size, FEWEST_TIMED)
    cv2.setNumThreads(0)  # as a loader's worker
    try:
        dataset[(0, 0)]  # what is loaded or compiled once
        start = time.perf_counter()
        samples = [dataset[(0, index % len(dataset))] for index in range(count)]
        seconds = (time.perf_counter() - start) / count
        return trial.collate(samples[:size]), seconds
    finally:
        cv2.setNumThreads(threads)


def check_normalization(stepper: TrainStep, batch: dict, section: Section) -> bool:
    """Which batch normalization has the fewest values a channel; whether a step is possible."""
    fewest_values: dict[str, int] = {}
    handles = []
    for name, module in stepper.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):

            def note(module: nn.Module, inputs: tuple, name: str = name) -> None:
                if module.training:
                    values = inputs[0].numel() // inputs[0].shape[1]
                    fewest_values[name] = min(values, fewest_values.get(name, values))

            handles.append(module.register_forward_pre_hook(note))
    stepper.model.train()
    try:
        with torch.no_grad():
            stepper.model(stepper.to_device(batch))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        name = min(fewest_values, key=fewest_values.get)
        section.fail(
            f"batch normalization {name}: one value a channel (batch 1, map 1 x 1) has no "
            f"variance; set a larger batch_size or larger images"
        )
        return False
    finally:
        for handle in handles:
            handle.remove()
    if not fewest_values:
        section.ok("no batch normalization is trained")
        return True
    name = min(fewest_values, key=fewest_values.get)
    say = section.warn if fewest_values[name] < FEW_VALUES else section.ok
    say(f"batch normalization has at least {fewest_values[name]} values a channel ({name})")
    return True


def check_step(trial: Trial, stepper: TrainStep, batch: dict, section: Section) -> float | None:
    """Run two steps; memory and seconds of the second, None where it cannot be run."""
    section.ok(stepper.describe())
    try:
        if not check_normalization(stepper, batch, section):
            return None
        losses, seconds = measure_step(stepper, batch, trial.settings.accumulate_steps)
    except torch.OutOfMemoryError as error:
        section.fail(
            f"a step does not fit the GPU's memory ({format_brief(error)}); lower batch_size"
        )
        return None
    except (RuntimeError, ValueError) as error:  # of torch or of ours: the rest is still to be told
        section.fail(f"a step ends in {type(error).__name__}: {format_brief(error)}")
        return None
    for name, value in losses.items():
        if not math.isfinite(value):
            section.fail(f"loss {name} is {value} in the second step; lower the learning rate")
    whose = "of the GPU" if stepper.device.type == "cuda" else "of this process, images included"
    memory = f"peak memory {stepper.peak_memory() / 2**30:.2f} GiB {whose}"
    section.ok(f"one step: {seconds:.3f} s, {memory}")
    return seconds


def check_time(
    settings: LoopSettings,
    processes: int,
    images: int,
    step: float,
    image: float,
    state: dict | None,
    section: Section,
) -> None:
    """When the run would end.

    Args:
        processes: of the run; they share the cores.
        images: of an epoch.
        step: seconds of a step's computation.
        image: seconds that one process takes to load an image.
    """
    per_step = settings.batch_size * settings.accumulate_steps * processes
    if images < per_step:
        return
    plan = make_plan(images, per_step, settings.num_epoch, settings.num_step, state)
    steps = plan.total - plan.first
    loaders, cores = settings.num_workers, default_workers()
    loading = per_step * image / min(processes * max(1, loaders), max(processes, cores))
    # Workers load while the step is computed; without them one waits for the other.
    seconds = max(step, loading) if loaders else step + loading
    section.ok(
        f"loading: {1 / image:.3g} images/s a process, {per_step / loading:.3g} with num_workers="
        f"{loaders}; a step computes {per_step / step:.3g}"
    )
    share = cores // processes
    if loading > step and loaders < share:
        section.warn(f"loading takes longer than computing; num_workers can go up to {share}")
    if loaders > max(1, share):
        section.warn(
            f"num_workers={loaders} of each process, which may use {cores / processes:g} cores"
        )
    if steps <= 0:
        section.ok(f"all {plan.total} steps are done, nothing is left to do")
        return
    end = datetime.datetime.now() + datetime.timedelta(seconds=steps * seconds)
    section.ok(
        f"{steps} of {plan.total} steps are left, {format_duration(steps * seconds)}: until about "
        f"{end:%Y-%m-%d %H:%M}, validation and saving not counted"
    )


def format_brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def format_duration(seconds: float) -> str:
    """In the two largest units that matter."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 2:
        return f"{int(days)} days {int(hours) % 24} h"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(minutes)} min {int(seconds) % 60} s"
