"""tools/prepare.py on drawn scenes in the layouts that users have: every tile, number and name."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from conftest import DATA, ROOT
from drawn import (
    PLACE,
    SIZE,
    assemble,
    card_of,
    checked,
    coloured,
    draw_classes,
    draw_image,
    draw_levir,
    draw_potsdam,
    draw_vaihingen,
    eroded,
    prepare,
    prepared,
    read_tile,
    tiles_of,
    tree,
    write_png,
    write_tiff,
    zipped,
)

from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.data.subsets import name_hash
from SSLRemoteSensing.preparation.isprs import CLASSES, PALETTE
from SSLRemoteSensing.preparation.levir_cs import CLASSES as LEVIR_CLASSES

SPLIT = {"2_10": "train", "3_10": "train", "2_11": "val", "2_13": "test"}
SIX = ["--classes", *"abcdef"]


def command(folder: Path, *arguments) -> str:
    """What the command says as a user runs it in `folder`, of source/ into out/."""
    line = [sys.executable, ROOT / "tools/prepare.py", *arguments]
    line += ["--source", "source", "--output", "out", "--tile", 32]
    line = list(map(str, line))
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def names(scene: str, stride: int, tile=32, size=SIZE) -> set[str]:
    return {
        f"{scene}_{y}_{x}"
        for y in positions(size[0], tile, stride)
        for x in positions(size[1], tile, stride)
    }


def not_scored(classes: np.ndarray) -> np.ndarray:
    """Labels as they are written: the eroded boundary is 255."""
    return np.where(classes == 6, 255, classes)


def assert_statistics(card: dict, pixels: np.ndarray, classes: np.ndarray | None, scale=255):
    """Mean, std and class shares are of `pixels` (bands, N) and `classes`."""
    pixels = np.minimum(pixels, scale) / scale
    assert card["mean"] == pytest.approx(pixels.mean(1).tolist(), rel=1e-12)
    assert card["std"] == pytest.approx(pixels.std(1).tolist(), rel=1e-9)
    if classes is not None:
        shares = np.bincount(classes.ravel(), minlength=6) / classes.size
        assert list(card["class_shares"].values()) == pytest.approx(shares.tolist(), rel=1e-12)


def assert_scenes(output: Path, drawn: dict, images=True, labels=True):
    """The tiles of each scene of the card, put together, are what was drawn."""
    for split, scenes in card_of(output)["scenes"].items():
        for name in scenes:
            planes, classes = drawn[name][-2:]
            if images:
                count = len(card_of(output)["bands"])
                assert np.array_equal(assemble(output / "images" / split, name), planes[:count])
            if labels:
                assert np.array_equal(assemble(output / "labels" / split, name), classes)


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory):
    """(source, output, drawn scenes) of the real command with both kinds of labels."""
    folder = tmp_path_factory.mktemp("potsdam")
    drawn = draw_potsdam(folder / "source", products=("RGB", "IRRG", "RGBIR"))
    (folder / "said").write_text(command(folder, "potsdam", "--labels", "both", "--workers", 2))
    return folder / "source", folder / "out", drawn


# ---------------------------------------------------------------------------- tiles


def test_the_files_are_as_promised_and_put_together_are_the_scenes_and_labels(potsdam):
    _, output, drawn = potsdam
    expected = {
        f"{folder}/{split}/{name}.png"
        for scene, split in SPLIT.items()
        for name in names(scene, 32)
        for folder in ("images", "labels", "labels_eroded")
    }
    assert len(expected) == 4 * 9 * 3
    assert set(tree(output)) == expected | {"dataset.json", "audit.json"}
    assert_scenes(output, drawn)
    for scene, split in SPLIT.items():
        boundary = assemble(output / "labels_eroded" / split, scene)
        assert np.array_equal(boundary, not_scored(eroded(drawn[scene][1])))
        assert (boundary == 255).any()


@pytest.mark.parametrize(
    ("size", "stride"),
    [(SIZE, 20), (SIZE, 9), ((32, 32), 32), ((32, 33), 32), ((64, 96), 32), ((65, 63), 32)],
)
def test_tiles_cover_scenes_of_any_size_and_each_pixel_counts_once(tmp_path, size, stride):
    drawn = draw_potsdam(tmp_path / "source", size=size, bordered=False)
    prepared(tmp_path, "potsdam", "--stride", stride)
    card = card_of(tmp_path / "out")
    assert (card["tile"], card["stride"]) == (32, stride)
    count = len(names("s", stride, size=size))
    assert card["tiles"] == {"train": 2 * count, "val": count, "test": count}
    assert_scenes(tmp_path / "out", drawn)
    pixels = np.concatenate([drawn[s][0][:3].reshape(3, -1) for s in ("2_10", "3_10")], 1)
    assert_statistics(card, pixels, np.stack([drawn[s][1] for s in ("2_10", "3_10")]))


# ---------------------------------------------------------------------------- dataset.json, audit


def test_dataset_json_holds_what_the_tiles_are_and_how_they_were_made(potsdam):
    source, output, _ = potsdam
    card = card_of(output)
    assert card["classes"] == list(card["class_shares"]) == list(CLASSES)
    assert card["palette"] == [list(colour) for colour in PALETTE]
    assert card["bands"] == ["red", "green", "blue"]
    assert card["scale"] == 255
    assert (card["tile"], card["stride"], card["settings"]["tile"]) == (32, 32, 32)
    assert card["labels"] == ["eroded", "full"]
    assert card["tiles"] == {"train": 18, "val": 9, "test": 9}
    assert card["scenes"] == {"train": ["2_10", "3_10"], "val": ["2_11"], "test": ["2_13"]}
    used = [*source.glob("2_Ortho_RGB/*.tif"), *source.glob("5_*/*.tif")]
    assert len(used) == 12
    assert card["sources"] == {
        file.relative_to(source).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in used
    }
    assert card["made_by"]["command"][1] == "potsdam"
    assert card["made_by"]["versions"]["SSLRemoteSensing"]
    assert card["places"]["train"]["2_10"]["height"] == SIZE[0]
    assert "32633" in card["places"]["train"]["2_10"]["crs"]


def test_the_audit_is_told_and_kept(potsdam):
    _, output, drawn = potsdam
    audit = json.loads((output / "audit.json").read_text())
    records = {record["scene"]: record for record in audit["scenes"]}
    assert set(records) == set(SPLIT)
    for scene, record in records.items():
        classes, label = drawn[scene][1], record["labels"]["full"]
        assert label["pixels"] == np.bincount(classes.ravel(), minlength=6).tolist()
        assert (label["inexact"], label["unknown"], label["not_scored"]) == (0, 0, 0)
        assert record["labels"]["eroded"]["not_scored"] == (eroded(classes) == 6).sum()
    said = (output.parent / "said").read_text()
    for scene in SPLIT:
        assert any(line.split()[0] == scene and "70 x 90" in line for line in said.splitlines())
    assert "34 scenes of the splits are not there" in said
    assert "are not of their published size" in said


def test_a_check_writes_nothing_and_says_the_same(potsdam, tmp_path):
    source, output, _ = potsdam
    text = checked(source, "potsdam", "--labels", "both")
    said = (output.parent / "said").read_text().splitlines()
    assert [line for line in text.splitlines() if line not in said] == []
    assert text == checked(source, "potsdam", "--labels", "both", "--output", tmp_path / "no")
    assert tree(tmp_path) == {}
    assert not (tmp_path / "no").exists()


# ---------------------------------------------------------------------------- bands, files, zips


@pytest.mark.parametrize(
    ("bands", "products", "expected", "called", "numbers"),
    [
        ("irrg", ("RGB", "IRRG", "RGBIR"), (3, 0, 1), ["near infrared", "red", "green"], [1, 2, 3]),
        ("irrg", ("RGBIR",), (3, 0, 1), ["near infrared", "red", "green"], [4, 1, 2]),
        ("rgb", ("RGBIR",), (0, 1, 2), ["red", "green", "blue"], [1, 2, 3]),
        (
            "rgbir", ("RGB", "RGBIR"), (0, 1, 2, 3),
            ["red", "green", "blue", "near infrared"], [1, 2, 3, 4],
        ),
    ],
)  # fmt: skip
def test_potsdam_gives_the_bands_asked_for(tmp_path, bands, products, expected, called, numbers):
    drawn = draw_potsdam(tmp_path / "source", ("2_10", "2_11"), products, bordered=False)
    prepared(tmp_path, "potsdam", "--bands", bands)
    planes = drawn["2_10"][0][list(expected)]
    assert np.array_equal(assemble(tmp_path / "out/images/train", "2_10"), planes)
    card = card_of(tmp_path / "out")
    assert (card["bands"], card["source_bands"]) == (called, numbers)
    assert card["mean"] == pytest.approx((planes.mean((1, 2)) / 255).tolist())


def zips(source: Path, target: Path) -> Path:
    """A zip file a folder, as they are downloaded; one with and one without the folder inside."""
    for number, folder in enumerate(sorted(source.iterdir())):
        zipped(folder, target / f"{folder.name}.zip", f"{folder.name}/" if number % 2 else "")
    return target


def one_zip(source: Path, target: Path) -> Path:
    return zipped(source, target.with_suffix(".zip"), "Potsdam/")


def linked(source: Path, target: Path) -> Path:
    """Folders in folders of their names, as archives unpack, by links, one of which leads back."""
    for folder in source.iterdir():
        (target / "Potsdam" / folder.name).mkdir(parents=True)
        os.symlink(folder, target / "Potsdam" / folder.name / folder.name)
    os.symlink(target, target / "again")
    return target


def renamed(source: Path, target: Path) -> Path:
    """Numbers with a zero, endings in capitals, and what else lies about."""
    for file in source.rglob("*.tif"):
        name = file.stem.replace("_2_1", "_02_1").replace("_3_1", "_03_1")
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / file.parent.name / f"{name}.TIF")
        (target / file.parent.name / f"{name}.tfw").write_text("0.05\n")
    (target / "__MACOSX/2_Ortho_RGB").mkdir(parents=True)
    (target / "__MACOSX/2_Ortho_RGB/._top_potsdam_2_10_RGB.tif").write_bytes(b"junk")
    (target / ".hidden").write_text("")
    return target


@pytest.mark.parametrize(
    ("arrange", "workers"),
    [(zips, 2), (one_zip, 3), (linked, 1), (renamed, 4), (lambda source, _: source, 1)],
)
def test_the_source_may_lie_in_many_ways_and_workers_be_any_number(
    potsdam, tmp_path, arrange, workers
):
    source = arrange(potsdam[0], tmp_path / "own")
    prepared(tmp_path, "potsdam", "--source", source, "--labels", "both", workers=workers)
    assert tiles_of(tmp_path / "out") == tiles_of(potsdam[1])
    card, plain = card_of(tmp_path / "out"), card_of(potsdam[1])
    assert list(card) == list(plain)
    different = {key for key in card if card[key] != plain[key]}
    assert different <= {"made", "made_by"} | ({"sources"} if source != potsdam[0] else set())
    places = {name for name in card["sources"] if name.endswith(".tfw")}
    assert len(places) == (12 if arrange is renamed else 0)
    digests = [digest for name, digest in card["sources"].items() if name not in places]
    assert sorted(digests) == sorted(plain["sources"].values())


ODD_NAMES = ["a!b", "c#d", "e f", "gé日本", "h%20i", "{j}", "p[1]q?*", "r!s.tif!t"]


def test_odd_names_in_a_zip_of_an_odd_name_are_read_as_outside(tmp_path):
    """Photographs, values and GeoTIFFs; what lies beside one of them is heeded too."""
    for number, name in enumerate(ODD_NAMES):
        write_tiff(tmp_path / f"own/train/images/{name}.tif", draw_image(3, (64, 64), number))
        label = draw_classes((64, 64), number, [1] * 6)
        write_png(tmp_path / f"own/train/labels/{name}.png", label)
    image = draw_image(3, (64, 64)).transpose(1, 2, 0)
    cv2.imwrite(str(tmp_path / "own/train/images/x.jpg"), image)
    write_png(tmp_path / "own/train/labels/x.png", draw_classes((64, 64)))
    cv2.imwrite(str(tmp_path / "own/train/images/y.tif"), image)
    (tmp_path / "own/train/images/y.tfw").write_text("0.05\n0\n0\n-0.05\n1000.025\n1999.975\n")
    write_png(tmp_path / "own/train/labels/y.png", draw_classes((64, 64)))
    file = zipped(tmp_path / "own", tmp_path / "o {d}!#é.zip")
    cards = []
    for source, output in ((tmp_path / "own", "out"), (file, "again")):
        ask = ["folder", "--source", source, "--output", tmp_path / output, *SIX]
        done = prepare(*ask)
        assert done.returncode == 0, done.stdout + done.stderr
        cards.append({k: v for k, v in card_of(tmp_path / output).items() if "made" not in k})
    assert tiles_of(tmp_path / "again") == tiles_of(tmp_path / "out")
    assert cards[0] == cards[1]
    place = cards[1]["places"]["train"]["y"]["transform"]
    assert place == pytest.approx([0.05, 0, 1000, 0, -0.05, 2000])


def test_eroded_labels_alone(potsdam, tmp_path):
    prepared(tmp_path, "potsdam", "--source", potsdam[0], "--labels", "eroded")
    images_and_boundaries = {n: d for n, d in tiles_of(potsdam[1]).items() if "labels/" not in n}
    assert tiles_of(tmp_path / "out") == images_and_boundaries
    assert card_of(tmp_path / "out")["labels"] == ["eroded"]


# ---------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--splits", "train", "val"], {"train": ["2_10", "3_10"], "val": ["2_11"]}),
        (["--splits", "train", "val=2_10"], {"train": ["2_11", "3_10"], "val": ["2_10"]}),
        # Choosing validation scenes does not mean to leave out the rest.
        (["--splits", "val=2_10"],
         {"train": ["2_11", "3_10"], "val": ["2_10"], "test": ["2_13"]}),
        (["--splits", "test"], {"test": ["2_13"]}),
        (["--leave_out", "3_10", "2_13"], {"train": ["2_10"], "val": ["2_11"]}),
    ],
)  # fmt: skip
def test_splits_and_scenes_are_prepared_as_asked(potsdam, tmp_path, flags, expected):
    done = prepared(tmp_path, "potsdam", "--source", potsdam[0], *flags)
    card = card_of(tmp_path / "out")
    assert {split: sorted(scenes) for split, scenes in card["scenes"].items()} == expected
    scenes = {name.split("/")[2].rsplit("_", 2)[0] for name in tiles_of(tmp_path / "out")}
    assert scenes == {scene for scenes in expected.values() for scene in scenes}
    assert {path.name for path in (tmp_path / "out/images").iterdir()} == set(expected)
    left_out = flags[1:] if flags[0] == "--leave_out" else []
    assert card["left_out"] == left_out
    assert ("left out as asked: 3_10, 2_13" in done.stdout) == bool(left_out)


# ---------------------------------------------------------------------------- vaihingen


@pytest.mark.parametrize("labels", ["gts_for_participants/", "", "COMPLETE/"])
def test_vaihingen_with_labels_wherever_they_lie(tmp_path, labels):
    drawn = draw_vaihingen(tmp_path / "source", labels=labels)
    stray = "gts_eroded_for_participants/top_mosaic_09cm_area9_noBoundary.tif"
    write_tiff(tmp_path / "source" / stray, coloured(eroded(draw_classes())))
    if labels:
        said = prepared(tmp_path, "vaihingen", "--labels", "both").stdout
    else:
        said = command(tmp_path, "vaihingen", "--labels", "both", "--workers", 1)
    assert f"{stray}: a label without a scene; not used" in said
    card = card_of(tmp_path / "out")
    assert card["bands"] == ["near infrared", "red", "green"]
    assert card["scenes"] == {"train": ["1", "3"], "val": ["11"], "test": ["2"]}
    assert not any("area9" in name for name in card["sources"])
    assert_scenes(tmp_path / "out", drawn)
    for split, (scene, *_) in card["scenes"].items():
        boundary = assemble(tmp_path / "out/labels_eroded" / split, scene)
        assert np.array_equal(boundary, not_scored(eroded(drawn[scene][1])))


def test_a_scene_named_1_can_be_validation_and_one_of_test_without_label_is_listed(tmp_path):
    draw_vaihingen(tmp_path / "source")
    (tmp_path / "source/gts_for_participants/top_mosaic_09cm_area2.tif").unlink()
    done = prepared(tmp_path, "vaihingen", "--splits", "train", "val=1", "test")
    assert "1 test scenes have no label and are in test_unlabelled: 2" in done.stdout
    card = card_of(tmp_path / "out")
    assert card["without_labels"] == ["2"]
    assert card["scenes"]["val"] == ["1"]


# ---------------------------------------------------------------------------- levir_cs


@pytest.fixture(scope="module")
def levir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levir")
    drawn = draw_levir(folder / "source", train=12, test=2)
    command(folder, "levir_cs", "--stride", 20)
    return folder / "source", folder / "out", drawn


def test_levir_cs_tiles_have_red_first_the_values_as_they_were_and_a_place(levir):
    source, output, drawn = levir
    card = card_of(output)
    assert card["bands"] == ["red", "green", "blue", "near infrared"]
    assert card["scale"] == 1023
    assert card["classes"] == list(LEVIR_CLASSES)
    assert sum(map(len, card["scenes"].values())) == 14
    assert all(planes.max() > 1023 for planes, _ in drawn.values())
    assert_scenes(output, drawn)
    # The statistics are of values clipped at the scale.
    train = np.stack([drawn[scene][0] for scene in card["scenes"]["train"]])
    assert_statistics(card, train.transpose(1, 0, 2, 3).reshape(4, -1), None, 1023)
    scene = card["scenes"]["train"][0]
    with (
        rasterio.open(source / f"train/mss/{scene}_mss.tiff") as whole,
        rasterio.open(output / f"images/train/{scene}_20_40.tif") as tile,
    ):
        assert tile.crs == whole.crs
        assert tile.xy(0, 0) == pytest.approx(whole.xy(20, 40), abs=1e-6)
        assert tile.dtypes == ("uint16",) * 4


def test_levir_cs_validation_is_a_tenth_by_a_hash_of_the_name(levir):
    scenes, published = card_of(levir[1])["scenes"], list(levir[2])[:12]
    assert scenes.get("val", []) == [name for name in published if name_hash(name) < 0.1]
    assert sorted(scenes["train"] + scenes.get("val", [])) == sorted(published)
    assert sorted(scenes["test"]) == sorted(list(levir[2])[12:])
    many = [f"GF1_WFV2_E{i}" for i in range(3068)]
    assert sum(name_hash(name) < 0.1 for name in many) == pytest.approx(307, abs=50)


def test_levir_cs_rgb_labels_of_0_128_255_and_test_scenes_without_labels(tmp_path):
    codes = (0, 128, 255)
    drawn = draw_levir(tmp_path / "source", train=3, test=2, codes=codes, label_test=False)
    done = prepared(tmp_path, "levir_cs", "--bands", "rgb")
    assert "2 test scenes have no label and are in test_unlabelled" in done.stdout
    card = card_of(tmp_path / "out")
    assert card["without_labels"] == card["scenes"]["test_unlabelled"] == list(drawn)[3:]
    assert len(list((tmp_path / "out/images/test_unlabelled").iterdir())) == 2 * 9
    assert not (tmp_path / "out/labels/test_unlabelled").exists()
    assert not (tmp_path / "out/labels/test").exists()
    assert_scenes(tmp_path / "out", drawn, labels=False)
    for scene in card["scenes"]["train"]:
        assert np.array_equal(assemble(tmp_path / "out/labels/train", scene), drawn[scene][1])


# ---------------------------------------------------------------------------- folder


AREAS = ["area1_0_0", "area1_0_64", "area2_0_0", "area2_0_64", "area3_0_0", "area4_0_0"]


def draw_folder(folder: Path, image: str, label: str, tops=6, offset=0) -> dict:
    """Images and labels by the templates `image` and `label`; split, image, classes of each."""
    drawn = {}
    for number, name in enumerate(AREAS):
        split = ("train", "train", "train", "val", "test", "train")[number]
        classes = draw_classes((64, 64), number, [1] * tops) + offset
        pixels = draw_image(3, (64, 64), number)
        write_png(folder / image.format(split=split, name=name), pixels.transpose(1, 2, 0))
        write_png(folder / label.format(split=split, name=name), classes.astype(np.uint8))
        drawn[name] = split, pixels, classes - offset
    return drawn


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("img_dir/{split}/{name}.png", "ann_dir/{split}/{name}.png"),
        ("{split}/images/{name}.jpg", "{split}/masks/{name}.png"),
        ("x/{split}/images/{name}.png", "x/{split}/labels/{name}_label.png"),
        ("{name}.jpg", "{name}.png"),
        ("{name}.tif", "{name}.png"),
        ("{name}.png", "{name}_label.png"),
        ("images/{name}.png", "masks/{name}_mask.png"),
        ("images/{name}.jpg", "labels/{name}.png"),
    ],
)
def test_images_and_labels_are_paired_and_split_by_folder_or_dealt_by_scene(tmp_path, image, label):
    drawn = draw_folder(tmp_path / "source", image, label)
    has_splits = "{split}" in image
    flags = [] if has_splits else ["--splits", "train", "val=0.5"]
    done = prepared(tmp_path, "folder", *SIX, *flags)
    assert ("scenes are dealt by a hash of their names" in done.stdout) != has_splits
    card = card_of(tmp_path / "out")
    assert card["classes"] == list("abcdef")
    split_of = {name: split for split, names in card["scenes"].items() for name in names}
    for name, (split, *_) in drawn.items():  # tiles of one scene stay together
        dealt = "val" if name_hash(name.partition("_")[0]) < 0.5 else "train"
        assert split_of.pop(name) == (split if has_splits else dealt)
    assert split_of == {}
    assert sum(card["tiles"].values()) == 4 * len(drawn)
    assert_scenes(tmp_path / "out", drawn, images=not image.endswith("jpg"))


@pytest.mark.parametrize("stated", [[], ["--label_offset", "-1"]])
def test_0_as_not_scored_becomes_255_and_is_said_where_it_was_not_stated(tmp_path, stated):
    """Labels of another tool: 0 = ignore, 1 to 6 the classes."""
    layout = ("img_dir/{split}/{name}.png", "ann_dir/{split}/{name}.png")
    drawn = draw_folder(tmp_path / "source", *layout, offset=1)
    for file in (tmp_path / "source/ann_dir").rglob("*.png"):
        classes = read_tile(file).copy()
        classes[:4] = 0
        write_png(file, classes)
        drawn[file.stem][2][:4] = 255
    done = prepared(tmp_path, "folder", *SIX, *stated)
    assert ("0 is taken as not scored" in done.stdout) == (not stated)
    assert_scenes(tmp_path / "out", drawn)


SITES = ["site_2019_05", "site_2020_05", "site_2021_05"]
MANY = [f"s{number}x" for number in range(60)]


@pytest.mark.parametrize(
    ("scenes", "flags", "expected"),
    [
        (AREAS, ["val=area2,area4"], {"val": ["area2_0_0", "area2_0_64", "area4_0_0"]}),
        (SITES, ["val=site_2020_05"], {"val": ["site_2020_05"]}),
        (SITES, ["val=*_2020_*", "test=site_2021*"],
         {"val": ["site_2020_05"], "test": ["site_2021_05"]}),
        (MANY, ["test=0.2", "val=0.2"],  # the shares do not overlap
         {"test": [name for name in MANY if name_hash(name) < 0.2],
          "val": [name for name in MANY if 0.2 <= name_hash(name) < 0.4]}),
    ],
)  # fmt: skip
def test_scenes_of_a_folder_without_labels_are_split_as_asked(tmp_path, scenes, flags, expected):
    """By names, of what tiles are of or of whole scenes with numbers in theirs, or by shares."""
    for number, name in enumerate(scenes):
        image = draw_image(3, (32, 32), number).transpose(1, 2, 0)
        write_png(tmp_path / f"source/{name}.png", image)
    done = prepared(tmp_path, "folder", "--splits", *flags)
    assert "no labels found: tiles for pre-training only" in done.stdout
    how = "by a hash of their names" if scenes is MANY else "as --splits says"
    assert f"scenes are dealt {how}: " in done.stdout
    card = card_of(tmp_path / "out")
    assert card["classes"] == card["labels"] == []
    assert not (tmp_path / "out/labels").exists()
    others = set(scenes) - {name for names in expected.values() for name in names}
    expected = {split: set(names) for split, names in expected.items()} | {"train": others}
    assert all(len(names) > 3 for names in expected.values()) or scenes is not MANY
    assert {split: set(names) for split, names in card["scenes"].items()} == expected


def test_images_of_a_folder_without_a_label_are_refused_left_out_or_kept(tmp_path):
    draw_folder(tmp_path / "source", "images/{name}.png", "labels/{name}.png")
    labels = sorted((tmp_path / "source/labels").iterdir())
    labels[-1].unlink()
    name, words = labels[-1].stem, (*SIX, "--splits", "val=0")
    done = prepared(tmp_path, "folder", *words, status=1)
    assert f"must not be used: {name}: images/{name}.png has no label" in done.stdout
    assert f"{tmp_path / 'out'} is not ready: mend the scenes named above, or --l" in done.stdout
    done = prepared(tmp_path, "folder", *words, "--unlabelled", "leave_out")
    assert f"note: 1 of {len(labels)} images have no label and are left out" in done.stdout
    assert name not in str(card_of(tmp_path / "out"))
    prepared(tmp_path, "folder", *words, "--unlabelled", "keep")
    card = card_of(tmp_path / "out")
    assert card["scenes"]["unlabelled"] == [name]
    assert list(card["labels"]) == ["full"]
    assert not (tmp_path / "out/labels/unlabelled").exists()
    flags = (
        "--source",
        tmp_path / "source",
        "--check",
        "--labels",
        "x.gpkg",
        "--unlabelled",
        "keep",
    )
    said = "--unlabelled: is for tools/prepare.py folder; its labels are polygons"
    assert said in prepare("polygons", *flags, status=2).stderr


@pytest.mark.parametrize("how", ["colours", "codes"])
def test_colours_and_codes_of_a_folder_are_taken_as_stated(tmp_path, how):
    drawn = draw_folder(tmp_path / "source", "images/{name}.png", "labels/{name}.png", tops=2)
    values = {"colours": [(0, 0, 0), (250, 4, 0)], "codes": [0, 255]}[how]
    for name, (_, _, classes) in drawn.items():
        write_png(tmp_path / f"source/labels/{name}.png", np.array(values, np.uint8)[classes])
    classes = ["--classes", "other", "road"]
    if how == "colours":
        done = prepared(tmp_path, "folder", *classes, "--palette", "0,0,0", "255,0,0")
        assert "are not exactly a class colour; decoded by threshold" in done.stdout
        assert card_of(tmp_path / "out")["palette"] == [[0, 0, 0], [255, 0, 0]]
    else:
        done = prepared(tmp_path, "folder", *classes, status=2)
        assert "255 may be a class or not scored" in done.stderr
        assert "label_codes" in done.stderr
        assert not (tmp_path / "out").exists()
        prepared(tmp_path, "folder", *classes, "--label_codes", 0, 255)
    assert_scenes(tmp_path / "out", drawn)


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_16_bit_images_need_their_highest_value_and_keep_theirs(tmp_path, ending):
    planes = draw_image(3, (64, 64), top=1000, dtype=np.uint16)
    file = tmp_path / f"source/train/a.{ending}"
    if ending == "tif":
        write_tiff(file, planes)
    else:
        write_png(file, planes.transpose(1, 2, 0))
    assert "16-bit values; set tools/prepare.py --max_value" in checked(
        tmp_path / "source", "folder", status=1
    )
    prepared(tmp_path, "folder", "--max_value", 1023)
    card = card_of(tmp_path / "out")
    assert card["scale"] == 1023
    assert np.array_equal(assemble(tmp_path / "out/images/train", "a"), planes)
    assert_statistics(card, planes.reshape(3, -1), None, 1023)


@pytest.mark.parametrize("how", ["alpha", "nodata"])
def test_pixels_without_data_are_not_scored_and_not_in_the_statistics(tmp_path, how):
    planes = np.maximum(draw_image(3, (64, 64)), 1)
    classes = draw_classes((64, 64), 0, [1] * 6)
    empty = np.zeros((64, 64), bool)
    empty[:20, :30] = empty[50:] = True
    planes[:, empty] = 0
    file = tmp_path / "source/train/images/a.tif"
    if how == "alpha":
        alpha = np.where(empty, 0, 255).astype(np.uint8)
        write_tiff(file, np.concatenate([planes, alpha[None]]), photometric="RGB", alpha="YES")
    else:
        write_tiff(file, planes, nodata=0)
    write_png(tmp_path / "source/train/labels/a.png", classes)
    done = prepared(tmp_path, "folder", *SIX, "--stride", 9)
    assert f"{empty.mean():.1%} of the pixels hold no data" in done.stdout
    assert_scenes(tmp_path / "out", {"a": (planes, np.where(empty, 255, classes))})
    assert_statistics(card_of(tmp_path / "out"), planes[:, ~empty], classes[~empty])
    record = json.loads((tmp_path / "out/audit.json").read_text())["scenes"][0]
    assert record["labels"]["full"]["not_scored"] == empty.sum()


def write_photograph(file: Path, planes: np.ndarray, **profile) -> np.ndarray:
    """Write a JPEG, with what GDAL puts beside it; the planes that it has then."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = dict(zip(("count", "height", "width"), planes.shape, strict=True), dtype="uint8")
    with rasterio.open(file, "w", driver="JPEG", **shape | PLACE | profile) as image:
        image.write(planes)
    return cv2.imread(str(file))[:, :, ::-1].transpose(2, 0, 1)


