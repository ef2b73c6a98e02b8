"""tools/doctor.py: each finding on data where it is true, and a clean run where nothing is."""

import contextlib
import io
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
import rasterio
import torch
from calls import command
from conftest import ROOT, draw_tiles
from drawn import Done, png_chunk, write_tiff
from tqdm import tqdm

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import override
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import find_images, leave_out
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings, find_pairs
from SSLRemoteSensing.workflows.doctor import images as doctor_images
from SSLRemoteSensing.workflows.doctor import run as doctor_run
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import check_images, examine_image, find_split
from SSLRemoteSensing.workflows.pretraining import open_images
from SSLRemoteSensing.workflows.segmentation import open_network


def call(script: str, config: dict, folder: Path, *arguments) -> Done:
    """A command in this process, which is quicker than to start one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command(script, config, folder, *map(str, arguments))
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture
def doctor(tmp_path):
    """Examine a config; status, report, and the lines that are marked 'ok', 'warn' and 'FAIL'."""

    def examine(config: dict, *arguments) -> SimpleNamespace:
        done = call("tools/doctor.py", config, tmp_path, "--workers", "2", *arguments)
        lines = done.stdout.splitlines()
        marked = {
            name: "\n".join(line for line in lines if line.startswith(f"  {mark}  "))
            for name, mark in (("ok", "ok  "), ("warned", "warn"), ("failed", "FAIL"))
        }
        said = dict(status=done.returncode, out=done.stdout, err=done.stderr)
        return SimpleNamespace(**said, **marked)

    return examine


@pytest.fixture
def own(tmp_path) -> Path:
    """Tiles that a test may spoil, as the configs name them."""
    return draw_tiles(tmp_path / "own", 24)


@pytest.fixture
def pretext(pretext_config, own) -> dict:
    """One small head alone: a step takes a third of the time."""
    pretext_config |= dict(inpainting_head_cfg=None, agr_head_cfg=None)
    data = dict(data_path=str(own / "images"), data_format="*")
    pretext_config["train_cfg"]["train_data"] |= data
    return pretext_config


@pytest.fixture
def seg(seg_config, own) -> dict:
    for name in ("train", "val", "test"):
        paths = dict(image_path=str(own / "images"), label_path=str(own / "labels"))
        seg_config["train_cfg"][f"{name}_data"] |= paths
    return seg_config


def png(path: Path, width: int, height: int) -> Path:
    """A PNG of a hundred bytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def truncate(*files: Path) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:-200])


def listed_files(folder: Path) -> list[str]:
    """The names that exclude.txt has."""
    lines = (folder / "exclude.txt").read_text().splitlines()
    return sorted(Path(line).name for line in lines if not line.startswith("#"))


# ------------------------------------------------------------------------------- nothing is wrong


