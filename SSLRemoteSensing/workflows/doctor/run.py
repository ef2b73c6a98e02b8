"""The run itself: machine, network, folders and room on the disk, going on, a rehearsed step."""

import copy
import math
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import torch

from SSLRemoteSensing.core import machine
from SSLRemoteSensing.core.errors import UserError, about, one_line
from SSLRemoteSensing.core.files import require_folder
from SSLRemoteSensing.core.workers import shared_memory_remark
from SSLRemoteSensing.data.file_lists import listing
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.evaluation.scoring import open_scored
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.plan import make_plan, require_images
from SSLRemoteSensing.training.rehearsal import measure_step
from SSLRemoteSensing.training.resume import compare_cards, json_card, start_digest
from SSLRemoteSensing.training.run_folder import require_room
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.training.train_step import TrainStep, named_memory
from SSLRemoteSensing.workflows import pretraining, segmentation
from SSLRemoteSensing.workflows.doctor.findings import OK, WARNING, Section
from SSLRemoteSensing.workflows.kinds import KINDS, kind_of
from SSLRemoteSensing.workflows.pretraining import Pretraining
from SSLRemoteSensing.workflows.segmentation import Finetuning, require_same_gsd, training_samples
from SSLRemoteSensing.workflows.settled_scale import settle_scale

Opened = Pretraining | Finetuning
GIB = 2**30


def check_machine(train_cfg: dict, section: Section) -> None:
    """Versions, device and precision of a config's `train_cfg`."""
    section.ok(", ".join(f"{name} {version}" for name, version in machine.versions().items()))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    section.ok(f"{machine.device_name()}; {cuda}, {machine.gpu_count()} GPUs to be seen")
    device = section.attempt(machine.choose_device, train_cfg.get("device", "auto"))
    if device is None:
        return
    setting, is_gpu = train_cfg.get("precision", "fp32"), device.type == "cuda"
    if is_gpu:
        free, total = machine.gpu_memory(device)
        text = f"{device}: {free / GIB:.1f} of {total / GIB:.1f} GiB are free"
        section.add(OK if free > 0.8 * total else WARNING, text)
    precision = section.attempt(machine.choose_precision, setting, device)
    section.ok(f"device {device}, precision {setting}: {precision}")
    is_slow = is_gpu and precision == "fp32" and machine.has_fast_bf16(device)
    for is_so, text in (
        (not is_gpu and machine.gpu_count(), "there is a GPU; set train_cfg.device=auto"),
        (is_slow, "this GPU computes faster in bf16; set train_cfg.precision=auto"),
    ):
        if is_so:
            section.warn(text)


def with_scale(config: dict) -> dict:
    """`config` with the scale that training would find; without it, the images tell why not."""
    try:
        return settle_scale(config, config["backbone_cfg"].get("in_channels", 3))
    except UserError:
        return config


def open_network(config: dict, processes: int) -> Opened:
    """Check `config` and build its network; raises what training would before it opens its data."""
    task = segmentation if kind_of(config) is KINDS["finetune"] else pretraining
    opened = task.open_network(copy.deepcopy(config), processes=processes)
    build_schedule(opened.loop.lr_schedule)
    return opened


def open_probe(opened: Pretraining) -> None:
    """Open the tiles of the probe, which is then left out; a `UserError` where that cannot be."""
    probe, data = opened.keys.pop("probe"), opened.keys["train_data"]
    train = pretraining.train_reading(data, opened.model.backbone.in_channels)
    pretraining.open_probe(probe, opened.model, opened.loop, data["img_size"], train)


def open_task(opened: Opened, unusable: Iterable[str], coding: ValueCoding | None) -> Task:
    """What training begins with, but for the images `unusable`, so that a step can be tried; raises
    a `UserError` as opening the data does. The labels have been looked through in `coding`."""
    bad_lines = [os.fsencode(os.path.abspath(file)) for file in unusable]
    with tempfile.TemporaryDirectory() as folder:
        data, path = opened.config["train_cfg"]["train_data"], Path(folder, "exclude.txt")
        if bad_lines:
            lines = listing(Path(data["exclude"]), "exclude") if data.get("exclude") else []
            path.write_bytes(b"\n".join([*map(os.fsencode, lines), *bad_lines]))
            data["exclude"] = str(path)
        if isinstance(opened, Pretraining):
            return pretraining.open_task(opened)[0]
        tiles = opened.open_split("train", coding, checked=coding is not None)
        groups = opened.model.param_groups(opened.train_cfg.get("backbone_lr_factor", 1.0))
        samples, batch_of = training_samples(opened, tiles)
        return Task(opened.model, samples, batch_of, param_groups=groups)


def open_scoring(opened: Finetuning, coding: ValueCoding | None) -> None:
    """Raises: UserError, as scoring the best weights does before it predicts."""
    for name in sorted({"val", opened.scored_split}):
        tiles = opened.open_split(name, coding, checked=coding is not None)
        with about(f"train_cfg.{name}_data"):
            require_same_gsd(opened, tiles)
        open_scored(tiles, opened.classes, opened.scoring)