def write_mask(file: Path, holds_data: np.ndarray) -> None:
    """Write the mask beside `file` by which GDAL knows pixels without data."""
    mask = write_tiff(file.with_name(f"{file.name}.msk"), 255 * np.uint8(holds_data))
    with rasterio.open(mask, "r+") as image:
        image.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": 2 for band in range(1, 5)})


@pytest.mark.parametrize("form", [None, zipped])
@pytest.mark.parametrize("beside", ["aux.xml", "world file"])
def test_a_jpeg_lies_where_what_is_beside_it_says(tmp_path, beside, form):
    own, (scene, label) = tmp_path / "own", ("images/a.jpg", "labels/a.tif")
    planes = write_photograph(own / scene, draw_image(3, (64, 64)))
    place = PLACE["transform"]
    if beside == "world file":
        (own / f"{scene}.aux.xml").unlink()
        middle = place.c + place.a / 2, place.f + place.e / 2
        numbers = (place.a, 0, 0, place.e, *middle)
        (own / "images/a.jgw").write_text("".join(f"{number!r}\n" for number in numbers))
    classes = draw_classes((64, 64), 0, [1] * 6)
    write_tiff(own / label, classes, transform=rasterio.Affine.translation(500, 0) @ place)
    source = form(own, tmp_path / "own.zip") if form else own
    where = ["--source", source, "--output", tmp_path / "out", "--splits", "val=0"]
    said = prepare("folder", *where, *SIX, status=0).stdout
    assert "a.tif lies at another place on the map than its image" in said
    assert "no scene has a georeference" not in said
    found = card_of(tmp_path / "out")["places"]["train"]["a"]
    assert found["transform"] == pytest.approx(list(place)[:6])
    assert found["crs"] == ("EPSG:32633" if beside == "aux.xml" else None)
    assert_scenes(tmp_path / "out", {"a": (planes, classes)})


