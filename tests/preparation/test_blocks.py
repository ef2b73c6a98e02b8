"""Validation and test as blocks of ground: of many images the ends, of few scenes the last rows."""

import json
import re
from itertools import combinations

import cv2
import numpy as np
import pytest
import rasterio
from drawn import card_of, prepared, read_tile
from rasterio.warp import transform

from SSLRemoteSensing.preparation.blocks import by_numbers

CLASSES = ("--classes", "land", "water")
SPLITS = ("--splits", "blocks")


def write_scene(folder, name, size, place=None, seed=0, crs="EPSG:32633", ending="tif"):
    """An image and label of random values, as TIFF or JPEG with a place (x, y) of its upper left
    corner, 1 m a pixel, or as PNG."""
    rng = np.random.default_rng([seed, *map(ord, name)])
    image = rng.integers(1, 255, (3, *size), np.uint8)
    label = rng.integers(0, 2, size, np.uint8)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"labels/{name}.png"), label)
    if place is None:
        cv2.imwrite(str(folder / f"images/{name}.png"), image.transpose(1, 2, 0)[:, :, ::-1])
    else:
        shape = dict(height=size[0], width=size[1], count=3, dtype="uint8", crs=crs)
        shape["transform"] = rasterio.Affine(1, 0, place[0], 0, -1, place[1])
        with rasterio.open(folder / f"images/{name}.{ending}", "w", **shape) as file:
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


@pytest.mark.parametrize(("axis", "ending"), [(0, "tif"), (1, "tif"), (0, "jpg")])
def test_many_images_are_dealt_along_the_ground_that_they_cover(tmp_path, axis, ending):
    """Names say nothing of where they lie."""
    order = np.random.default_rng(4).permutation(20)
    for place, number in enumerate(order):
        along = [500_000, 5_000_000]
        along[axis] += 100 * place
        write_scene(tmp_path / "source", f"t{number}", (32, 32), place=along, ending=ending)
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


def boxes(output):
    """Split and left, bottom, right, top of each scene of a set, of 1 m a pixel in its CRS."""
    for split, places in card_of(output)["places"].items():
        for place in places.values():
            left, top = place["transform"][2], place["transform"][5]
            yield split, (left, top - place["height"], left + place["width"], top)


def assert_apart(output):
    """No ground of a pixel or more is in two splits; those without labels train beside."""
    scenes = [("train" if x == "unlabelled" else x, box) for x, box in boxes(output)]
    for (split, one), (other, two) in combinations(scenes, 2):
        sides = [min(one[i + 2], two[i + 2]) - max(one[i], two[i]) for i in (0, 1)]
        assert split == other or min(sides) < 1, (split, one, other, two)


@pytest.mark.parametrize("by_year", [True, False])
def test_images_of_one_place_are_in_one_split(tmp_path, by_year):
    """Of four years, which all cover it, or lie some metres beside."""
    for place in range(7):
        for year in range(4):
            name = f"{year}_{place}" if by_year else f"{place}_{year}"
            corner = 500_000 + 100 * place + 3 * year, 5_000_000 + year
            write_scene(tmp_path / "source", name, (32, 32), place=corner)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert_apart(tmp_path / "out")
    scenes = card_of(tmp_path / "out")["scenes"]
    assert {split: len(names) for split, names in scenes.items()} == dict(train=20, val=4, test=4)
    assert "the last 4 are test and 4 before them validation" in done.stdout
    assert "left out" not in done.stdout


def test_images_without_a_label_show_no_ground_of_validation_or_test(tmp_path):
    """Of eight places another year has no labels; one that lies apart is taken wherever it lies."""
    source = tmp_path / "source"
    for place in range(8):
        for year in range(2):
            corner = 500_000 + 100 * place + 3 * year, 5_000_000
            write_scene(source, f"{place}_{year}", (32, 32), place=corner)
        (source / f"labels/{place}_1.png").unlink()
    write_scene(source, "apart_1", (32, 32), place=(500_700, 5_001_000))
    (source / "labels/apart_1.png").unlink()
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, "--unlabelled", "keep", tile=32)
    assert_apart(tmp_path / "out")
    scenes = card_of(tmp_path / "out")["scenes"]
    assert (scenes["val"], scenes["test"]) == (["6_0"], ["7_0"])
    assert sorted(scenes["unlabelled"]) == ["0_1", "1_1", "2_1", "3_1", "4_1", "5_1", "apart_1"]
    assert "2 images without a label are left out, as they show ground of" in done.stdout


