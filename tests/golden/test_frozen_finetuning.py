"""Fine-tuning, scoring and mapping do what they did, with weights of version 1, too."""

import kept
import numpy as np
import pytest
import torch
import version1
from frozen import (
    AGREEMENT,
    NORM_TOLERANCE,
    differing,
    digest_of,
    digest_of_pixels,
    expected,
    same_bits,
    unpacked,
)
from old import OldRuns


@pytest.fixture(scope="module")
def known() -> dict:
    return expected("finetuning")


@pytest.fixture(scope="module")
def now(frozen_runs) -> dict:
    return kept.finetuning(frozen_runs)


@pytest.fixture(scope="module")
def old(frozen_runs) -> OldRuns:
    return OldRuns(frozen_runs)


def agreement(known: dict, now: dict) -> float:
    """The share of pixels that have the same class in both maps."""
    shape = known["map"]["shape"]
    classes = [unpacked(one["pixels"], shape) for one in (known, now)]
    assert {0, 1, 255} == set(np.unique(classes[0]))
    return float((classes[0] == classes[1]).mean())


def without_pixels(mapped: dict) -> dict:
    return {key: value for key, value in mapped.items() if key != "pixels"}


@pytest.mark.parametrize("part", ["dry_run", "said", "evaluation"])
def test_finetuning_prints_the_frozen_lines(known, now, part):
    assert now[part] == known[part]


@pytest.mark.parametrize("part", ["files", "evaluation_files"])
def test_finetuning_makes_the_frozen_files(known, now, part):
    assert now[part] == known[part]


def test_finetuning_logs_the_frozen_entries(known, now):
    assert differing(known["entries"], now["entries"]) == []


@pytest.mark.parametrize("part", ["results", "evaluation_results"])
def test_finetuning_has_the_frozen_results(known, now, part):
    assert differing(known[part], now[part]) == []


def test_finetuning_ends_with_the_frozen_weights(known, now, frozen_runs):
    assert differing(known["norms"], now["norms"], tolerance=NORM_TOLERANCE) == []
    best = torch.load(frozen_runs.finetuning.folder / "best.pth", weights_only=True)
    assert same_bits("best", digest_of(best["model"]))


def test_a_scene_is_mapped_as_it_was(frozen_runs):
    known, now = expected("prediction"), kept.prediction(frozen_runs)
    assert differing(without_pixels(known), without_pixels(now)) == []
    assert agreement(known, now) >= AGREEMENT
    pixels = kept.read_map(frozen_runs.prediction.folder / "map.tif")
    assert same_bits("map", digest_of_pixels(pixels))


def test_a_scene_is_mapped_with_weights_of_version_1(old):
    known, now = expected("old")["prediction"], kept.mapped(old.prediction, old.runs)
    assert differing(without_pixels(known), without_pixels(now)) == []
    assert agreement(known, now) >= AGREEMENT


def test_weights_of_version_1_are_scored(old):
    known, folder = expected("old"), old.runs.folder
    assert kept.said(old.evaluation, folder) == known["evaluation"]
    results = kept.card_of(old.evaluation.folder / "results.json", folder)
    assert differing(known["results"], results) == []


def test_version_1_of_best_is_written_as_it_was(old):
    contents = torch.load(old.best, weights_only=True)
    assert differing(expected("version1")["best"], version1.structure(contents)) == []
