"""Opening tiles: prepared ones are taken at their word, others looked through; finding files."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from drawn import (
    card_of,
    draw_classes,
    draw_image,
    draw_levir,
    draw_potsdam,
    prepared,
    read_tile,
    write_png,
)

from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.labels import check_labels
from SSLRemoteSensing.data.prepared import agreed_scale, read_card
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings


def open_set(
    folder: Path, split="train", num_classes=6, in_channels=3, coding=None, classes=None, **changes
) -> SegmentationDataset:
    """A split of a prepared set, or of any folder of images/ and labels/."""
    paths = {f"{kind}_path": str(folder / f"{kind}s" / split) for kind in ("image", "label")}
    settings = TileSettings(**paths | changes)
    return SegmentationDataset(settings, num_classes, in_channels, coding=coding, classes=classes)


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("potsdam")
    draw_potsdam(folder / "source")
    prepared(folder, "potsdam", "--labels", "both")
    return folder / "out"


@pytest.fixture(scope="module")
def levir(tmp_path_factory) -> Path:
    """Four bands of 16 bits, prepared without a georeference's help."""
    folder = tmp_path_factory.mktemp("levir")
    draw_levir(folder / "source", train=3, test=1)
    prepared(folder, "levir_cs")
    return folder / "out"


# ---------------------------------------------------------------------------- prepared tiles


def test_prepared_tiles_open_with_their_labels_as_they_are(potsdam, capsys):
    dataset = open_set(potsdam)
    eroded = open_set(potsdam, label_path=str(potsdam / "labels_eroded/train"))
    assert len(dataset) == card_of(potsdam)["tiles"]["train"] == 18
    assert dataset.reading.max_value is None
    for index in range(len(dataset)):
        name = dataset.name(index).stem
        image, label = dataset.read(index)
        tile = read_tile(potsdam / f"images/train/{name}.png")
        assert np.array_equal(image, tile.transpose(1, 2, 0))
        assert np.array_equal(label, read_tile(potsdam / f"labels/train/{name}.png"))
        assert 255 in eroded.read(index)[1]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("num_classes", [5, 6, 7])
def test_another_number_of_classes_or_their_names_in_another_order_than_prepared_is_refused(
    potsdam, num_classes
):
    """The same number in another order would learn and score under wrong names."""
    classes = [*card_of(potsdam)["classes"], "other"][::-1] if num_classes == 6 else None
    classes = classes and [classes[2], classes[1], *classes[3:]]
    with pytest.raises(UserError, match=r"classes: .* was prepared with 6: impervious surface,"):
        open_set(potsdam, num_classes=num_classes, classes=classes)


@pytest.mark.parametrize(
    "given", [dict(label_offset=-1), dict(label_codes=(5, 4, 3, 2, 1, 0))], ids=str
)
def test_a_coding_that_would_shift_prepared_labels_is_refused(potsdam, given):
    """0 is a class there: taking it for 'not scored' would shift every class without a word."""
    with pytest.raises(UserError, match="prepared"):
        open_set(potsdam, **given)


def test_bands_that_do_not_fit_are_refused_when_opened(levir):
    with pytest.raises(UserError, match=r"red, green, blue, near infrared.*in_channels=4"):
        open_set(levir, num_classes=3)
    dataset = open_set(levir, num_classes=3, bands=(1, 2, 3))
    assert dataset.read(0)[0].shape == (32, 32, 3)


def test_prepared_tiles_bring_their_scale_which_may_be_stated_and_no_other(levir):
    dataset = open_set(levir, num_classes=3, in_channels=4)
    assert dataset.reading.max_value == 1023
    image, label = dataset.read(0)
    tile = read_tile(levir / f"images/train/{dataset.name(0).name}").astype(float)
    expected = np.rint(np.minimum(tile, 1023) * 255 / 1023).transpose(1, 2, 0)
    assert np.abs(image - expected).max() <= 1
    assert image.max() == 255
    assert set(np.unique(label)) <= {0, 1, 2}
    assert open_set(levir, num_classes=3, in_channels=4, max_value=1023).reading.max_value == 1023
    with pytest.raises(UserError, match=r"max_value=255: .* was prepared with 1023; leave it out"):
        open_set(levir, num_classes=3, in_channels=4, max_value=255)


