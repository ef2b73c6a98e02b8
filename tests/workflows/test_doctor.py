"""tools/doctor.py: each finding on data where it is true, and a clean run where nothing is."""

import contextlib
import io
import json
import math
import os
import re
import runpy
import shutil
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
import rasterio
from conftest import ROOT, draw_tiles
from drawn import Done, write_tiff
from tqdm import tqdm

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import override
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.data import segmentation
from SSLRemoteSensing.data.file_lists import find_images, leave_out
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings, find_pairs
from SSLRemoteSensing.workflows.doctor import images as doctor_images
from SSLRemoteSensing.workflows.doctor import machine, step
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import check_images, scan
from SSLRemoteSensing.workflows.doctor.subject import Split
from SSLRemoteSensing.workflows.doctor.trial import open_trial


@cache
def main_of(script: str):
    return runpy.run_path(str(ROOT / script))["main"]


def call(script: str, config: dict, folder: Path, *arguments) -> Done:
    """A command in this process, which is quicker than to start one."""
    file = folder / "config.py"
    file.write_text(f"config = {config!r}\n")
    given = ["--config_file", str(file), *map(str, arguments)]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [script, *given]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_command(main_of(script))
        except SystemExit as stop:
            status = stop.code or 0
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture
def doctor(tmp_path):
    """Examine a config; status, report, and the lines that are marked 'warn' and 'FAIL'."""

    def examine(config: dict, *arguments) -> SimpleNamespace:
        done = call("tools/doctor.py", config, tmp_path, "--workers", "2", *arguments)
        assert "Traceback" not in done.stderr
        lines = done.stdout.splitlines()
        marked = {
            mark: "\n".join(line for line in lines if line.startswith(f"  {mark}  "))
            for mark in ("ok  ", "warn", "FAIL")
        }
        return SimpleNamespace(
            status=done.returncode, out=done.stdout, err=done.stderr,
            ok=marked["ok  "], warned=marked["warn"], failed=marked["FAIL"],
        )  # fmt: skip

    return examine


@pytest.fixture
def own(tmp_path) -> Path:
    """Tiles that a test may spoil, as the configs name them."""
    return draw_tiles(tmp_path / "own", 24)


@pytest.fixture
def light(pretext_config) -> dict:
    """One small head alone: a step takes a third of the time."""
    return pretext_config | dict(inpainting_head_cfg=None, agr_head_cfg=None)


@pytest.fixture
def pretext(light, own) -> dict:
    light["train_cfg"]["train_data"] |= dict(data_path=str(own / "images"), data_format="*")
    return light


@pytest.fixture
def seg(seg_config, own) -> dict:
    for name in ("train", "val", "test"):
        paths = dict(image_path=str(own / "images"), label_path=str(own / "labels"))
        seg_config["train_cfg"][f"{name}_data"] |= paths
    return seg_config


