"""The tools as commands, and the layers of the package."""

import importlib
import subprocess
import sys

import cv2
import numpy as np
from conftest import ROOT


def test_benchmark_of_preparing_compares_and_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("benchmark_preparing")
    figures = tool.measure_preparing(tmp_path, rounds=1, size=600)
    assert figures["prepare_over_copy"] == figures["copy_scene_s"] / figures["prepare_scene_s"]
    assert figures["prepare_scaling"] > 0
    copied = cv2.imread(str(tmp_path / "copies/344_256.png"))
    ours = cv2.imread(str(tmp_path / "tiles/images/train/2_10_344_256.png"))
    assert np.array_equal(copied, ours)
    assert tool.measure_opening(tmp_path / "open", count=300)["open_s"] > 0


def test_imports_go_upwards_only():
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as f; f()"]
    done = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
