"""Images in tar shards are what they are as files, for training and for whoever looks at them."""

import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import threading

import numpy as np
import pytest
import torch
from drawn import write_tiff
from tiny_run import interrupt_at, moved, train

from SSLRemoteSensing.commands.shards import common_root
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data import shards as shards_module
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import read_header, read_image
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.shards import find_member, open_shards
from SSLRemoteSensing.data.windows import Windows, WindowSettings
from SSLRemoteSensing.preparation.shards import write_index, write_shards
from SSLRemoteSensing.workflows.own_images import look_at_images


def make(folder, output, most=2**16, pattern="**/*"):
    """Shards of the images of a folder, of about 64 KB; their paths and those of the files."""
    files = find_images(folder, pattern, keys=("--images", None))
    write_shards(files, common_root(str(folder), files), output, most, {})
    return find_images(output, pattern, takes_shards=True), files


@pytest.fixture(scope="module")
def sharded(tiles, tmp_path_factory):
    output = tmp_path_factory.mktemp("sharded")
    make(tiles / "images", output)
    return output


def test_images_have_the_order_and_the_pixels_of_the_files(tiles, sharded):
    members = find_images(sharded, "*.jpg", takes_shards=True)
    files = find_images(tiles / "images", "*.jpg")
    assert len(open_shards(sharded.as_posix()).shards) > 1
    assert [path.split("/")[-1] for path in members] == [path.split("/")[-1] for path in files]
    for member, file in zip(members, files, strict=True):
        assert np.array_equal(read_image(member), read_image(file))
        assert read_header(member) == read_header(file)


