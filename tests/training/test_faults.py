"""What goes wrong around a run: files break or vanish, workers are killed, files are hostile."""

import contextlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from calls import command
from conftest import draw_tiles
from drawn import png_chunk, prepare, tree, write_tiff
from tiny_run import at_call, entries, images_of, train

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.workers import end_workers
from SSLRemoteSensing.data import images
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.train_step import named_memory


@pytest.fixture
def many(pretext_config, tmp_path):
    """A folder of 300 images that training may skip, and the config of an epoch of them."""
    folder = draw_tiles(tmp_path / "many", 300, size=32) / "images"
    pretext_config["train_cfg"]["train_data"] |= dict(data_path=str(folder), on_bad_image="skip")
    pretext_config["train_cfg"] |= dict(batch_size=20, num_epoch=1)
    pretext_config["train_cfg"]["train_data"]["img_size"] = 32
    return folder


def break_some(folder, count: int) -> list[str]:
    """Break `count` images, each in another way; their names."""
    names = [f"tile_{number * 71 % 300:03d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        data = (folder / name).read_bytes()
        if number % 4 == 3:
            (folder / name).unlink()
            (folder / name).symlink_to("nowhere.jpg")
        else:
            (folder / name).write_bytes([data[:99], b"", b"no image"][number % 4])
    return names


def skipped(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]


def test_one_broken_file_in_a_hundred_is_named_and_passed_over(
    many, pretext_config, tmp_path, capsys
):
    """Broken before, or while training: of the last one a data set that is open knows nothing."""
    names, dataset = break_some(many, 2), images_of(pretext_config)
    (many / "tile_123.jpg").unlink()
    train(pretext_config, dataset=dataset)
    said = skipped(capsys)
    assert len(said) == 3
    assert all(any(name in line for line in said) for name in [*names, "tile_123.jpg"])
    assert "(3 so far)" in said[-1]
    assert run_folder.read(tmp_path / "run")["step"] == 15


def test_a_hundred_broken_files_of_ten_thousand_are_passed_over(pretext_config, tmp_path, capsys):
    """Many names of a few good files, and 100 broken ones among them."""
    few = sorted((draw_tiles(tmp_path / "few", 4, size=32) / "images").iterdir())
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(10_000):
        path = folder / f"{number:05d}.jpg"
        if number % 100 == 37:
            path.write_bytes([b"", b"no image", few[0].read_bytes()[:300]][number % 3])
        else:
            os.link(few[number % 4], path)
    data = dict(data_path=str(folder), data_format="*", on_bad_image="skip", img_size=32)
    data |= dict(pre_transforms_cfg={})  # for speed
    pretext_config["train_cfg"]["train_data"] |= data
    pretext_config["train_cfg"]["train_data"]["agr_transforms_cfg"]["shortcut_cfg"] = None
    pretext_config["train_cfg"]["log"]["log_step"] = 50
    train(pretext_config, batch_size=100, num_epoch=1)
    named = {line.split("many/")[1][:5] for line in skipped(capsys)}
    assert named == {f"{number:05d}" for number in range(37, 10_000, 100)}


def test_two_broken_files_in_a_hundred_stop_the_run(many, pretext_config):
    break_some(many, 6)
    with pytest.raises(UserError, match=r"[4-6] files cannot be read, more than 1 % of 300"):
        train(pretext_config)


def test_a_class_that_training_lacks_gets_no_weight_and_the_run_goes_on(
    seg_config, tmp_path, capsys
):
    """Water is in the list of classes and in no label of train."""
    source, output, classes = tmp_path / "source", tmp_path / "set", ["other", "building", "water"]
    for split in ("train", "val"):
        drawn = draw_tiles(tmp_path / split, 6)
        for kind in ("images", "labels"):
            shutil.copytree(drawn / kind, source / kind / split)
        paths = dict(image_path=f"{output}/images/{split}", label_path=f"{output}/labels/{split}")
        seg_config["train_cfg"][f"{split}_data"] |= paths | dict(data_format="*.png")
    done = prepare("folder", "--source", source, "--output", output, "--classes", *classes)
    assert done.returncode == 0, done.stdout + done.stderr
    weighted = dict(name="CrossEntropyLoss", class_weights="median_frequency")
    seg_config |= dict(classes=classes, palette=None)
    seg_config["train_cfg"] |= dict(test_data=None, num_step=2, loss=weighted)
    assert command("finetune_seg.py", seg_config, tmp_path) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "seg/run.json").read_text())["runs"][0]["config"]
    weights = config["train_cfg"]["loss"]["class_weights"]
    assert weights[2] == 0
    assert min(weights[:2]) > 0
    assert all(np.isfinite(entry["loss"]) for entry in entries(seg_config) if "loss" in entry)