def test_a_sound_pretraining_run_gets_0_and_nothing_is_written(run, pretext_config, tmp_path):
    done = run("tools/doctor.py", pretext_config, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no bar where it is no terminal
    assert "FAIL" not in done.stdout
    for text in ("machine\n", "network\n", "images\n", "duplicates\n", "folders\n", "a step\n"):
        assert text in done.stdout
    assert "all 24 images can be read" in done.stdout
    assert "3 bands uint8 (24 files)" in done.stdout
    assert re.search(r"one step: [\d.]+ s, peak memory [\d.]+ GiB", done.stdout)
    assert re.search(r"12 of 12 steps are left, [\d.]+ h", done.stdout)
    assert "nothing would fail: 0 to mend" in done.stdout
    assert not (tmp_path / "run").exists()


def test_images_without_a_config_file_are_examined_as_pretraining_plans_them(
    own, tmp_path, monkeypatch
):
    """What it says to run next is run; nothing is written but the folder that is asked for."""
    monkeypatch.chdir(tmp_path)
    truncate(own / "images/tile_003.jpg")
    (own / "images/tile_009.jpg").write_bytes(b"")
    flags = ["--images", own / "images", "--preset", "small", "--epochs", 2, "--bands", 3, 2, 1]
    flags += ["--scale", -10, 255]
    flags += ["--set", "train_cfg.device=cpu", "train_cfg.batch_size=4"]
    skip, before = "train_cfg.train_data.on_bad_image=skip", set(tmp_path.rglob("*"))
    done = call("tools/doctor.py", None, tmp_path, *flags)
    assert done.returncode == 2
    assert "tile_009.jpg: is empty; replace or remove it, or pass over it: the same" in done.stderr
    assert set(tmp_path.rglob("*")) == before
    done = call("tools/doctor.py", None, tmp_path, *flags, skip, "--output", "findings")
    assert done.returncode == 1, done.stderr  # more than one in a hundred
    assert "length: 2 epochs of 6 steps" in done.stdout
    assert listed_files(tmp_path / "findings") == ["tile_003.jpg", "tile_009.jpg"]
    assert "  checkpoints_path=RUN: will be made" in done.stdout
    exclude = "train_cfg.train_data.exclude=findings/exclude.txt"
    done = call("tools/doctor.py", None, tmp_path, *flags, exclude, "--run", "my run")
    assert done.returncode == 0, done.stdout
    assert "train: all 22 images can be read" in done.stdout
    assert set(tmp_path.rglob("*")) - before == {
        tmp_path / name for name in ("findings", "findings/exclude.txt", "findings/doctor.json")
    }
    (following,) = [x for x in done.stdout.splitlines() if x.startswith("next: ")]
    words = shlex.split(following)[3:]
    assert words[2:4] == ["--output", "my run"]
    done = call("train.py", None, tmp_path, *words, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "22 images, 5 steps of 4 an epoch, 10 steps in all" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "--config_file or --images: give one of them"),
        ("--preset small", "--preset: goes with --images, which is not given"),
        ("--images x --config_file y", "--config_file: does not go with --images"),
        ("--images x --backbone random", "--backbone: does not go with --images"),
        ("--images x --log_path y", "--log_path: does not go with --images"),
        ("--images none", "--images none: no such file or folder"),
    ],
)
def test_a_mistake_in_the_doctor_s_flags_is_one_line(tmp_path, flags, said):
    done = call("tools/doctor.py", None, tmp_path, *flags.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {said}")


def test_a_sound_fine_tuning_run_gets_0_and_no_label_is_checked_twice(
    doctor, seg_config, tmp_path, monkeypatch
):
    again = mock.Mock(side_effect=AssertionError)
    monkeypatch.setattr("SSLRemoteSensing.data.segmentation.check_labels", again)
    found = doctor(seg_config, "--backbone", "random")
    assert (found.status, found.failed) == (0, ""), found.out
    assert "train: all 13 labels are there" in found.ok
    assert "train: values 0, 1" in found.ok
    assert re.search(r"val: other \d+\.\d+%, building \d+\.\d+%", found.ok)
    assert "train and test share no image" in found.ok
    assert "6 of 6 steps are left" in found.ok
    assert not (tmp_path / "seg").exists()


def test_the_tiles_of_a_probe_are_opened_and_with_imagenet_is_taken(doctor, pretext, tiles):
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    small = dict(classes=("other", "roof"), train_tiles=4, val_tiles=4, pixels=32)
    pretext["train_cfg"]["probe"] = paths | small
    pretext["backbone_cfg"]["pretrained"] = "nowhere.pth"
    found = doctor(pretext, "--with_imagenet", "false")  # as train.py takes it
    assert (found.status, found.failed) == (0, ""), found.out
    assert "probe: fitted on 128 pixels of 4 tiles, scored on 4 tiles, 32 x 32" in found.ok
    pretext["train_cfg"]["probe"]["label_path"] = "nowhere"
    found = doctor(pretext, "--with_imagenet", "false")
    assert found.status == 1
    assert found.failed == "  FAIL  train_cfg.probe: label_path nowhere: no such folder"
    assert "one step:" in found.ok


def test_a_mistake_in_config_or_flags_is_one_line_and_2(doctor, pretext):
    for flags, said in (
        (("--set", "train_cfg.batch_sise=2"), "train_cfg: unknown key 'batch_sise', did you mean"),
        (("--workers", "0"), "--workers 0: must be at least 1"),
    ):
        found = doctor(pretext, *flags)
        assert (found.status, found.err.count("\n")) == (2, 1)
        assert found.err.startswith(f"error: {said}")


def test_a_gpu_that_is_not_used_or_not_well_is_told(monkeypatch):
    """Without a GPU, as torch would say it of one."""
    section = Section("machine")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(doctor_run.machine, "device_name", lambda: "a GPU")
    doctor_run.check_machine({"device": "cpu"}, section)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 8 * 2**30))
    monkeypatch.setattr(doctor_run.machine, "choose_device", torch.device)
    monkeypatch.setattr(doctor_run.machine, "has_fast_bf16", lambda device: True)
    doctor_run.check_machine({"device": "cuda"}, section)
    warnings = [finding.text for finding in section.findings if finding.mark == "warning"]
    assert ["train_cfg.device=auto" in warnings[0], "1.0 of 8.0 GiB" in warnings[1]] == [True, True]
    assert "train_cfg.precision=auto" in warnings[2]


