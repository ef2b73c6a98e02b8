"""Both tasks on windows of scenes; what the doctor says of scenes, and that its remedies mend."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from calls import command
from drawn import draw_image, write_tiff
from rasterio.enums import Resampling
from tiny_run import entries

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.data import windows

UTM = rasterio.Affine(0.5, 0, 366000, 0, -0.5, 5806000)
TILED = dict(tiled=True, blockxsize=64, blockysize=64, compress="deflate", interleave="pixel")
TILED |= dict(crs="EPSG:32633", transform=UTM)


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    windows.close_files()


def advised(said: str, folder: Path, *more: str) -> None:
    """Do in `folder` what the last line with a command of rio in it advises."""
    line = re.findall(r"rio [^;\n]+", said)[-1]
    words = [*shlex.split(line), *more]
    rio = str(Path(sys.executable).with_name("rio"))
    done = subprocess.run([rio, *words[1:]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def draw_pair(folder: Path, name: str, size: tuple[int, int], **profile) -> None:
    """A scene in grey of four levels, which are its classes; its lowest rows hold no data."""
    classes = np.indices(size).sum(0) // 40 % 4
    image = (classes * 60 + 20 + draw_image(1, size)[0] % 20).astype(np.uint8)
    image[-8:] = 0
    profile = {k: v for k, v in (TILED | dict(nodata=0) | profile).items() if v is not None}
    write_tiff(folder / f"images/{name}.tif", np.stack([image] * 3), **profile)
    profile.pop("nodata")
    write_tiff(folder / f"labels/{name}.tif", classes.astype(np.uint8), **profile)


@pytest.fixture
def scenes(tmp_path) -> Path:
    for name, size in (("train_a", (200, 180)), ("train_b", (120, 160)), ("val_a", (96, 96))):
        draw_pair(tmp_path / "scenes", name, size)
    return tmp_path / "scenes"


@pytest.fixture
def seg(seg_config, scenes) -> dict:
    """A linear probe on windows, scored on a whole scene."""
    seg_config |= dict(classes=list("abcd"), palette=None, decoder_cfg=dict(name="LinearProbe"))
    seg_config["backbone_cfg"] |= dict(pretrained=False)
    paths = dict(image_path=str(scenes / "images"), label_path=str(scenes / "labels"))
    paths |= dict(label_format="{stem}.tif")
    train_cfg = seg_config["train_cfg"]
    train_cfg["train_data"] = paths | dict(data_format="train*.tif", turns=True)
    train_cfg["train_data"] |= dict(windows=dict(size=64, per_scene=6))
    train_cfg["val_data"] = paths | dict(data_format="val*.tif")
    train_cfg |= dict(test_data=None, num_step=2)
    train_cfg["log"]["log_step"] = 1
    return seg_config


def test_fine_tuning_on_windows_trains_and_scores_whole_scenes(seg, tmp_path, capsys):
    seg["train_cfg"]["train_data"]["windows"]["gsd"] = 0.5
    assert command("finetune_seg.py", seg, tmp_path) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "labels of 2 of 2 train tiles, 1 val tiles" in out
    assert "12 images, 3 steps of 4 an epoch" in out
    logged = [entry for entry in entries(seg) if "redrawn" in entry]
    assert [entry["redrawn"] for entry in logged] == [0, 0]
    assert checkpoints.read(tmp_path / "seg/best.pth")["card"]["gsd"] == 0.5  # for its maps
    results = read_json(tmp_path / "seg/results.json")
    assert all(0 < scores["oa"] <= 1 for scores in results["protocols"].values())
    assert (tmp_path / "seg/train_tiles.txt").read_text() == "train_a.tif\ntrain_b.tif\n"


def test_val_scenes_of_another_distance_are_refused_until_they_are_scaled(
    seg, scenes, tmp_path, capsys
):
    """Whole scenes are scored as they are."""
    seg["train_cfg"]["train_data"]["windows"] = dict(size=64, gsd=1.0, per_scene=6)
    assert command("finetune_seg.py", seg, tmp_path, "--dry_run") == 2
    said = capsys.readouterr().err
    assert re.search(r"val_data: image .*val_a\.tif: has pixels of 0\.5 x 0\.5 m", said)
    assert said.count("error") == 1
    assert command("tools/doctor.py", seg, tmp_path) == 1
    assert "FAIL  train_cfg.val_data: image" in capsys.readouterr().out
    for kind, resampling in (("images", "average"), ("labels", "mode")):
        file = scenes / f"{kind}/val_a.tif"
        line = said.replace(f"{scenes}/images/val_a.tif", str(file)).replace("average", resampling)
        advised(line, tmp_path)
        (tmp_path / "scaled.tif").rename(file)
    assert command("finetune_seg.py", seg, tmp_path, "--dry_run") == 0, capsys.readouterr().err


@pytest.fixture
def pretext(pretext_config, scenes) -> dict:
    pretext_config |= dict(inpainting_head_cfg=None, agr_head_cfg=None)
    data = dict(data_path=str(scenes / "images"), data_format="train*.tif")
    pretext_config["train_cfg"]["train_data"] |= data | dict(windows=dict(size=64, per_scene=6))
    return pretext_config


def test_the_doctor_finds_nothing_on_scenes_in_blocks(pretext, seg, tmp_path, capsys):
    assert command("tools/doctor.py", pretext, tmp_path) == 0
    out = capsys.readouterr().out
    assert "0 warnings" in out
    assert "12 images, 3 steps of 4 an epoch" in out
    assert command("tools/doctor.py", seg, tmp_path, "--backbone", "random") == 0
    out = capsys.readouterr().out
    assert not re.search(r"warn .*(dear|min_valid|padded)", out)


def test_the_doctor_names_files_without_blocks_and_how_to_mend_them(seg, scenes, tmp_path, capsys):
    layout = dict(tiled=False, blockysize=900, blockxsize=None)
    draw_pair(scenes, "train_c", (900, 900), **layout)
    command("tools/doctor.py", seg, tmp_path, "--backbone", "random")
    out = capsys.readouterr().out
    for what in ("scenes", "labels"):
        assert f"1 of 3 {what} are dear to read windows of, up to 8 times the pixels" in out
    assert "train_c.tif has blocks of 900 x 900" in out
    for kind in ("labels", "images"):
        file = scenes / f"{kind}/train_c.tif"
        line = next(x for x in out.splitlines() if str(file) in x and "rio convert" in x)
        advised(line, tmp_path)
        with rasterio.open(file) as old, rasterio.open(tmp_path / "tiled.tif") as new:
            assert np.array_equal(old.read(), new.read())
            assert (old.nodata, old.transform) == (new.nodata, new.transform)
        (tmp_path / "tiled.tif").rename(file)
    command("tools/doctor.py", seg, tmp_path, "--backbone", "random")
    assert "dear" not in capsys.readouterr().out


def test_the_doctor_asks_for_overviews_where_they_would_be_read(pretext, scenes, tmp_path, capsys):
    draw_pair(scenes, "train_c", (600, 600))
    pretext["train_cfg"]["train_data"] |= dict(
        data_format="train_c.tif", windows=dict(size=64, gsd=2.0, per_scene=6)
    )
    command("tools/doctor.py", pretext, tmp_path)
    out = capsys.readouterr().out
    assert "1 of 1 scenes are much finer than gsd=2 and have no overviews" in out
    advised(out, tmp_path)
    with rasterio.open(scenes / "images/train_c.tif") as raster:
        assert raster.overviews(1) == [2, 4, 8, 16]
        assert raster.tags(ns="rio_overview")["resampling"] == Resampling.average.name
    command("tools/doctor.py", pretext, tmp_path)
    assert "overviews" not in capsys.readouterr().out


def test_the_doctor_tells_of_scenes_with_little_data_or_none(pretext, scenes, tmp_path, capsys):
    empty = np.zeros((3, 128, 128), np.uint8)
    write_tiff(scenes / "images/train_d.tif", empty, **TILED, nodata=0)
    empty[:, :40] = 200
    write_tiff(scenes / "images/train_c.tif", empty, **TILED, nodata=0)
    assert command("tools/doctor.py", pretext, tmp_path) == 1
    out = capsys.readouterr().out
    assert "train_d.tif: no pixel of it holds data; exclude it" in out
    assert "1 of 3 scenes hold data on less than min_valid=0.5 of their pixels" in out
    assert "train_c.tif: 31.2%" in out


def test_a_scene_that_cannot_be_placed_is_mended_as_the_message_says(pretext, tmp_path, capsys):
    pretext["train_cfg"]["train_data"]["windows"]["gsd"] = 1.0
    file = Path(pretext["train_cfg"]["train_data"]["data_path"]) / "train_a.tif"
    with rasterio.open(file) as raster:
        planes = raster.read()
    write_tiff(file, planes, **TILED | dict(crs=None))
    for _ in range(2):
        status = command("train.py", pretext, tmp_path, "--dry_run")
        said = capsys.readouterr().err
        if status == 0:
            break
        assert (status, said.count("\n")) == (2, 1)
        assert f"train_cfg.train_data: image {file}: has no coordinate system" in said
        advised(said, tmp_path)
    assert status == 0


def test_pictures_of_windows_are_of_their_scenes(pretext, seg, tmp_path, capsys):
    output = tmp_path / "page.png"
    for script, config, flags in (
        ("tools/show_pretext.py", pretext, ()),
        ("tools/show_labels.py", seg, ("--augmented",)),
        ("tools/show_labels.py", seg, ()),
    ):
        flags = ("--output", output, "--samples", "2", *flags)
        assert command(script, config, tmp_path, *flags) == 0, capsys.readouterr().err
        assert output.is_file()
        output.unlink()
