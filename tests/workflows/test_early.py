"""What a whole run would fail on is told before its first step, by a dry run too."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_tiles

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import require_folder
from SSLRemoteSensing.workflows import segmentation
from SSLRemoteSensing.workflows.doctor.examine import examine
from SSLRemoteSensing.workflows.doctor.findings import FAIL, Report
from SSLRemoteSensing.workflows.finetuning import finetune


@pytest.fixture
def own(tmp_path) -> Path:
    """Tiles that a test may spoil."""
    return draw_tiles(tmp_path / "own", 6, size=32)


def four_bands(folder: Path) -> None:
    for file in (folder / "images").iterdir():
        cv2.imwrite(str(file.with_suffix(".png")), np.full((32, 32, 4), 9, np.uint8))
        file.unlink()


def drop_label(folder: Path) -> None:
    (folder / "labels/tile_004.png").unlink()


def empty_image(folder: Path) -> None:
    (folder / "images/tile_000.jpg").write_bytes(b"")


def misspell(folder: Path) -> None:
    (folder / "labels").rename(folder / "lables")


def empty(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()


def ignore_all(folder: Path) -> None:
    for file in (folder / "labels").iterdir():
        cv2.imwrite(str(file), np.full((32, 32), 255, np.uint8))


SPOILT = [
    ("test", misspell, "test_data: label_path .*/labels: no such folder"),
    ("test", shutil.rmtree, "test_data: .*no such"),
    ("test", empty, "test_data: image_path .*: no image"),
    ("test", drop_label, "test_data: label_path .*: 1 of 6 images have no label"),
    ("test", four_bands, "test_data: .* 4 bands where 2 are expected"),
    ("test", empty_image, "test_data: image .*tile_000.jpg: is empty"),
    ("val", four_bands, "val_data: .* 4 bands where 2 are expected"),
    ("val", ignore_all, "val_data: .*no pixel"),
]


@pytest.mark.parametrize("dry_run", [False, True], ids=["run", "dry run"])
@pytest.mark.parametrize(("split", "spoil", "said"), SPOILT)
def test_tiles_that_cannot_be_scored_are_told_first(
    seg_config, tmp_path, own, split, spoil, said, dry_run
):
    spoil(own)
    paths = dict(image_path=f"{own}/images", label_path=f"{own}/labels")
    seg_config["train_cfg"][f"{split}_data"] = paths
    if "4 bands" in said:  # three would take four for colours and alpha
        paths["bands"] = (1, 2, 3, 4)
        seg_config["backbone_cfg"] |= dict(in_channels=2, pretrained=False)
        for part in ("train_data", "val_data", "test_data"):
            if part != f"{split}_data":
                seg_config["train_cfg"][part]["bands"] = (1, 2)
    with pytest.raises(UserError, match=f"train_cfg.{said}"):
        finetune(seg_config, dry_run)
    assert not (tmp_path / "seg").exists()


def test_no_label_and_one_image_of_the_test_tiles_are_opened_before(seg_config, own):
    for file in [*sorted((own / "images").iterdir())[1:], *(own / "labels").iterdir()]:
        file.write_bytes(b"")
    paths = dict(image_path=f"{own}/images", label_path=f"{own}/labels")
    seg_config["train_cfg"]["test_data"] = paths
    segmentation.open_finetuning(seg_config)


@pytest.mark.parametrize(
    ("palette", "said"),
    [
        ([(1, 2, 3), (4, 5, 256)], r"\(4, 5, 256\) is no colour"),
        ([(1, 2, 3), (-1, 5, 6)], r"\(-1, 5, 6\) is no colour"),
        ([(1, 2, 3)], "1 colours for 2 classes"),
        ([(1, 2, 3), (4, 5)], "palette"),
        ([(1, 2, 3), (4, 5, 0.5)], "palette"),
    ],
)
def test_a_palette_that_no_picture_could_have_is_refused(seg_config, palette, said):
    with pytest.raises(UserError, match=said):
        segmentation.check_segmentation(seg_config | {"palette": palette})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file/run", "file is a file, not a folder"),
        ("file", "file is a file, not a folder"),
        ("x" * 300, "more than 255 bytes"),
    ],
)
@pytest.mark.parametrize("key", ["checkpoints_path", "log_path"])
def test_folders_that_cannot_be_written_to_are_told_by_a_dry_run(
    seg_config, tmp_path, monkeypatch, key, path, said
):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    part = "log" if key == "log_path" else "checkpoints"
    seg_config["train_cfg"][part][key] = path
    with pytest.raises(UserError, match=f"{key}=.*{said}"):
        finetune(seg_config, dry_run=True)


def test_a_disk_without_room_is_told_by_run_and_dry_run(seg_config, monkeypatch, tmp_path):
    usage = shutil._ntuple_diskusage(2**40, 2**40, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"checkpoints take .* of 0\.00 free: make room"):
            finetune(seg_config, dry_run)
    assert not list(tmp_path.rglob("*.pth"))


def test_a_dry_run_refuses_the_checkpoint_of_another_network(seg_config):
    finetune(seg_config)
    finetune(seg_config, dry_run=True)
    other = seg_config | {"classes": ("a", "b")}
    with pytest.raises(UserError, match=r"latest.pth: classes was .* set another checkpoints_path"):
        finetune(other, dry_run=True)


def test_a_folder_that_will_be_made_is_no_fault(tmp_path):
    require_folder(tmp_path / "a/b/c", "log_path")
    assert os.listdir(tmp_path) == []


def test_the_doctor_finds_a_misspelt_test_folder(seg_config, own, capsys):
    misspell(own)
    paths = dict(image_path=f"{own}/images", label_path=f"{own}/labels")
    seg_config["train_cfg"]["test_data"] = paths
    report = Report(None)
    examine(seg_config, report, 1, 1)
    assert report.count(FAIL) >= 1
    assert "label_path" in capsys.readouterr().out