def test_images_of_two_places_are_cut_into_rows_of_the_same_ground(tmp_path):
    for place in range(2):
        for year in range(4):
            corner = 500_000 + 100 * place, 5_000_000
            write_scene(tmp_path / "source", f"{place}_{year}", (320, 32), place=corner)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert "of each scene the last 15% of the rows are test" in done.stdout
    assert_apart(tmp_path / "out")
    scenes = card_of(tmp_path / "out")["scenes"]
    assert {split: len(names) for split, names in scenes.items()} == dict(train=8, val=8, test=8)


def test_rows_of_several_years_that_do_not_lie_alike_are_kept_apart(tmp_path):
    """Of one place, from other rows on, and one with a row less."""
    for year, height in enumerate((320, 319, 320, 318)):
        corner = 500_000 + 0.4 * year, 5_000_000 - 1.7 * year
        write_scene(tmp_path / "source", f"y{year}", (height, 32), place=corner)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert "no random tiles; 4 rows between them are left out, as scenes overlap" in done.stdout
    assert_apart(tmp_path / "out")
    places = card_of(tmp_path / "out")["places"]
    heights = {split: [p["height"] for p in own.values()] for split, own in places.items()}
    assert heights == dict(train=[248, 247, 248, 246], val=[32] * 4, test=[32] * 4)


def test_of_images_that_all_overlap_those_across_a_border_are_left_out(tmp_path):
    """As tiles are that were cut with a stride below their side."""
    for number in range(20):
        corner = 500_000 + 20 * number, 5_000_000
        write_scene(tmp_path / "source", f"t{number}", (32, 32), place=corner)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert_apart(tmp_path / "out")
    scenes = card_of(tmp_path / "out")["scenes"]
    assert {split: len(names) for split, names in scenes.items()} == dict(train=13, val=2, test=3)
    assert "2 images are left out, as they overlap those of the next block: t13, t16" in done.stdout


def test_neighbours_that_meet_at_their_sides_do_not_overlap(tmp_path):
    for number in range(10):
        corner = 500_000 + 32 * number + 0.3 * (number % 2), 5_000_000
        write_scene(tmp_path / "source", f"t{number}", (32, 32), place=corner)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert sum(map(len, card_of(tmp_path / "out")["scenes"].values())) == 10
    assert "left out" not in done.stdout


def test_images_of_two_zones_are_dealt_by_degrees(tmp_path):
    """Every place is mapped in the zone to the west of it and in that to the east: 15 and 21 E."""
    for number in range(10):
        latitude, longitude = 50 + 0.01 * number, 18.0
        for code in (32633, 32634):
            (x,), (y,) = transform("EPSG:4326", f"EPSG:{code}", [longitude], [latitude])
            name, crs = f"{code}_{number}", f"EPSG:{code}"
            write_scene(tmp_path / "source", name, (32, 32), place=(x, y), crs=crs)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32)
    assert "from south to north" in done.stdout
    scenes = card_of(tmp_path / "out")["scenes"]
    numbers = {split: {int(name[6:]) for name in names} for split, names in scenes.items()}
    assert {split: len(names) for split, names in scenes.items()} == dict(train=12, val=4, test=4)
    assert numbers == dict(train={*range(6)}, val={6, 7}, test={8, 9})


def test_rows_of_scenes_that_overlap_are_refused(tmp_path):
    """The last rows of the northern one are the first rows of the other."""
    for number in range(2):
        corner = 500_000, 5_000_000 - 300 * number
        write_scene(tmp_path / "source", f"s{number}", (320, 64), place=corner)
    done = prepared(tmp_path, "folder", *CLASSES, *SPLITS, tile=32, status=2)
    assert "s0.tif and images/s1.tif overlap on the map" in done.stderr
    assert "rows for test and for train would show the same ground" in done.stderr
    assert "--splits val=A test=B" in done.stderr
    prepared(tmp_path, "folder", *CLASSES, "--splits", "val=s1", tile=32)


def test_percentiles_are_of_the_rows_for_training(tmp_path):
    planes = np.full((1, 320, 64), 5000, np.uint16)
    planes[0, :192] = np.linspace(100, 200, 192)[:, None].round()
    (tmp_path / "source").mkdir()
    shape = dict(height=320, width=64, count=1, dtype="uint16", crs="EPSG:32633")
    shape["transform"] = rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000)
    with rasterio.open(tmp_path / "source/a.tif", "w", **shape) as file:
        file.write(planes)
    prepared(tmp_path, "folder", *SPLITS, "--scale", "percentile", tile=32)
    scale = card_of(tmp_path / "out")["scale"]
    expected = np.percentile(planes[0, :192], (2, 98))
    assert [scale["minimum"][0], scale["maximum"][0]] == pytest.approx(expected, abs=0.5)


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
