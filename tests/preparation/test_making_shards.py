"""`prepare shards`: goes on, keeps bytes, and says in one line what is wrong with a shard."""

import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest
from conftest import draw_tiles
from drawn import write_tiff

from SSLRemoteSensing.commands.prepare import main
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.data.file_lists import EVERY_IMAGE, find_images
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.preparation import shards as making
from SSLRemoteSensing.workflows.own_images import split_pattern


@pytest.fixture
def images(tmp_path):
    return draw_tiles(tmp_path / "mine", 6) / "images"


@pytest.fixture
def heavy_images(tmp_path):
    """Of which three make a megabyte."""
    (tmp_path / "heavy").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (360, 360, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"heavy/tile_{number:03d}.png"), pixels)
    return tmp_path / "heavy"


@pytest.fixture
def prepare_shards(monkeypatch, capsys):
    """Run the command in this process: exit status, stdout, stderr."""

    def call(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tools/prepare.py", "shards", *map(str, words)])
        status = 0
        try:
            run_command(main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def write_tar(path, members, mode="w"):
    """A tar as WebDataset's TarWriter makes it: a sample's parts after each other."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.uname, member.mtime = len(data), "bigdata", 1.7e9
            tar.addfile(member, io.BytesIO(data))
    return path


def one_line(result) -> str:
    status, _, stderr = result
    assert status == 2
    assert stderr.startswith("error: ")
    assert len(stderr.splitlines()) == 1
    return stderr


def stop_after(count, monkeypatch):
    """Have making stop after so many shards."""
    write, calls = making.write_shard, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(making, "write_shard", stop)


def test_the_same_images_make_the_same_shards(images, prepare_shards, tmp_path):
    for name in ("one", "two"):
        status, stdout, _ = prepare_shards("--images", images, "--output", tmp_path / name)
        assert status == 0
        assert f"shards: {tmp_path / name}" in stdout
        for file in images.iterdir():
            os.utime(file, (1, 1))
    one, two = ((tmp_path / name / "000000.tar").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_stopped_command_goes_on(heavy_images, prepare_shards, tmp_path, monkeypatch):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    words = ("--images", heavy_images, "--shard_size", 1, "--output")
    prepare_shards(*words, whole)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        status, _, stderr = prepare_shards(*words, halted)
    assert status == 130
    assert "the same command goes on" in stderr
    with pytest.raises(UserError, match="its shards are not finished"):
        find_images(halted, "*.png", takes_shards=True)
    assert "its shards are not finished" in one_line(prepare_shards("--index", halted))
    first = (halted / "000000.tar").stat()
    (halted / "000001.tar").write_bytes(b"half")
    _, stdout, _ = prepare_shards(*words, halted)
    assert "going on: 3 of 6 images are done" in stdout
    assert (halted / "000000.tar").stat().st_mtime_ns == first.st_mtime_ns
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in halted.iterdir())
    assert len([name for name in names if name.endswith(".tar")]) == 2
    for name in names:
        if name != "shards.json":
            assert (whole / name).read_bytes() == (halted / name).read_bytes()
    _, stdout, _ = prepare_shards(*words, halted)
    assert "nothing left to do" in stdout


def test_other_images_do_not_go_into_shards_that_were_begun(
    heavy_images, prepare_shards, tmp_path, monkeypatch
):
    words = ("--images", heavy_images, "--shard_size", 1, "--output", tmp_path / "shards")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        prepare_shards(*words)
    shutil.copy(heavy_images / "tile_000.png", heavy_images / "tile_000a.png")
    assert "was begun with other images" in one_line(prepare_shards(*words))
    (heavy_images / "tile_000a.png").unlink()
    assert prepare_shards(*words)[0] == 0
    tile, size = heavy_images / "tile_001.png", (heavy_images / "tile_001.png").stat().st_size
    os.truncate(tile, size + 1)  # another image of the same name
    assert "has shards of other images" in one_line(prepare_shards(*words))
    os.truncate(tile, size)
    prepare_shards("--index", tmp_path / "shards")  # made anew, and still of these images
    assert "nothing left to do" in prepare_shards(*words)[1]
    (heavy_images / "tile_003.png").unlink()
    assert "has shards of other images" in one_line(prepare_shards(*words))


def test_a_second_command_at_once_is_refused(images, prepare_shards, tmp_path):
    output = tmp_path / "shards"
    output.mkdir()
    code = "import sys; from pathlib import Path; from SSLRemoteSensing.core import locks; "
    code += "unlock = locks.take(Path(sys.argv[1])); print(flush=True); input()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, str(output / ".lock")], **pipes) as other:
        other.stdout.readline()
        stderr = one_line(prepare_shards("--images", images, "--output", output))
        other.communicate(b"\n")
    assert "writes there; wait for it" in stderr
    assert prepare_shards("--images", images, "--output", output)[0] == 0
    assert not (output / ".lock").exists()


def test_lists_keep_their_order(images, prepare_shards, tmp_path):
    lines = [f"mine/images/tile_00{k}.jpg" for k in (4, 1, 3)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    prepare_shards("--images", tmp_path / "list.txt", "--output", tmp_path / "shards")
    members = find_images(tmp_path / "shards", "*.jpg", takes_shards=True)
    assert [path.rpartition("/")[2] for path in members] == [line[12:] for line in lines]
    assert (read_image(members[1]) == read_image(images / "tile_001.jpg")).all()


def test_a_list_may_name_images_in_any_way(images, prepare_shards, tmp_path):
    (tmp_path / "lists").mkdir()
    shutil.copy(images / "tile_000.jpg", tmp_path / "lists")
    lines = [str(images / "tile_002.jpg"), "../mine/images/tile_001.jpg", "tile_000.jpg"]
    (tmp_path / "lists/all.txt").write_text("\n".join(lines))
    listed = os.path.relpath(tmp_path / "lists/all.txt")
    assert prepare_shards("--images", listed, "--output", tmp_path / "shards")[0] == 0
    names = ["mine/images/tile_002.jpg", "mine/images/tile_001.jpg", "lists/tile_000.jpg"]
    members = find_images(tmp_path / "shards", "**/*.jpg", takes_shards=True)
    assert [path.partition(".tar/")[2] for path in members] == names


def test_a_prepared_set_gives_its_card_without_labels(images, prepare_shards, tmp_path):
    card = {"version": 1, "classes": ["a"], "bands": ["red", "green", "blue"], "scale": 1023}
    (tmp_path / "mine/dataset.json").write_text(json.dumps(card))
    prepare_shards("--images", images, "--output", tmp_path / "shards")
    known = read_card(tmp_path / "shards")
    assert (known["scale"], known["bands"], known["classes"]) == (1023, card["bands"], [])


@pytest.mark.parametrize("fault", ["empty", "text", "mask"])
def test_an_image_that_is_no_image_stops_with_its_name(images, prepare_shards, tmp_path, fault):
    file = images / "tile_002.jpg"
    if fault == "mask":
        file.with_name(f"{file.name}.msk").touch()
    else:
        file.write_bytes(b"" if fault == "empty" else b"text")
    stderr = one_line(prepare_shards("--images", images, "--output", tmp_path / "shards"))
    assert f"image {file}" in stderr


def test_of_shards_made_by_webdataset_the_images_are_taken(images, prepare_shards, tmp_path):
    folder, files = tmp_path / "theirs", sorted(images.iterdir())
    for number in range(2):
        members = []
        for file in reversed(files[3 * number : 3 * number + 3]):
            sample = {f"{file.stem}.cls": b"1", file.name: file.read_bytes()}
            sample |= {f"{file.stem}.json": b"{}", f"._{file.name}": b"x"}
            members += [(f"./scene/{name}", data) for name, data in sample.items()]
        write_tar(folder / f"train-{number:04d}.tar", members)
    status, stdout, _ = prepare_shards("--index", folder)
    assert status == 0
    assert "images: 6" in stdout
    members = find_images(folder, "**/*.jpg", takes_shards=True)
    assert members[0] == f"{folder}/train-0000.tar/scene/tile_002.jpg"
    assert len(members) == 6
    for member in members:
        assert (read_image(member) == read_image(images / member.rpartition("/")[2])).all()
    assert len(find_images(folder, "scene/*.jpg", takes_shards=True)) == 6


@pytest.fixture
def labelled_shard(images, tmp_path):
    """Write a shard with images by name; its folder."""
    data = (images / "tile_000.jpg").read_bytes()

    def write(*names):
        return write_tar(tmp_path / "theirs/0.tar", [(name, data) for name in names]).parent

    return write


def test_labels_beside_the_image_of_a_sample_are_no_images(labelled_shard, prepare_shards):
    names = ["a/x.jpg", "a/x.seg.png", "a/x.depth.tif", "a/x.json", "y.seg.png", "y.jpg"]
    folder = labelled_shard(*names, "S2.2019.tif", "S2.2020.tif", "b/x.seg.png")
    status, stdout, stderr = prepare_shards("--index", folder)
    assert (status, "have several (.2019.tif 1, .2020.tif 1), and all" in stderr) == (0, True)
    assert (
        "left out: 3 images that lie beside the one of their sample: .seg.png 2, .depth" in stdout
    )
    assert "images: 5" in stdout
    kept = ["a/x.jpg", "y.jpg", "S2.2019.tif", "S2.2020.tif", "b/x.seg.png"]
    found = find_images(folder, EVERY_IMAGE, takes_shards=True)
    assert list(found) == [f"{folder}/0.tar/{name}" for name in kept]
    assert all(read_image(file).shape == (64, 64, 3) for file in found)
    assert json.loads((folder / "shards.json").read_text())["left_out"] == {
        ".seg.png": 2,
        ".depth.tif": 1,
    }
    status, stdout, _ = prepare_shards("--index", folder, "--every_part")
    assert (status, "left out" in stdout, "images: 8" in stdout) == (0, False, True)


def test_of_samples_with_several_images_a_pattern_is_named_that_chooses(
    labelled_shard, prepare_shards
):
    folder = labelled_shard("x.rgb.png", "x.mask.png", "y.rgb.png", "y.mask.png", "z.jpg")
    status, stdout, stderr = prepare_shards("--index", folder)
    assert (status, "images: 5" in stdout, len(stderr.splitlines())) == (0, True, 1)
    assert "4 images are of samples that have several (.rgb.png 2, .mask.png 2)" in stderr
    pattern = shlex.split(stderr.rpartition("--images ")[2])[0]
    found = find_images(*split_pattern(pattern), takes_shards=True)
    assert [file.rpartition("/")[2] for file in found] == ["x.rgb.png", "y.rgb.png"]


def test_all_images_of_shards_made_here_stay_images_when_they_are_indexed_anew(
    images, prepare_shards, tmp_path
):
    """Their names are those of files, which may have dots."""
    shutil.copy(images / "tile_000.jpg", images / "tile_000.north.jpg")
    output = tmp_path / "shards"
    prepare_shards("--images", images, "--output", output)
    for words in (("--images", images, "--output", output), ("--index", output)):
        status, stdout, stderr = prepare_shards(*words)
        assert (status, "images: 7" in stdout, stderr) == (0, True, "")


@pytest.mark.parametrize("change", ["shrinks", "grows", "goes"])
def test_an_image_that_changes_while_it_is_copied_is_named_and_no_disk_full(
    heavy_images, prepare_shards, tmp_path, monkeypatch, change
):
    victim, whole = heavy_images / "tile_004.png", (heavy_images / "tile_004.png").read_bytes()
    words = ("--images", heavy_images, "--output", tmp_path / "shards", "--shard_size", 1)
    with monkeypatch.context() as patch:
        if change == "goes":
            read = making.read_header

            def leave(file):
                read(file)
                if file == str(victim):
                    victim.unlink()

            patch.setattr(making, "read_header", leave)
        else:
            add = tarfile.TarFile.addfile

            def disturbed(tar, member, source):
                if member.name == victim.name:
                    victim.write_bytes(whole[:-100] if change == "shrinks" else whole + b"x")
                add(tar, member, source)

            patch.setattr(tarfile.TarFile, "addfile", disturbed)
        stderr = one_line(prepare_shards(*words))
    said = (
        "cannot be opened (No such file" if change == "goes" else "was changed while it was copied"
    )
    assert f"image {victim}: {said}" in stderr
    victim.write_bytes(whole)
    status, stdout, _ = prepare_shards(*words)
    assert (status, "going on: 3 of 6 images are done" in stdout) == (0, True)


def test_a_full_disk_is_still_told_as_one(images, prepare_shards, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    stderr = one_line(prepare_shards("--images", images, "--output", tmp_path / "shards"))
    assert "000000.tar: cannot be written (No space left on device); is the disk full?" in stderr


def test_two_images_of_one_name_are_refused(images, prepare_shards, tmp_path):
    data = (images / "tile_000.jpg").read_bytes()
    write_tar(tmp_path / "theirs/0.tar", [("a.jpg", data), ("a.cls", b"1"), ("a.jpg", data)])
    stderr = one_line(prepare_shards("--index", tmp_path / "theirs"))
    assert "0.tar: has two images a.jpg" in stderr


@pytest.mark.parametrize("place", ["head", "pixels", "last pixels", "end"])
def test_a_cut_shard_is_refused(images, prepare_shards, tmp_path, place):
    members = [(file.name, file.read_bytes()) for file in sorted(images.iterdir())]
    shard = write_tar(tmp_path / "theirs/0.tar", members)
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1].offset_data
    size = len(members[-1][1])
    kept = {"head": 100, "pixels": 700, "last pixels": last + size - 1}
    os.truncate(shard, kept.get(place, last + -(-size // 512) * 512))
    stderr = one_line(prepare_shards("--index", tmp_path / "theirs"))
    assert f"shard {shard}" in stderr


def test_a_compressed_shard_is_refused(images, prepare_shards, tmp_path):
    data = (images / "tile_000.jpg").read_bytes()
    write_tar(tmp_path / "theirs/0.tar", [("a.jpg", data)], mode="w:gz")
    assert "as a plain tar" in one_line(prepare_shards("--index", tmp_path / "theirs"))


def test_check_finds_a_changed_byte(images, prepare_shards, tmp_path):
    output = tmp_path / "shards"
    prepare_shards("--images", images, "--output", output)
    status, stdout, _ = prepare_shards("--check", output)
    assert (status, "1 shards are as they were indexed" in stdout) == (0, True)
    with (output / "000000.tar").open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    assert "has changed since its index was made" in one_line(prepare_shards("--check", output))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--images", "a"), "--images: goes with --output"),
        (("--index", "none"), "--index none: no *.tar is there"),
        (("--check", "none"), "--check none: no shards.json is there"),
        (("--index", "none", "--output", "b"), "--output: goes with --images"),
        (("--images", "a", "--output", "b", "--shard_size", "0"), "--shard_size 0: must be"),
        (("--images", "a", "--output", "b", "--every_part"), "--every_part: goes with --index"),
    ],
)
def test_flags_that_do_not_go_together_are_said(prepare_shards, words, text):
    assert text in one_line(prepare_shards(*words))


@pytest.mark.parametrize("name", ["a.img", ".seen/a.tif"])
def test_what_the_index_would_pass_over_is_no_part_of_a_shard(prepare_shards, tmp_path, name):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    write_tiff(file, np.zeros((3, 40, 40), np.uint8))
    write_tiff(tmp_path / "mine/b.tif", np.zeros((3, 40, 40), np.uint8))
    (tmp_path / "mine/list.txt").write_text(f"b.tif\n{name}\n")
    words = ("--images", tmp_path / "mine/list.txt", "--output", tmp_path / "shards")
    assert f"image {file}: is not called like an image" in one_line(prepare_shards(*words))


def test_shards_do_not_go_among_the_images(images, prepare_shards):
    before = sorted(images.iterdir())
    stderr = one_line(prepare_shards("--images", images, "--output", images))
    assert "is the folder of the images" in stderr
    assert sorted(images.iterdir()) == before


def test_going_on_removes_no_tar_of_somebody_else(
    heavy_images, prepare_shards, tmp_path, monkeypatch
):
    output = tmp_path / "shards"
    words = ("--images", heavy_images, "--shard_size", 1, "--output", output)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        prepare_shards(*words)
    write_tar(output / "backup.tar", [("a.txt", b"x")])
    assert "has backup.tar of somebody else" in one_line(prepare_shards(*words))
    assert (output / "backup.tar").is_file()


def test_shards_of_something_else_are_not_written_over(images, prepare_shards, tmp_path):
    write_tar(tmp_path / "theirs/0.tar", [("a.txt", b"x")])
    stderr = one_line(prepare_shards("--images", images, "--output", tmp_path / "theirs"))
    assert "has 0.tar, but not by this command" in stderr
    assert (tmp_path / "theirs/0.tar").is_file()