def test_what_a_mask_beside_a_jpeg_leaves_out_is_not_scored(tmp_path):
    planes = np.maximum(draw_image(3, (64, 64)), 40)
    classes = draw_classes((64, 64), 0, [1] * 6)
    empty = np.zeros((64, 64), bool)
    empty[:20, :30] = empty[50:] = True
    file = tmp_path / "source/train/images/a.jpg"
    planes = write_photograph(file, planes)
    write_mask(file, ~empty)
    write_png(tmp_path / "source/train/labels/a.png", classes)
    done = prepared(tmp_path, "folder", *SIX, "--stride", 9)
    assert f"{empty.mean():.1%} of the pixels hold no data (nodata value or mask)" in done.stdout
    expected = np.where(empty, 0, planes), np.where(empty, 255, classes)
    assert_scenes(tmp_path / "out", {"a": expected})
    assert_statistics(card_of(tmp_path / "out"), planes[:, ~empty], classes[~empty])


def test_an_image_of_inks_has_its_place_and_mask(tmp_path):
    inks = draw_image(4, (64, 64))
    empty = np.zeros((64, 64), bool)
    empty[:20, :30] = True
    file = write_tiff(tmp_path / "source/train/a.tif", inks, photometric="CMYK")
    write_mask(file, ~empty)
    done = prepared(tmp_path, "folder")
    assert f"{empty.mean():.1%} of the pixels hold no data" in done.stdout
    assert (assemble(tmp_path / "out/images/train", "a")[:, empty] == 0).all()
    place = card_of(tmp_path / "out")["places"]["train"]["a"]
    assert place["transform"] == list(PLACE["transform"])[:6]


