"""The parts of a GPU day in order of worth: what is run, for how long at most, what it gives."""

import csv
import json
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpu_parts.day import Command, Part
from gpu_parts.packing import packed_sets
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.core.machine import cores, gpu_count

ROOT = Path(__file__).resolve().parents[2]
# The pre-training of docs/results.md: 1,500 steps of 128 samples, at tiles of 64.
CPU_STEPS, CPU_SIDE, WINDOW = 1500, 64, 32
TIMES, SIDES, SEEDS = (10, 30, 100), (64, 128, 256), 5
FRACTIONS = (0.02, 0.05)


@dataclass(frozen=True)
class Place:
    """Where the commands read and write.

    Attributes:
        pack: the packed tiles.
        work: what the commands write, a folder a part.
        toy: on the CPU, as small as can be.
    """

    pack: Path
    work: Path
    toy: bool

    def module(self, part: str, name: str, limit: float, *words: object) -> Command:
        """A module of this package; its figures are what it writes to --output."""
        output, limit = self.work / f"{part}/{name}.json", limit * (10 if self.toy else 1)
        command = [sys.executable, "-m", f"gpu_parts.{name}", "--output", output]
        command += ["--work", self.work / part / name] if name != "collectives" else []
        return Command(
            name, [*map(str, command), *map(str, words)], limit, partial(read_json, output)
        )


def parts_of(place: Place) -> list[Part]:
    toy = ["--toy"] if place.toy else []
    small = ["--device", "cpu", "--steps", "2", "--side", "64", "--batch_size", "4"]
    images = place.pack / str(CPU_SIDE if place.toy else max(SIDES))
    launch = ["-m", "torch.distributed.run", "--standalone"]
    launch += [f"--nproc_per_node={1 if place.toy else max(1, gpu_count())}"]
    collectives = place.module("nccl", "collectives", 60, *(small[:4] if place.toy else []))
    collectives = Command(
        "collectives",
        [sys.executable, *launch, *collectives.words[1:]],
        collectives.limit,
        collectives.figures,
    )
    throughput = ["--images", images, *toy]
    return [
        Part(
            "smoke", "losses of 20 steps beside the CPU's: fp32, bf16, going on, compiled",
            [place.module("smoke", "smoke", 180, *(small if place.toy else []))],
        ),
        Part("tests", "the tests that need a GPU", [tests(place)]),
        Part(
            "throughput", "samples a second of pre-training, and share of the matmul rate",
            [place.module("throughput", "throughput", 240, *throughput)],
        ),
        Part("nccl", "losses of one process a GPU beside those of one process", [collectives]),
        Part(
            "maps", "megapixels a second of mapping",
            [place.module("maps", "maps", 60, *toy)],
        ),
        Part(
            "evidence", "few labels, pre-trained at many times the CPU's budget", evidence(place)
        ),
    ]  # fmt: skip


def tests(place: Place) -> Command:
    """The tests marked gpu, which stand in a folder of their own: the others import rasterio."""
    report = place.work / "tests/junit.xml"
    words = [sys.executable, "-m", "pytest", "-m", "gpu", str(ROOT / "tests/gpu"), "-W", "default"]
    words += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    return Command("pytest", words, 900 if place.toy else 90, partial(test_figures, report))


