"""The commands as a user runs them, and what they say to mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, draw_tiles
from preloaded import python

from SSLRemoteSensing.core.config import override


def ok(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line that a user's mistake gets."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("config: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def report(*words) -> subprocess.CompletedProcess:
    line = [python(), "-m", "SSLRemoteSensing", "report", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_pretrain_finetune_evaluate_report(run, light_pretext_config, seg_config, tmp_path):
    light_pretext_config["train_cfg"] |= dict(num_epoch=1, num_workers=1)
    light_pretext_config["backbone_cfg"] |= dict(mean=(0.4, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    out = ok(run("train.py", light_pretext_config))
    folder = tmp_path / "run"
    assert "step 6/6" in out
    assert f"backbone: {folder / 'backbone.pth'}" in out
    card = json.loads((folder / "backbone.json").read_text())
    assert (card["name"], card["epoch"], card["step"]) == ("resnet18", 1, 6)
    assert (card["mean"], card["std"]) == ([0.4, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert card["config"]["train_cfg"]["batch_size"] == 4
    record = json.loads((folder / "run.json").read_text())["runs"][0]
    assert set(record) == {"started", "command", "versions", "processes", "device", "config"}
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]

    backbone = str(folder / "backbone.pth")
    out = ok(run("finetune_seg.py", seg_config, "--backbone", backbone))
    assert "120 of 120 entries of resnet18 loaded" in out
    seg = tmp_path / "seg"
    results = json.loads((seg / "results.json").read_text())
    scores = results["protocols"]["all"]
    assert scores["pixels"] == 4 * 64 * 64
    assert sum(map(sum, scores["confusion_matrix"])) == scores["pixels"]
    assert 0 <= scores["miou"] <= 1
    assert set(scores["per_class"]) == {"other", "building"}
    assert results["split"] == "test"
    assert results["backbone"]["pretrained"] == backbone
    for name in ("best.pth", "latest.pth", "run.json", "report.html", "examples.png"):
        assert (seg / name).stat().st_size > 1000, name

    assert "nothing is left to do" in ok(run("finetune_seg.py", seg_config, "--backbone", backbone))
    line = refused(run("finetune_seg.py", seg_config, "--backbone", "random"))
    assert "backbone_cfg.pretrained was" in line  # never another start in the same folder
    (seg / "results.json").unlink()
    out = ok(run("finetune_seg.py", seg_config, "--evaluate", str(seg / "best.pth")))
    again = json.loads((seg / "results.json").read_text())
    assert again["protocols"] == results["protocols"]
    assert re.search(rf"^all +{100 * scores['miou']:.2f} ", out, re.MULTILINE)
    for name in ("results.json", "report.html"):
        (seg / name).unlink()
    assert f"results: {seg / 'results.json'}\n" in ok(report(seg))
    again = json.loads((seg / "results.json").read_text())
    assert again["protocols"] == results["protocols"]
    assert "python -m SSLRemoteSensing report" in (seg / "report.html").read_text()
    assert "leave out the flags of a grid" in refused(report(seg, "--metric", "mf1"))


def test_a_report_of_what_is_neither_run_nor_grid_is_refused_in_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        line = refused(report(folder))
        assert line.startswith(f"error: {folder}: has neither best.pth")


def test_test_data_that_are_not_there_are_told_before_training(run, seg_config, tmp_path):
    override(seg_config, f"train_cfg.test_data.image_path={tmp_path}/absent")
    seg_config["train_cfg"]["num_step"] = 2
    line = refused(run("finetune_seg.py", seg_config))
    assert "train_cfg.test_data: image_path" in line
    assert not (tmp_path / "seg").exists()


@pytest.mark.parametrize(
    ("number", "status", "fresh"), [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)]
)
def test_a_stopped_run_goes_on_with_the_same_command(
    light_pretext_config, tmp_path, number, status, fresh
):
    """A signal to the process group, workers included, as Ctrl-C and batch systems send it."""
    light_pretext_config["train_cfg"] |= dict(num_epoch=30, num_workers=1)
    (tmp_path / "config.py").write_text(f"config = {light_pretext_config!r}\n")
    command = ["train.py", "--config_file", str(tmp_path / "config.py")]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    program = sys.executable if fresh else python()
    first = subprocess.Popen([program, *command], **pipes, start_new_session=True)
    log = tmp_path / "run/log/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, number)
    out, err = first.communicate(timeout=120)
    assert first.returncode == status, err
    assert "Traceback" not in err
    assert "the same command goes on from there" in out
    command = [python(), *command, "--set", "train_cfg.num_epoch=1"]
    text = ok(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))
    assert "going on from" in text or "nothing is left" in text


def test_dry_run_says_sizes_and_time_and_writes_nothing(
    run, light_pretext_config, seg_config, tmp_path
):
    for script, config in (("train.py", light_pretext_config), ("finetune_seg.py", seg_config)):
        out = ok(run(script, config, "--dry_run"))
        assert "parameters, device cpu" in out
        assert "one step:" in out
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_flags_take_the_place_of_keys(run, light_pretext_config, tmp_path):
    light_pretext_config["agr_head_cfg"] = None
    folders = dict(checkpoints_path=tmp_path / "elsewhere", log_path=tmp_path / "log")
    folders = [word for key, path in folders.items() for word in (f"--{key}", str(path))]
    keys = ("--set", "train_cfg.num_epoch=None", "train_cfg.num_step=1")
    keys += ("--set", "train_cfg.device=auto")
    out = ok(run("train.py", light_pretext_config, *folders, "--with_imagenet", "false", *keys))
    assert "agr" not in out
    assert (tmp_path / "elsewhere/backbone.pth").exists()
    assert (tmp_path / "log/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("override_text", "said"),
    [
        ("train_cfg.optimizer.lrr=1", "train_cfg.optimizer: unknown key 'lrr', did you mean 'lr'?"),
        ("train_cfg.train_data.data_path=nowhere", "train_cfg.train_data: data_path nowhere"),
        ("train_cfg.batch_size=25", "only 24 images"),
        ("train_cfg.device=cuda:99", "--set train_cfg.device=auto"),
        ("backbone_cfg.pretrained=nowhere.pth", "weights nowhere.pth: no such file"),
        ("train_cfg.train_data.agr_transforms_cfg.transforms_cfg.Rotate_90.angle=45", "angle=45"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    run, light_pretext_config, tmp_path, override_text, said
):
    assert said in refused(run("train.py", light_pretext_config, "--set", override_text))
    assert not (tmp_path / "run").exists()


def test_an_error_in_a_worker_is_one_line_too(run, light_pretext_config, tmp_path):
    folder = draw_tiles(tmp_path / "bad", 8)
    (folder / "images/tile_005.jpg").write_bytes(b"\xff\xd8 broken")
    light_pretext_config["train_cfg"]["train_data"]["data_path"] = str(folder / "images")
    light_pretext_config["train_cfg"]["num_workers"] = 1
    assert "tile_005.jpg: is truncated" in refused(run("train.py", light_pretext_config))