def test_grey_images_and_palettes_of_a_folder(tmp_path):
    grey = draw_image(1, (64, 64))
    write_tiff(tmp_path / "source/train/a.tif", grey)
    prepared(tmp_path, "folder")
    assert np.array_equal(assemble(tmp_path / "out/images/train", "a"), grey[0])
    assert card_of(tmp_path / "out")["bands"] == ["band 1"]
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    file = write_tiff(tmp_path / "palette/train/a.tif", grey, photometric="palette")
    with rasterio.open(file, "r+") as image:
        image.write_colormap(1, dict(enumerate(map(tuple, colours.tolist()))))
    output = tmp_path / "again"
    assert prepare("folder", "--source", tmp_path / "palette", "--output", output).returncode == 0
    found = assemble(output / "images/train", "a")
    assert np.array_equal(found, colours[grey[0]].transpose(2, 0, 1))
    assert card_of(output)["places"]["train"]["a"]["transform"] == list(PLACE["transform"])[:6]


def test_the_same_numbers_in_each_split_are_not_mixed_up(tmp_path):
    """Many published sets count their tiles from 0 in train and again in val."""
    for split in ("train", "val"):
        for number in range(2):
            image = draw_image(3, (32, 32), number + 10 * (split == "val")).transpose(1, 2, 0)
            write_png(tmp_path / f"source/{split}/images/{number}.png", image)
            write_png(tmp_path / f"source/{split}/labels/{number}.png", draw_classes((32, 32)))
    prepared(tmp_path, "folder", *SIX)
    for split in ("train", "val"):
        wanted = read_tile(tmp_path / f"source/{split}/images/0.png")
        assert np.array_equal(read_tile(tmp_path / f"out/images/{split}/0_0_0.png"), wanted)