def test_figures(report: Path) -> dict:
    """How many tests passed, and the names of those that did not."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    names: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped"
        kind = kind if kinds & {"failure", "error", "skipped"} else "passed"
        names[kind].append(case.get("name", ""))
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in names.items())
    wrong = f": {', '.join(names['failed'])}" if names["failed"] else ""
    return {"headline": counts + wrong, **names}


def evidence(place: Place) -> list[Command]:
    """Pre-trainings and the grids that start from them, those that cost least before the others."""
    commands: list[Command] = []
    times, sides = ((1,), (CPU_SIDE,)) if place.toy else (TIMES, SIDES)
    pairs = [(many, side) for many in times for side in sides if packed_sets(place.pack, side)]
    # Work goes with the area of a window.
    for many, side in sorted(pairs, key=lambda pair: (pair[0] * pair[1] ** 2, pair)):
        sets = packed_sets(place.pack, side)
        pretraining = pretrain(place, many, side, sets)
        grids = [grid(place, many, side, name, pretraining) for name in sets]
        commands += [pretraining, *(grids[:1] if place.toy else grids)]
    return commands


def pretrain(place: Place, many: int, side: int, sets: Sequence[str]) -> Command:
    """configs/few_labels_pretrain_cfg.py, `many` times as long, on tiles of `side`: windows of the
    same ground, as all sides show it."""
    name, window = f"pretrain_{side}px_x{many}", WINDOW * side // CPU_SIDE
    run = place.work / "evidence" / name
    patterns = tuple(f"{part}/images/train/*.jpg" for part in sets)
    settings = {
        "num_step": 2 if place.toy else CPU_STEPS * many,
        "num_workers": 0 if place.toy else min(16, cores()),
        "train_data.data_path": place.pack / str(side),
        "train_data.data_format": patterns,
        "train_data.img_size": window,
        "train_data.crop_size": window,
        "checkpoints.save_minutes": 1,
        "log.log_step": 1 if place.toy else 50,
    }
    if place.toy:
        settings |= {"device": "cpu", "batch_size": 2, "log.vis_step": 0}
    words = [sys.executable, ROOT / "train.py"]
    words += ["--config_file", ROOT / "configs/few_labels_pretrain_cfg.py"]
    words += ["--checkpoints_path", run, "--log_path", run / "log", *assignments(settings)]
    figures = partial(last_entry, run / "log/metrics.jsonl")
    return Command(name, [*map(str, words)], 3600, figures, run / "backbone.pth")


def grid(place: Place, many: int, side: int, name: str, start: Command) -> Command:
    """The grid of docs/results.md for one set, from random weights and from those of `start`."""
    data, output = place.pack / f"{side}/{name}", place.work / f"evidence/{name}_{side}px_x{many}"
    settings: dict[str, object] = {
        f"{part}_data.{kind}_path": data / f"{kind}s/{part}"
        for part in ("train", "val", "test")
        for kind in ("image", "label")
    }
    settings |= {"train_data.crop_size": side}
    fractions, seeds = FRACTIONS, range(SEEDS)
    if place.toy:
        settings |= {"device": "cpu", "num_step": 1, "batch_size": 2}
        fractions, seeds = (1.0,), range(1)
    words = [sys.executable, ROOT / "tools/label_efficiency.py", "--output", output]
    words += ["--config_file", ROOT / f"configs/few_labels_{name}_cfg.py"]
    words += ["--init", "random=random", f"few_labels={start.makes}"]
    words += ["--init_set", "few_labels", "train_cfg.backbone_lr_factor=0.1"]
    words += ["--fractions", *fractions, "--seeds", *seeds]
    # Cells are small: several keep a GPU busy, one after the other would wait for Python.
    words += ["--jobs", 1 if place.toy else max(1, min(6, cores() // 2))]
    words += [*assignments(settings), f"scoring_cfg.window={side}"]
    figures = partial(grid_figures, output / "table.csv")
    return Command(output.name, [*map(str, words)], 3600, figures, needs=[start.name])


def assignments(settings: dict[str, object]) -> list[str]:
    return ["--set", *(f"train_cfg.{key}={value}" for key, value in settings.items())]


def last_entry(log: Path) -> dict:
    """The last entry of a run's log that has losses."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entry = [entry for entry in entries if "loss" in entry][-1]
    rate = entry.get("images_per_second", 0)
    told = f"step {entry['step']}, loss {entry['loss']:.4g}, {rate:.4g} images/s"
    return {"headline": f"{told}, waiting {entry.get('data_wait', 0):.1%}", **entry}


def grid_figures(table: Path) -> dict:
    """mIoU of each start and share of the labels, its mean over the seeds, from table.csv; and the
    differences from random weights in pairs."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        scores[row["fraction"]][row["init"]][row["seed"]] = 100 * float(row["all.miou"])
    told = []
    for fraction, inits in scores.items():
        random = inits.get("random", {})
        for init, of_seeds in inits.items():
            text = f"{init} {statistics.fmean(of_seeds.values()):.1f}"
            pairs = [score - random[seed] for seed, score in of_seeds.items() if seed in random]
            if init != "random" and pairs:
                text += f" ({statistics.fmean(pairs):+.1f} in {len(pairs)} pairs)"
            told.append(f"{100 * float(fraction):g} %: {text}")
    return {"headline": "; ".join(told), "miou": scores, "cells": len(rows)}
