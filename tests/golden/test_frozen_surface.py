"""What users and their scripts name: flags, config keys, Python names, and prepared data sets."""

import hashlib
import importlib
import json
import sys
from pathlib import Path

import kept
import pytest
from frozen import EXPECTED, differing, expected
from keys import all_keys

PUBLIC = {
    "SSLRemoteSensing": ("build_pretext", "build_segmentation", "load_backbone", "load_config"),
    "SSLRemoteSensing.checkpoint": ("read",),
}


@pytest.mark.parametrize("script", kept.HELP)
def test_help_says_the_frozen_text(script):
    """Word for word; the breaks of lines are argparse's, which differ between Python's versions."""
    known = (EXPECTED / f"help/{Path(script).stem}.txt").read_text()
    assert kept.help_of(script).split() == known.split()


@pytest.mark.parametrize("tree", ["pretraining", "finetuning"])
def test_configs_have_the_frozen_keys_types_and_defaults(tree):
    known, now = expected("keys")[tree], all_keys()[tree]
    assert sorted(now) == sorted(known)
    changed = [path for path in known if known[path] != now[path]]
    assert not changed, {path: (known[path], now[path]) for path in changed}


@pytest.mark.parametrize(("module", "name"), [(m, name) for m in PUBLIC for name in PUBLIC[m]])
def test_documented_names_can_be_imported(module, name):
    assert callable(getattr(importlib.import_module(module), name))


def test_preparing_prints_the_frozen_lines(frozen_runs):
    assert kept.preparation(frozen_runs)["said"] == expected("preparation")["said"]


@pytest.mark.parametrize("part", ["files", "card"])
def test_preparing_makes_the_frozen_data_set(frozen_runs, part):
    exact = differing(
        expected("preparation")[part], kept.preparation(frozen_runs)[part], tolerance=(1e-12, 0)
    )
    assert exact == []


def test_prepared_tiles_have_the_frozen_pixels(frozen_runs):
    assert kept.preparation(frozen_runs)["pixels"] == expected("preparation")["pixels"]


def test_a_prepared_set_has_the_hashes_of_its_sources(frozen_runs):
    card = json.loads((frozen_runs.preparation.folder / "dataset.json").read_text())
    source = frozen_runs.folder / "source"
    hashes = {name: hashlib.sha256((source / name).read_bytes()) for name in card["sources"]}
    assert card["sources"] == {name: digest.hexdigest() for name, digest in hashes.items()}


def test_help_is_asked_of_every_command_that_is_documented():
    assert {Path(script).stem for script in kept.HELP} == {
        path.stem for path in (EXPECTED / "help").iterdir()
    }
    assert sys.version_info >= (3, 11)
