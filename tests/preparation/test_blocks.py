"""Validation and test as blocks of ground: of many images the ends, of few scenes the last rows."""

import json
import re

import cv2
import numpy as np
import pytest
import rasterio
from drawn import card_of, prepared, read_tile

from SSLRemoteSensing.preparation.blocks import by_numbers

CLASSES = ("--classes", "land", "water")
SPLITS = ("--splits", "blocks")


def write_scene(folder, name, size, place=None, seed=0):
    """An image and label of random values, as TIFF with a place or as PNG."""
    rng = np.random.default_rng([seed, *map(ord, name)])
    image = rng.integers(1, 255, (3, *size), np.uint8)
    label = rng.integers(0, 2, size, np.uint8)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"labels/{name}.png"), label)
    if place is None:
        cv2.imwrite(str(folder / f"images/{name}.png"), image.transpose(1, 2, 0)[:, :, ::-1])
    else:
        shape = dict(height=size[0], width=size[1], count=3, dtype="uint8", crs="EPSG:32633")
        shape["transform"] = rasterio.Affine(1, 0, place[0], 0, -1, place[1])
        with rasterio.open(folder / f"images/{name}.tif", "w", **shape) as file:
            file.write(image)
    return image, label


@pytest.mark.parametrize("height", [320, 333, 96])
def test_few_scenes_are_cut_into_blocks_of_rows(tmp_path, height):
    tile = 32
    drawn = {n: write_scene(tmp_path / "source", n, (height, 70)) for n in ("a", "b")}
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=tile)
    assert "blocks of ground, no random tiles" in done.stdout
    held = max(1, round(0.15 * (height // tile))) * tile
    ends = dict(train=(0, height - 2 * held), val=(height - 2 * held, height - held))
    ends["test"] = height - held, height
    card = card_of(tmp_path / "out")
    assert card["scenes"] == {split: [f"a_{split}", f"b_{split}"] for split in ends}
    for split, (first, end) in ends.items():
        for name, (image, label) in drawn.items():
            parts = {"images": image[:, first:end], "labels": label[first:end]}
            for part, expected in parts.items():
                tiles = sorted((tmp_path / f"out/{part}/{split}").glob(f"{name}_{split}_*"))
                assert tiles
                rows = set()
                for path in tiles:
                    y, x = map(int, re.search(r"_(\d+)_(\d+)\.png", path.name).groups())
                    rows |= {*range(y, y + tile)}
                    cut = expected[..., y : y + tile, x : x + tile]
                    assert np.array_equal(read_tile(path), cut)
                assert rows == {*range(end - first)}  # each row of the block, and of no other


def test_a_block_lies_where_it_was_cut(tmp_path):
    write_scene(tmp_path / "source", "a", (320, 64), place=(500_000, 5_000_000))
    prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    lines = (tmp_path / "out/audit.json").read_text()
    records = {f"{x['scene']}": x for x in json.loads(lines)["scenes"]}
    tops = {name: record["transform"][5] for name, record in records.items()}
    assert tops == {"a_train": 5e6, "a_val": 5e6 - 192, "a_test": 5e6 - 256}


@pytest.mark.parametrize("axis", [0, 1])
def test_many_images_are_dealt_along_the_ground_that_they_cover(tmp_path, axis):
    """Names say nothing of where they lie."""
    order = np.random.default_rng(4).permutation(20)
    for place, number in enumerate(order):
        along = [500_000, 5_000_000]
        along[axis] += 100 * place
        write_scene(tmp_path / "source", f"t{number}", (32, 32), place=along)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert ("from west to east", "from south to north")[axis] in done.stdout
    scenes = card_of(tmp_path / "out")["scenes"]
    expected = [f"t{number}" for number in order]
    assert sorted(scenes["train"]) == sorted(expected[:14])
    assert sorted(scenes["val"]) == sorted(expected[14:17])
    assert sorted(scenes["test"]) == sorted(expected[17:])


def test_images_without_a_place_are_dealt_in_the_order_of_their_numbers(tmp_path):
    for number in range(1, 13):
        write_scene(tmp_path / "source", f"part{number}", (32, 32))
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert "in the order of their names" in done.stdout
    scenes = card_of(tmp_path / "out")["scenes"]
    assert sorted(scenes["val"]) == ["part10", "part9"]
    assert sorted(scenes["test"]) == ["part11", "part12"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["blocks", "test=0.2"], "--splits blocks: stands alone"),
        (["blocks"], "is 64 pixels high, no three tiles of 32 for train, val and test"),
    ],
)
def test_what_cannot_be_cut_into_blocks_is_told(tmp_path, flags, message):
    write_scene(tmp_path / "source", "a", (64, 64))
    done = prepared(tmp_path, "folder", *CLASSES, "--splits", *flags, tile=32, status=2)
    assert message in done.stderr


def test_numbers_sort_as_numbers():
    names = ["a10_2.png", "a2_10.png", "a2_9.png", "b1.png"]
    assert sorted(names, key=by_numbers) == ["a2_9.png", "a2_10.png", "a10_2.png", "b1.png"]
