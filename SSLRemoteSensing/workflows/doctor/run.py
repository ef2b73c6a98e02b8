"""The run itself: machine, network, folders and room on the disk, going on, a rehearsed step."""

import contextlib
import copy
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from SSLRemoteSensing.core import checkpoints, machine
from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.evaluation.scoring import open_scored
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.plan import make_plan
from SSLRemoteSensing.training.rehearsal import measure_step
from SSLRemoteSensing.training.resume import compare_cards
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.training.train_step import open_step
from SSLRemoteSensing.workflows import finetuning, pretraining
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import is_fine_tuning
from SSLRemoteSensing.workflows.finetuning import Finetuning
from SSLRemoteSensing.workflows.pretraining import Pretraining

Opened = Pretraining | Finetuning
GIB = 2**30


def check_machine(train_cfg: dict, section: Section) -> None:
    """Versions, device and precision of a config's `train_cfg`."""
    section.ok(", ".join(f"{name} {version}" for name, version in machine.versions().items()))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    section.ok(f"{machine.device_name()}; {cuda}, {torch.cuda.device_count()} GPUs to be seen")
    device = section.attempt(machine.choose_device, train_cfg.get("device", "auto"))
    if device is None:
        return
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        section.ok(f"{device}: {free / GIB:.1f} of {total / GIB:.1f} GiB are free")
    setting = train_cfg.get("precision", "fp32")
    precision = section.attempt(machine.choose_precision, setting, device)
    section.ok(f"device {device}, precision {setting}: {precision}")


def open_network(config: dict, processes: int) -> Opened:
    """Check `config` and build its network; no image is opened.

    Raises:
        UserError: what training would refuse before it opens its data.
    """
    kind = finetuning if is_fine_tuning(config) else pretraining
    opened = kind.open_network(copy.deepcopy(config), processes=processes)
    build_schedule(opened.loop.lr_schedule)
    return opened


def open_probe(opened: Pretraining) -> None:
    """Open the tiles of the probe, which is then left out, and print what they are.

    Raises:
        UserError: they cannot be used.
    """
    probe, img_size = opened.keys.pop("probe"), opened.keys["train_data"]["img_size"]
    pretraining.open_probe(probe, opened.model, opened.loop, img_size)


def open_task(opened: Opened, unusable: Iterable[str]) -> tuple[Task, LoopSettings]:
    """What training begins with, but for the images `unusable`, so that a step can be tried.

    Raises:
        UserError: as opening the data does, nothing being left for one.
    """
    kind = pretraining if isinstance(opened, Pretraining) else finetuning
    bad_lines = [os.fsencode(os.path.abspath(file)) for file in unusable]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train_data", "val_data"):
            data, path = opened.config["train_cfg"].get(name), Path(folder, name)
            if data and bad_lines:
                lines = [Path(data["exclude"]).read_bytes()] if data.get("exclude") else []
                path.write_bytes(b"\n".join([*lines, *bad_lines]))
                data["exclude"] = str(path)
        return kind.open_task(opened)


def open_scoring(opened: Finetuning, task: Task) -> None:
    """Raises: UserError, as scoring the best weights does before it predicts."""
    tiles = opened.open_split(opened.scored_split, task.dataset.coding)
    open_scored(tiles, opened.classes, opened.scoring)


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


def nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def check_disk(opened: Opened, section: Section) -> None:
    """Whether the run's checkpoints, of weights and moments, fit on the disk.

    `max_keep` of them are kept beside `latest.pth`, and one more is there while it is written,
    before the oldest is removed; what is there already makes room.
    """
    model, loop = opened.model, opened.loop
    moments = 2 if loop.optimizer["name"] != "SGD" else bool(loop.optimizer.get("momentum"))
    size = sum(value.nbytes for value in model.state_dict().values())
    size += moments * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    number = 2 + min(loop.checkpoints.max_keep, loop.num_epoch or math.inf)
    files = [loop.folder / "latest.pth", *(file for _, file in run_folder.epochs(loop.folder))]
    free = shutil.disk_usage(nearest(loop.folder)).free
    free += sum(file.stat().st_size for file in files if file.exists())
    text = f"{number} checkpoints take {number * size / GIB:.2f} GiB of {free / GIB:.2f} free"
    if number * size > free:
        section.fail(f"{text}: make room, or lower checkpoints.max_keep")
    else:
        section.ok(text)