def test_any_tar_program_reads_the_shards(tiles, sharded, tmp_path):
    for shard in sharded.glob("*.tar"):
        with tarfile.open(shard) as tar:
            tar.extractall(tmp_path, filter="data")
    for file in (tiles / "images").iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_weights_of_a_run_are_those_of_the_files(tiles, sharded, pretext_config, tmp_path):
    weights = []
    for name, path in (("files", tiles / "images"), ("shards", sharded)):
        pretext_config["train_cfg"]["train_data"]["data_path"] = str(path)
        weights.append(train(moved(pretext_config, tmp_path / name)).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_any_start_read_the_same_samples(sharded, pretext_config, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {start}")
    settings = pretext_config["train_cfg"]["train_data"] | {"data_path": str(sharded)}
    dataset = PretextDataset(PretextSettings(**settings))
    keys = [(0, index) for index in range(6)]
    own = [dataset[key]["anchor"] for key in keys]  # opens shards before the workers begin
    loader = torch.utils.data.DataLoader(
        dataset, sampler=keys, batch_size=None, num_workers=1, multiprocessing_context=start
    )
    for sample, expected in zip(loader, own, strict=True):
        assert np.array_equal(sample["anchor"], expected)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(sharded, pretext_config, tmp_path):
    pretext_config["train_cfg"]["train_data"]["data_path"] = str(sharded)
    whole = train(pretext_config)
    other = moved(pretext_config, tmp_path / "other")
    with pytest.raises(SystemExit):
        train(other, interrupt_at(step=8))
    again = train(other)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_an_index_is_pickled_as_its_folder(sharded):
    members = find_images(sharded, "**/*.jpg", takes_shards=True)
    assert len(pickle.dumps(members)) < 500
    assert pickle.loads(pickle.dumps(members))[3] == members[3]


def test_open_shards_are_bounded(tiles, tmp_path, monkeypatch):
    members, files = make(tiles / "images", tmp_path / "many", most=1)  # a shard an image
    monkeypatch.setattr(
        shards_module, "open_shard", shards_module.lru_cache(maxsize=4)(shards_module.OpenShard)
    )
    before = len(os.listdir("/proc/self/fd"))
    for member, file in zip(members, files, strict=True):
        assert np.array_equal(read_image(member), read_image(file))
    assert len(members) == len(files) > 8
    assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_threads_read_one_shard_at_once_also_without_pread(tiles, sharded, monkeypatch):
    monkeypatch.delattr(os, "pread", raising=False)
    members = find_images(sharded, "*.jpg", takes_shards=True)
    files = find_images(tiles / "images", "*.jpg")
    right = []

    def read(first):
        right.extend(
            np.array_equal(read_image(members[i]), read_image(files[i]))
            for i in range(first, len(files), 4)
        )

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * len(files)


def test_shards_that_are_made_anew_in_their_folder_are_read_anew(tiles, tmp_path):
    members, files = make(tiles / "images", tmp_path / "shards")
    assert np.array_equal(read_image(members[0]), read_image(files[0]))  # it stays open
    shutil.rmtree(tmp_path / "shards")
    members, files = make(tiles / "images", tmp_path / "shards", pattern="tile_01*.jpg")
    assert np.array_equal(read_image(members[0]), read_image(files[0]))


def test_windows_of_scenes_in_a_shard_are_those_of_the_file(tmp_path):
    scene = tmp_path / "scenes/north, 1.tif"
    write_tiff(scene, np.random.default_rng(0).integers(0, 255, (3, 200, 150), dtype=np.uint8))
    (member,), (file,) = make(tmp_path / "scenes", tmp_path / "shards")
    windows = Windows(WindowSettings(64, per_scene=2), [member])
    images = [
        windows.read(0, path, np.random.default_rng(1), 3, Reading(None, None, path))[0]
        for path in (member, file)
    ]
    assert np.array_equal(*images)
    with open_tiff(member) as source:
        assert (source.height, source.width) == (200, 150)


def test_patterns_and_exclude_lists_hold_for_members(tiles, sharded, tmp_path):
    some = find_images(sharded, "tile_00*.jpg", takes_shards=True, keys=("--images", None))
    assert [path[-7:] for path in some] == [f"00{k}.jpg" for k in range(10)]
    (tmp_path / "bad.txt").write_text(f"{some[2]}\n{some[4].removeprefix(f'{sharded}/')}\n")
    left = find_images(sharded, "*.jpg", tmp_path / "bad.txt", takes_shards=True)
    assert len(left) == 22
    assert some[2] not in left
    assert some[4] not in left
    with pytest.raises(UserError, match=r"no image matches data_format='\*.tif'.*\*\*/\*.jpg"):
        find_images(sharded, "*.tif", takes_shards=True)


def test_a_folder_that_is_called_like_a_tar_is_a_folder(tiles, tmp_path):
    folder = tmp_path / "old.tar"
    shutil.copytree(tiles / "images", folder)
    files = find_images(folder, "*.jpg")
    assert find_member(files[0]) is None
    assert read_image(files[0]).shape == (64, 64, 3)


def test_a_shard_of_another_length_is_named_before_anything_is_read(tiles, tmp_path):
    make(tiles / "images", tmp_path / "shards")
    shard = tmp_path / "shards/000000.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    with pytest.raises(UserError, match=r"shard .*000000.tar: has \d+ bytes, and had \d+ when"):
        find_images(tmp_path / "shards", "*.jpg", takes_shards=True)


def test_a_shard_that_is_cut_while_training_is_an_unreadable_image(tiles, tmp_path):
    members, _ = make(tiles / "images", tmp_path / "shards")
    os.truncate(tmp_path / "shards/000000.tar", 700)
    with pytest.raises(UnreadableImage, match=r"000000.tar/tile_000.jpg: is truncated"):
        read_image(members[0])


def test_an_image_whose_shard_has_gone_is_unreadable(tiles, tmp_path):
    members, _ = make(tiles / "images", tmp_path / "shards")
    (tmp_path / "shards/000000.tar").unlink()
    with pytest.raises(UnreadableImage, match=r"tile_000.jpg: cannot be opened \(No such file"):
        read_image(members[0])


@pytest.mark.parametrize("name", ["shards_rows.npy", "shards_names.npy", "shards.json"])
def test_a_damaged_index_is_said_in_a_line(tiles, tmp_path, name):
    make(tiles / "images", tmp_path / "shards")
    os.truncate(tmp_path / "shards" / name, 100)
    with pytest.raises(UserError, match=r"its index is damaged; make it anew: .* shards --index"):
        find_images(tmp_path / "shards", "*.jpg", takes_shards=True)
    write_index(tmp_path / "shards", {})
    assert len(find_images(tmp_path / "shards", "*.jpg", takes_shards=True)) == 24


def test_an_index_of_another_version_is_said(tiles, tmp_path):
    make(tiles / "images", tmp_path / "shards")
    card = tmp_path / "shards/shards.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"version": 2}))
    with pytest.raises(UserError, match="of version 2, known is 1"):
        find_images(tmp_path / "shards", "*.jpg", takes_shards=True)


def test_what_takes_no_shards_says_so(sharded):
    with pytest.raises(UserError, match=r"^image_path .*: holds tar shards, which pre-training"):
        find_images(sharded, "*.jpg", keys=("image_path", "data_format"))


def test_tars_without_an_index_are_told_how_to_get_one(sharded, tmp_path):
    shutil.copy(sharded / "000000.tar", tmp_path)
    with pytest.raises(UserError, match=rf"tools/prepare.py shards --index {tmp_path}"):
        find_images(tmp_path, "*.jpg", takes_shards=True)


def test_the_doctor_and_pictures_take_shards(sharded, run, pretext_config, tmp_path):
    pretext_config["train_cfg"]["train_data"]["data_path"] = str(sharded)
    picture = str(tmp_path / "samples.png")
    result = run("tools/show_pretext.py", pretext_config, "--output", picture)
    assert result.returncode == 0, result.stderr
    result = run("tools/doctor.py", pretext_config)
    assert "all 24 images can be read" in result.stdout, result.stderr


def test_without_a_config_shards_are_looked_at_like_a_folder(tiles, sharded, tmp_path):
    images, files = (
        look_at_images([str(path)], tmp_path / "run") for path in (sharded, tiles / "images")
    )
    assert (images.data_path, images.data_format) == (str(sharded), "**/*.jpg")
    kinds = ("count", "channels", "dtype", "scale", "height", "width", "is_in_parts")
    assert [getattr(images, key) for key in kinds] == [getattr(files, key) for key in kinds]
