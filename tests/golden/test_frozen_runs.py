"""Pre-training, fine-tuning, scoring and mapping do what they did, from files of version 1, too.

In one file, as all that follows begins with the one pre-training, which takes longest.
"""

import json
import re

import kept
import numpy as np
import pytest
import torch
import version1
from frozen import (
    AGREEMENT,
    NORM_TOLERANCE,
    TIMES,
    differing,
    digest_of,
    entries_of,
    expected,
    same_bits,
    unpacked,
)
from runs import STEPS

MEANS = re.compile("loss|inpainting|agr|exemplar|gradient_norm|share_.*|agr_accuracy.*")
FIRST_RUN_ONLY = {"probe_share"}  # of the time since a probe of the same process
WORDS = ["dry_run", "said", "evaluation"]
FILES = ["files", "evaluation_files"]
FIGURES = ["entries", "card", "run", "results", "evaluation_results"]


@pytest.fixture(scope="module", params=["pretraining", "finetuning"])
def task(request, frozen_runs) -> tuple[dict, dict]:
    """What is known of a task's runs, and what they are now."""
    return expected(request.param), getattr(kept, request.param)(frozen_runs)


def agreement(known: dict, now: dict) -> float:
    """The share of pixels that have the same class in both maps; all else of them is compared."""
    rest = [{k: v for k, v in mapped.items() if k != "pixels"} for mapped in (known, now)]
    assert differing(*rest) == []
    classes = [unpacked(mapped["pixels"], known["map"]["shape"]) for mapped in (known, now)]
    assert {0, 1, 255} == set(np.unique(classes[0]))
    return float((classes[0] == classes[1]).mean())


@pytest.mark.parametrize("keys", [WORDS, FILES], ids=["lines", "files"])
def test_a_task_prints_the_frozen_lines_and_makes_the_frozen_files(task, keys):
    known, now = ({key: part[key] for key in keys if key in part} for part in task)
    assert now == known


def test_a_task_has_the_frozen_entries_cards_and_results(task):
    known, now = ({key: part[key] for key in FIGURES if key in part} for part in task)
    assert differing(known, now) == []


def test_a_task_ends_with_the_frozen_weights(task):
    known, now = task
    assert differing(known["norms"], now["norms"], tolerance=NORM_TOLERANCE) == []
    assert known.keys() - {"norms"} <= {*WORDS, *FILES, *FIGURES}


def test_weights_and_map_have_the_bits_of_this_machine(frozen_runs):
    for name, digest in kept.hashes(frozen_runs).items():
        assert same_bits(name, digest), name


def test_times_and_memory_of_pretraining_are_positive_numbers(frozen_runs):
    log = frozen_runs.pretraining.folder / "log/metrics.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    measured = [value for entry in entries for key, value in entry.items() if key in TIMES]
    assert len(measured) == 21
    assert all(isinstance(value, float) and value > 0 for value in measured)


def test_a_scene_is_mapped_as_it_was(frozen_runs):
    assert agreement(expected("prediction"), kept.prediction(frozen_runs)) >= AGREEMENT


def test_a_scene_is_mapped_with_weights_of_version_1(frozen_runs):
    now = kept.mapped(frozen_runs.old_prediction, frozen_runs.folder)
    assert agreement(expected("old")["prediction"], now) >= AGREEMENT


def test_weights_of_version_1_are_scored(frozen_runs):
    known, folder = expected("old"), frozen_runs.folder
    assert kept.said(frozen_runs.old_evaluation, folder) == known["evaluation"]
    results = kept.card_of(frozen_runs.old_evaluation.folder / "results.json", folder)
    assert differing(known["results"], results) == []


def test_version_1_of_best_is_written_as_it_was(frozen_runs):
    contents = torch.load(frozen_runs.old_best, weights_only=True)
    assert differing(expected("version1")["best"], version1.structure(contents)) == []


@pytest.mark.parametrize("name", STEPS)
def test_a_version_1_run_is_gone_on_with_and_said_to_be(frozen_runs, name):
    done = frozen_runs.gone_on(name)
    line = f"going on from {done.folder}/latest.pth: step {STEPS[name]} of 8, epoch 1"
    assert line in done.stdout.splitlines()
    assert kept.said(done, frozen_runs.folder) == expected("old")["gone_on"][name]


@pytest.mark.parametrize("name", STEPS)
def test_a_version_1_run_ends_as_the_run_that_was_never_interrupted(frozen_runs, name):
    """Bit by bit, on every machine: weights, and figures of the log's entries."""
    runs = [frozen_runs.pretraining.folder, frozen_runs.gone_on(name).folder]
    weights = [kept.backbone_of(run) for run in runs]
    assert digest_of(weights[0]) == digest_of(weights[1])
    norms = kept.norms_of(weights[1])
    assert differing(expected("pretraining")["norms"], norms, tolerance=NORM_TOLERANCE) == []
    straight, gone_on = (entries_of(run / "log") for run in runs)
    late = [entry for entry in straight if entry["step"] > STEPS[name]]
    late = [{k: v for k, v in entry.items() if k not in FIRST_RUN_ONLY} for entry in late]
    assert gone_on[: -len(late)] == straight[: -len(late)]
    gone_on = gone_on[-len(late) :]
    if name == "latest":  # saved between two entries: the next one is of the steps since
        for entry in (late[0], gone_on[0]):
            entry |= {key: "mean" for key in entry if MEANS.fullmatch(key)}
    assert gone_on == late


@pytest.mark.parametrize("name", STEPS)
def test_a_version_1_run_is_written_as_it_was(frozen_runs, name):
    frozen_runs.gone_on(name)
    known = expected("version1")[f"pretraining_{STEPS[name]}"]
    assert differing(known, frozen_runs.written[name]) == []
    assert known["checksum"] == "str"
