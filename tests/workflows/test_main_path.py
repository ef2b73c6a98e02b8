"""The whole way as commands: drawn scenes, prepared, pre-trained, fine-tuned with few labels."""

import json
import subprocess
from pathlib import Path

import cv2
import pytest
import torch
from conftest import ROOT
from preloaded import python

from SSLRemoteSensing.models.pretrained import BACKBONES


def command(*arguments) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [python(), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_demo_ends_with_a_table_a_picture_and_places(tmp_path):
    small = ["--scenes", "3", "--size", "600", "--pretrain_steps", "2", "--finetune_steps", "2"]
    done = command("tools/demo.py", "--output", tmp_path, *small)
    for line in (
        "random   pre-trained",
        "mIoU",
        "IoU building",
        "comparison.png",
        "minutes in all",
    ):
        assert line in done.stdout
    picture = cv2.imread(str(tmp_path / "comparison.png"))
    assert picture.shape[0] > 300
    assert picture.shape[1] > 800
    for start in ("random", "pretrained"):
        results = json.loads((tmp_path / f"finetune_{start}/results.json").read_text())
        assert results["split"] == "test"
        assert results["config"]["train_cfg"]["train_data"]["fraction"] == 0.1
    names = [
        (tmp_path / f"finetune_{s}/train_tiles.txt").read_text() for s in ("random", "pretrained")
    ]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory) -> Path:
    """Drawn scenes of Levir_CS, prepared."""
    folder = tmp_path_factory.mktemp("clouds")
    scenes = ["--like", "levir_cs", "--scenes", "12", "--size", "160"]
    command("tools/make_demo_scenes.py", "--output", folder / "scenes", *scenes)
    tiles = ["--output", folder / "tiles", "--tile", "64"]
    command("tools/prepare.py", "levir_cs", "--source", folder / "scenes", *tiles)
    return folder / "tiles"


def seg_levir(clouds: Path, *more: str) -> subprocess.CompletedProcess:
    data = [
        f"train_cfg.{split}_data.{kind}_path={clouds}/{kind}s/{split}"
        for split in ("train", "val", "test")
        for kind in ("image", "label")
    ]
    return command(
        "finetune_seg.py", "--config_file", "configs/seg_levir_cs_vgg16_cfg.py", *more,
        "--set", *data, "train_cfg.batch_size=2", "train_cfg.train_data.crop_size=64",
        "train_cfg.num_workers=0", "train_cfg.precision=fp32",
    )  # fmt: skip


def test_levir_cs_takes_weights_of_three_bands(clouds, tmp_path):
    torch.save(BACKBONES["vgg16_bn"]().state_dict(), tmp_path / "backbone.pth")
    done = seg_levir(clouds, "--backbone", tmp_path / "backbone.pth", "--dry_run")
    assert "widened from 3 to 4 bands" in done.stdout + done.stderr


def test_levir_cs_takes_pre_training_of_its_own_four_bands(clouds, tmp_path):
    command(
        "train.py", "--config_file", "configs/vr_vgg16_inapinting_agr_examplar_cfg.py",
        "--checkpoints_path", tmp_path / "pre", "--log_path", tmp_path / "pre/log",
        "--set", "backbone_cfg.in_channels=4", "inpainting_head_cfg.out_channels=4",
        f"train_cfg.train_data.data_path={clouds}/images/train",
        "train_cfg.train_data.data_format=*.tif", "train_cfg.train_data.max_value=1023",
        "train_cfg.train_data.img_size=64", "train_cfg.train_data.post_transforms_cfg=None",
        "train_cfg.num_epoch=None", "train_cfg.num_step=1", "train_cfg.batch_size=2",
        "train_cfg.device=cpu", "train_cfg.optimizer={'name': 'SGD', 'lr': 0.001}",
    )  # fmt: skip
    card = json.loads((tmp_path / "pre/backbone.json").read_text())
    assert card["in_channels"] == 4
    assert card["max_value"] == 1023
    done = seg_levir(clouds, "--backbone", tmp_path / "pre/backbone.pth", "--dry_run")
    assert "widened" not in done.stdout + done.stderr