def check_run_folder(folder: Path, opened: Opened | None, section: Section) -> dict | None:
    """Locked or not, and the state that training would go on from; nothing is written or moved."""
    holder = run_folder.holder(folder)
    if holder is not None:
        section.fail(f"{folder}: another run is writing there ({holder}); wait for it to end")
    latest, files = folder / "latest.pth", [file for _, file in run_folder.epochs(folder)]
    if not latest.exists() and not files:
        section.ok(f"{folder}: no checkpoint there, the run starts anew")
        return None
    damage, state = f"{latest}: is not there", None
    if latest.exists():
        try:
            state = run_folder.read_state(latest)
            section.ok(f"{latest}: whole, step {state['step']}, epoch {state['epoch']}")
        except checkpoints.Damaged as error:
            damage = one_line(error)
        except UserError as error:
            section.fail(one_line(error))
            return None
    while state is None and files:
        file = files.pop()
        with contextlib.suppress(UserError):
            state = run_folder.read_state(file)
            section.warn(f"{damage}; training would go back to {file.name}, step {state['step']}")
    if state is None:
        section.fail(f"{damage}; no epoch_*.pth beside it is whole, move them away to start anew")
    elif opened is not None:
        # In JSON's types, as a checkpoint's.
        card = json.loads(json.dumps({"config": opened.config}, default=str))
        section.attempt(compare_cards, state["card"], card, latest)
    return state


def check_step(
    task: Task, loop: LoopSettings, processes: int, state: dict | None, section: Section
) -> None:
    """Run two steps on the first images: losses, memory, seconds, and from them the run's hours."""
    step = section.attempt(open_step, task.model, loop, task.param_groups)
    begin, images = time.perf_counter(), len(task.dataset)
    keys = [(0, index % images) for index in range(loop.batch_size)]
    batch = section.attempt(lambda: task.collate([task.dataset[key] for key in keys]))
    loading = (time.perf_counter() - begin) * loop.accumulate_steps
    if step is None or batch is None:
        return
    if state is not None:
        section.attempt(step.load_state_dict, state, "latest.pth")
    section.ok(step.describe())
    try:
        rehearsal = measure_step(step, batch, loop.accumulate_steps)
    except (RuntimeError, ValueError) as error:  # of torch or of ours: the rest is still to be told
        remedy = "; lower batch_size" if isinstance(error, torch.OutOfMemoryError) else ""
        reason = " ".join(str(error).split())[:160]
        section.fail(f"a step ends in {type(error).__name__}: {reason}{remedy}")
        return
    for name, value in rehearsal.losses.items():
        if not math.isfinite(value):
            section.fail(f"loss {name} is {value} in the second step; lower the learning rate")
    whose = "of the GPU" if step.device.type == "cuda" else "of this process, images included"
    memory = f"peak memory {rehearsal.peak / GIB:.2f} GiB {whose}"
    section.ok(f"one step: {rehearsal.seconds:.3f} s, {memory}")
    per_step = loop.batch_size * loop.accumulate_steps * processes
    if images >= per_step:
        plan = make_plan(images, per_step, loop.num_epoch, loop.num_step, state)
        # Workers load while the step is computed; without them one waits for the other.
        workers, seconds = loop.num_workers, rehearsal.seconds
        seconds = max(seconds, loading / workers) if workers else seconds + loading
        steps = max(0, plan.total - plan.first)
        hours = f"{steps * seconds / 3600:.2f} h without validation and saving"
        section.ok(f"{steps} of {plan.total} steps are left, {hours}")
        section.ok(f"the images of a step take one process {loading:.3f} s to load")
