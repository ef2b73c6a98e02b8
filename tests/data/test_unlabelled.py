"""Tiles without labels in training: which they are, and how they come into a sample."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_tiles
from drawn import prepared, write_tiff

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.data.unlabelled import (
    UnlabelledSettings,
    WithUnlabelled,
    collate_both,
    find_unlabelled,
    require_readable,
)


def open_tiles(folder: Path, seed: int = 0, in_channels: int = 3, **changes) -> SegmentationDataset:
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    return SegmentationDataset(TileSettings(**paths | changes), 2, in_channels, seed)


def stems(files) -> set[str]:
    return {Path(file).stem for file in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve labelled tiles."""
    return draw_tiles(tmp_path_factory.mktemp("labelled"), 12, size=40, seed=3)


@pytest.fixture
def others(tmp_path) -> Path:
    """Five images of their own, in a folder."""
    return draw_tiles(tmp_path / "others", 5, size=40, seed=9) / "images"


def test_the_rest_is_what_the_fraction_leaves_out(folder):
    train = open_tiles(folder, fraction=0.25, fraction_seed=4)
    images, reading = find_unlabelled(UnlabelledSettings("rest"), train, {})
    labelled = stems(image for image, _ in train.pairs)
    assert len(labelled) == 3
    assert stems(images).isdisjoint(labelled)
    assert stems(images) | labelled == stems((folder / "images").iterdir())
    assert reading == train.reading


def test_with_all_labels_there_is_no_rest(folder):
    with pytest.raises(UserError, match=r"train_cfg\.unlabelled\.image_path='rest'.*--fraction"):
        find_unlabelled(UnlabelledSettings("rest"), open_tiles(folder), {})


def test_labelled_tiles_are_left_out_of_a_folder_whatever_they_are_called(folder, others):
    shutil.copy(folder / "images/tile_004.jpg", others / "copied.jpg")
    images, _ = find_unlabelled(UnlabelledSettings(str(others)), open_tiles(folder), {})
    assert stems(images) == {f"tile_{number:03d}" for number in range(5)}


def test_a_folder_of_labelled_tiles_alone_is_refused(folder):
    with pytest.raises(UserError, match="12 images are all among the labelled tiles"):
        find_unlabelled(UnlabelledSettings(str(folder / "images")), open_tiles(folder), {})


def test_images_of_scored_tiles_are_refused_unless_that_is_meant(folder, others, capsys):
    shutil.copy(folder / "images/tile_011.jpg", others / "renamed.jpg")
    train, test = (open_tiles(folder, data_format=part) for part in ("tile_00*.jpg", "tile_01*"))
    scored = {"val_data": open_tiles(folder, data_format="tile_009.jpg"), "test_data": test}
    with pytest.raises(
        UserError, match=r"1 of 6 images are tiles of test_data or what .*, first .*renamed"
    ):
        find_unlabelled(UnlabelledSettings(str(others)), train, scored)
    allowed = UnlabelledSettings(str(others), allow_test_images=True)
    assert "renamed" in stems(find_unlabelled(allowed, train, scored)[0])
    assert "1 images are tiles of test_data" in capsys.readouterr().err


@pytest.fixture
def cut(tmp_path) -> Path:
    """A set cut from ten JPEGs of 64 x 64 pixels to tiles of 32: s0 and s1 for validation, s2 for
    the test, the others to train."""
    for number in range(10):
        draw_tiles(tmp_path / "drawn", 1, seed=number)
        for part, ending in (("image", "jpg"), ("label", "png")):
            target = tmp_path / f"source/{part}s/s{number}.{ending}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(tmp_path / f"drawn/{part}s/tile_000.{ending}", target)
    prepared(tmp_path, "folder", "--classes", "ground", "roof", "--splits", "val=s0,s1", "test=s2")
    return tmp_path / "out"


def open_cut(cut: Path, split: str, **changes) -> SegmentationDataset:
    paths = {f"{kind}_path": str(cut / f"{kind}s" / split) for kind in ("image", "label")}
    return open_tiles(cut, **paths | changes)


@pytest.mark.parametrize(("source", "split"), [("s1", "val"), ("s2", "test")])
def test_what_scored_tiles_were_cut_from_is_refused(cut, others, capsys, source, split):
    shutil.copy(cut.parent / f"source/images/{source}.jpg", others / "renamed.jpeg")
    train, tiles = open_cut(cut, "train"), open_cut(cut, split)
    asked, scored = UnlabelledSettings(str(others), "*.jpg"), {f"{split}_data": tiles}
    with pytest.raises(UserError, match=rf"1 of 6 .*{split}_data or what they.*renamed\.jpeg"):
        find_unlabelled(asked, train, scored)
    assert len(find_unlabelled(asked, train, {})[0]) == 6
    allowed = UnlabelledSettings(str(others), allow_test_images=True)
    assert "renamed" in stems(find_unlabelled(allowed, train, scored)[0])
    assert f"1 images are tiles of {split}_data or what they were cut" in capsys.readouterr().err