def test_a_folder_that_vanishes_while_training_is_an_error(many, pretext_config):
    """A lost mount, say: no file can be read any more."""
    dataset = images_of(pretext_config)
    with pytest.raises(UserError, match="20 files in a row cannot be read"):
        train(pretext_config, at_call(1, lambda: shutil.rmtree(many)), dataset=dataset, num_epoch=3)
    dataset.settings.on_bad_image = "raise"
    with pytest.raises(UserError, match=r"tile_\d+\.jpg: cannot be opened"):
        dataset[(0, 0)]


def test_tiles_and_labels_that_vanish_are_named(tmp_path):
    folder = draw_tiles(tmp_path, 4, size=32)
    tiles = SegmentationDataset(TileSettings(str(folder / "images"), str(folder / "labels")), 2)
    (folder / "labels/tile_000.png").unlink()
    (folder / "images/tile_001.jpg").unlink()
    with pytest.raises(UserError, match=r"label .*tile_000\.png: not found"):
        tiles[(0, 0)]
    with pytest.raises(UserError, match=r"image .*tile_001\.jpg: cannot be opened"):
        tiles[(0, 1)]


KILLED = r"a worker that reads images was killed .*fewer num_work"


# Where a pipe breaks, torch opens files to see whether there are too many; its handler of a dead
# worker may raise in the midst of that, and one stays open.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_is_told_in_one_line(pretext_config, tmp_path, workers):
    """As the system does when memory is short: it sends SIGKILL to one that holds much of it."""

    def kill():
        os.kill(multiprocessing.active_children()[-1].pid, signal.SIGKILL)

    with pytest.raises(UserError, match=KILLED):
        train(pretext_config, at_call(9, kill), num_workers=workers, num_epoch=200)
    assert multiprocessing.active_children() == []
    assert run_folder.read(tmp_path / "run")["step"] >= 6


@pytest.mark.parametrize(
    ("batch_size", "error", "said"),
    [
        (9, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
         "train_cfg.batch_size=9: a step needs more memory than there is; halve it: the same "
         "command with --set train_cfg.batch_size=4 train_cfg.accumulate_steps=4, or with half "),
        (6, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7"),
         "--set train_cfg.batch_size=3 train_cfg.accumulate_steps=4"),
        (7, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
         "--set train_cfg.batch_size=3 train_cfg.accumulate_steps=4"),
        (5, RuntimeError("MPS backend out of memory"), "there is; take smaller images"),
        (6, RuntimeError("shapes do not fit"), None),
        (6, RuntimeError("Caught RuntimeError in DataLoader worker process 0. can't allocate "
                         "memory"), None),
    ],
)  # fmt: skip
def test_full_memory_is_told_in_one_line(batch_size, error, said):
    optimizer, folders = dict(name="Adam"), (dict(checkpoints_path="x"), dict(log_path="x"))
    settings = LoopSettings(batch_size, optimizer, *folders, num_step=1, accumulate_steps=2)
    with pytest.raises(UserError if said else RuntimeError) as told, named_memory(settings):
        raise error
    assert said in str(told.value) if said else told.value is error


def test_a_worker_whose_death_is_told_late_is_told_too(pretext_config, monkeypatch):
    """The connection fails first, and torch's signal handler raises while the others are ended."""

    def fails(loading, timeout=0):
        raise ConnectionResetError(104, "Connection reset by peer")

    def interrupted(loading):
        end_workers(loading)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    loader = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(loader, "_try_get_data", fails)
    monkeypatch.setattr("SSLRemoteSensing.training.run.end_workers", interrupted)
    with pytest.raises(UserError, match=KILLED):
        train(pretext_config, num_workers=2)
    assert multiprocessing.active_children() == []