# ---------------------------------------------------------------------------- memory


def peak_of(*arguments) -> float:
    """MB that the command takes at most, in a process of its own."""
    # ru_maxrss of a child would count this process, which it was forked from.
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(open('/proc/self/status').read())"
    )
    line = [sys.executable, "-c", code, ROOT / "tools/prepare.py", *arguments]
    line += ["--tile", 512, "--workers", 1]
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak is told")
@pytest.mark.parametrize("kind", ["tiff", "zip", "png"])
def test_a_scene_of_6000_x_6000_pixels_takes_less_than_400_mb(tmp_path, kind):
    """A PNG too, of colour labels no less: twice 108 MB of pixels, which it gives only whole."""
    source = tmp_path / "source"
    line = ["potsdam"]
    if kind == "png":
        pixels = np.zeros((6000, 6000, 3), np.uint8)
        pixels[::2] = (0, 0, 255)
        for folder in ("images", "labels"):
            write_png(source / f"train/{folder}/a.png", pixels)
        line = ["folder", "--classes", "other", "blue", "--palette", "0,0,0", "0,0,255"]
    else:
        row = np.random.default_rng(0).integers(0, 256, (3, 1, 6000), dtype=np.uint8)
        classes = draw_classes((50, 6000), block=50)
        draw_large(source / "2_Ortho_RGB/top_potsdam_2_10_RGB.tif", np.repeat(row, 50, 1))
        draw_large(source / "5_Labels_all/top_potsdam_2_10_label.tif", coloured(classes))
    source = zipped(source, tmp_path / "own.zip") if kind == "zip" else source
    peak = peak_of(*line, "--source", source, "--output", tmp_path / "out")
    assert card_of(tmp_path / "out")["tiles"] == {"train": 144}
    assert peak < 400, f"{peak:.0f} MB"