def check_folder(path: Path, key: str, section: Section) -> bool:
    """Whether `path`, which may not be there yet, can be written to, and by no other run now;
    nothing is made."""
    try:
        require_folder(path, key)
    except UserError as error:
        section.fail(one_line(error))
        return False
    section.ok(f"{key}={path}: " + ("is there" if path.is_dir() else "will be made"))
    section.attempt(run_folder.require_free, path, key)
    return True


def check_disk(opened: Opened, section: Section) -> None:
    """Whether the run's checkpoints fit on the disk."""
    most = min(opened.loop.checkpoints.max_keep, opened.loop.num_epoch or math.inf)
    text = section.attempt(require_room, opened.model, opened.loop, most)
    if text is not None:
        section.ok(text)


def check_run_folder(folder: Path, opened: Opened | None, section: Section) -> dict | None:
    """The state that training would go on from; nothing is written or moved."""
    try:
        saved_run = run_folder.find_state(folder)
    except UserError as error:
        section.fail(one_line(error))
        return None
    if saved_run is None:
        section.ok(f"{folder}: no checkpoint there, the run starts anew")
        return None
    state, latest = saved_run.state, folder / "latest.pth"
    text = f"step {state['step']}, epoch {state['epoch']}"
    if not saved_run.is_complete:
        section.warn(f"{saved_run.path}: {text}; other files of its epoch could not be written")
    elif saved_run.path == latest:
        section.ok(f"{latest}: whole, {text}")
    else:
        damage = one_line(saved_run.damage) if saved_run.damage else f"{latest}: is not there"
        section.warn(f"{damage}; training would go back to {saved_run.path.name}, {text}")
    if opened is not None:
        card = {"config": opened.config} | start_digest(opened.config)
        if (head := getattr(opened.model, "distillation_head", None)) is not None:
            card["teacher"] = head.teacher_card
        section.attempt(compare_cards, state["card"], json_card(card), saved_run.path)
    return state


def check_step(
    task: Task, loop: LoopSettings, processes: int, state: dict | None, section: Section
) -> None:
    """Run two steps on the first images: losses, memory, seconds, and from them the run's hours."""
    images, per_step = len(task.dataset), loop.batch_size * loop.accumulate_steps * processes
    if processes > 1:
        section.ok(f"{processes} processes of batch_size {loop.batch_size} each; one is measured")
    section.attempt(require_images, images, loop.batch_size, loop.accumulate_steps, processes)
    step = section.attempt(TrainStep, task.model, loop, task.param_groups)
    timed_batch = section.attempt(load_batch, task, loop.batch_size)
    if step is None or timed_batch is None:
        return
    if state is not None:
        section.attempt(step.load_state_dict, state, "latest.pth")
    section.ok(step.describe())
    remark = section.attempt(shared_memory_remark, timed_batch[0], loop.num_workers)
    if remark:
        section.warn(remark)
    try:
        with named_memory(loop):
            losses, step_seconds = measure_step(step, timed_batch[0], loop.accumulate_steps)
    except (RuntimeError, ValueError) as error:  # of torch or of ours: the rest is still to be told
        reason = " ".join(str(error).split())
        if not isinstance(error, UserError):
            reason = f"a step ends in {type(error).__name__}: {reason[:160]}"
        section.fail(reason)
        return
    for name, value in losses.items():
        if not math.isfinite(value):
            section.fail(f"loss {name} is {value} in the second step; lower the learning rate")
    whose = "of the GPU" if step.device.type == "cuda" else "of this process, images included"
    memory = f"peak memory {machine.used_memory(step.device) / GIB:.2f} GiB {whose}"
    section.ok(f"one step: {step_seconds:.3f} s, {memory}")
    workers, cores = loop.num_workers, machine.cores() // processes
    loading, seconds = timed_batch[1] * loop.accumulate_steps, step_seconds
    is_slow = loading / max(1, workers) > seconds and workers < cores
    text = f"the images of a step take one process {loading:.3f} s to load"
    remedy = f", longer than the step; set train_cfg.num_workers, up to {cores}" if is_slow else ""
    section.add(WARNING if is_slow else OK, f"{text}{remedy}")
    if images >= per_step:
        plan = make_plan(images, per_step, loop.num_epoch, loop.num_step, state)
        section.ok(f"{images} images, {plan.per_epoch} steps of {per_step} an epoch")
        # Workers load while the step is computed; without them one waits for the other.
        seconds = max(seconds, loading / workers) if workers else seconds + loading
        steps = max(0, plan.total - plan.first)
        hours = f"{steps * seconds / 3600:.2f} h without validation and saving"
        section.ok(f"{steps} of {plan.total} steps are left, {hours}")


def load_batch(task: Task, size: int) -> tuple[dict, float]:
    """A batch of the first images, and the seconds that one process takes to load it."""
    keys = [(0, index % len(task.dataset)) for index in range(size)]
    task.dataset[keys[0]]  # what is loaded or compiled once
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a loader's worker
    try:
        begin = time.perf_counter()
        batch = task.collate([task.dataset[key] for key in keys])
        return batch, time.perf_counter() - begin
    finally:
        cv2.setNumThreads(threads)