def png(path: Path, width: int, height: int) -> Path:
    """A PNG of a hundred bytes that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    begin = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + begin + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


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
    assert re.search(r"12 of 12 steps are left, .* until about 20\d\d-", done.stdout)
    assert "nothing would fail: 0 to mend" in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_tiles_of_a_probe_are_opened(doctor, light, tiles):
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    small = dict(classes=("other", "roof"), train_tiles=4, val_tiles=4, pixels=32)
    light["train_cfg"]["probe"] = paths | small
    found = doctor(light)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "probe: fitted on 128 pixels of 4 tiles, scored on 4 tiles, 32 x 32" in found.ok
    light["train_cfg"]["probe"]["label_path"] = "nowhere"
    found = doctor(light)
    assert found.status == 1
    assert found.failed == "  FAIL  train_cfg.probe: label_path nowhere: no such folder"


def test_a_sound_fine_tuning_run_gets_0(doctor, seg_config, tmp_path):
    found = doctor(seg_config, "--backbone", "random")
    assert (found.status, found.failed) == (0, ""), found.out
    assert "train: all 13 labels are there" in found.ok
    assert "train: values 0, 1" in found.ok
    assert re.search(r"val: other \d+\.\d+%, building \d+\.\d+%", found.ok)
    assert "train and test share no image" in found.ok
    assert "6 of 6 steps are left" in found.ok
    assert not (tmp_path / "seg").exists()


def test_a_mistake_in_config_or_flags_is_one_line_and_2(doctor, light):
    found = doctor(light, "--set", "train_cfg.batch_sise=2")
    said = "error: train_cfg: unknown key 'batch_sise', did you mean 'batch_size'?\n"
    assert (found.status, found.err) == (2, said)
    found = doctor(light, "--workers", "0")
    assert (found.status, found.err) == (2, "error: --workers 0: must be at least 1\n")


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
    assert "claims too many pixels" in found.out
    assert "five.tif: has 5 bands where 3 are expected" in found.out
    assert "tile_000.jpg: is truncated" in found.out
    assert "tile_001.jpg: is empty" in found.out
    assert "bands differ: 3 bands uint8" in found.warned
    assert "one step:" in found.ok  # on the others

    listed = (tmp_path / "out/exclude.txt").read_text().splitlines()
    names = sorted(Path(line).name for line in listed if not line.startswith("#"))
    assert names == ["bomb.png", "five.tif", "tile_000.jpg", "tile_001.jpg"]
    kept = json.loads((tmp_path / "out/doctor.json").read_text())
    assert kept["would_fail"] is True
    assert [one["mark"] for one in kept["sections"]["images"]].count("fail") == 1

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


def test_bad_images_that_training_skips_are_no_failure(doctor, pretext, own, tmp_path):
    truncate(own / "images/tile_003.jpg")
    pretext["train_cfg"]["train_data"]["on_bad_image"] = "skip"
    found = doctor(pretext, "--output", tmp_path / "bad")
    assert (found.status, found.failed) == (0, "")
    assert "1 of 24 images cannot be used; training passes over them" in found.warned
    assert (
        str(own / "images/tile_003.jpg") in (tmp_path / "bad/exclude.txt").read_text().splitlines()
    )
    truncate(own / "images/tile_004.jpg")  # more than one of a hundred
    assert doctor(pretext).status == 1


def test_a_claimed_size_is_never_decoded(own, monkeypatch):
    files = [png(own / "images/a.png", 100_000, 100_000)]
    jpeg = bytearray((own / "images/tile_000.jpg").read_bytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    files.append(own / "images/b.jpg")
    files[1].write_bytes(jpeg)
    shape = dict(count=3, height=100_000, width=100_000, dtype="uint8")
    files.append(own / "images/c.tif")
    with rasterio.open(
        files[2], "w", driver="GTiff", sparse_ok=True, tiled=True, crs="EPSG:32633",
        transform=rasterio.Affine(2, 0, 9, 0, -2, 9), **shape,
    ):  # fmt: skip
        pass
    monkeypatch.setattr(doctor_images, "read_image", mock.Mock(side_effect=AssertionError))
    split = SimpleNamespace(in_channels=3, bands=None, max_value=None)
    for file in files:
        facts = doctor_images.examine_image(str(file), split)
        assert "claims" in facts.fault
        assert facts.digest is None


def test_sizes_are_told_and_small_images_named(doctor, pretext, own):
    cv2.imwrite(str(own / "images/small.png"), np.full((20, 50, 3), 7, np.uint8))
    found = doctor(pretext)
    assert found.status == 0
    assert "50 x 20 to 64 x 64 pixels, median 64 x 64" in found.ok
    assert "1 images are smaller than 32 pixels and are enlarged" in found.warned


def test_tiles_of_several_sizes_need_a_crop(doctor, seg, own):
    for folder, tile in (("images", "tile_001.jpg"), ("labels", "tile_001.png")):
        file = str(own / folder / tile)
        cv2.imwrite(file, cv2.imread(file, cv2.IMREAD_UNCHANGED)[:40])
    assert doctor(seg).status == 0
    seg["train_cfg"]["train_data"]["crop_size"] = None
    found = doctor(seg)
    assert found.status == 1
    assert "tiles of a batch must be of one size; set crop_size" in found.failed


def test_broken_images_in_a_row_are_found_before_the_loop_stops_at_them(doctor, light, tmp_path):
    """20 of 2,000 are no more than 1 %, but side by side they stop a run; end and begin meet."""
    folder = copies(draw_tiles(tmp_path / "few", 4, size=32) / "images", tmp_path / "rows", 2000)
    files = sorted(folder.iterdir())
    data = dict(data_path=str(folder), data_format="*", on_bad_image="skip")
    light["train_cfg"]["train_data"] |= data
    for file in files[-8:] + files[:11]:
        broken(file)
    split = Split("train", [str(file) for file in files], None, 3, skips=True)
    section = Section("")
    check_images(split, scan(split, 2), section)
    assert "19 of 2000 images cannot be used; training passes over them" in str(section)
    broken(files[11])
    section = Section("")
    check_images(split, scan(split, 2), section)
    assert "FAIL" in str(section)
    assert "20 in a row are more than training passes over" in str(section)
    dataset = open_trial(light).open_train(None, None)
    with pytest.raises(UserError, match="20 files in a row cannot be read"):
        dataset[(0, len(files) - 8)]


def copies(source: Path, folder: Path, count: int) -> Path:
    """`count` names of the images of `source`, which take no room."""
    folder.mkdir()
    files = sorted(source.iterdir())
    for number in range(count):
        os.link(files[number % len(files)], folder / f"{number:05d}.jpg")
    return folder


def broken(file: Path) -> None:
    file.unlink()  # of several names for one file
    file.write_bytes(b"no image")


def test_bands_that_the_config_has_wrong_exclude_nothing(doctor, pretext, own, tmp_path):
    pretext["backbone_cfg"]["in_channels"] = 4
    found = doctor(pretext, "--output", tmp_path / "out")
    assert found.status == 1
    assert "most images have one fault, so the config is probably what is wrong" in found.failed
    assert "has 3 bands where 4 are expected" in found.out
    assert "leaves none" not in found.out
    assert "not measured" in found.warned
    listed = (tmp_path / "out/exclude.txt").read_text().splitlines()
    assert [line for line in listed if not line.startswith("#")] == []


def test_label_names_that_the_config_has_wrong_exclude_nothing(doctor, seg, tmp_path):
    for name in ("train", "val", "test"):
        seg["train_cfg"][f"{name}_data"]["label_format"] = "{stem}_mask.png"
    found = doctor(seg, "--output", tmp_path / "out")
    assert found.status == 1
    assert "train: 13 of 13 labels are missing, so the config is probably" in found.failed
    assert "/tmp" not in found.failed.splitlines()[-1]
    listed = (tmp_path / "out/exclude.txt").read_text().splitlines()
    assert [line for line in listed if not line.startswith("#")] == []


def test_a_bad_tile_that_a_fraction_drops_is_no_failure(doctor, seg, own):
    seg["train_cfg"]["train_data"]["fraction"] = 0.15
    kept = open_trial(seg).open_train(None, None).tiles.pairs
    others = (f"tile_{n:03d}.jpg" for n in range(13))
    name = next(n for n in others if all(n not in file for file, _ in kept))
    truncate(own / "images" / name)
    found = doctor(seg)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "1 of 13 images cannot be decoded; fraction drops them" in found.warned
    assert open_trial(seg).open_train(None, None)[(0, 0)]
    truncate(Path(kept[0][0]))
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
    monkeypatch.setattr(step, "check_batch", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        doctor(pretext, "--output", tmp_path / "out")
    assert str(own / "images/tile_000.jpg") in (tmp_path / "out/exclude.txt").read_text()
    kept = json.loads((tmp_path / "out/doctor.json").read_text())
    assert (kept["complete"], "images" in kept["sections"]) == (False, True)


def test_a_pipe_among_the_images_is_a_finding(doctor, pretext, own):
    os.mkfifo(own / "images/pipe.jpg")
    found = doctor(pretext)
    assert found.status == 1
    assert "pipe.jpg: is no regular file" in found.out


def test_an_image_that_memory_has_no_room_for_is_not_decoded(own):
    """A sparse TIFF of the size of this machine's memory, up to the pixels that readers take."""
    side = min(32_000, math.isqrt(int(doctor_images.available_memory()) // 9) + 1)
    path = own / "images/large.tif"
    shape = dict(height=side, width=side, count=3, dtype="float64", blockysize=64)
    place = dict(crs="EPSG:32633", transform=rasterio.Affine(2, 0, 9, 0, -2, 9))
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, **shape, **place):
        pass
    facts = doctor_images.examine_image(
        str(path), Split("train", [str(path)], None, 3, max_value=1)
    )
    assert re.search("more than the memory has room for|more than 8589934592 bytes", facts.fault)
    assert facts.digest is None


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
    assert "tile_002.png: 60 x 64 pixels, its image 64 x 64" in found.out
    assert "train: values 7 are no classes, in 1 labels" in found.failed
    assert "val: 2 of 5 labels cannot be read" in found.failed
    assert "claims too many pixels" in found.out
    assert "train: other" in found.ok
    assert "no classes, in" in found.failed.splitlines()[-2]  # said once, before the unreadable
    assert "one step:" in found.ok
    for name in ("train", "val", "test"):
        override(seg, f"train_cfg.{name}_data.exclude={tmp_path}/out/exclude.txt")
    found = doctor(seg)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "train: all 10 labels" in found.ok
    assert "val: all 3 labels" in found.ok
    assert "name no file" not in found.warned  # one list for all splits


def test_a_class_without_a_pixel_is_named(doctor, seg):
    seg["classes"] = ("other", "building", "water")
    seg["palette"] = None
    found = doctor(seg)
    assert found.status == 0
    assert "train: no pixel is water; it cannot be learned" in found.warned
    assert "test: no pixel is water; it has no score there" in found.warned


def test_a_class_that_a_fraction_loses_is_named(doctor, seg, own):
    """Water is in one tile of thirteen, which the fraction does not keep."""
    seg["classes"] = ("other", "building", "water")
    seg["palette"] = None
    seg["train_cfg"]["train_data"]["fraction"] = 0.15
    kept = open_trial(seg).open_train(None, None).tiles.pairs
    lost = next(n for n in range(13) if all(f"tile_{n:03d}" not in file for file, _ in kept))
    cv2.imwrite(str(own / f"labels/tile_{lost:03d}.png"), np.full((64, 64), 2, np.uint8))
    found = doctor(seg)
    assert found.status == 0
    text = "train, the 2 tiles that fraction keeps: no pixel is water; it cannot be learned"
    assert text in found.warned
    assert "train: no pixel is water" not in found.warned


def test_classes_are_counted_in_the_coding_of_the_data_set(doctor, seg, own):
    for file in (own / "labels").iterdir():
        label = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(file), label + 1)
    seg["train_cfg"]["val_data"] |= dict(label_offset=-1)
    seg["train_cfg"]["test_data"] |= dict(label_offset=-1)
    seg["train_cfg"]["train_data"] |= dict(label_codes=(1, 2))
    found = doctor(seg)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "train: values 1, 2" in found.ok
    assert "no pixel is" not in found.warned


