"""`sslrs report` of a run, and what it refuses; of a grid: see test_label_efficiency.py."""

import json
import subprocess

import pytest
from conftest import ROOT
from preloaded import python


def report(*words) -> subprocess.CompletedProcess:
    line = [python(), "-m", "SSLRemoteSensing", "report", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_fine_tuning_is_scored_again_from_its_folder(run, seg_config, tmp_path):
    seg_config["train_cfg"]["num_step"] = 1
    done = run("finetune_seg.py", seg_config, "--backbone", "random")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "seg"
    before = json.loads((folder / "results.json").read_text())
    for name in ("results.json", "report.html"):
        (folder / name).unlink()
    done = report(folder)
    assert done.returncode == 0, done.stderr
    assert f"results: {folder / 'results.json'}\n" in done.stdout
    after = json.loads((folder / "results.json").read_text())
    assert after["protocols"] == before["protocols"]
    assert "python -m SSLRemoteSensing report" in (folder / "report.html").read_text()
    done = report(folder, "--metric", "mf1")
    assert done.returncode == 2
    assert "leave out the flags of a grid" in done.stderr


@pytest.mark.parametrize("name", ["empty", "none"])
def test_a_folder_that_is_neither_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    done = report(tmp_path / name)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path / name}: has neither best.pth of a fine-tuning nor grid.json of a "
        f"label-efficiency grid; name the folder of one\n"
    )