def test_images_that_load_longer_than_a_step_ask_for_workers(doctor, pretext, monkeypatch):
    load = doctor_run.load_batch
    monkeypatch.setattr(doctor_run, "load_batch", lambda *args: (load(*args)[0], 1000.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    assert "set train_cfg.num_workers, up to 4" in doctor(pretext, "--processes", "2").warned


def test_a_step_that_memory_has_no_room_for_says_what_to_set(doctor, pretext, monkeypatch):
    full = mock.Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory."))
    monkeypatch.setattr(doctor_run, "measure_step", full)
    pretext["train_cfg"]["batch_size"] = 8
    found = doctor(pretext)
    assert found.status == 1
    assert "--set train_cfg.batch_size=4 train_cfg.accumulate_steps=2" in found.failed


def test_only_files_that_the_run_replaces_count_as_room(pretext, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    opened, marks = doctor_run.open_network(pretext, 1), []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    for name in ("mine.pth", "latest.pth"):
        with (tmp_path / "run" / name).open("wb") as file:
            file.truncate(2**40)  # takes no room
        section = Section("folders")
        doctor_run.check_disk(opened, section)
        marks += [finding.mark for finding in section.findings]
    assert marks == ["fail", "ok"]


# --------------------------------------------------------------------- one fault, and what is said


def add_small_image(own: Path) -> None:
    cv2.imwrite(str(own / "images/small.png"), np.full((20, 50, 3), 7, np.uint8))


def copy_in_other_format(own: Path) -> None:
    cv2.imwrite(str(own / "images/again.png"), cv2.imread(str(own / TILE)))


def cut_a_tile(own: Path) -> None:
    for file in (own / "images/tile_001.jpg", own / "labels/tile_001.png"):
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:40])


def add_one_to_labels(own: Path) -> None:
    for file in (own / "labels").iterdir():
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) + 1)