def zip_of(path: Path, tiles: Path) -> Path:
    """A zip file whose members would lie outside the folder they are unpacked to."""
    data = (tiles / "images/tile_000.jpg").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../up.jpg", "/tmp/absolute.jpg", "a/../../../twice.jpg", "plain.jpg"):
            archive.writestr(name, data)
        for name in ("..\\..\\back.jpg", "C:\\drive.jpg", "images/...jpg", "images/.."):
            archive.writestr(name, data)
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tiles / "images/tile_001.jpg"))
        folder = zipfile.ZipInfo("down")
        folder.external_attr = 0o120777 << 16
        archive.writestr(folder, str(tiles))
        archive.writestr("down/tile.jpg", data)
    return path


def test_a_zip_file_writes_nothing_outside_the_output(tiles, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    zip_of(source / "data.zip", tiles)
    for name in ("work", "unpacked", "output"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    monkeypatch.chdir(tmp_path / "work")
    before, theirs = tree(source), tree(tiles)
    done = prepare("folder", "--source", source, "--output", tmp_path / "output/set")
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"source", "work", "unpacked", "output"}
    assert [path.name for path in (tmp_path / "output").iterdir()] in ([], ["set"])
    assert list((tmp_path / "unpacked").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []
    assert (tree(source), tree(tiles)) == (before, theirs)
    assert not any(path.is_symlink() for path in (tmp_path / "output").rglob("*"))


class Evil:
    """Unpickled, it would run a command."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("way", ["latest.pth", "--backbone", "--evaluate"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(
    pretext_config, seg_config, tmp_path, capsys, way, how
):
    witness, file = tmp_path / "ran", tmp_path / "run/latest.pth"
    file.parent.mkdir()
    contents = {"model": {"a": torch.ones(2)}, "step": Evil(witness)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, file, _use_new_zipfile_serialization=how == "zip")
    if way == "latest.pth":
        status = command("train.py", pretext_config, tmp_path)
    else:
        status = command("finetune_seg.py", seg_config, tmp_path, way, str(file))
    assert status == 2
    assert file.exists()
    assert not witness.exists()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert "whose code is not run" in said or "damaged" in said


def bomb(path: Path, side: int, grey: bool = False) -> Path:
    """A file of some hundred bytes that claims side x side pixels."""
    if path.suffix == ".png":
        header = struct.pack(">IIBBBBB", side, side, 8, 0 if grey else 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts))
    elif path.suffix == ".jpg":
        data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", min(side, 65_500), min(side, 65_500))
        path.write_bytes(data)
    else:
        tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1)]
        tags += [(262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, side)]
        tags += [(279, 4, 1, 100)]
        directory = struct.pack("<H", len(tags))
        directory += b"".join(struct.pack("<HHII", *tag) for tag in tags)
        path.write_bytes((b"II*\0" + struct.pack("<I", 8) + directory).ljust(300, b"\0"))
    return path


def peak_memory() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("kind", ["image", "label", "size"])
def test_a_bomb_is_refused_before_its_pixels_have_room(tmp_path, kind, ending):
    """raster.MAX_PIXELS: what a header claims must not be asked of the system's memory."""
    path = bomb(tmp_path / f"bomb{ending}", 100_000, grey=kind == "label")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_memory()
    if kind == "size":  # taking the size needs no room, so it may be given
        with contextlib.suppress(UserError):
            assert min(images.read_header(path).shape) >= 65_500
    else:
        read = images.read_image if kind == "image" else images.read_label
        with pytest.raises(UserError, match="pixels"):
            read(path)
    assert peak_memory() - before < 2**28


def test_a_damaged_tag_of_a_tiff_is_refused_by_name(tmp_path):
    """GDAL reads some tags late, and its own exceptions come out there (found by soak/fuzz.py)."""
    path = write_tiff(tmp_path / "image.tif", np.zeros((3, 8, 8), np.uint8))
    data, said = path.read_bytes(), []
    for at in range(8, 260):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with contextlib.suppress(UserError):  # whole all the same, or of other bands
            try:
                images.read_image(path)
            except UnreadableImage as error:
                said.append(str(error))
    assert len(said) > 20
    assert all("image.tif" in message for message in said)
