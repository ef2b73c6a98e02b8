"""Try the step itself: what normalization sees, memory, time, and from it the end of the run."""

import contextlib
import datetime
import math
import os
import shutil
import time
from pathlib import Path

import cv2
import torch
from torch import nn

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.core.machine import choose_device, device_name, has_fast_bf16, versions
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.plan import make_plan, require_images
from SSLRemoteSensing.training.rehearsal import measure_step
from SSLRemoteSensing.training.resume import config_changes
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.train_step import TrainStep, open_step
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
    step = open_step(trial.model, trial.settings, trial.param_groups)
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
        rehearsal = measure_step(stepper, batch, trial.settings.accumulate_steps)
    except torch.OutOfMemoryError as error:
        section.fail(
            f"a step does not fit the GPU's memory ({format_brief(error)}); lower batch_size"
        )
        return None
    except (RuntimeError, ValueError) as error:  # of torch or of ours: the rest is still to be told
        section.fail(f"a step ends in {type(error).__name__}: {format_brief(error)}")
        return None
    for name, value in rehearsal.losses.items():
        if not math.isfinite(value):
            section.fail(f"loss {name} is {value} in the second step; lower the learning rate")
    whose = "of the GPU" if stepper.device.type == "cuda" else "of this process, images included"
    memory = f"peak memory {rehearsal.peak / 2**30:.2f} GiB {whose}"
    section.ok(f"one step: {rehearsal.seconds:.3f} s, {memory}")

    return rehearsal.seconds


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


def check_machine(train_cfg: dict, section: Section) -> None:
    """Versions, device and precision of a config's `train_cfg`."""
    section.ok(", ".join(f"{name} {version}" for name, version in versions().items()))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    section.ok(f"{device_name()}; {cuda}, {torch.cuda.device_count()} GPUs to be seen")
    device = section.attempt(choose_device, train_cfg.get("device", "auto"))
    if device is None:
        return
    if device.type == "cpu" and torch.cuda.is_available():
        section.warn("train_cfg.device is the CPU, and there is a GPU; set train_cfg.device=auto")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = f"{device}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
        (section.ok if free > 0.8 * total else section.warn)(text)
    setting, fast_bf16 = train_cfg.get("precision", "fp32"), has_fast_bf16(device)
    precision = ("bf16" if fast_bf16 else "fp32") if setting == "auto" else setting
    section.ok(
        f"device {device}, precision {setting}" + (f": {precision}" if setting == "auto" else "")
    )
    if precision == "bf16" and not fast_bf16:
        section.warn(f"bf16 is emulated on this {device.type}, very slowly; set precision='auto'")
    if precision == "fp32" and device.type == "cuda" and fast_bf16:
        section.warn("this GPU computes faster in bf16; set train_cfg.precision=auto")


HEADROOM = 1.1  # of what is needed, for logs and pictures


def check_folder(path: str, key: str, section: Section) -> bool:
    """Whether `path`, which may not be there yet, can be written to; nothing is made."""
    place = nearest(Path(path))
    longest_name = os.pathconf(place, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest_name for part in Path(path).parts):
        section.fail(f"{key}={path[:40]}...: a name of more than {longest_name} bytes; shorten it")
    elif not place.is_dir():
        section.fail(f"{key}={path}: {place} is a file, not a folder")
    elif not os.access(place, os.W_OK | os.X_OK):
        section.fail(f"{key}={path}: {place} cannot be written to")
    else:
        section.ok(f"{key}={path}: " + ("is there" if place == Path(path) else "will be made"))
        return True
    return False


