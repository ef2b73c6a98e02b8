"""What a step of each preset takes: the commands without a config file, rehearsed."""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from demo_scenes.town import draw_town

from benchmarking.timing import say
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.preparation.isprs import CLASSES
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING, choose_preset

STEP = re.compile(r"one step: ([\d.]+) s, peak memory ([\d.]+) GiB")
BATCH = re.compile(r"steps of (\d+) an epoch")


def measure_presets(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """Peak memory, and samples a second of a ready batch, in a process for each round of each
    preset, as --dry_run tells them; on drawn images or tiles of `img_size`, or smaller as the
    preset has it."""
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
            rounds.append(rehearse(name, folder, scratch / f"{name}_{number}", args.device))
        batch_size = rounds[0]["batch_size"]
        if batch_size != presets[name].batch_size:
            raise UserError(f"preset {name}: {batch_size} samples a step, not those of the preset")
        rates = [batch_size / taken["step_s"] for taken in rounds]
        entry = {"samples_per_second": statistics.median(rates), "rounds": rates}
        entry |= {"peak_memory_gib": max(taken["memory_gib"] for taken in rounds)}
        entries = entries | {name: {"network": presets[name].backbone, "batch_size": batch_size}}
        entries[name] |= entry
        yield {"img_size": args.img_size, "presets": entries}


def rehearse(name: str, folder: Path, run: Path, device: str) -> dict:
    """What the command of a preset says of a step that it tries."""
    task, flags = "pretrain", ["--images", folder / "images"]
    if name in FINETUNING:
        task, flags = "finetune", ["--images", folder / "images", "--labels", folder / "labels"]
        flags += ["--classes", *CLASSES, "--splits", "val=0.1"]
    command = [sys.executable, "-m", "SSLRemoteSensing", task, *flags, "--preset", name]
    command += ["--output", run, "--dry_run", "--set", f"train_cfg.device={device}"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    step, batch = STEP.search(done.stdout), BATCH.search(done.stdout)
    if done.returncode != 0 or step is None or batch is None:
        raise UserError(f"preset {name}: its command failed: {done.stderr[-2000:]}")
    numbers = {"step_s": float(step[1]), "memory_gib": float(step[2])}
    return numbers | {"batch_size": int(batch[1])}


def draw_labelled(folder: Path, count: int, size: int) -> Path:
    """Drawn towns in images/, with labels of the same names in labels/."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, label = draw_town(np.random.default_rng(number), size, size)
        cv2.imwrite(str(folder / f"images/{number:04d}.png"), image[..., 2::-1])
        cv2.imwrite(str(folder / f"labels/{number:04d}.png"), label)
    return folder