def test_labels_are_read_once_and_their_coding_is_handed_on(doctor, seg, monkeypatch):
    monkeypatch.setattr(segmentation, "check_labels", lambda *args: 1 / 0)
    found = doctor(seg)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "one step:" in found.ok


def test_a_progress_bar_is_shown_on_a_terminal_and_is_no_finding(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def work():
        list(tqdm(range(3), "reading", leave=False, disable=None))
        print("warning: odd", file=sys.stderr)

    monkeypatch.setattr(sys, "stderr", Terminal())
    section = Section("")
    section.attempt(work)
    assert "reading" in sys.stderr.getvalue()
    assert [one.text for one in section.findings] == ["odd"]


# ------------------------------------------------------------------------------------- duplicates


def test_a_copy_in_another_format_is_a_duplicate(doctor, pretext, own):
    pixels = cv2.imread(str(own / "images/tile_004.jpg"))
    cv2.imwrite(str(own / "images/again.png"), pixels)
    found = doctor(pretext)
    assert found.status == 0
    assert "train: 1 images are there again" in found.warned
    assert re.search(r"again\.png = .*tile_004\.jpg", found.out)


def test_images_shared_by_splits_are_named(doctor, seg, own):
    shutil.copy(own / "images/tile_004.jpg", own / "images/tile_021.jpg")
    found = doctor(seg)
    assert found.status == 0
    assert "train and test share 1 images" in found.warned
    assert re.search(r"tile_004\.jpg = .*tile_021\.jpg", found.out)
    assert "train and val share no image" in found.ok


# -------------------------------------------------------------------------------- folders and disk


def test_a_disk_without_room_for_the_checkpoints_fails(doctor, light):
    """Ten million checkpoints fit no disk."""
    light["train_cfg"]["num_epoch"] = light["train_cfg"]["checkpoints"]["max_keep"] = 10**7
    found = doctor(light)
    assert found.status == 1
    assert re.search(r"10000000 kept, .* GiB free at .*: make room, or lower", found.failed)


def test_only_files_that_the_run_replaces_count_as_room(tmp_path):
    (tmp_path / "latest.pth").write_bytes(bytes(1000))
    (tmp_path / "epoch_0009.pth").write_bytes(bytes(200))
    (tmp_path / "mine.pth").write_bytes(bytes(30))
    (tmp_path / "latest.damaged.pth").write_bytes(bytes(4))
    assert machine.checkpoints_there(tmp_path) == 1200


def test_a_name_that_is_too_long_is_one_line(doctor, light, tmp_path):
    found = doctor(light, "--checkpoints_path", tmp_path / "there_is_no" / ("a" * 300))
    assert found.status == 1
    assert "a name of more than 255 bytes; shorten it" in found.failed


def test_a_file_in_place_of_a_folder_fails(doctor, light, tmp_path):
    (tmp_path / "taken").write_text("")
    found = doctor(light, "--checkpoints_path", tmp_path / "taken/run")
    assert found.status == 1
    assert "taken is a file, not a folder" in found.failed


def test_a_folder_that_another_run_writes_to_fails(doctor, light, tmp_path):
    (tmp_path / "run").mkdir()
    code = "import sys; from pathlib import Path\n"
    code += "from SSLRemoteSensing.training.run_folder import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        before = (tmp_path / "run/.lock").read_text()
        found = doctor(light)
        assert (tmp_path / "run/.lock").read_text() == before
        other.communicate("")
    assert found.status == 1
    assert f"another run is writing there (process {other.pid}" in found.failed
    assert doctor(light).status == 0
    assert not list((tmp_path / "run").iterdir())


def test_going_on_is_foreseen_and_a_damaged_or_foreign_checkpoint_found(doctor, light, tmp_path):
    light["train_cfg"]["num_epoch"] = 1
    assert call("train.py", light, tmp_path).returncode == 0
    folder = tmp_path / "run"
    latest = folder / "latest.pth"
    light["train_cfg"]["num_epoch"] = 3
    found = doctor(light)
    assert (found.status, found.failed) == (0, ""), found.out
    assert "whole, step 6, epoch 1" in found.ok
    assert "12 of 18 steps are left" in found.ok
    assert "going on with train_cfg.num_epoch=3, so far 1" in found.warned
    found = doctor(light, "--set", "train_cfg.optimizer.name=AdamW")
    assert found.status == 1
    assert "train_cfg.optimizer.name was 'Adam' and is now 'AdamW'" in found.failed
    names = sorted(file.name for file in folder.iterdir())
    data = latest.read_bytes()
    latest.unlink()  # no second name of the epoch's file
    latest.write_bytes(data[: len(data) // 2])
    found = doctor(light)
    assert found.status == 0
    assert "training would go back to epoch_0001.pth, step 6" in found.warned
    assert sorted(file.name for file in folder.iterdir()) == names
    (folder / "epoch_0001.pth").unlink()
    found = doctor(light)
    assert found.status == 1
    assert "no epoch_*.pth beside it is whole" in found.failed
    checkpoints.write(latest, {"weights": 1})
    assert "is no checkpoint of a run" in doctor(light).failed


def test_the_room_for_checkpoints_is_what_a_run_takes_at_its_fullest(light, tmp_path, monkeypatch):
    """Looked at just before each file gets its name, which is when most is there."""
    light["train_cfg"]["num_epoch"] = 4
    light["train_cfg"]["checkpoints"]["max_keep"] = 2
    folder, seen, replace = tmp_path / "run", [], os.replace

    def look_and_replace(*paths):
        found = [file.stat() for file in folder.iterdir() if ".pth" in file.name]
        seen.append(sum({status.st_ino: status.st_size for status in found}.values()))
        replace(*paths)

    monkeypatch.setattr(os, "replace", look_and_replace)
    assert call("train.py", light, tmp_path).returncode == 0
    task = open_trial(light)
    given = (task.model, task.settings.optimizer)
    needed, _ = machine.checkpoint_bytes(*given, 2, False)
    one, _ = machine.checkpoint_bytes(*given, 1, False)
    one = needed - one  # latest.pth may be a second name of the newest epoch's file
    assert needed - 1.02 * one < max(seen) < 1.02 * needed
    assert (folder / "latest.pth").stat().st_size == pytest.approx(one, rel=0.01)


# ---------------------------------------------------------------------------------------- the step


def test_one_value_a_channel_is_found_before_torch_stops(doctor, seg_config):
    found = doctor(seg_config, "--set", "train_cfg.batch_size=1")
    assert found.status == 1
    assert "(batch 1, map 1 x 1) has no variance" in found.failed
    assert "batch_size=1: batch normalization has the statistics of single" in found.warned
    found = doctor(
        seg_config, "--set", "train_cfg.batch_size=1", "train_cfg.train_data.crop_size=64"
    )
    assert found.status == 0
    assert "batch normalization has at least 4 values a channel" in found.warned


def test_a_batch_of_one_has_no_negatives(doctor, light):
    found = doctor(light, "--set", "train_cfg.batch_size=1")
    assert found.status == 1
    assert "the contrastive loss compares images of a batch" in found.failed
    assert "all 24 images can be read" in found.ok  # the rest is told all the same


def test_several_processes_share_the_images_and_the_cores(doctor, light):
    light["train_cfg"]["global_batch_size"] = 16
    found = doctor(light, "--processes", "4")
    assert (found.status, found.failed) == (0, ""), found.out
    assert "4 processes of batch_size 4 each; one of them is measured" in found.ok
    assert "24 images, 1 steps of 16 an epoch" in found.ok
    assert "2 of 2 steps are left" in found.ok
    found = doctor(light, "--processes", "8", "--set", "train_cfg.accumulate_steps=2")
    assert "(x accumulate_steps=2, x 8 processes): only 24 images" in found.failed
    assert "must be a multiple of the 3 processes" in doctor(light, "--processes", "3").failed


def test_with_imagenet_is_taken_as_train_takes_it(doctor, light, own):
    light["backbone_cfg"]["pretrained"] = "nowhere.pth"
    assert doctor(light).status == 1
    assert doctor(light, "--with_imagenet", "false").status == 0


def test_fewer_images_than_a_step_fail(doctor, light):
    found = doctor(light, "--set", "train_cfg.accumulate_steps=7")
    assert found.status == 1
    assert "(x accumulate_steps=7, x 1 processes): only 24 images" in found.failed


def test_all_mistakes_are_told_at_once(doctor, seg_config, tmp_path):
    override(seg_config, f"train_cfg.val_data.image_path={tmp_path}/absent")
    override(seg_config, "backbone_cfg.pretrained=nowhere.pth")
    override(seg_config, "train_cfg.device=cuda:99")
    found = doctor(seg_config)
    assert found.status == 1
    for text in ("val_data: image_path", "cuda:99", "devices"):
        assert text in found.failed
    assert "train: all 13 images can be read" in found.ok
    found = doctor(seg_config, "--set", "train_cfg.device=cpu")
    assert "weights nowhere.pth: no such file" in found.failed


def test_the_end_is_steps_left_times_a_step():
    keys = dict(batch_size=10, accumulate_steps=1, num_workers=0, num_epoch=10, num_step=None)
    settings = SimpleNamespace(**keys)
    section = Section("")
    step.check_time(settings, 1, 1000, 3.0, 0.1, None, section)  # loading 1 s, computing 3 s
    assert "1000 of 1000 steps are left, 1 h 6 min" in str(section)
    state = {"step": 900, "epoch": 9, "offset": 0}
    section = Section("")
    settings.num_workers = 1
    step.check_time(settings, 1, 1000, 3.0, 0.1, state, section)
    assert "100 of 1000 steps are left, 5 min 0 s" in str(section)  # one beside the other


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
    assert find_images(folder, "*.jpg", listed) == every[4:]
    assert find_images(f"{tmp_path}/link/", "*.jpg", str(listed))[0].endswith("tile_004.jpg")
    assert find_images(folder, "tile_01*.jpg", listed) == every[10:20]
    assert capsys.readouterr().err == ""
    listed.write_text("tile_000.jpg\ntile_0.jpg\n")
    assert find_images(folder, "*.jpg", listed) == every[1:]
    assert "1 of 2 lines name no file, first tile_0.jpg" in capsys.readouterr().err


def test_an_exclude_list_that_is_wrong_is_refused(tiles, tmp_path):
    folder = tiles / "images"
    with pytest.raises(UserError, match=r"exclude .*absent.txt: cannot be read"):
        find_images(folder, "*.jpg", tmp_path / "absent.txt")
    every = find_images(folder, "*.jpg")
    (tmp_path / "all.txt").write_text("\n".join(every))
    with pytest.raises(UserError, match="leaves none of the 24 images"):
        leave_out(every, folder, tmp_path / "all.txt")
    settings = TileSettings(str(folder), str(tiles / "labels"), exclude=tmp_path / "all.txt")
    with pytest.raises(UserError, match=r"exclude .*all.txt: leaves none"):
        SegmentationDataset(settings, 2)
    (tmp_path / "all.txt").write_bytes(b"a\0b")
    with pytest.raises(UserError, match="no text file"):
        leave_out(every, folder, tmp_path / "all.txt")


def test_a_label_beside_an_excluded_image_does_not_become_one(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / name.replace(".", "_label.")), np.zeros((8, 8), np.uint8))
    (tmp_path / "exclude.txt").write_text("a.png\n")
    settings = TileSettings(
        str(tmp_path), str(tmp_path), "*.png", "{stem}_label.png",
        exclude=str(tmp_path / "exclude.txt"),
    )  # fmt: skip
    pairs = find_pairs(settings)
    assert [Path(image).name for image, _ in pairs] == ["b.png"]