def test_pre_training_takes_the_scale_too(levir):
    config = load_config(ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py")
    given = config["train_cfg"]["train_data"] | dict(
        data_path=str(levir / "images/train"), data_format="*.tif", img_size=32, crop_size=None
    )
    dataset = PretextDataset(PretextSettings(**given), in_channels=4)
    assert dataset.reading.max_value == 1023
    assert dataset.read(0)[0].max() == 255
    with pytest.raises(UserError, match="max_value"):
        PretextDataset(PretextSettings(**given | dict(max_value=4095)), in_channels=4)


def test_tiles_without_a_card_have_the_scale_that_is_stated(tmp_path):
    assert read_card(tmp_path) is None
    assert agreed_scale(None, up_to(1023), None) == up_to(1023)


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("prepare.jsonl", "", "its preparation is not finished; run tools/prepare.py again"),
        *(
            ("dataset.json", text, "damaged .*prepare the data set")
            for text in ("", "{", "[]", "null")
        ),
        ("dataset.json", '{"version": 1, "scale": "x"}', "damaged .*prepare the data set again"),
        ("dataset.json", '{"version": 1, "scale": 1, "classes": []}', "lacks bands"),
        ("dataset.json", '{"version": 1, "scale": 1, "bands": []}', "lacks classes"),
        ("dataset.json", '{"version": 2, "scale": 1, "bands": []}', "of version 2, known is 1"),
    ],
)
def test_a_set_that_is_unfinished_damaged_or_of_a_later_version_is_refused(
    tmp_path, name, contents, said
):
    draw_pairs(tmp_path, 1)
    (tmp_path / name).write_text(contents)
    with pytest.raises(UserError, match=said):
        open_set(tmp_path, "")


@pytest.mark.parametrize("contents", ['{"channel_names": {"0": "red"}}', "{}"])
def test_a_dataset_json_of_another_tool_is_not_taken_for_ours(tmp_path, contents):
    """Other programs keep a file of that name at the root of a data set."""
    draw_pairs(tmp_path, 3)
    (tmp_path / "dataset.json").write_text(contents)
    assert len(open_set(tmp_path, "")) == 3


def test_a_missing_label_of_a_prepared_tile_is_told(potsdam, tmp_path):
    folder = shutil.copytree(potsdam, tmp_path / "out")
    (folder / "labels/train/3_10_0_0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 18 images have no label, first 3_10_0_0.png"):
        open_set(folder)


def test_test_scenes_without_labels_cannot_be_scored(tmp_path):
    draw_levir(tmp_path / "source", train=2, test=1, label_test=False)
    prepared(tmp_path, "levir_cs")
    with pytest.raises(UserError, match="label_path"):
        open_set(tmp_path / "out", "test_unlabelled", num_classes=3, in_channels=4)


