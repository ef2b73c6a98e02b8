"""A pre-training run does what it did, and goes on from what it wrote at version 1."""

import json

import kept
import pytest
from frozen import NORM_TOLERANCE, TIMES, differing, digest_of, entries_of, expected, same_bits
from old import STEPS, OldRuns

FIRST_RUN_ONLY = {"probe_share"}  # of the time since a probe of the same process


@pytest.fixture(scope="module")
def known() -> dict:
    return expected("pretraining")


@pytest.fixture(scope="module")
def now(frozen_runs) -> dict:
    return kept.pretraining(frozen_runs)


@pytest.fixture(scope="module")
def old(frozen_runs) -> OldRuns:
    return OldRuns(frozen_runs)


@pytest.mark.parametrize("part", ["dry_run", "said"])
def test_pretraining_prints_the_frozen_lines(known, now, part):
    assert now[part] == known[part]


def test_pretraining_makes_the_frozen_files(known, now):
    assert now["files"] == known["files"]


def test_pretraining_logs_the_frozen_entries(known, now):
    assert differing(known["entries"], now["entries"]) == []


def test_times_and_memory_of_pretraining_are_positive_numbers(frozen_runs):
    log = frozen_runs.pretraining.folder / "log/metrics.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    measured = [value for entry in entries for key, value in entry.items() if key in TIMES]
    assert len(measured) == 17
    assert all(isinstance(value, float) and value > 0 for value in measured)


def test_the_card_of_the_backbone_is_the_frozen_one(known, now):
    assert differing(known["card"], now["card"]) == []


def test_the_card_of_the_run_has_the_frozen_keys(known, now):
    assert differing(known["run"], now["run"]) == []


def test_the_backbone_has_the_frozen_weights(known, now, frozen_runs):
    assert differing(known["norms"], now["norms"], tolerance=NORM_TOLERANCE) == []
    assert same_bits("backbone", digest_of(kept.backbone_of(frozen_runs.pretraining.folder)))


@pytest.mark.parametrize("name", ["latest", "epoch"])
def test_a_version_1_run_is_gone_on_with_and_said_to_be(old, name):
    done = old.gone_on(name)
    said = f"going on from {done.folder}/latest.pth: step {STEPS[name]} of 8, epoch 1"
    assert said in done.stdout.splitlines()
    assert kept.said(done, old.runs.folder) == expected("old")["gone_on"][name]


@pytest.mark.parametrize("name", ["latest", "epoch"])
def test_a_version_1_run_ends_as_the_run_that_was_never_interrupted(old, name):
    """Bit by bit, on every machine: weights, and figures of the log's entries."""
    runs = [old.runs.pretraining.folder, old.gone_on(name).folder]
    weights = [kept.backbone_of(run) for run in runs]
    assert digest_of(weights[0]) == digest_of(weights[1])
    straight, gone_on = (entries_of(run / "log") for run in runs)
    late = [entry for entry in straight if entry["step"] > STEPS[name]]
    late = [{k: v for k, v in entry.items() if k not in FIRST_RUN_ONLY} for entry in late]
    assert gone_on[-len(late) :] == late
    early = [entry for entry in straight if entry["step"] <= STEPS[name]]
    assert gone_on[: -len(late)] == early


@pytest.mark.parametrize("name", ["latest", "epoch"])
def test_a_version_1_run_ends_with_the_frozen_figures(old, known, name):
    norms = kept.norms_of(kept.backbone_of(old.gone_on(name).folder))
    assert differing(known["norms"], norms, tolerance=NORM_TOLERANCE) == []


@pytest.mark.parametrize("name", ["latest", "epoch"])
def test_a_version_1_run_is_written_as_it_was(old, name):
    old.gone_on(name)
    known = expected("version1")[f"pretraining_{STEPS[name]}"]
    assert differing(known, old.written[name]) == []
    assert known["checksum"] == "str"
