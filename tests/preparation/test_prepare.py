"""tools/prepare.py on drawn scenes in the layouts that users have: every tile, number and name."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
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
    coloured,
    draw_classes,
    draw_image,
    draw_levir,
    draw_potsdam,
    draw_vaihingen,
    eroded,
    prepare,
    read_tile,
    tiles_of,
    tree,
    write_png,
    write_tiff,
)

from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.data.subsets import name_hash
from SSLRemoteSensing.preparation.isprs import CLASSES, PALETTE
from SSLRemoteSensing.preparation.levir_cs import CLASSES as LEVIR_CLASSES

SPLIT = {"2_10": "train", "3_10": "train", "2_11": "val", "2_13": "test"}
SIX = ["--classes", *"abcdef"]


def command(*arguments, **options) -> subprocess.CompletedProcess:
    """The command as a user runs it."""
    line = [sys.executable, str(ROOT / "tools/prepare.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)


def names(scene: str, stride: int, tile=32, size=SIZE) -> set[str]:
    return {
        f"{scene}_{y}_{x}"
        for y in positions(size[0], tile, stride)
        for x in positions(size[1], tile, stride)
    }


def not_scored(classes: np.ndarray) -> np.ndarray:
    """Labels as they are written: the eroded boundary is 255."""
    return np.where(classes == 6, 255, classes)


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory):
    """(source, output, drawn scenes) of the real command with both kinds of labels."""
    folder = tmp_path_factory.mktemp("potsdam")
    drawn = draw_potsdam(folder / "source", products=("RGB", "IRRG", "RGBIR"))
    flags = ["--labels", "both", "--tile", 32, "--workers", 2]
    done = command("potsdam", "--source", "source", "--output", "out", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    (folder / "said").write_text(done.stdout)
    return folder / "source", folder / "out", drawn


# ---------------------------------------------------------------------------- tiles


def test_the_files_are_as_promised_and_no_others(potsdam):
    expected = {
        f"{folder}/{split}/{name}.png"
        for scene, split in SPLIT.items()
        for name in names(scene, 32)
        for folder in ("images", "labels", "labels_eroded")
    }
    assert set(tree(potsdam[1])) == expected | {"dataset.json", "audit.json"}
    assert len(expected) == 4 * 9 * 3


def test_tiles_put_together_are_the_scene_and_its_labels(potsdam):
    _, output, drawn = potsdam
    for scene, split in SPLIT.items():
        planes, classes = drawn[scene]
        assert np.array_equal(assemble(output / "images" / split, scene), planes[:3])
        assert np.array_equal(assemble(output / "labels" / split, scene), classes)
        boundary = assemble(output / "labels_eroded" / split, scene)
        assert np.array_equal(boundary, not_scored(eroded(classes)))
        assert (boundary == 255).any()


@pytest.mark.parametrize("stride", [20, 9])
def test_overlapping_tiles_agree_and_each_pixel_counts_once(tmp_path, stride):
    drawn = draw_potsdam(tmp_path / "source", bordered=False)
    done = prepare(
        "potsdam", "--source", tmp_path / "source", "--output", tmp_path / "out", "--stride", stride
    )
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path / "out")
    assert (card["tile"], card["stride"]) == (32, stride)
    count = len(names("s", stride))
    assert card["tiles"] == {"train": 2 * count, "val": count, "test": count}
    for scene, split in SPLIT.items():
        image = assemble(tmp_path / "out/images" / split, scene)
        assert np.array_equal(image, drawn[scene][0][:3])
    train = np.concatenate([drawn[s][0][:3].reshape(3, -1) for s in ("2_10", "3_10")], 1) / 255
    assert card["mean"] == pytest.approx(train.mean(1).tolist(), rel=1e-12)
    assert card["std"] == pytest.approx(train.std(1).tolist(), rel=1e-9)
    classes = np.stack([drawn[s][1] for s in ("2_10", "3_10")])
    shares = np.bincount(classes.ravel(), minlength=6) / classes.size
    assert list(card["class_shares"].values()) == pytest.approx(shares.tolist(), rel=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (32, 33), (64, 96), (65, 63)])
def test_scenes_of_any_size_are_covered(tmp_path, size):
    drawn = draw_potsdam(tmp_path / "source", ("2_10",), size=size, bordered=False)
    done = prepare("potsdam", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.array_equal(assemble(tmp_path / "out/images/train", "2_10"), drawn["2_10"][0][:3])
    assert np.array_equal(assemble(tmp_path / "out/labels/train", "2_10"), drawn["2_10"][1])


# ---------------------------------------------------------------------------- dataset.json, audit


def test_dataset_json_holds_what_the_tiles_are(potsdam):
    source, output, drawn = potsdam
    card = card_of(output)
    assert card["classes"] == list(CLASSES)
    assert card["palette"] == [list(colour) for colour in PALETTE]
    assert card["bands"] == ["red", "green", "blue"]
    assert card["scale"] == 255
    assert (card["tile"], card["stride"]) == (32, 32)
    assert card["labels"] == ["eroded", "full"]
    assert card["tiles"] == {"train": 18, "val": 9, "test": 9}
    assert card["scenes"] == {"train": ["2_10", "3_10"], "val": ["2_11"], "test": ["2_13"]}
    train = np.concatenate([drawn[s][0][:3].reshape(3, -1) for s in ("2_10", "3_10")], 1) / 255
    assert card["mean"] == pytest.approx(train.mean(1).tolist(), rel=1e-12)
    assert card["std"] == pytest.approx(train.std(1).tolist(), rel=1e-9)
    classes = np.stack([drawn[s][1] for s in ("2_10", "3_10")])
    shares = np.bincount(classes.ravel(), minlength=6) / classes.size
    assert list(card["class_shares"]) == list(CLASSES)
    assert list(card["class_shares"].values()) == pytest.approx(shares.tolist(), rel=1e-12)
    used = [*source.glob("2_Ortho_RGB/*.tif"), *source.glob("5_*/*.tif")]
    assert len(used) == 12
    assert card["sources"] == {
        file.relative_to(source).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in used
    }


def test_dataset_json_says_how_it_was_made(potsdam):
    card = card_of(potsdam[1])
    assert card["made_by"]["command"][1] == "potsdam"
    assert card["made_by"]["versions"]["SSLRemoteSensing"]
    assert card["settings"]["tile"] == 32
    assert card["places"]["train"]["2_10"]["height"] == SIZE[0]
    assert "32633" in card["places"]["train"]["2_10"]["crs"]


def test_the_audit_is_told_and_kept(potsdam):
    _, output, drawn = potsdam
    audit = json.loads((output / "audit.json").read_text())
    records = {record["scene"]: record for record in audit["scenes"]}
    assert set(records) == set(SPLIT)
    for scene, record in records.items():
        classes = drawn[scene][1]
        label = record["labels"]["full"]
        assert label["pixels"] == np.bincount(classes.ravel(), minlength=6).tolist()
        assert (label["inexact"], label["unknown"], label["not_scored"]) == (0, 0, 0)
        black = record["labels"]["eroded"]["not_scored"]
        assert black == int((eroded(classes) == 6).sum())
    said = (output.parent / "said").read_text()
    for scene in SPLIT:
        assert any(line.split()[0] == scene and "70 x 90" in line for line in said.splitlines())
    assert "30 scenes of the splits are not there" not in said  # 34 are
    assert "34 scenes of the splits are not there" in said
    assert "are not of their published size" in said


def test_a_check_writes_nothing_and_says_the_same(potsdam, tmp_path):
    source, output, _ = potsdam
    before = tree(tmp_path)
    done = prepare("potsdam", "--source", source, "--labels", "both", "--check")
    assert done.returncode == 0
    said = (output.parent / "said").read_text().splitlines()
    assert [line for line in done.stdout.splitlines() if line not in said] == []
    there = prepare(
        "potsdam", "--source", source, "--labels", "both", "--output", tmp_path / "no", "--check"
    )
    assert there.returncode == 0
    assert there.stdout == done.stdout
    assert tree(tmp_path) == before
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
    done = prepare(
        "potsdam", "--source", tmp_path / "source", "--output", tmp_path / "out", "--bands", bands
    )
    assert done.returncode == 0, done.stdout + done.stderr
    planes = drawn["2_10"][0][list(expected)]
    assert np.array_equal(assemble(tmp_path / "out/images/train", "2_10"), planes)
    card = card_of(tmp_path / "out")
    assert card["bands"] == called
    assert card["source_bands"] == numbers
    assert card["mean"] == pytest.approx((planes.mean((1, 2)) / 255).tolist())


def test_bands_that_no_file_has_are_refused(tmp_path):
    draw_potsdam(tmp_path / "source", ("2_10",))
    done = prepare("potsdam", "--source", tmp_path / "source", "--check", "--bands", "rgbir")
    assert done.returncode == 2
    assert "top_potsdam_*_RGBIR.tif" in done.stderr
    assert "--bands rgbir" in done.stderr


def zipped(folder: Path, file: Path, inside: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + path.relative_to(folder).as_posix())
    return file


def nested(source: Path, target: Path) -> Path:
    for folder in source.iterdir():
        shutil.copytree(folder, target / "Potsdam" / folder.name / folder.name)
    return target


def zips(source: Path, target: Path) -> Path:
    """A zip file a folder, as they are downloaded; one with and one without the folder inside."""
    for number, folder in enumerate(sorted(source.iterdir())):
        zipped(folder, target / f"{folder.name}.zip", f"{folder.name}/" if number % 2 else "")
    return target


def one_zip(source: Path, target: Path) -> Path:
    return zipped(source, target.with_suffix(".zip"), "Potsdam/")


def padded(source: Path, target: Path) -> Path:
    for file in source.rglob("*.tif"):
        name = file.name.replace("_2_1", "_02_1").replace("_3_1", "_03_1")
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / file.parent.name / name)
    return target


def shouted(source: Path, target: Path) -> Path:
    """Endings in capitals, and what else lies about."""
    for file in source.rglob("*.tif"):
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / file.parent.name / f"{file.stem}.TIF")
        (target / file.parent.name / f"{file.stem}.tfw").write_text("0.05\n")
    (target / "__MACOSX/2_Ortho_RGB").mkdir(parents=True)
    (target / "__MACOSX/2_Ortho_RGB/._top_potsdam_2_10_RGB.tif").write_bytes(b"junk")
    (target / ".hidden").write_text("")
    return target


@pytest.mark.parametrize("arrange", [nested, zips, one_zip, padded, shouted])
def test_the_source_may_lie_in_many_ways(potsdam, tmp_path, arrange):
    source = arrange(potsdam[0], tmp_path / "source")
    done = prepare(
        "potsdam", "--source", source, "--output", tmp_path / "out", "--labels", "both"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert tiles_of(tmp_path / "out") == tiles_of(potsdam[1])
    card, plain = card_of(tmp_path / "out"), card_of(potsdam[1])
    for key in ("mean", "std", "class_shares", "scenes", "tiles", "places"):
        assert card[key] == plain[key], key
    assert sorted(card["sources"].values()) == sorted(plain["sources"].values())


def test_labels_in_two_folders_are_taken_from_the_fuller_one_and_said(potsdam, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(potsdam[0], source)
    less = source / "5_Labels_for_participants"
    less.mkdir()
    shutil.copy(source / "5_Labels_all/top_potsdam_2_10_label.tif", less)
    done = prepare("potsdam", "--source", source, "--check")
    assert done.returncode == 0
    assert "5_Labels_for_participants: 1 scenes are also in 5_Labels_all" in done.stdout


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same(potsdam, tmp_path, workers):
    done = prepare(
        "potsdam", "--source", potsdam[0], "--output", tmp_path, "--labels", "both", workers=workers
    )
    assert done.returncode == 0
    assert tiles_of(tmp_path) == tiles_of(potsdam[1])
    card, plain = card_of(tmp_path), card_of(potsdam[1])
    assert list(card) == list(plain)
    assert {k for k in card if card[k] != plain[k]} <= {"made", "made_by"}


def test_eroded_labels_alone(potsdam, tmp_path):
    done = prepare(
        "potsdam", "--source", potsdam[0], "--output", tmp_path, "--labels", "eroded"
    )  # fmt: skip
    assert done.returncode == 0
    classes = potsdam[2]["2_10"][1]
    assert np.array_equal(
        assemble(tmp_path / "labels_eroded/train", "2_10"), not_scored(eroded(classes))
    )
    assert not (tmp_path / "labels").exists()
    assert card_of(tmp_path)["labels"] == ["eroded"]


# ---------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["train", "val"], {"train": ["2_10", "3_10"], "val": ["2_11"]}),
        (["train", "val=2_10"], {"train": ["2_11", "3_10"], "val": ["2_10"]}),
        # Choosing validation scenes does not mean to leave out the rest.
        (["val=2_10"], {"train": ["2_11", "3_10"], "val": ["2_10"], "test": ["2_13"]}),
        (["test"], {"test": ["2_13"]}),
    ],
)
def test_splits_are_prepared_as_asked(potsdam, tmp_path, given, expected):
    done = prepare(
        "potsdam", "--source", potsdam[0], "--output", tmp_path, "--splits", *given
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {split: sorted(scenes) for split, scenes in card_of(tmp_path)["scenes"].items()}
    assert found == expected
    assert {path.name for path in (tmp_path / "images").iterdir()} == set(expected)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("dev", "known are train, val, test"),
        ("test=2_10", "only val can be chosen"),
        ("val=2_13", "2_13 is no scene of train"),
        ("val=9_9", "9_9 is no scene of train"),
        ("val=", "is no scene of train"),
    ],
)
def test_a_split_that_cannot_be_is_refused(potsdam, given, match):
    done = prepare("potsdam", "--source", potsdam[0], "--check", "--splits", "train", given)
    assert done.returncode == 2
    assert match in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scene_named_1_can_be_the_validation_scene(tmp_path):
    draw_vaihingen(tmp_path / "source")
    done = prepare(
        "vaihingen", "--source", tmp_path / "source", "--output", tmp_path / "out", "--splits",
        "train", "val=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert card_of(tmp_path / "out")["scenes"]["val"] == ["1"]


def test_scenes_are_left_out_as_asked(potsdam, tmp_path):
    done = prepare(
        "potsdam", "--source", potsdam[0], "--output", tmp_path, "--leave_out", "3_10", "2_13"
    )
    assert done.returncode == 0
    card = card_of(tmp_path)
    assert card["left_out"] == ["3_10", "2_13"]
    assert card["scenes"] == {"train": ["2_10"], "val": ["2_11"]}
    assert "left out as asked: 3_10, 2_13" in done.stdout
    assert not any("3_10" in name for name in tiles_of(tmp_path))


def test_an_unknown_scene_to_leave_out_is_refused(potsdam):
    done = prepare("potsdam", "--source", potsdam[0], "--check", "--leave_out", "7_10")
    assert done.returncode == 2
    assert "--leave_out 7_10: no such scene; there are 2_10, 2_11, 2_13, 3_10" in done.stderr


# ---------------------------------------------------------------------------- vaihingen


@pytest.mark.parametrize("labels", ["gts_for_participants/", "", "COMPLETE/"])
def test_vaihingen_with_labels_wherever_they_lie(tmp_path, labels):
    drawn = draw_vaihingen(tmp_path / "source", labels=labels)
    stray = "gts_eroded_for_participants/top_mosaic_09cm_area9_noBoundary.tif"
    write_tiff(tmp_path / "source" / stray, coloured(eroded(draw_classes())))
    done = command(
        "vaihingen", "--source", tmp_path / "source", "--output", tmp_path / "out",
        "--labels", "both", "--tile", 32, "--workers", 1,
    ) if labels == "" else prepare(
        "vaihingen", "--source", tmp_path / "source", "--output", tmp_path / "out",
        "--labels", "both",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{stray}: a label without a scene; not used" in done.stdout
    card = card_of(tmp_path / "out")
    assert card["bands"] == ["near infrared", "red", "green"]
    assert card["scenes"] == {"train": ["1", "3"], "val": ["11"], "test": ["2"]}
    assert not any("area9" in name for name in card["sources"])
    for scene, split in {"1": "train", "3": "train", "11": "val", "2": "test"}.items():
        planes, classes = drawn[scene]
        assert np.array_equal(assemble(tmp_path / "out/images" / split, scene), planes)
        assert np.array_equal(assemble(tmp_path / "out/labels" / split, scene), classes)
        assert np.array_equal(
            assemble(tmp_path / "out/labels_eroded" / split, scene), not_scored(eroded(classes))
        )


def test_vaihingen_has_no_blue_band(tmp_path):
    draw_vaihingen(tmp_path)
    done = prepare("vaihingen", "--source", tmp_path, "--check", "--bands", "rgb")
    assert done.returncode == 2
    assert "Vaihingen has near infrared, red, green (irrg) only" in done.stderr


def test_test_scenes_without_labels_are_listed_as_such(tmp_path):
    draw_vaihingen(tmp_path / "source")
    (tmp_path / "source/gts_for_participants/top_mosaic_09cm_area2.tif").unlink()
    done = prepare("vaihingen", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 0
    assert "1 test scenes have no label and are in test_unlabelled: 2" in done.stdout
    assert card_of(tmp_path / "out")["without_labels"] == ["2"]


# ---------------------------------------------------------------------------- levir_cs


@pytest.fixture(scope="module")
def levir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levir")
    drawn = draw_levir(folder / "source", train=12, test=2)
    done = command(
        "levir_cs", "--source", "source", "--output", "out", "--tile", 32, "--stride", 20,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "source", folder / "out", drawn


def test_levir_cs_tiles_have_red_first_and_the_values_as_they_were(levir):
    _, output, drawn = levir
    card = card_of(output)
    assert card["bands"] == ["red", "green", "blue", "near infrared"]
    assert card["scale"] == 1023
    assert card["classes"] == list(LEVIR_CLASSES)
    assert sum(map(len, card["scenes"].values())) == 14
    for split, scenes in card["scenes"].items():
        for scene in scenes:
            planes, classes = drawn[scene]
            assert planes.max() > 1023
            assert np.array_equal(assemble(output / "images" / split, scene), planes)
            assert np.array_equal(assemble(output / "labels" / split, scene), classes)


def test_levir_cs_statistics_are_of_values_clipped_at_the_scale(levir):
    _, output, drawn = levir
    card = card_of(output)
    train = np.stack([np.minimum(drawn[scene][0], 1023) for scene in card["scenes"]["train"]])
    train = train.transpose(1, 0, 2, 3).reshape(4, -1) / 1023
    assert card["mean"] == pytest.approx(train.mean(1).tolist(), rel=1e-12)
    assert card["std"] == pytest.approx(train.std(1).tolist(), rel=1e-9)


def test_levir_cs_tiles_know_where_they_lie(levir):
    source, output, _ = levir
    scene = card_of(output)["scenes"]["train"][0]
    with (
        rasterio.open(source / f"train/mss/{scene}_mss.tiff") as whole,
        rasterio.open(output / f"images/train/{scene}_20_40.tif") as tile,
    ):
        assert tile.crs == whole.crs
        assert tile.xy(0, 0) == pytest.approx(whole.xy(20, 40), abs=1e-6)
        assert tile.dtypes == ("uint16",) * 4


def test_levir_cs_validation_is_a_tenth_by_a_hash_of_the_name(levir):
    _, output, drawn = levir
    scenes = card_of(output)["scenes"]
    published = list(drawn)[:12]
    assert scenes.get("val", []) == [name for name in published if name_hash(name) < 0.1]
    assert sorted(scenes["train"] + scenes.get("val", [])) == sorted(published)
    assert sorted(scenes["test"]) == sorted(list(drawn)[12:])
    many = [f"GF1_WFV2_E{i}" for i in range(3068)]
    assert sum(name_hash(name) < 0.1 for name in many) == pytest.approx(307, abs=50)


def test_0_128_255_labels_of_levir_cs_give_the_same(levir, tmp_path):
    draw_levir(tmp_path / "source", train=12, test=2, codes=(0, 128, 255))
    done = prepare(
        "levir_cs", "--source", tmp_path / "source", "--output", tmp_path / "out", "--stride", 20
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert tiles_of(tmp_path / "out") == tiles_of(levir[1])
    assert card_of(tmp_path / "out")["class_shares"] == card_of(levir[1])["class_shares"]


def test_a_label_of_levir_cs_that_mixes_both_codes_is_refused(tmp_path):
    drawn = draw_levir(tmp_path / "source", train=3, test=0)
    name = list(drawn)[1]
    classes = drawn[name][1].copy()
    classes[:5] = 128
    write_tiff(tmp_path / f"source/train/label_0_1_2/{name}_roiMap.tif", classes)
    done = prepare("levir_cs", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert f"must not be used: {name}: values [0, 1, 2, 128] mix the codes" in done.stdout
    assert not any(name in file for file in tiles_of(tmp_path / "out"))


def test_another_value_in_levir_cs_is_refused(tmp_path):
    drawn = draw_levir(tmp_path / "source", train=3, test=0, codes=(0, 1, 3))
    done = prepare("levir_cs", "--source", tmp_path / "source", "--check")
    assert done.returncode == 1
    for name in drawn:
        assert name in done.stdout
    assert "of no class (values [0, 1, 3])" in done.stdout


def test_levir_cs_test_scenes_may_come_without_labels(tmp_path):
    drawn = draw_levir(tmp_path / "source", train=3, test=2, label_test=False)
    done = prepare("levir_cs", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 test scenes have no label and are in test_unlabelled" in done.stdout
    card = card_of(tmp_path / "out")
    assert card["without_labels"] == card["scenes"]["test_unlabelled"] == list(drawn)[3:]
    assert len(list((tmp_path / "out/images/test_unlabelled").iterdir())) == 2 * 9
    assert not (tmp_path / "out/labels/test_unlabelled").exists()
    assert not (tmp_path / "out/labels/test").exists()


def test_levir_cs_rgb_of_the_four_bands(tmp_path):
    drawn = draw_levir(tmp_path / "source", train=3, test=0)
    done = prepare(
        "levir_cs", "--source", tmp_path / "source", "--output", tmp_path / "out", "--bands", "rgb"
    )
    assert done.returncode == 0
    for split, scenes in card_of(tmp_path / "out")["scenes"].items():
        for scene in scenes:
            image = assemble(tmp_path / "out/images" / split, scene)
            assert np.array_equal(image, drawn[scene][0][:3])


# ---------------------------------------------------------------------------- folder


def draw_folder(folder: Path, layout: dict[str, str], tops=6, offset=0) -> dict[str, np.ndarray]:
    """Images {split}/{name} and labels by the templates 'image' and 'label' of `layout`."""
    drawn = {}
    names = ["area1_0_0", "area1_0_64", "area2_0_0", "area2_0_64", "area3_0_0", "area4_0_0"]
    for number, name in enumerate(names):
        split = ("train", "train", "train", "val", "test", "train")[number]
        classes = draw_classes((64, 64), number, [1] * tops) + offset
        image = draw_image(3, (64, 64), number)
        for kind, pixels in (("image", image.transpose(1, 2, 0)), ("label", classes)):
            if kind in layout:
                file = folder / layout[kind].format(split=split, name=name)
                write_png(file, pixels.astype(np.uint8))
        drawn[name] = split, image, classes - offset
    return drawn


LAYOUTS = {
    "img_dir": dict(image="img_dir/{split}/{name}.png", label="ann_dir/{split}/{name}.png"),
    "split first": dict(image="{split}/images/{name}.jpg", label="{split}/masks/{name}.png"),
    "suffix": dict(image="x/{split}/images/{name}.png", label="x/{split}/labels/{name}_label.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_partner_folders_with_splits(tmp_path, layout):
    drawn = draw_folder(tmp_path / "source", layout)
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out", *SIX
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path / "out")
    assert card["tiles"] == {"train": 16, "val": 4, "test": 4}
    assert card["classes"] == list("abcdef")
    for name, (split, image, classes) in drawn.items():
        assert np.array_equal(assemble(tmp_path / "out/labels" / split, name), classes)
        if layout["image"].endswith("png"):
            assert np.array_equal(assemble(tmp_path / "out/images" / split, name), image)


@pytest.mark.parametrize("stated", [[], ["--label_offset", "-1"]])
def test_0_as_not_scored_becomes_255_and_is_said_where_it_was_not_stated(tmp_path, stated):
    """Labels of another tool: 0 = ignore, 1 to 6 the classes."""
    drawn = draw_folder(tmp_path / "source", LAYOUTS["img_dir"], offset=1)
    for file in (tmp_path / "source/ann_dir").rglob("*.png"):
        classes = read_tile(file).copy()
        classes[:4] = 0
        write_png(file, classes)
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out", *SIX, *stated
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("0 is taken as not scored" in done.stdout) == (not stated)
    for name, (split, _, classes) in drawn.items():
        expected = classes.copy()
        expected[:4] = 255
        assert np.array_equal(assemble(tmp_path / "out/labels" / split, name), expected)


FLAT = {
    "another ending": ("{name}.jpg", "{name}.png"),
    "tif and png": ("{name}.tif", "{name}.png"),
    "_label": ("{name}.png", "{name}_label.png"),
    "_mask in folders": ("images/{name}.png", "masks/{name}_mask.png"),
    "images, labels": ("images/{name}.jpg", "labels/{name}.png"),
}


@pytest.mark.parametrize("layout", FLAT.values(), ids=FLAT)
def test_a_flat_folder_is_dealt_by_scenes(tmp_path, layout):
    image, label = layout
    drawn = draw_folder(tmp_path / "source", dict(image=image, label=label))
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out", *SIX,
        "--splits", "train", "val=0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scenes are dealt by a hash of their names" in done.stdout
    scenes = card_of(tmp_path / "out")["scenes"]
    assert sorted(name for names in scenes.values() for name in names) == sorted(drawn)
    for scene in ("area1", "area2", "area3", "area4"):
        split = "val" if name_hash(scene) < 0.5 else "train"
        mine = {name for name in drawn if name.startswith(scene)}
        assert mine <= set(scenes.get(split, [])), "tiles of one scene stay together"
        for name in mine:
            found = assemble(tmp_path / "out/labels" / split, name)
            assert np.array_equal(found, drawn[name][2])


def test_validation_scenes_of_a_folder_can_be_named(tmp_path):
    draw_folder(tmp_path / "source", dict(image="{name}.jpg", label="{name}.png"))
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out", *SIX,
        "--splits", "val=area2,area4",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    scenes = card_of(tmp_path / "out")["scenes"]
    assert sorted(scenes["val"]) == ["area2_0_0", "area2_0_64", "area4_0_0"]
    assert sorted(scenes["train"]) == ["area1_0_0", "area1_0_64", "area3_0_0"]


def test_colour_labels_of_a_folder(tmp_path):
    layout = dict(image="images/{name}.png", label="labels/{name}.png")
    drawn = draw_folder(tmp_path / "source", layout, tops=2)
    for name, (_, _, classes) in drawn.items():
        colours = np.array([(0, 0, 0), (250, 4, 0)], np.uint8)[classes]
        write_png(tmp_path / f"source/labels/{name}.png", colours)
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out",
        "--classes", "other", "road", "--palette", "0,0,0", "255,0,0",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are not exactly a class colour; decoded by threshold" in done.stdout
    card = card_of(tmp_path / "out")
    assert card["palette"] == [[0, 0, 0], [255, 0, 0]]
    for split, names in card["scenes"].items():
        for name in names:
            assert np.array_equal(assemble(tmp_path / "out/labels" / split, name), drawn[name][2])


def test_codes_of_a_folder_are_taken_as_stated(tmp_path):
    layout = dict(image="images/{name}.png", label="labels/{name}.png")
    drawn = draw_folder(tmp_path / "source", layout, tops=2)
    for name, (_, _, classes) in drawn.items():
        write_png(tmp_path / f"source/labels/{name}.png", classes * 255)
    ask = ["folder", "--source", tmp_path / "source", "--output", tmp_path / "out"]
    ask += ["--classes", "other", "road"]
    done = prepare(*ask)
    assert done.returncode == 2
    assert "255 may be a class or not scored" in done.stderr
    assert "label_codes" in done.stderr
    assert not (tmp_path / "out").exists()
    done = prepare(*ask, "--label_codes", 0, 255)
    assert done.returncode == 0, done.stdout + done.stderr
    for split, names in card_of(tmp_path / "out")["scenes"].items():
        for name in names:
            assert np.array_equal(assemble(tmp_path / "out/labels" / split, name), drawn[name][2])


def test_a_folder_without_labels_is_for_pre_training(tmp_path):
    drawn = draw_folder(tmp_path / "source", dict(image="{name}.png"))
    done = prepare("folder", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no labels found: tiles for pre-training only" in done.stdout
    card = card_of(tmp_path / "out")
    assert card["classes"] == card["labels"] == []
    assert sum(card["tiles"].values()) == 4 * len(drawn)
    assert not (tmp_path / "out/labels").exists()


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_16_bit_images_need_their_highest_value_and_keep_theirs(tmp_path, ending):
    planes = draw_image(3, (64, 64), top=1000, dtype=np.uint16)
    if ending == "tif":
        write_tiff(tmp_path / "source/train/a.tif", planes)
    else:
        (tmp_path / "source/train").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "source/train/a.png"), planes[::-1].transpose(1, 2, 0))
    ask = ["folder", "--source", tmp_path / "source", "--output", tmp_path / "out"]
    done = prepare(*ask, "--check")
    assert done.returncode == 1
    assert "16-bit values; set --max_value" in done.stdout
    done = prepare(*ask, "--max_value", 1023)
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path / "out")
    assert card["scale"] == 1023
    assert np.array_equal(assemble(tmp_path / "out/images/train", "a"), planes)
    assert card["mean"] == pytest.approx((planes.mean((1, 2)) / 1023).tolist(), rel=1e-9)


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
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out", *SIX,
        "--stride", 9,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.array_equal(assemble(tmp_path / "out/images/train", "a"), planes)
    expected = np.where(empty, 255, classes)
    assert np.array_equal(assemble(tmp_path / "out/labels/train", "a"), expected)
    card = card_of(tmp_path / "out")
    assert card["mean"] == pytest.approx((planes[:, ~empty].mean(1) / 255).tolist(), rel=1e-12)
    shares = np.bincount(classes[~empty], minlength=6) / (~empty).sum()
    assert list(card["class_shares"].values()) == pytest.approx(shares.tolist(), rel=1e-12)


def test_grey_images_of_a_folder(tmp_path):
    grey = draw_image(1, (64, 64))
    write_tiff(tmp_path / "source/train/a.tif", grey)
    done = prepare("folder", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.array_equal(assemble(tmp_path / "out/images/train", "a"), grey[0])
    assert card_of(tmp_path / "out")["bands"] == ["band 1"]


def test_the_same_numbers_in_each_split_are_not_mixed_up(tmp_path):
    """Many published sets count their tiles from 0 in train and again in val."""
    for split in ("train", "val"):
        for number in range(2):
            image = draw_image(3, (32, 32), number + 10 * (split == "val")).transpose(1, 2, 0)
            write_png(tmp_path / f"source/{split}/images/{number}.png", image)
            write_png(tmp_path / f"source/{split}/labels/{number}.png", draw_classes((32, 32)))
    done = prepare("folder", "--source", tmp_path / "source", "--output", tmp_path / "out", *SIX)
    assert done.returncode == 0, done.stdout + done.stderr
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
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak is told")
def test_a_scene_of_6000_x_6000_pixels_takes_less_than_400_mb(tmp_path):
    rng = np.random.default_rng(0)
    row = rng.integers(0, 256, (3, 1, 6000), dtype=np.uint8)
    classes = draw_classes((50, 6000), block=50)
    for name, strip in (
        ("2_Ortho_RGB/top_potsdam_2_10_RGB", np.repeat(row, 50, 1)),
        ("5_Labels_all/top_potsdam_2_10_label", coloured(classes)),
    ):
        file = tmp_path / "source" / f"{name}.tif"
        file.parent.mkdir(parents=True)
        shape = dict(count=3, height=6000, width=6000, dtype="uint8", interleave="pixel")
        with rasterio.open(file, "w", driver="GTiff", **shape, **PLACE) as image:
            for y in range(0, 6000, 50):
                window = rasterio.windows.Window(0, y, 6000, 50)
                image.write(np.roll(strip, y // 2, 2), window=window)
    peak = peak_of(
        "potsdam", "--source", tmp_path / "source", "--output", tmp_path / "out", "--tile", 512,
        "--workers", 1,
    )  # fmt: skip
    assert card_of(tmp_path / "out")["tiles"] == {"train": 144}
    assert peak < 400, f"{peak:.0f} MB"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak is told")
def test_a_png_of_6000_x_6000_pixels_takes_less_than_400_mb_too(tmp_path):
    """With colour labels: twice 108 MB of pixels, which PNG gives only whole."""
    for kind in ("images", "labels"):
        pixels = np.zeros((6000, 6000, 3), np.uint8)
        pixels[::2] = (0, 0, 255)
        write_png(tmp_path / f"train/{kind}/a.png", pixels)
    peak = peak_of(
        "folder", "--source", tmp_path, "--check", "--tile", 512, "--workers", 1,
        "--classes", "other", "blue", "--palette", "0,0,0", "0,0,255",
    )  # fmt: skip
    assert peak < 400, f"{peak:.0f} MB"


# ---------------------------------------------------------------------------- real images


def test_real_16_bit_scenes_in_the_layout_of_levir_cs(tmp_path):
    source = DATA / "landsat_clouds"
    if not source.is_dir():
        pytest.skip(f"the real scenes are not at {source}")
    done = prepare("levir_cs", "--source", source, "--output", tmp_path, tile=256)
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path)
    assert sum(card["tiles"].values()) == 36
    assert card["tiles"]["test"] == 5
    assert "no pixel of train is snow" in done.stdout
    assert 0 < card["class_shares"]["cloud"] < 1
    name = card["scenes"]["train"][0]
    with (
        rasterio.open(source / f"train/mss/{name}_mss.tiff") as file,
        rasterio.open(source / f"train/label_0_1_2/{name}_roiMap.tif") as label,
    ):
        blue, green, red, infrared = file.read()
        tile = read_tile(tmp_path / f"images/train/{name}_0_0.tif")
        assert np.array_equal(tile, np.stack([red, green, blue, infrared]))
        assert np.array_equal(read_tile(tmp_path / f"labels/train/{name}_0_0.png"), label.read(1))


def test_real_geotiffs_with_nodata_as_a_folder(tmp_path):
    source = DATA / "naip"
    if not source.is_dir():
        pytest.skip(f"the real scenes are not at {source}")
    done = prepare("folder", "--source", source, "--output", tmp_path, "--bands", "rgbir", tile=256)
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path)
    assert card["bands"] == ["red", "green", "blue", "near infrared"]
    assert sum(card["tiles"].values()) == 4 * 12
    split = "train" if "train" in card["scenes"] else "val"
    name = card["scenes"][split][0]
    with rasterio.open(source / f"{name}.tif") as file:
        assert np.array_equal(assemble(tmp_path / "images" / split, name), file.read())
        with rasterio.open(tmp_path / f"images/{split}/{name}_256_512.tif") as tile:
            assert tile.crs == file.crs
            assert tile.xy(0, 0) == pytest.approx(file.xy(256, 512), abs=1e-6)


def test_real_jpegs_with_labels_as_a_folder(oam, tmp_path):
    chosen = sorted((oam / "images").iterdir())[::50]
    for image in chosen:
        for kind, file in (("images", image), ("labels", oam / f"labels/{image.stem}.png")):
            (tmp_path / "source" / kind).mkdir(parents=True, exist_ok=True)
            os.symlink(file, tmp_path / "source" / kind / file.name)
    done = prepare(
        "folder", "--source", tmp_path / "source", "--output", tmp_path / "out", "--classes",
        "other", "building", "--splits", "train", "val=0.2", tile=128,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path / "out")
    assert sum(card["tiles"].values()) == 4 * len(chosen)
    assert 0 < len(card["scenes"]["val"]) < len(card["scenes"]["train"])
    assert 0.05 < card["class_shares"]["building"] < 0.5
    for split, names in card["scenes"].items():
        label = read_tile(oam / f"labels/{names[0]}.png")
        assert np.array_equal(assemble(tmp_path / "out/labels" / split, names[0]), label)