def draw_large(file: Path, strip: np.ndarray) -> None:
    """6000 rows of a strip of 50, moved a little each time."""
    file.parent.mkdir(parents=True)
    shape = dict(count=3, height=6000, width=6000, dtype="uint8", interleave="pixel")
    with rasterio.open(file, "w", driver="GTiff", **shape, **PLACE) as image:
        for y in range(0, 6000, 50):
            window = rasterio.windows.Window(0, y, 6000, 50)
            image.write(np.roll(strip, y // 2, 2), window=window)


# ---------------------------------------------------------------------------- real images


@pytest.mark.parametrize(
    ("folder", "name", "flags", "count", "image", "label"),
    [
        ("landsat_clouds", "levir_cs", [], 36, "train/mss/{}_mss.tiff",
         "train/label_0_1_2/{}_roiMap.tif"),
        ("naip", "folder", ["--bands", "rgbir"], 4 * 12, "{}.tif", None),
    ],
)  # fmt: skip
def test_real_scenes_of_four_bands(tmp_path, folder, name, flags, count, image, label):
    """Of 16 bits in the layout of Levir_CS; of 8 bits, with nodata, in a folder."""
    source = DATA / folder
    if not source.is_dir():
        pytest.skip(f"the real scenes are not at {source}")
    prepared(tmp_path, name, "--source", source, *flags, tile=256)
    card = card_of(tmp_path / "out")
    assert card["bands"] == ["red", "green", "blue", "near infrared"]
    assert card["source_bands"] == ([3, 2, 1, 4] if label else [1, 2, 3, 4])
    assert sum(card["tiles"].values()) == count
    scene, images = card["scenes"]["train"][0], tmp_path / "out/images/train"
    tile = sorted(images.glob(f"{scene}_*.tif"))[-1]
    y, x = map(int, tile.stem.split("_")[-2:])
    with rasterio.open(source / image.format(scene)) as whole, rasterio.open(tile) as part:
        assert np.array_equal(assemble(images, scene), whole.read(card["source_bands"]))
        assert part.crs == whole.crs
        assert part.xy(0, 0) == pytest.approx(whole.xy(y, x), abs=1e-6)
    if label:
        classes = read_tile(source / label.format(scene))[0]
        assert np.array_equal(assemble(tmp_path / "out/labels/train", scene), classes)


def test_real_jpegs_with_labels_as_a_folder(oam, tmp_path):
    chosen = sorted((oam / "images").iterdir())[::50]
    for image in chosen:
        for kind, file in (("images", image), ("labels", oam / f"labels/{image.stem}.png")):
            (tmp_path / "source" / kind).mkdir(parents=True, exist_ok=True)
            os.symlink(file, tmp_path / "source" / kind / file.name)
    flags = ["--classes", "other", "building", "--splits", "train", "val=0.2"]
    prepared(tmp_path, "folder", *flags, tile=128)
    card = card_of(tmp_path / "out")
    assert sum(card["tiles"].values()) == 4 * len(chosen)
    assert 0 < len(card["scenes"]["val"]) < len(card["scenes"]["train"])
    assert 0.05 < card["class_shares"]["building"] < 0.5
    for split, names in card["scenes"].items():
        label = read_tile(oam / f"labels/{names[0]}.png")
        assert np.array_equal(assemble(tmp_path / "out/labels" / split, names[0]), label)


# ---------------------------------------------------------------------------- splits by folders


SMALL = (64, 64)
SPLITS_ASKED = [
    ([], {"train": "abcd", "test": "ad"}),
    (["train", "val=b,c", "test"], {"train": "ad", "val": "bc", "test": "ad"}),
    (["val=b,b"], {"train": "acd", "val": "b", "test": "ad"}),
    (["train", "val=a"], {"train": "bcd", "val": "a"}),  # that of train, never that of test
    (["val=0"], {"train": "abcd", "test": "ad"}),
    (["test"], {"test": "ad"}),
]


@pytest.fixture
def train_and_test(tmp_path) -> Path:
    for split, names in (("train", "abcd"), ("test", "ad")):
        for name in names:
            write_png(
                tmp_path / f"source/{split}/img/{name}.png", draw_image(3, SMALL, ord(name)).T
            )
            label = draw_classes(SMALL, shares=[1, 1])
            write_png(tmp_path / f"source/{split}/gt/{name}.png", label)
    return tmp_path


@pytest.mark.parametrize(("flags", "expected"), SPLITS_ASKED)
def test_validation_is_taken_from_the_folder_train_into_a_set_that_is_there(
    train_and_test, flags, expected
):
    classes = ["--classes", "other", "road"]
    first = prepared(train_and_test, "folder", *classes)
    assert "no scene is in val; name some with --splits train val=SCENE,SCENE test" in first.stdout
    is_other = flags == ["test"]  # fewer scenes are another set
    flags = ["--splits", *flags] if flags else []
    done = prepared(train_and_test, "folder", *classes, *flags, status=2 * is_other)
    if is_other:
        assert "was begun with splits [], now ['test']; name another folder" in done.stderr
        return
    scenes = card_of(train_and_test / "out")["scenes"]
    assert {split: "".join(names) for split, names in scenes.items()} == expected
    images = (train_and_test / "out/images").rglob("*.png")
    assert sum(1 for _ in images) == 4 * sum(map(len, expected.values()))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["val=a,e"], "e is no scene of train; .* names of these: a, b, c, d"),
        (["val=b", "val=c"], "val=...: stands there twice"),
        (["test=0.5"], "test=0.5: the folders say the split already; write test alone"),
        (["train=b"], "the folders say the split already"),
        (["val=0.0001"], "no scene falls to it"),
        (["dev"], "known are train, val, test"),
    ],
)
def test_what_the_folders_cannot_give_is_refused(train_and_test, flags, said):
    flags = ["--classes", "other", "road", "--splits", *flags]
    assert re.search(said, prepared(train_and_test, "folder", *flags, status=2).stderr)


@pytest.mark.parametrize("folder", ["valid", "validation", "dev", "Val"])
def test_a_folder_of_validation_has_several_names(train_and_test, folder):
    (train_and_test / "source/test").rename(train_and_test / "source" / folder)
    prepared(train_and_test, "folder", "--classes", "other", "road", "--splits", "test=b", "train")
    assert card_of(train_and_test / "out")["scenes"]["train"] == ["a", "c", "d"]
    prepared(train_and_test, "folder", "--classes", "other", "road", "--splits", "val=b", status=2)
