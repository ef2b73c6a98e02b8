"""What a step of each preset takes, as the commands without a config file have it."""

import argparse
import multiprocessing
import statistics
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from demo_scenes.town import draw_town

from benchmarking.bench import run_step
from benchmarking.timing import say
from benchmarking.training import spent
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import used_memory
from SSLRemoteSensing.preparation.isprs import CLASSES
from SSLRemoteSensing.training.train_step import TrainStep
from SSLRemoteSensing.workflows.own_labels import OwnLabels
from SSLRemoteSensing.workflows.own_requests import FinetuningRequest, PretrainingRequest
from SSLRemoteSensing.workflows.own_runs import requested_config
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING, choose_preset
from SSLRemoteSensing.workflows.pretraining import open_pretraining
from SSLRemoteSensing.workflows.segmentation import open_finetuning


def measure_presets(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """Peak memory, and samples a second of a ready batch, in a process for each round of each
    preset, on drawn images or tiles of `img_size`, or of less where the preset has it so."""
    presets = PRETRAINING | FINETUNING
    names = args.presets or list(presets)
    for name in names:
        choose_preset(presets, name)
    least = max(presets[name].batch_size for name in names)
    folder = draw_labelled(scratch / "drawn", 2 * least, args.img_size)
    entries: dict[str, dict] = {}
    for name in names:
        rounds = []
        for number in range(args.rounds):
            say(f"preset {name}, round {number + 1}")
            # A process of its own, whose memory is that of the run.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                given = name, folder, scratch / f"{name}_{number}", args.device
                rounds.append(pool.apply(step_of, given))
        rates = [taken["batch_size"] / taken["step_s"] for taken in rounds]
        entry = {key: rounds[0][key] for key in ("network", "batch_size")}
        entry |= {"samples_per_second": statistics.median(rates), "rounds": rates}
        entry |= {"peak_memory_gib": max(taken["peak_memory_gib"] for taken in rounds)}
        entries = entries | {name: entry}
        yield {"img_size": args.img_size, "presets": entries}


def step_of(name: str, folder: Path, run: Path, device: str) -> dict:
    """Seconds (on a CPU those of this process) of the second step that a run without a config file
    would make, and the memory of this process or the GPU.

    Raises:
        UserError: it has fewer samples a step than the preset.
    """
    images, sets = (str(folder / "images"),), (f"train_cfg.device={device}",)
    if name in PRETRAINING:
        preset = PRETRAINING[name]
        request = PretrainingRequest(images, str(run), name, settings=sets)
    else:
        preset = FINETUNING[name]
        own = OwnLabels(images, str(folder / "labels"), CLASSES, splits=("val=0.1",))
        request = FinetuningRequest(own, str(run), preset=name, settings=sets)
    with requested_config(request, writes=False) as config:  # tiles are there as long as it is
        opening = open_pretraining if name in PRETRAINING else open_finetuning
        task, settings = opening(config)
        batch = task.collate([task.dataset[(0, index)] for index in range(settings.batch_size)])
    if settings.batch_size != preset.batch_size:
        raise UserError(f"preset {name}: {settings.batch_size} samples a step on what is drawn")
    step = TrainStep(task.model, settings, task.param_groups)
    # The first one plans and allocates.
    step_s = [spent(lambda: run_step(step, batch), step.device) for _ in range(2)][1]
    figures = {"network": preset.backbone, "batch_size": settings.batch_size, "step_s": step_s}
    return figures | {"peak_memory_gib": used_memory(step.device) / 2**30}


def draw_labelled(folder: Path, count: int, size: int) -> Path:
    """Drawn towns in images/, with labels of the same names in labels/."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, label = draw_town(np.random.default_rng(number), size, size)
        cv2.imwrite(str(folder / f"images/{number:04d}.png"), image[..., 2::-1])
        cv2.imwrite(str(folder / f"labels/{number:04d}.png"), label)
    return folder