def check_disk(needed_bytes: int, breakdown: str, path: str, section: Section) -> None:
    """Whether `needed_bytes` fit where `path` is or will be, what is there already included."""
    folder = nearest(Path(path))
    free_bytes = shutil.disk_usage(folder).free
    used_bytes = checkpoints_there(Path(path))
    further_bytes = max(0, needed_bytes - used_bytes)
    text = (
        f"checkpoints take {format_gib(needed_bytes)} ({breakdown}), {format_gib(used_bytes)} of "
        f"it used now; {format_gib(free_bytes)} free"
    )
    if further_bytes > free_bytes:
        section.fail(f"{text} at {folder}: make room, or lower checkpoints.max_keep")
    elif further_bytes * HEADROOM > free_bytes:
        section.warn(f"{text} at {folder}: hardly any room is left")
    else:
        section.ok(f"{text} at {folder}")


def checkpoint_bytes(
    model: nn.Module, optimizer: dict, max_keep: int, fine_tuning: bool
) -> tuple[int, str]:
    """Bytes of all checkpoints of a run at its fullest, and of what they are.

    A full one has the weights and the optimizer's moments. `max_keep` of them are kept beside
    `latest.pth`, and one more is there while it is written, before the oldest is removed.
    """
    weights = sum(v.nbytes for v in model.state_dict().values())
    trained_weights = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    full = weights + moments(optimizer) * trained_weights
    small = weights if fine_tuning else sum(v.nbytes for v in model.backbone.state_dict().values())
    name = "best.pth" if fine_tuning else "backbone.pth"
    text = (
        f"{format_gib(full)} each: {max_keep} kept, latest, one being written; "
        f"{name} {format_gib(small)}"
    )
    return full * (max_keep + 2) + small, text


def moments(optimizer: dict) -> int:
    """How many values an optimizer remembers of each weight."""
    if optimizer["name"] == "SGD":
        return 1 if optimizer.get("momentum") else 0
    return 3 if optimizer.get("amsgrad") else 2  # Adam and AdamW


def checkpoints_there(folder: Path) -> int:
    """Bytes of the files in `folder` that the run replaces or removes, each once whatever number
    of names it has."""
    if not folder.is_dir():
        return 0
    fixed_files = [folder / name for name in ("latest.pth", "best.pth", "backbone.pth")]
    files = [*fixed_files, *(file for _, file in run_folder.epochs(folder))]
    statuses = [file.stat() for file in files if file.is_file()]
    return sum({status.st_ino: status.st_size for status in statuses}.values())


def nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def format_gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def check_run_folder(folder: Path, section: Section) -> dict | None:
    """Locked or not, and the state that training would go on from; nothing is written or moved."""
    holder = run_folder.holder(folder)
    if holder is not None:
        section.fail(f"{folder}: another run is writing there ({holder}); wait for it to end")
    latest = folder / "latest.pth"
    if not latest.exists():
        if run_folder.epochs(folder):
            return earlier_epoch(folder, f"{latest}: is not there", section)
        section.ok(f"{folder}: no checkpoint there, the run starts anew")
        return None
    try:
        state = run_folder.read_state(latest)
    except checkpoints.Damaged as error:
        return earlier_epoch(folder, one_line(error), section)
    except UserError as error:
        section.fail(one_line(error))
        return None
    section.ok(f"{latest}: whole, step {state['step']}, epoch {state['epoch']}")
    return state


def earlier_epoch(folder: Path, damage: str, section: Section) -> dict | None:
    """The newest whole epoch, which training would take in place of latest.pth."""
    for _, file in reversed(run_folder.epochs(folder)):
        with contextlib.suppress(UserError):
            state = run_folder.read_state(file)
            section.warn(f"{damage}; training would go back to {file.name}, step {state['step']}")
            return state
    section.fail(f"{damage}; no epoch_*.pth beside it is whole, move them away to start anew")
    return None


def check_changes(state: dict, card: dict, section: Section) -> None:
    """What differs between the config of a checkpoint's run and that of `card`."""
    for path, before, now, refused in config_changes(state["card"], card):
        if refused:
            section.fail(
                f"{path} was {before!r} and is now {now!r}; set another checkpoints_path for a new "
                f"run, or the old value to go on"
            )
        else:
            section.warn(f"going on with {path}={now!r}, so far {before!r}")