def test_what_labelled_tiles_were_cut_from_is_left_out(cut, others):
    for source in ("s3", "s9"):
        shutil.copy(cut.parent / f"source/images/{source}.jpg", others / f"{source}.jpg")
    own = {f"tile_{number:03d}" for number in range(5)}
    images, _ = find_unlabelled(UnlabelledSettings(str(others)), open_cut(cut, "train"), {})
    assert stems(images) == own
    few = open_cut(cut, "train", data_format="s3_*.png")  # of s9 no label is used
    assert stems(find_unlabelled(UnlabelledSettings(str(others)), few, {})[0]) == own | {"s9"}
    sources = UnlabelledSettings(str(cut.parent / "source/images"))
    with pytest.raises(UserError, match=r"2 of 10 .*val_data .*s0\.jpg"):
        find_unlabelled(sources, few, {"val_data": open_cut(cut, "val")})


def test_sets_that_do_not_say_what_they_were_cut_from_are_compared_by_their_tiles(cut, others):
    shutil.copy(cut.parent / "source/images/s1.jpg", others / "source.jpg")
    shutil.copy(cut / "images/val/s0_0_32.png", others / "tile.png")
    (cut / "audit.json").unlink()
    scored = {"val_data": open_cut(cut, "val")}
    with pytest.raises(UserError, match=r"1 of 7 .*val_data.*first .*tile\.png"):
        find_unlabelled(UnlabelledSettings(str(others)), open_cut(cut, "train"), scored)


def test_a_scene_that_is_cut_by_rows_is_of_all_its_splits(tmp_path):
    """16-bit GeoTIFFs, whose tiles are TIFFs, read by a scale."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        planes = rng.integers(1, 3000, (3, 160, 64), dtype=np.uint16)
        write_tiff(tmp_path / f"source/images/{name}.tif", planes)
        label = rng.integers(0, 2, (160, 64), dtype=np.uint8)
        write_tiff(tmp_path / f"source/labels/{name}.tif", label)
    words = ("--classes", "ground", "roof", "--max_value", 3000, "--splits", "blocks")
    prepared(tmp_path, "folder", *words)
    cut, scenes = tmp_path / "out", UnlabelledSettings(str(tmp_path / "source/images"))
    train = open_cut(cut, "train")
    with pytest.raises(UserError, match="its 2 images are all among the labelled tiles, or what"):
        find_unlabelled(scenes, train, {})
    for split in ("val", "test"):
        with pytest.raises(UserError, match=f"2 of 2 images are tiles of {split}_data"):
            find_unlabelled(scenes, train, {f"{split}_data": open_cut(cut, split)})


def test_images_of_other_bands_are_refused(folder, tmp_path):
    planes = np.random.default_rng(0).integers(1, 256, (5, 40, 40), dtype=np.uint8)
    write_tiff(tmp_path / "five/a.tif", planes)
    with pytest.raises(UserError, match=r"train_cfg\.unlabelled: .*a\.tif.* 5 bands"):
        find_unlabelled(UnlabelledSettings(str(tmp_path / "five")), open_tiles(folder), {})


def test_how_other_images_are_read_can_be_stated(folder, tmp_path):
    deep, train = tmp_path / "deep", open_tiles(folder)
    planes = np.random.default_rng(0).integers(1, 1000, (4, 40, 40), dtype=np.uint16)
    write_tiff(deep / "a.tif", planes)
    with pytest.raises(UserError, match=r"train_cfg\.unlabelled: .*uint16.*set max_value here"):
        find_unlabelled(UnlabelledSettings(str(deep)), train, {})
    with pytest.raises(UserError, match=r"train_cfg\.unlabelled: .*a\.tif.* 4 bands"):
        find_unlabelled(UnlabelledSettings(str(deep), max_value=1000), train, {})
    settings = UnlabelledSettings(str(deep), max_value=1000, bands=(4, 1, 2))
    reading = find_unlabelled(settings, train, {})[1]
    assert (reading.max_value, reading.bands) == (1000, (4, 1, 2))
    with pytest.raises(UserError, match="leave out bands and max_value"):
        UnlabelledSettings("rest", max_value=1000)


def test_labels_among_the_images_are_refused(folder, tmp_path):
    shutil.copytree(draw_tiles(tmp_path / "set", 3, size=40, seed=9), tmp_path / "both/set")
    with pytest.raises(UserError, match=r"3 of 6 files lie in a folder of labels, first .*labels/"):
        find_unlabelled(UnlabelledSettings(str(tmp_path / "both")), open_tiles(folder), {})


def test_what_labelling_would_end_on_is_told_before(folder, others):
    cv2.imwrite(str(others / "large.png"), np.zeros((48, 40, 3), np.uint8))
    images, _ = find_unlabelled(UnlabelledSettings(str(others)), open_tiles(folder), {})
    require_readable(images, open_tiles(folder, crop_size=32))
    with pytest.raises(UserError, match=r"large\.png is 40 x 48 .*40 x 40; set .*crop_size"):
        require_readable(images, open_tiles(folder))
    (others / "damaged.png").write_text("no image")
    with pytest.raises(UserError, match=r"damaged\.png"):
        require_readable([*images, str(others / "damaged.png")], open_tiles(folder, crop_size=32))


def test_windows_of_scenes_are_refused(folder):
    train = open_tiles(folder)
    train.windows = object()
    with pytest.raises(UserError, match=r"train_data\.windows draws from scenes"):
        find_unlabelled(UnlabelledSettings("rest"), train, {})


@pytest.mark.parametrize("keys", [{"share": 0}, {"share": 1.1}, {"weight": 0}, {"weight": -1}])
def test_numbers_out_of_range_are_refused(keys):
    with pytest.raises(UserError, match=rf"train_cfg\.unlabelled\.{next(iter(keys))}="):
        UnlabelledSettings("rest", **keys)


@pytest.fixture
def both(folder, tmp_path) -> WithUnlabelled:
    """Three labelled tiles for twelve samples an epoch, nine others beside, whose labels are 1
    where the tiles' own are 0, and 255 in the first row."""
    augmented = dict(crop_size=32, flips=True, turns=True)
    train = open_tiles(folder, fraction=0.25, fraction_seed=4, **augmented)
    images, reading = find_unlabelled(UnlabelledSettings("rest"), train, {})
    pairs = []
    for image in images:
        label = 1 - cv2.imread(str(folder / f"labels/{Path(image).stem}.png"), cv2.IMREAD_UNCHANGED)
        label[0] = 255
        cv2.imwrite(str(tmp_path / f"{Path(image).stem}.png"), label)
        pairs.append((image, str(tmp_path / f"{Path(image).stem}.png")))
    return WithUnlabelled(train.repeated(), train.on(pairs, reading, seed=1))


