"""From a file to the three images: what they are, what they depend on, what bad files get."""

import os

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_tiles
from drawn import draw_image, write_tiff
from torch.utils.data import DataLoader

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.training.sampler import KeySampler


@pytest.fixture
def data_cfg(pretext_config) -> dict:
    return pretext_config["train_cfg"]["train_data"]


def test_a_sample_depends_on_seed_epoch_and_index_alone(data_cfg):
    settings = PretextSettings(**data_cfg)
    first, second, seeded = (PretextDataset(settings, seed=seed) for seed in (0, 0, 1))
    first[(0, 5)]
    for key in ("occluded", "anchor", "transformed"):
        assert np.array_equal(first[(3, 7)][key], second[(3, 7)][key])
    for other in (first[(4, 7)], seeded[(3, 7)]):
        assert not np.array_equal(first[(3, 7)]["transformed"], other["transformed"])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(data_cfg, workers):
    dataset = PretextDataset(PretextSettings(**data_cfg))

    def batches(count):
        sampler = KeySampler(len(dataset), 4, 6, 3, 9, seed=0)
        return list(
            DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=count)
        )

    for ours, theirs in zip(batches(0), batches(workers), strict=True):
        for key in ("occluded", "anchor", "transformed", "transform_label", "index"):
            assert torch.equal(ours[key], theirs[key])