TILE, TILE_2 = "images/tile_004.jpg", "images/tile_005.jpg"
LONG = ("train_cfg.num_epoch=10000000", "train_cfg.checkpoints.max_keep=10000000")
CHECKPOINTS = "train_cfg.checkpoints.checkpoints_path"
WATER = ("classes=('other', 'building', 'water')", "palette=None")
CODED = ("train_cfg.val_data.label_offset=-1", "train_cfg.test_data.label_offset=-1")
CODED += ("train_cfg.train_data.label_codes=(1, 2)",)
SKIPPING = "train_cfg.train_data.on_bad_image=skip"
MASKS = [f"train_cfg.{name}_data.label_format={{stem}}_mask.png" for name in ("train", "val")]
# Which config, what is done to its tiles, keys that are set; what is said, by mark.
FINDINGS = {
    "small": ("pretext", add_small_image, (), {
        "ok": "50 x 20 to 64 x 64 pixels, median 64 x 64",
        "warned": "1 images are smaller than 32 pixels and are enlarged"}),
    "copied": ("pretext", copy_in_other_format, (), {
        "warned": "train: 1 images are there again", "out": "again.png = "}),
    "shared": ("seg", lambda own: shutil.copy(own / TILE, own / "images/tile_021.jpg"), (), {
        "warned": "train and test share 1 images", "out": "tile_004.jpg = ",
        "ok": "train and val share no image"}),
    "pipe": ("pretext", lambda own: os.mkfifo(own / "images/pipe.jpg"), (), {
        "failed": "1 of 25 images cannot be used", "out": "pipe.jpg: is no regular file"}),
    "cropped": ("seg", cut_a_tile, (), {"ok": "train: 64 x 40 to 64 x 64"}),
    "sizes": ("seg", cut_a_tile, ("train_cfg.train_data.crop_size=None",), {
        "failed": "tiles of a batch must be of one size; set crop_size"}),
    "skipped": ("pretext", lambda own: truncate(own / TILE), (SKIPPING,), {
        "warned": "1 of 24 images cannot be used; training passes over them"}),
    "too many": ("pretext", lambda own: truncate(own / TILE, own / TILE_2), (SKIPPING,), {
        "failed": "2 of 24 images cannot be used; mend or exclude them: they are more than 1 %"}),
    "absent class": ("seg", None, WATER, {
        "warned": "train: no pixel is water; it cannot be learned",
        "out": "test: no pixel is water; it has no score there"}),
    "coded": ("seg", add_one_to_labels, CODED, {"ok": "train: values 1, 2"}),
    "full disk": ("pretext", None, LONG, {
        "failed": "make room, or lower checkpoints.max_keep",
        "out": "10000002 checkpoints take"}),
    "long name": ("pretext", None, (f"{CHECKPOINTS}=there_is_no/{'a' * 300}",), {
        "failed": "a name of more than 255 bytes; shorten it"}),
    "no folder": ("pretext", None, (f"{CHECKPOINTS}=OWN/images/tile_000.jpg/run",), {
        "failed": "tile_000.jpg is a file, not a folder"}),
    "one image": ("pretext", None, ("train_cfg.batch_size=1",), {
        "failed": "the contrastive loss compares images of a batch",
        "ok": "all 24 images can be read"}),  # the rest is told all the same
    "one value": ("seg", None, ("train_cfg.batch_size=1",), {
        "failed": "train_cfg.batch_size: batch normalization has a single value"}),
    "few images": ("pretext", None, ("train_cfg.accumulate_steps=7",), {
        "failed": "(x accumulate_steps=7, x 1 processes): only 24 images"}),
    "two at once": ("seg", None, ("train_cfg.val_data.image_path=no", "train_cfg.device=cuda:99"), {
        "failed": "train_cfg.val_data: image_path no", "out": "cuda:99",
        "ok": "train: all 13 images can be read"}),
    "no weights": ("seg", None, ("backbone_cfg.pretrained=nowhere.pth",), {
        "failed": "weights nowhere.pth: no such file"}),
    "bands": ("pretext", None, ("backbone_cfg.in_channels=4",), {
        "failed": "most images have one fault, so the config is probably what is wrong",
        "out": "has 3 bands where 4 are expected", "warned": "not measured"}),
    "label names": ("seg", None, MASKS, {
        "failed": "train: 13 of 13 labels are missing, so the config is probably"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_a_fault_is_found_and_said(doctor, own, tmp_path, request, name):
    config, spoil, keys, said = FINDINGS[name]
    if spoil is not None:
        spoil(own)
    keys = [key.replace("OWN", str(own)) for key in keys]
    flags = ["--set", *keys] if keys else []
    found = doctor(request.getfixturevalue(config), "--output", tmp_path, *flags)
    assert found.status == ("failed" in said), found.out + found.err
    assert (found.failed != "") == ("failed" in said)
    for mark, text in said.items():
        assert text in getattr(found, mark), found.out
    # A fault of the config excludes nothing.
    assert len(listed_files(tmp_path)) == {"pipe": 1, "skipped": 1, "too many": 2}.get(name, 0)


# ----------------------------------------------------------------------------------------- images


def test_bad_images_are_all_found_and_their_list_makes_training_pass(
    doctor, pretext, own, tmp_path
):
    truncate(own / "images/tile_000.jpg")
    (own / "images/tile_001.jpg").write_bytes(b"")
    pixels = np.zeros((64, 64, 4), np.uint8)
    write_tiff(own / "images/five.tif", np.zeros((5, 64, 64), np.uint8))
    cv2.imwrite(str(own / "images/alpha.png"), pixels)
    cv2.imwrite(str(own / "images/grey.png"), pixels[:, :, 0])
    png(own / "images/bomb.png", 100_000, 100_000)
    found = doctor(pretext, "--output", tmp_path / "out")
    assert found.status == 1
    assert "4 of 28 images cannot be used" in found.failed
    for fault in ("bomb.png: claims too many pixels", "five.tif: has 5 bands where 3 are expected"):
        assert fault in found.out
    assert "tile_000.jpg: is truncated" in found.out
    assert "tile_001.jpg: is empty" in found.out
    assert "bands differ: 3 bands uint8" in found.warned
    assert "one step:" in found.ok  # on the others

    bad_names = ["bomb.png", "five.tif", "tile_000.jpg", "tile_001.jpg"]
    assert listed_files(tmp_path / "out") == bad_names
    report = json.loads((tmp_path / "out/doctor.json").read_text())
    assert (report["complete"], report["would_fail"]) == (True, True)
    assert [finding["mark"] for finding in report["sections"]["images"]].count("fail") == 1

    pretext["train_cfg"]["train_data"]["data_format"] = ["tile*", "five.tif"]
    assert call("train.py", pretext, tmp_path, "--dry_run").returncode == 2
    override(pretext, f"train_cfg.train_data.exclude={tmp_path}/out/exclude.txt")
    done = call("train.py", pretext, tmp_path, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("22 images")
    pretext["train_cfg"]["train_data"]["data_format"] = "*"
    found = doctor(pretext)
    assert (found.status, found.failed) == (0, "")
    assert "all 24 images can be read" in found.ok


def test_a_claimed_size_is_never_decoded(own, monkeypatch):
    files = [png(own / "images/a.png", 100_000, 100_000)]
    jpeg = bytearray((own / "images/tile_000.jpg").read_bytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    files.append(own / "images/b.jpg")
    files[1].write_bytes(jpeg)
    files.append(sparse_tiff(own / "images/c.tif", 100_000, "uint8"))
    monkeypatch.setattr(doctor_images, "read_image", mock.Mock(side_effect=AssertionError))
    for file in files:
        facts = doctor_images.examine_image(str(file), SimpleNamespace(in_channels=3))
        assert "claim" in facts.fault
        assert facts.digest is None


def test_an_image_that_memory_has_no_room_for_is_not_decoded(own, pretext):
    """A sparse TIFF of the size of this machine's memory, up to the pixels that readers take."""
    side = min(32_000, math.isqrt(int(doctor_images.available_memory()) // 9) + 1)
    path = sparse_tiff(own / "images/large.tif", side, "float64")
    pretext["train_cfg"]["train_data"]["max_value"] = 1
    facts = examine_image(str(path), find_split(pretext, "train"))
    assert re.search("more than memory has room for|more than 8589934592 bytes", facts.fault)
    assert facts.digest is None


def sparse_tiff(path: Path, side: int, dtype: str) -> Path:
    place = dict(crs="EPSG:32633", transform=rasterio.Affine(2, 0, 9, 0, -2, 9))
    shape = dict(height=side, width=side, count=3, dtype=dtype, blockysize=64)
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, **shape, **place):
        return path


def test_broken_images_in_a_row_are_found_before_the_loop_stops_at_them(pretext, tmp_path):
    """20 of 2,000 are no more than 1 %, but side by side they stop a run; end and begin meet."""
    folder = tmp_path / "rows"
    folder.mkdir()
    tiles = sorted((draw_tiles(tmp_path / "few", 4, size=32) / "images").iterdir())
    files = [folder / f"{number:05d}.jpg" for number in range(2000)]
    for number, file in enumerate(files):
        os.link(tiles[number % 4], file)  # takes no room

    def told(broken: list[Path]) -> str:
        for file in broken:
            file.unlink()  # of several names for one file
            file.write_bytes(b"no image")
        section, split = Section("images"), find_split(pretext, "train")
        check_images(split, [examine_image(file, split) for file in split.images], section)
        return str(section)

    pretext["train_cfg"]["train_data"] |= dict(data_path=str(folder), on_bad_image="skip")
    assert "warn  train: 19 of 2000 images cannot be used" in told(files[-8:] + files[:11])
    assert "FAIL  train: 20 of 2000 images cannot be used" in told(files[11:12])
    dataset = open_images(pretext["train_cfg"]["train_data"], in_channels=3, seed=0)
    with pytest.raises(UserError, match="20 files in a row cannot be read"):
        dataset[(0, len(files) - 8)]


def test_tiles_that_a_fraction_drops_are_no_failure_and_their_classes_are_missed(doctor, seg, own):
    """Water is in one tile of thirteen, which the fraction does not keep; nor does it a bad one."""
    seg |= dict(classes=("other", "building", "water"), palette=None)
    seg["train_cfg"]["train_data"]["fraction"] = 0.15
    used = [Path(image).stem for image, _ in open_network(seg).open_split("train").pairs]
    names = [f"tile_{number:03d}" for number in range(13)]
    bad_name, wet_name = [name for name in names if name not in used][:2]
    truncate(own / f"images/{bad_name}.jpg")
    cv2.imwrite(str(own / f"labels/{wet_name}.png"), np.full((64, 64), 2, np.uint8))
    found = doctor(seg)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "1 of 13 images cannot be decoded; fraction drops them" in found.warned
    text = "train, the 2 tiles that fraction keeps: no pixel is water; it cannot be learned"
    assert text in found.warned
    assert "train: no pixel is water" not in found.warned
    truncate(own / f"images/{used[0]}.jpg")
    assert "1 of 13 images cannot be used" in doctor(seg).failed


def test_names_that_are_no_text_are_listed_and_left_out_again(doctor, pretext, own, tmp_path):
    folder = os.fsencode(own / "images")
    odd = [b"\xff.jpg", b" blank .jpg ", b"#1.jpg", b"line\x0bfeed.jpg", b"cut\noff.jpg"]
    for name in odd:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"no image")
    found = doctor(pretext, "--output", tmp_path / "out")
    assert "5 of 29 images cannot be used" in found.failed
    assert r"\udcff.jpg" in found.out
    listed = tmp_path / "out/exclude.txt"
    assert listed.read_bytes().count(b"no line can hold") == 1
    (own / "images/cut\noff.jpg").unlink()
    override(pretext, f"train_cfg.train_data.exclude={listed}")
    found = doctor(pretext)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "all 24 images can be read" in found.ok


def test_a_part_that_crashes_loses_nothing_of_the_parts_before(
    doctor, pretext, own, tmp_path, monkeypatch
):
    truncate(own / "images/tile_000.jpg")
    monkeypatch.setattr(doctor_run, "check_disk", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        doctor(pretext, "--output", tmp_path / "out")
    assert str(own / "images/tile_000.jpg") in (tmp_path / "out/exclude.txt").read_text()
    report = json.loads((tmp_path / "out/doctor.json").read_text())
    assert (report["complete"], "images" in report["sections"]) == (False, True)


def test_a_progress_bar_is_shown_on_a_terminal_and_is_no_finding(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def work():
        list(tqdm(range(3), "reading", leave=False, disable=None))
        print("warning: odd", file=sys.stderr)

    monkeypatch.setattr(sys, "stderr", Terminal())
    section = Section("images")
    section.attempt(work)
    assert "reading" in sys.stderr.getvalue()
    assert [finding.text for finding in section.findings] == ["odd"]


# ----------------------------------------------------------------------------------------- labels


def test_faults_of_labels_are_all_found_and_can_be_excluded(doctor, seg, own, tmp_path):
    (own / "labels/tile_001.png").unlink()
    cv2.imwrite(str(own / "labels/tile_002.png"), np.zeros((64, 60), np.uint8))
    wrong = np.zeros((64, 64), np.uint8)
    wrong[:5] = 7
    cv2.imwrite(str(own / "labels/tile_003.png"), wrong)
    (own / "labels/tile_014.png").write_bytes(b"no label")
    png(own / "labels/tile_015.png", 90_000, 90_000)
    found = doctor(seg, "--output", tmp_path / "out")
    assert found.status == 1
    assert "train: 1 of 13 labels are missing" in found.failed
    assert "train: 1 of 13 labels are of another size than their image" in found.failed
    assert "tile_002.png: 60 x 64 pixels, its image tile_002.jpg 64 x 64" in found.out
    assert "train: values 7 are no classes, in 1 labels" in found.failed
    assert "val: 2 of 5 labels cannot be read" in found.failed
    assert "train: other" in found.ok
    assert found.failed.count("7") == 1  # said once
    assert "one step:" in found.ok
    for name in ("train", "val", "test"):
        override(seg, f"train_cfg.{name}_data.exclude={tmp_path}/out/exclude.txt")
    found = doctor(seg)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "train: all 10 labels" in found.ok
    assert "val: all 3 labels" in found.ok
    assert "name no file" not in found.warned  # one list for all splits


# ------------------------------------------------------------------------------ folders and the run


def examine_folder(folder: Path) -> str:
    section = Section("folders")
    doctor_run.check_run_folder(folder, None, section)
    return str(section)


def test_a_folder_that_another_run_writes_to_fails(tmp_path):
    code = "import sys; from pathlib import Path\n"
    code += "from SSLRemoteSensing.training.run_folder import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with subprocess.Popen(words, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        before = (tmp_path / ".lock").read_text()
        said = f"FAIL  {tmp_path}: another run is writing there (process {other.pid}"
        for key in ("checkpoints_path", "log_path"):
            section = Section("folders")
            assert doctor_run.check_folder(tmp_path, key, section)
            assert said in str(section)
            assert f"wait for it, or set another {key}" in str(section)
        assert (tmp_path / ".lock").read_text() == before
        other.communicate("")
    section = Section("folders")
    assert doctor_run.check_folder(tmp_path, "log_path", section)
    assert "FAIL" not in str(section)
    assert not list(tmp_path.iterdir())


def test_going_on_is_foreseen_and_a_damaged_or_foreign_checkpoint_found(doctor, pretext, tmp_path):
    pretext["train_cfg"]["num_epoch"] = 1
    assert call("train.py", pretext, tmp_path).returncode == 0
    folder = tmp_path / "run"
    latest = folder / "latest.pth"
    pretext["train_cfg"]["num_epoch"] = 3
    found = doctor(pretext)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "whole, step 6, epoch 1" in found.ok
    assert "12 of 18 steps are left" in found.ok
    assert "going on with train_cfg.num_epoch=3, so far 1" in found.warned
    found = doctor(pretext, "--set", "train_cfg.optimizer.name=AdamW")
    assert found.status == 1
    assert "train_cfg.optimizer.name was 'Adam' and is now 'AdamW'" in found.failed
    names = sorted(file.name for file in folder.iterdir())
    data = latest.read_bytes()
    latest.unlink()  # no second name of the epoch's file
    latest.write_bytes(data[: len(data) // 2])
    assert "warn" in examine_folder(folder)
    assert "training would go back to epoch_0001.pth, step 6" in examine_folder(folder)
    latest.rename(tmp_path / "away")
    said = f"warn  {latest}: is not there; training would go back to epoch_0001.pth, step 6"
    assert said in examine_folder(folder)
    (tmp_path / "away").rename(latest)
    assert sorted(file.name for file in folder.iterdir()) == names
    (folder / "epoch_0001.pth").unlink()
    assert re.search("FAIL .* no epoch_.*.pth beside it is whole", examine_folder(folder))
    checkpoints.write(latest, {"weights": 1})
    assert re.search("FAIL .* is no checkpoint of a run", examine_folder(folder))


def test_several_processes_share_the_images(doctor, pretext):
    pretext["train_cfg"]["global_batch_size"] = 16
    found = doctor(pretext, "--processes", "4")
    assert (found.status, found.failed) == (0, ""), found.out
    assert "4 processes of batch_size 4 each; one is measured" in found.ok
    assert "24 images, 1 steps of 16 an epoch" in found.ok
    assert "2 of 2 steps are left" in found.ok
    found = doctor(pretext, "--processes", "8", "--set", "train_cfg.accumulate_steps=2")
    assert "(x accumulate_steps=2, x 8 processes): only 24 images" in found.failed
    assert "must be a multiple of the 3 processes" in doctor(pretext, "--processes", "3").failed


# --------------------------------------------------------------------------------- the exclude list


def test_exclude_takes_relative_and_absolute_lines_and_comments(tiles, tmp_path, capsys):
    folder = tiles / "images"
    every = find_images(folder, "*.jpg")
    (tmp_path / "link").symlink_to(folder)
    listed = tmp_path / "exclude.txt"
    listed.write_text(
        f"# a comment\n\ntile_000.jpg\n./tile_001.jpg\n{folder}/tile_002.jpg\n"
        f"{tmp_path}/link/tile_003.jpg\n"
    )
    assert [*find_images(folder, "*.jpg", listed)] == every[4:]
    assert find_images(f"{tmp_path}/link/", "*.jpg", str(listed))[0].endswith("tile_004.jpg")
    assert [*find_images(folder, "tile_01*.jpg", listed)] == every[10:20]
    assert capsys.readouterr().err == ""
    listed.write_text("tile_000.jpg\ntile_0.jpg\n")
    assert [*find_images(folder, "*.jpg", listed)] == every[1:]
    assert "1 of 2 lines name no file, first tile_0.jpg" in capsys.readouterr().err


def test_an_exclude_list_that_is_wrong_is_refused(tiles, tmp_path):
    folder, listed = tiles / "images", tmp_path / "all.txt"
    every = find_images(folder, "*.jpg")
    texts = {b"": "cannot be read", "\n".join(every).encode(): "leaves none", b"a\0b": "no text"}
    for text, fault in texts.items():
        if text:
            listed.write_bytes(text)
        with pytest.raises(UserError, match=f"exclude .*all.txt: .*{fault}"):
            leave_out(every, folder, listed)
    listed.write_text("\n".join(every))
    with pytest.raises(UserError, match=r"exclude .*all.txt: leaves none"):
        SegmentationDataset(TileSettings(str(folder), str(tiles / "labels"), exclude=listed), 2)


def test_a_new_list_holds_what_the_config_excludes_already(doctor, pretext, own, tmp_path):
    """It takes the place of the old one in the command that is printed."""
    for name in ("tile_000", "tile_001"):
        (own / f"images/{name}.jpg").write_bytes(b"")
    (tmp_path / "old.txt").write_text("\ufefftile_000.jpg\r\n")
    pretext["train_cfg"]["train_data"]["exclude"] = str(tmp_path / "old.txt")
    found = doctor(pretext, "--output", tmp_path / "out")
    assert "1 of 23 images cannot be used" in found.failed
    assert listed_files(tmp_path / "out") == ["tile_000.jpg", "tile_001.jpg"]


def test_a_label_beside_an_excluded_image_does_not_become_one(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / name.replace(".", "_label.")), np.zeros((8, 8), np.uint8))
    (tmp_path / "exclude.txt").write_text("a.png\n")
    paths = (str(tmp_path), str(tmp_path), "*.png", "{stem}_label.png")
    settings = TileSettings(*paths, exclude=str(tmp_path / "exclude.txt"))
    assert [Path(image).name for image, _ in find_pairs(settings)[0]] == ["b.png"]