def test_a_sample_depends_on_its_key_alone(both):
    first, again = both[(2, 5)], both[(2, 5)]
    for part in (first, first["unlabelled"]), (again, again["unlabelled"]):
        assert part[0]["index"] == 5
    for key in ("image", "label"):
        assert np.array_equal(first[key], again[key])
        assert np.array_equal(first["unlabelled"][key], again["unlabelled"][key])
        assert np.array_equal(first[key], both.labelled[(2, 5)][key])
    assert not np.array_equal(first["unlabelled"]["image"], both[(3, 5)]["unlabelled"]["image"])


def test_all_tiles_without_labels_come_once_a_lap(both):
    size, count = len(both), len(both.unlabelled)
    assert (size, count) == (12, 9)
    samples = [both[(epoch, index)]["unlabelled"] for epoch in range(3) for index in range(size)]
    numbers = [sample["index"] % count for sample in samples]
    assert np.bincount(numbers).tolist() == [4] * 9
    laps = [numbers[start : start + 9] for start in range(0, 36, 9)]
    assert all(sorted(lap) == list(range(9)) for lap in laps)
    # The 12 samples of an epoch have 3 of the 9 tiles twice, each time with other draws.
    images = [sample["image"].tobytes() for sample in samples[:size]]
    assert len(set(images)) == size
    assert both.name(1).stem in stems(image for image, _ in both.labelled.pairs)


def test_an_epoch_has_tiles_of_all_folders(folder):
    """Of 12 tiles whose paths lie side by side, by 3 labelled ones in each epoch."""
    train, others = open_tiles(folder, data_format="tile_00[0-2].jpg"), open_tiles(folder)
    both = WithUnlabelled(train, train.on(others.pairs, train.reading, seed=1))
    orders = [[both[epoch, i]["unlabelled"]["index"] % 12 for i in range(3)] for epoch in range(8)]
    first, second = np.reshape(orders, (2, 12)).tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert all(max(part) - min(part) > 2 for part in orders)
    assert orders[5] == [both[5, index]["unlabelled"]["index"] % 12 for index in range(3)]


def test_image_and_pseudo_label_stay_together(both):
    """Bright roofs are 0 in these labels, ground is 1."""
    right = total = 0
    for index in range(len(both)):
        tile = both[(0, index)]["unlabelled"]
        known = tile["label"] != 255
        is_roof = tile["image"][:, :, 0] > 130
        right += (tile["label"] == np.where(is_roof, 0, 1))[known].sum()
        total += known.sum()
    assert right / total > 0.99


def test_a_batch_has_both_parts_of_one_shape(both):
    batch = collate_both([both[(0, index)] for index in range(4)])
    assert batch["image"].shape == batch["unlabelled_image"].shape == (4, 3, 32, 32)
    assert batch["label"].shape == batch["pseudo_label"].shape == (4, 32, 32)
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_tiles_of_another_size_are_refused_with_the_remedy(folder, tmp_path):
    train = open_tiles(folder)
    large = draw_tiles(tmp_path, 12, size=48)
    pairs = [
        (str(large / f"images/tile_{n:03d}.jpg"), str(large / f"labels/tile_{n:03d}.png"))
        for n in range(12)
    ]
    both = WithUnlabelled(train, train.on(pairs, train.reading, seed=1))
    with pytest.raises(UserError, match=r"differ in size \[\(40, 40\), \(48, 48\)\]; set crop_siz"):
        collate_both([both[(0, 0)], both[(0, 1)]])