def test_the_three_images_are_what_the_method_says(data_cfg):
    """Anchor: a flip or turn of the file. Occluded: one square of it changed. Label: uniform."""
    data_cfg["img_size"] = 64  # the tiles' own size, so that nothing is resized but the crop
    dataset = PretextDataset(PretextSettings(**data_cfg))
    labels = []
    for key in [(epoch, index) for epoch in range(4) for index in range(len(dataset))]:
        image, _, _ = dataset.read(key[1])
        sample = dataset[key]
        views = [np.rot90(side, k) for side in (image, image[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(sample["anchor"], view) for view in views)
        changed = (sample["occluded"] != sample["anchor"]).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert 6 <= len(rows) <= 22  # U(0.2, 1/3) * 64 is 12 to 21; chance equality at the border
        assert rows[-1] - rows[0] < 22
        assert columns[-1] - columns[0] < 22
        labels.append(sample["transform_label"])
    counts = np.bincount(labels, minlength=6)
    assert len(counts) == 6
    assert counts.min() > 4  # of 16 expected, p < 1e-4 each


def test_each_class_of_the_transform_prediction_is_what_it_is_called(data_cfg):
    data_cfg["img_size"] = 64
    data_cfg["agr_transforms_cfg"]["shortcut_cfg"] = {}
    dataset = PretextDataset(PretextSettings(**data_cfg))
    undo = [lambda x: x[:, ::-1], lambda x: x[::-1]]
    undo += [lambda x, turns=turns: np.rot90(x, turns) for turns in range(4)]
    seen = set()
    for index in range(len(dataset)):
        sample = dataset[(0, index)]
        seen.add(sample["transform_label"])
        expected = undo[sample["transform_label"]](sample["anchor"])
        assert np.array_equal(sample["transformed"], expected)
    assert seen == set(range(6))


def test_the_shortcut_augmentations_come_in_random_order(data_cfg):
    dataset = PretextDataset(PretextSettings(**data_cfg))
    order = []
    dataset.shortcut = [lambda image, rng, i=i: (order.append(i), image)[1] for i in range(3)]
    for index in range(20):
        dataset[(0, index)]
    assert len({tuple(order[i : i + 3]) for i in range(0, 60, 3)}) >= 4


def test_a_window_is_taken_first_from_large_tiles(data_cfg, tmp_path):
    image = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100)
    picture = np.dstack([image % 256, image // 256, np.zeros_like(image)]).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), picture[:, :, ::-1])
    data_cfg |= dict(data_path=str(tmp_path), data_format="*.png", crop_size=32, img_size=32)
    dataset = PretextDataset(PretextSettings(**data_cfg))
    places = set()
    for epoch in range(12):
        anchor = dataset[(epoch, 0)]["anchor"].astype(int)
        numbers = anchor[:, :, 0] + 256 * anchor[:, :, 1]
        assert len(np.unique(numbers)) == 32 * 32  # whole pixels of the file, none scaled
        places.add(numbers.min())
    assert len(places) > 6


def test_a_batch_is_uint8_in_the_contract_s_keys_and_shapes(data_cfg):
    dataset = PretextDataset(PretextSettings(**data_cfg))
    batch = collate([dataset[(0, index)] for index in range(3)])
    for key in ("occluded", "anchor", "transformed"):
        assert batch[key].shape == (3, 3, 32, 32)
        assert batch[key].dtype == torch.uint8
    assert batch["transform_label"].shape == (3,)
    assert batch["transform_label"].dtype == torch.int64


def test_four_bands_go_through(data_cfg, tmp_path):
    write_tiff(tmp_path / "a.tiff", draw_image(4, (40, 40), top=1023, dtype=np.uint16))
    data_cfg |= dict(data_path=str(tmp_path), data_format="*.tiff", max_value=1023)
    sample = PretextDataset(PretextSettings(**data_cfg), in_channels=4)[(0, 0)]
    assert sample["transformed"].shape == (32, 32, 4)
    with pytest.raises(UserError, match=r"a\.tiff: has 4 bands where 3"):
        PretextDataset(PretextSettings(**data_cfg), in_channels=3)[(0, 0)]


def test_a_list_finds_what_a_folder_does(tiles, tmp_path):
    files = find_images(tiles / "images", "*.jpg")
    listed = tmp_path / "list.txt"
    listed.write_text("# two\n" + "\n".join(os.path.relpath(f, tmp_path) for f in files[:2]) + "\n")
    assert [os.path.realpath(file) for file in find_images(listed, "*.x")] == files[:2]


def test_no_image_found_says_what_is_there(tiles, tmp_path):
    with pytest.raises(UserError, match=r"no image matches.*'\*\.png'.*24 \.jpg"):
        find_images(tiles / "images", "*.png")
    with pytest.raises(UserError, match="no such folder"):
        find_images(tmp_path / "absent", "*.jpg")
    (tmp_path / "list.txt").write_text("absent.jpg\n")
    with pytest.raises(UserError, match=r"1 of 1 files do not exist.*absent\.jpg"):
        find_images(tmp_path / "list.txt", "*.jpg")


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_a_bad_image_is_named_or_skipped(data_cfg, tmp_path, damage):
    folder = draw_tiles(tmp_path, 5) / "images"
    bad = folder / "tile_002.jpg"
    content = {"empty": b"", "truncated": bad.read_bytes()[:700], "text": b"not an image"}
    bad.write_bytes(content[damage])
    data_cfg["data_path"] = str(folder)
    with pytest.raises(UserError, match=r"tile_002\.jpg"):
        PretextDataset(PretextSettings(**data_cfg))[(0, 2)]
    sample = PretextDataset(PretextSettings(**data_cfg, on_bad_image="skip"))[(0, 2)]
    assert sample["skipped"] == [2]
    assert sample["index"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(img_size=100), "multiple of 32"),
        (dict(post_transforms_cfg=dict(R=dict(name="Resize", size=64))), "img_size=32"),
        (dict(agr_transforms_cfg=dict(transforms_cfg={})), "names no transform"),
    ],
)
def test_settings_that_contradict_are_named(data_cfg, change, said):
    with pytest.raises(UserError, match=said):
        PretextDataset(PretextSettings(**data_cfg | change))


def test_an_epoch_takes_each_image_at_most_once_in_a_new_order():
    batches = list(KeySampler(10, 3, per_epoch=3, first=0, last=6, seed=0))
    first, second = ([key for batch in batches[i : i + 3] for key in batch] for i in (0, 3))
    for epoch, keys in enumerate((first, second)):
        assert {key[0] for key in keys} == {epoch}
        assert len({key[1] for key in keys}) == 9
    assert [index for _, index in first] != [index for _, index in second]


def test_going_on_gives_the_rest_of_the_batches():
    whole = list(KeySampler(10, 3, per_epoch=3, first=0, last=9, seed=5))
    assert list(KeySampler(10, 3, per_epoch=3, first=4, last=9, seed=5)) == whole[4:]


def test_real_tiles_give_three_images(oam, data_cfg):
    data_cfg |= dict(data_path=str(oam / "images"), data_format="nepal_*.jpg", img_size=256)
    dataset = PretextDataset(PretextSettings(**data_cfg))
    assert len(dataset) == 168
    sample = dataset[(0, 0)]
    assert sample["anchor"].shape == (256, 256, 3)
    assert 0.02 < (sample["anchor"] != sample["occluded"]).any(axis=2).mean() < 1 / 9