def draw_empty_set(folder: Path, names: list[str]) -> None:
    """A prepared set of tiles that are not to be read."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
        for name in names:
            os.close(os.open(f"{folder}/{kind}/train/{name}.png", os.O_CREAT | os.O_WRONLY))
    card = dict(version=1, scale=255, classes=list("abcdef"), bands=["r", "g", "b"])
    (folder / "dataset.json").write_text(json.dumps(card))


@pytest.mark.parametrize("name", ["Barren_00_0214", "area_2_10", "2_10"])
def test_a_fraction_of_prepared_tiles_is_stratified_by_the_scenes_they_were_cut_from(
    tmp_path, name
):
    """Though the name of a tile may look like one with two corners: area_2_10_256_512."""
    places = [f"{y}_{x}" for y in range(0, 2048, 256) for x in range(0, 2048, 256)]
    scenes = (name, name[:-1] + "5")
    draw_empty_set(tmp_path, [f"{scene}_{place}" for scene in scenes for place in places])
    for seed in range(6):
        kept = open_set(tmp_path, fraction=0.125, fraction_seed=seed).pairs
        of_first = sum(Path(image).name.startswith(f"{name}_") for image, _ in kept)
        assert len(kept) == 16
        assert 7 <= of_first <= 9


def test_20000_prepared_tiles_open_in_a_second(tmp_path):
    draw_empty_set(tmp_path, [f"s{number % 40}_{number}_0" for number in range(20_000)])
    fastest = 9.0
    for _ in range(2):  # other work of the machine must not fail it
        start = time.process_time()
        dataset = open_set(tmp_path, fraction=0.5)
        fastest = min(fastest, time.process_time() - start)
    assert len(dataset.pairs) == 10_000
    assert fastest < 1


# ---------------------------------------------------------------------------- tiles of others


def draw_pairs(folder: Path, count: int, classes: int = 6, shift: int = 0, ending="png") -> Path:
    for number in range(count):
        image = draw_image(3, (32, 32), number).transpose(1, 2, 0)
        write_png(folder / f"images/t{number}.{ending}", image)
        label = draw_classes((32, 32), number, [1] * classes) + shift
        write_png(folder / f"labels/t{number}.png", label.astype(np.uint8))
    return folder


@pytest.mark.parametrize(
    ("classes", "shift", "given", "said"),
    [
        (6, 0, {}, ""),
        (6, 1, {}, "0 is taken as not scored and 1 to 6 as the classes"),
        (6, 1, dict(label_offset=-1), ""),
        # Either the first class is missing or, with an offset, the last.
        (5, 1, {}, "class 0 never occurs; if the labels begin at 1, set label_offset=-1"),
    ],
)
def test_class_indices_open_and_an_offset_that_is_found_is_said(
    tmp_path, capsys, classes, shift, given, said
):
    draw_pairs(tmp_path, 3, classes, shift)
    label = open_set(tmp_path, "", **given).read(1)[1]
    found = classes == 6  # what is not certain is said, and nothing shifted
    assert np.array_equal(label, draw_classes((32, 32), 1, [1] * classes) + (0 if found else 1))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert all(said in line and str(tmp_path) in line for line in lines)


def test_codes_are_found_for_three_classes_and_taken_as_stated_for_two(tmp_path, capsys):
    for name, codes in (("three", (0, 128, 255)), ("two", (0, 255))):
        draw_pairs(tmp_path / name, 3, len(codes))
        for file in (tmp_path / name / "labels").iterdir():
            write_png(file, np.array(codes, np.uint8)[read_tile(file)])
    dataset = open_set(tmp_path / "three", "", num_classes=3)
    assert np.array_equal(dataset.read(2)[1], draw_classes((32, 32), 2, [1] * 3))
    assert "0, 128, 255 are taken as the classes 0, 1, 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="255 may be a class or not scored"):
        open_set(tmp_path / "two", "", num_classes=2)
    dataset = open_set(tmp_path / "two", "", num_classes=2, label_codes=(0, 255))
    assert np.array_equal(dataset.read(2)[1], draw_classes((32, 32), 2, [1] * 2))


def test_validation_labels_take_the_coding_of_train_and_are_refused_by_name_in_another(tmp_path):
    """A few labels in which the last class is missing look like class indices."""
    draw_pairs(tmp_path / "train", 3, shift=1)
    draw_pairs(tmp_path / "val", 2, classes=4, shift=1)
    train = open_set(tmp_path / "train", "")
    alone = open_set(tmp_path / "val", "")
    val = open_set(tmp_path / "val", "", coding=train.coding)
    expected = draw_classes((32, 32), 1, [1] * 4)
    assert np.array_equal(alone.read(1)[1], expected + 1)
    assert np.array_equal(val.read(1)[1], expected)
    expected[0, 0] = 255
    write_png(tmp_path / "val/labels/t1.png", expected)
    with pytest.raises(UserError, match=r"t1.png: value 255, .*as in train_data"):
        open_set(tmp_path / "val", "", coding=train.coding)


def test_labels_that_are_mostly_not_scored_or_of_one_class_are_told(tmp_path, capsys):
    draw_pairs(tmp_path, 2, classes=1, shift=1)
    for file in (tmp_path / "labels").iterdir():
        label = read_tile(file).copy()
        label[:24] = 255
        write_png(file, label)
    assert len(open_set(tmp_path, "")) == 2
    said = capsys.readouterr().err
    assert "75% of the pixels are not scored" in said
    assert "all scored pixels are of one class, 1" in said


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (np.full((32, 32), 9, np.uint8), r"value 9 where classes are 0 to 5 .*t1.png"),
        (draw_classes((32, 31)), r"t1.png: 31 x 32 pixels, its image t1.png 32 x 32"),
        (None, r"t1.png: cannot be read"),
    ],
)
def test_a_label_that_cannot_be_is_told_by_name_when_opened(tmp_path, label, said):
    draw_pairs(tmp_path, 3)
    file = tmp_path / "labels/t1.png"
    if label is None:
        file.write_bytes(file.read_bytes()[:60])
    else:
        write_png(file, label)
    with pytest.raises(UserError, match=said):
        open_set(tmp_path, "")
    for file in (tmp_path / "labels").iterdir():
        write_png(file, np.full((32, 32), 255, np.uint8))
    with pytest.raises(UserError, match=r"labels: no pixel has a class"):
        open_set(tmp_path, "")


@pytest.mark.parametrize(
    ("image", "label", "shift"),
    [
        ("t{}.jpg", "t{}.png", 0),  # one folder of both
        ("img_dir/train/2_10_0_{}_512_512.jpg", "ann_dir/train/2_10_0_{}_512_512.png", 1),
    ],
)
def test_other_layouts_of_images_and_labels_open(tmp_path, image, label, shift):
    for number in range(3):
        pixels = draw_image(3, (32, 32), number).transpose(1, 2, 0)
        write_png(tmp_path / image.format(number), pixels)
        classes = draw_classes((32, 32), number, [1] * 6) + shift
        write_png(tmp_path / label.format(number), classes.astype(np.uint8))
    folders = (str(tmp_path / name.rpartition("/")[0].partition("/")[0]) for name in (image, label))
    dataset = SegmentationDataset(TileSettings(*folders), 6)
    names = [Path(image.format(number)).name for number in range(3)]
    assert [dataset.name(i).name for i in range(len(dataset))] == names
    assert np.array_equal(dataset.read(2)[1], draw_classes((32, 32), 2, [1] * 6))


def test_check_labels_gives_the_coding_and_what_to_say(oam):
    images = [str(path) for path in sorted((oam / "images").iterdir())[::100]]
    labels = [str(oam / f"labels/{Path(image).stem}.png") for image in images]
    coding, said = check_labels(images, labels, 2)
    assert said == []
    assert coding.classes[:2].tolist() == [0, 1]


# ---------------------------------------------------------------------------- find_images


@pytest.fixture(scope="module")
def forest(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("forest")
    for name in (
        "b1.png", "b2.jpg", "x.png", "a/b1.png", "a/c/b2.png", "a/c/b3.PNG", "a/c/d/b4.png",
        "a/e/b5.png", "a/e/x6.png", "z9/b7.png", "z10/b8.png", "a.b/b [1].png", "a/.hidden/b0.png",
        ".b9.png", "B1.png",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


PATTERNS = ["*.png", "**/*.png", "a/*/b*.png", "a/**/*.png", "**/c/*.png", "**/c/**/*.png"]
PATTERNS += ["*/*/*.png", "[ab]*/*.png", "b[0-9].png", "[!b]*.png", "z[0-9]/*.png"]
PATTERNS += ["z[0-9]*/b?.png", "**/b[[]1].png", "**/b[[] ]*.png", "a.b/*", "**/*.[pj][np]g"]
PATTERNS += ["b?.*", "./*.png"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_find_images_finds_what_pathlib_does(forest, pattern):
    """But for what is hidden, and in any case of the ending."""
    spelled = (pattern, pattern.replace(".png", ".PNG"))
    paths = {path for spelling in spelled for path in forest.glob(spelling) if path.is_file()}
    expected = sorted(str(path) for path in paths if "/." not in str(path))
    if expected:
        assert [*find_images(forest, pattern)] == expected
    else:
        with pytest.raises(UserError, match="no image matches"):
            find_images(forest, pattern)


def test_find_images_takes_several_patterns_each_file_once(forest):
    found = find_images(forest, ["*.png", "b*.png", "*.jpg"])
    assert [*found] == sorted(str(path) for path in forest.glob("[!.]*.[pj][np]g"))


def test_find_images_follows_links_to_folders_and_files_once(tmp_path):
    (tmp_path / "real/deep").mkdir(parents=True)
    for name in ("real/a.png", "real/deep/b.png"):
        (tmp_path / name).touch()
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "set/train")
    os.symlink(tmp_path / "set", tmp_path / "set/round")  # a link in a circle
    os.symlink(tmp_path / "real/a.png", tmp_path / "set/c.png")
    names = [
        os.path.relpath(file, tmp_path / "set")
        for file in find_images(tmp_path / "set", "**/*.png")
    ]
    assert names == ["c.png", "train/a.png", "train/deep/b.png"]
    assert len(find_images(tmp_path / "set/train", "*.png")) == 1


@pytest.mark.parametrize("pattern", ["", "/abs/*.png", "../*.png", "a/../*.png"])
def test_find_images_refuses_patterns_that_leave_the_folder(forest, pattern):
    with pytest.raises(UserError, match="data_format"):
        find_images(forest, pattern)
