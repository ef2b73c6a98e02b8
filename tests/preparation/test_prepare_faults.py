"""tools/prepare.py with bad input, stopped half-way, or run again: named, and nothing half left."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from conftest import ROOT
from drawn import (
    COLOURS,
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
    potsdam_label,
    prepare,
    prepared,
    tiles_of,
    tree,
    write_png,
    write_tiff,
    zipped,
)

from SSLRemoteSensing.preparation.isprs import CLASSES, POTSDAM_SHARES, VAIHINGEN_SHARES

IMAGE = "2_Ortho_RGB/top_potsdam_3_10_RGB.tif"
LABEL = "5_Labels_all/top_potsdam_3_10_label.tif"
LEVIR = "GF1_WFV2_E140.6_N45.9_20170001_L1A0002713911"  # of `draw_levir`
LEVIR_LABEL = f"train/label_0_1_2/{LEVIR}_roiMap.tif"
PICTURE, MAP = "train/images/b.png", "train/labels/b.png"
TWO = ["--classes", "other", "road"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """(source, output) of scenes of Potsdam without fault."""
    folder = tmp_path_factory.mktemp("clean")
    draw_potsdam(folder / "source", bordered=False)
    done = prepared(folder, "potsdam")
    assert "must not" not in done.stdout
    assert "warning" not in done.stdout
    return folder / "source", folder / "out"


@pytest.fixture
def source(clean, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(clean[0], tmp_path / "source")


@pytest.fixture
def own(tmp_path) -> Path:
    return draw_own(tmp_path / "source")


def draw_own(source: Path) -> Path:
    """A folder of one's own: images and labels of values in train/."""
    for name in ("a", "b", "c"):
        image = draw_image(3, (64, 64), ord(name)).transpose(1, 2, 0)
        write_png(source / f"train/images/{name}.png", image)
        label = draw_classes((64, 64), shares=[1, 1])
        write_png(source / f"train/labels/{name}.png", label)
    return source


def assert_equal_sets(one: Path, two: Path):
    """The same tiles byte for byte, and the same dataset.json apart from when and how."""
    assert tiles_of(one) == tiles_of(two)
    cards = [card_of(output) | {"made": None, "made_by": None} for output in (one, two)]
    assert json.dumps(cards[0]) == json.dumps(cards[1])
    assert set(tree(one)) == set(tree(two))


# ---------------------------------------------------------------------------- scenes of no use


def cut_short(file: Path):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])


def recolour(source: Path, clutter):
    """Another palette."""
    colours = COLOURS.copy()
    colours[5] = clutter
    potsdam_label(source, "3_10", colours[draw_classes(SIZE, 1)].transpose(2, 0, 1))


def relabel(source: Path, rows: int, value: int):
    classes = draw_classes(SIZE, 1)
    classes[:rows] = value
    potsdam_label(source, "3_10", coloured(classes))


def small(source: Path):
    write_tiff(source / IMAGE, draw_image(3, (20, 90)))
    potsdam_label(source, "3_10", coloured(draw_classes((20, 90))))


def without_place(source: Path):
    cv2.imwrite(str(source / IMAGE), draw_image(3, SIZE, 1)[::-1].transpose(1, 2, 0))


def elsewhere(source: Path):
    with rasterio.open(source / LABEL, "r+") as label:
        label.transform = rasterio.Affine(0.05, 0, 371000, 0, -0.05, 5806000)


def unlabelled(source: Path):
    shutil.rmtree(source / "5_Labels_all")
    (source / IMAGE.replace("3_10", "2_13")).unlink()  # a test scene would do without


def broken_link(source: Path):
    (source / IMAGE).unlink()
    (source / IMAGE).symlink_to("/nowhere/at/all.tif")


def recode(source: Path, rows: int, value: int, others=None):
    """Of Levir_CS: other values in the first rows of a label."""
    with rasterio.open(source / LEVIR_LABEL) as file:
        classes = file.read(1)
    classes = classes if others is None else np.where(classes == 0, 0, others).astype(np.uint8)
    classes[:rows] = value
    write_tiff(source / LEVIR_LABEL, classes)


def twice(source: Path):
    """A part of the download within another."""
    less = source / "5_Labels_for_participants"
    less.mkdir()
    shutil.copy(source / LABEL, less)


def in_place_of(source: Path, planes: np.ndarray, **profile):
    (source / PICTURE).unlink()
    write_tiff((source / PICTURE).with_suffix(".tif"), planes, **profile)


def bracketed(source: Path):
    write_png(source / "train/images/d [1].png", draw_image(3, (64, 64)).transpose(1, 2, 0))
    write_png(source / "train/labels/d [1].png", np.full((64, 64), 7, np.uint8))


POTSDAM_FAULTS = {
    "label smaller": (lambda s: potsdam_label(s, "3_10", coloured(draw_classes((70, 89)))),
                      "is 70 x 89 pixels (height x width), its image"),
    "image smaller": (lambda s: write_tiff(s / IMAGE, draw_image(3, (69, 90))), "69 x 90"),
    "smaller than a tile": (small, "is 20 x 90 pixels, smaller than a tile; set --tile 20"),
    "one class": (lambda s: relabel(s, 70, 3), "the whole label is one single class, tree"),
    "no label": (lambda s: (s / LABEL).unlink(), "has no label (full)"),
    "orange": (lambda s: recolour(s, (255, 165, 0)), "wrong palette: colour (255, 165, 0)"),
    "magenta": (lambda s: recolour(s, (255, 0, 255)), "of no class"),
    "black": (lambda s: relabel(s, 40, 6), "57% of the pixels are not scored"),
    "image cut short": (lambda s: cut_short(s / IMAGE), IMAGE),
    "label cut short": (lambda s: cut_short(s / LABEL), LABEL),
    "image empty": (lambda s: (s / IMAGE).write_bytes(b""), IMAGE),
    "web page": (lambda s: (s / IMAGE).write_text("<html>log in</html>"), IMAGE),
    "decimal numbers": (lambda s: write_tiff(s / IMAGE, draw_image(3).astype(np.float32)),
                        "holds float32; convert it to uint8 or uint16"),
    "image of one band": (lambda s: write_tiff(s / IMAGE, draw_image(1)), "not band 3"),
    "label of one band": (lambda s: write_tiff(s / LABEL, draw_classes()),
                          f"{LABEL}: has 1 bands, not band 3"),
    "label of 16 bits": (lambda s: write_tiff(s / LABEL, draw_image(3, dtype=np.uint16, top=999)),
                         "holds uint16 values outside 0 to 255"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "text"), POTSDAM_FAULTS.values(), ids=POTSDAM_FAULTS)
def test_a_faulty_scene_is_named_the_rest_is_kept_and_mending_it_finishes(
    clean, source, tmp_path, spoil, text
):
    output = tmp_path / "out"
    spoil(source)
    done = prepared(tmp_path, "potsdam", status=1)
    lines = [line for line in done.stdout.splitlines() if line.startswith("must not be used: 3_10")]
    assert len(lines) == 1
    assert text in lines[0]
    assert "3_10" in lines[0]
    assert "on_bad_image" not in done.stdout, "a key of training configs, no help here"
    assert f"{output} is not ready" in done.stdout
    assert done.stderr == ""
    # Nothing is left of that scene, all of the others, and it is no data set.
    expected = {name: data for name, data in tiles_of(clean[1]).items() if "/3_10_" not in name}
    assert tiles_of(output) == expected
    assert not (output / "dataset.json").exists()
    record = json.loads((output / "audit.json").read_text())["scenes"]
    assert [r["scene"] for r in record if "refused" in r] == ["3_10"]
    # A check alone has the same verdict.
    assert lines[0] in checked(source, "potsdam", status=1)
    # Mended, only this scene is made.
    shutil.copytree(clean[0], source, dirs_exist_ok=True)
    kept = {file: file.stat().st_mtime_ns for file in output.rglob("2_1*.png")}
    done = prepared(tmp_path, "potsdam")
    assert "going on: 3 of 4 scenes are done" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert_equal_sets(output, clean[1])


LABELLED = [*TWO, "--label_offset", "0"]
NAMED = "must not be used: b"
# Set, what is done to its files, flags; the exit status and what is said.
FAULTS = [
    ("potsdam", lambda s: potsdam_label(s, "7_7", coloured(draw_classes())), [], 0,
     f"{LABEL.replace('3_10', '7_7')}: a label without a scene; not used"),
    ("potsdam", unlabelled, [], 1, "has no label"),
    ("potsdam", broken_link, [], 2, IMAGE),
    ("potsdam", without_place, [], 0, "no georeference: 3_10; their tiles lie on no map"),
    ("potsdam", elsewhere, [], 0, f"3_10: {LABEL} lies at another place"),
    ("potsdam", twice, [], 0, "5_Labels_for_participants: 1 scenes are also in 5_Labels_all"),
    ("potsdam", lambda s: recolour(s, (255, 165, 0)), ["--leave_out", "3_10"], 0,
     "left out as asked: 3_10"),
    ("potsdam", None, ["--leave_out", "2_10", "2_11", "2_13", "3_10"], 2, "no scene to prepare"),
    ("potsdam", None, ["--tile", "80"], 1, "70 x 90 pixels, smaller than a tile; set --tile 70"),
    ("potsdam", None, ["--bands", "rgbir"], 2, "top_potsdam_*_RGBIR.tif"),
    ("potsdam", None, ["--classes", "a"], 2, "--classes: is for tools/prepare.py folder"),
    ("potsdam", None, ["--splits", "train", "dev"], 2, "known are train, val, test"),
    ("potsdam", None, ["--splits", "train", "test=2_10"], 2, "only val can be chosen"),
    ("potsdam", None, ["--splits", "train", "val=2_13"], 2, "2_13 is no scene of train"),
    ("potsdam", None, ["--splits", "train", "val=9_9"], 2, "9_9 is no scene of train"),
    ("potsdam", None, ["--splits", "train", "val="], 2, "is no scene of train"),
    ("potsdam", None, ["--leave_out", "7_10"], 2,
     "--leave_out 7_10: no such scene; there are 2_10, 2_11, 2_13, 3_10"),
    ("vaihingen", None, ["--bands", "rgb"], 2, "near infrared, red, green (irrg) only"),
    ("vaihingen",
     lambda s: write_tiff(s / "gts_for_participants/top_mosaic_09cm_area3.tif",
                          coloured(np.full(SIZE, 1, np.uint8))), [], 1,
     "must not be used: 3: the whole label is one single class, building"),
    ("levir_cs", lambda s: recode(s, 5, 128), [], 1,
     f"must not be used: {LEVIR}: values [0, 1, 2, 128] mix the codes"),
    ("levir_cs", lambda s: recode(s, 5, 3), [], 1, "of no class (values [0, 1, 2, 3])"),
    ("levir_cs", lambda s: recode(s, 0, 0, others=255), [], 1,  # snow there, or not scored?
     f"must not be used: {LEVIR}: values [0, 255] where others have (0, 1, 2)"),
    ("levir_cs", lambda s: recode(s, 70, 0), [], 0,
     f"warning: {LEVIR}: the whole label is one single class, background"),
    ("levir_cs", None, ["--labels", "both"], 2, "--labels: Levir_CS has full labels only"),
    ("folder", lambda s: cut_short(s / MAP), LABELLED, 1, NAMED),
    ("folder", lambda s: cut_short(s / MAP), TWO, 1, NAMED),
    ("folder", lambda s: cut_short(s / PICTURE), TWO, 1, NAMED),
    ("folder", lambda s: (s / MAP).unlink(), TWO, 1, f"{NAMED}: {PICTURE} has no label"),
    ("folder", lambda s: write_png(s / MAP, np.full((64, 64, 3), (0, 1, 2))), LABELLED, 1,
     f"{NAMED}: label {MAP}: has 3 bands, expected class values in one"),
    ("folder", lambda s: cv2.imwrite(str(s / "train/images/a.jpg"), np.zeros((64, 64, 3))), TWO, 2,
     "train/images/a.jpg"),
    ("folder", lambda s: write_png(s / "train/labels/a_label.png", np.zeros((64, 64))), TWO, 2,
     "a_label.png"),
    ("folder", None, [*TWO, "--bands", "irrg"], 1, "a.png: has 3 bands, not band 4"),
    ("folder", lambda s: in_place_of(s, draw_image(4, (64, 64)), photometric="MINISBLACK"), TWO, 1,
     f"{NAMED}: has 4 bands of uint8 where most scenes have 3"),
    ("folder", lambda s: in_place_of(s, draw_image(3, (64, 64), dtype=np.uint16)),
     [*TWO, "--max_value", "1023"], 1, f"{NAMED}: has 3 bands of uint16"),
    ("folder", lambda s: in_place_of(s, np.zeros((3, 64, 64), np.uint8), nodata=0), TWO, 1,
     f"{NAMED}: train/images/b.tif: no pixel of it holds data"),
    ("folder", bracketed, LABELLED, 1, "must not be used: d [1]"),
    # 0 and 1 are both black to a threshold: all would become the first class.
    ("folder", None, [*TWO, "--palette", "0,0,0", "255,0,0"], 1, "a.png"),
    ("folder", None, [], 2, "--classes"),
    ("folder", lambda s: shutil.rmtree(s / "train/labels"), TWO, 2, "no label was found"),
    ("folder", None, [*TWO, "river"], 0, "no pixel of train is river"),
    ("folder", lambda s: write_png(s / MAP, np.full((64, 64), 9, np.uint8)), TWO, 2,
     r"value 9 where classes are 0 to 1.*look at train/labels/b\.png"),
    ("folder", lambda s: write_png(s / MAP, draw_classes((64, 64), shares=[1, 1, 1])),
     ["--classes", *"abcd"], 0, "values are 0 to 2, of 4 classes.*label_offset=-1"),
    ("folder", None, [*TWO, "--palette", "0,0,0", "255,165,0"], 2, "threshold"),
    ("folder", None, [*TWO, "--palette", "0,0,0"], 2, "1 colours for 2 classes"),
    ("folder", None, [*TWO, "--palette", "0,0", "0,0,0"], 2, "R,G,B"),
    ("folder", None, [*TWO, "--label_codes", "0", "1", "2"], 2, "label_codes"),
    ("folder", None, [*LABELLED, "--label_codes", "0", "1"], 2, "keep one"),
    ("folder", None, [*TWO, "--labels", "both"], 2, "--labels"),
    ("folder", None, [*TWO, "--splits", "dev"], 2, "known are train, val, test"),
    ("folder", None, [*TWO, "--splits", "train=0.5"], 2, "the folders say the split already"),
    *(("folder", None, [*TWO, flag, value], 2, flag)
      for flag, value in (("--max_value", "0"), ("--max_value", "-3"), ("--max_value", "nan"),
                          ("--stride", "33"), ("--stride", "0"), ("--stride", "-4"),
                          ("--tile", "-5"))),
    ("folder", None, [*TWO, "--tile", "1000000"], 1, "--tile"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "flags", "status", "text"), FAULTS)
def test_what_is_wrong_is_named_by_a_check_and_nothing_of_it_is_left(
    clean, tmp_path, name, spoil, flags, status, text
):
    source = tmp_path / "source"
    if name == "potsdam":
        shutil.copytree(clean[0], source)
    else:
        draw_set = {"vaihingen": draw_vaihingen, "folder": draw_own}.get(name, draw_levir)
        draw_set(source)
    if spoil:
        spoil(source)
    tile = None if "--tile" in flags else 32
    said = checked(source, name, *flags, status=status, tile=tile)
    assert text in said or re.search(text, said)
    assert "Traceback" not in said
    assert said.count("\n") == 1 or status < 2
    done = prepared(tmp_path, name, *flags, status=status, tile=tile)
    assert text in done.stdout + done.stderr or re.search(text, done.stdout + done.stderr)
    for scene in re.findall("must not be used: (.+?): ", said):
        assert not any(f"/{scene}_" in file for file in tiles_of(tmp_path / "out"))
    assert (tmp_path / "out/dataset.json").exists() == (status == 0)


def test_labels_that_may_begin_at_1_are_not_guessed_from_two_values(own):
    assert "label_offset" not in checked(own, "folder", "--classes", *"abcd")


@pytest.mark.parametrize("name", ["potsdam", "vaihingen", "levir_cs", "folder"])
def test_a_source_of_something_else_and_no_output_are_refused(tmp_path, name):
    (tmp_path / "readme.txt").write_text("nothing")
    assert "among 1 files of --source" in checked(tmp_path, name, status=2)
    assert "no such folder or zip file" in checked(tmp_path / "no", name, status=2)
    assert "--output" in prepare(name, "--source", tmp_path).stderr


@pytest.mark.parametrize("inside", ["out", "train/out", "."])
def test_an_output_inside_the_source_is_not_taken_for_a_source(own, inside):
    done = prepare("folder", "--source", own, "--output", own / inside, *TWO)
    assert done.returncode == 2
    assert "--output" in done.stderr


# ---------------------------------------------------------------------------- known faults, audit


def lossy(classes: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-6, 7, (3, *classes.shape))
    noisy = np.clip(coloured(classes) + noise, 0, 255).astype(np.uint8)
    stored = cv2.imencode(".jpg", noisy[::-1].transpose(1, 2, 0), [cv2.IMWRITE_JPEG_QUALITY, 70])
    return np.ascontiguousarray(cv2.imdecode(stored[1], 1)[:, :, ::-1].transpose(2, 0, 1))


def test_the_known_faults_of_potsdam_are_met_warned_of_and_decoded(tmp_path):
    size, scenes = (300, 300), ("4_12", "6_7", "7_10", "2_11")
    drawn = draw_potsdam(tmp_path / "source", scenes, size=size, bordered=False)
    dense = draw_classes(size, 0, block=30)
    potsdam_label(tmp_path / "source", "4_12", lossy(dense))
    cars = coloured(drawn["6_7"][1])
    cars[0][drawn["6_7"][1] == 4] = 252
    potsdam_label(tmp_path / "source", "6_7", cars)
    done = prepared(tmp_path, "potsdam")
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    count = int((drawn["6_7"][1] == 4).sum())
    for scene, text in (("4_12", "lossy re-encode"), ("6_7", "252,255,0"),
                        ("7_10", "errors of annotation"), ("6_7", f"{count} pixels")):  # fmt: skip
        assert any(scene in line and text in line for line in warnings)
    assert not any("2_11" in line for line in warnings)
    assert (assemble(tmp_path / "out/labels/train", "4_12") == dense).mean() > 0.97
    assert np.array_equal(assemble(tmp_path / "out/labels/train", "6_7"), drawn["6_7"][1])
    audit = json.loads((tmp_path / "out/audit.json").read_text())["scenes"]
    inexact = {record["scene"]: record["labels"]["full"]["inexact"] for record in audit}
    assert inexact["4_12"] > 0.8 * dense.size
    assert (inexact["6_7"], inexact["7_10"], inexact["2_11"]) == (count, 0, 0)


@pytest.mark.parametrize("order", [range(6), (5, 4, 3, 2, 1, 0), (4, 5, 0, 1, 2, 3)])
@pytest.mark.parametrize("shares", [POTSDAM_SHARES, VAIHINGEN_SHARES])
def test_class_shares_far_from_the_published_ones_are_told(tmp_path, order, shares):
    """As of labels in another order: value v means class order[v]."""
    value_of = np.argsort(order).astype(np.uint8)
    for number in range(3):
        classes = draw_classes((100, 100), number, shares)
        image = draw_image(3, (100, 100), number).transpose(1, 2, 0)
        write_png(tmp_path / f"train/images/{number}.png", image)
        write_png(tmp_path / f"train/labels/{number}.png", value_of[classes])
    said = checked(tmp_path, "folder", "--classes", *CLASSES)
    assert ("% are far from the published ones of " in said) == (order != range(6))


# ---------------------------------------------------------------------------- zip files


def locked(source: Path, file: Path) -> None:
    data = zipped(source, file).read_bytes()
    place = data.rindex(b"PK\1\2") + 8  # flags of the last member in the directory
    file.write_bytes(data[:place] + bytes([data[place] | 1]) + data[place + 1 :])


ZIP_FAULTS = {
    "broken": (lambda s, f: cut_short(zipped(s, f)), "no readable zip file"),
    "in a zip": (lambda s, f: zipped(s, f, **{"RGB.zip": b"PK"}),
                 "holds RGB.zip, another zip file; unzip it first"),
    "rooted": (lambda s, f: zipped(s, f, **{"/RGB/a.tif": b"II"}), "whose name is no path"),
    "locked": (locked, "which asks for a password; unzip it first"),
    "bzip2": (lambda s, f: zipped(s, f, method=zipfile.ZIP_BZIP2), "packed by another method"),
    "mask": (lambda s, f: zipped(s, f, **{f"{IMAGE}.MSK": b"<VRTDataset/>"}),
             f"holds {IMAGE}.MSK, a mask or overview that is no TIFF"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "text"), ZIP_FAULTS.values(), ids=ZIP_FAULTS)
def test_a_zip_that_cannot_be_used_is_refused_and_passed_over_where_not_needed(
    source, tmp_path, make, text
):
    make(source, tmp_path / "all.zip")
    done = prepared(tmp_path, "potsdam", "--source", tmp_path / "all.zip", status=2)
    assert done.stderr.startswith(f"error: {tmp_path / 'all.zip'}: ")
    assert text in done.stderr
    assert not (tmp_path / "out").exists()
    shutil.copy(tmp_path / "all.zip", source)
    assert "all.zip" in checked(source, "potsdam")


def damaged(source: Path, file: Path, name: str) -> None:
    """A member of which bytes are others."""
    with zipfile.ZipFile(zipped(source, file)) as archive:
        info = archive.getinfo(name)
    data = bytearray(file.read_bytes())
    middle = info.header_offset + 100 + info.compress_size // 2
    data[middle : middle + 20] = bytes(20)
    file.write_bytes(data)


def claiming(source: Path, file: Path, size: int) -> None:
    """A member of which the directory says another size."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(source.rglob("*.tif")):
            archive.write(path, name := path.relative_to(source).as_posix())
            if name == IMAGE:
                archive.filelist[-1].file_size = size


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda s, f: damaged(s, f, IMAGE), f"{IMAGE}: cannot be unpacked"),
        (lambda s, f: damaged(s, f, LABEL), f"{LABEL}: cannot be unpacked"),
        (lambda s, f: claiming(s, f, 2**60), f"image {IMAGE}: cannot be read"),
        (lambda s, f: claiming(s, f, 1000), f"{IMAGE}: cannot be unpacked"),
        (lambda s, f: (cut_short(s / IMAGE), zipped(s, f)), f"image {IMAGE}: cannot be read"),
    ],
    ids=["image", "label", "too large", "too small", "broken within"],
)
def test_a_damaged_member_of_a_zip_is_named_and_the_rest_is_kept(
    source, clean, tmp_path, make, text
):
    make(source, tmp_path / "all.zip")
    done = prepared(tmp_path, "potsdam", "--source", tmp_path / "all.zip", status=1)
    assert f"must not be used: 3_10: {text}" in done.stdout
    assert "vsizip" not in done.stdout
    expected = {name: data for name, data in tiles_of(clean[1]).items() if "/3_10_" not in name}
    assert tiles_of(tmp_path / "out") == expected


# ---------------------------------------------------------------------------- again and going on


def test_a_finished_folder_is_left_as_it_is(clean):
    source, output = clean
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*")}
    said, where, *following = prepared(source.parent, "potsdam").stdout.splitlines()
    assert said == f"{output} is prepared already: 4 scenes, nothing left to do"
    assert where == f"tiles: {output}"
    assert [line.split()[:3] for line in following] == [
        ["next:", "python", "tools/show_labels.py"],
        ["next:", "python", "tools/doctor.py"],
    ]
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*")} == before


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--stride", "16"], "stride"),
        (["--labels", "eroded"], "labels"),
        (["--bands", "irrg"], "bands"),
        (["--splits", "train"], "splits"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_into_the_same_folder_are_refused(tmp_path, flags, key, finished):
    draw_potsdam(tmp_path / "source", ("3_10", "2_12", "2_11"), ("RGB", "IRRG"))
    if not finished:
        (tmp_path / "source" / LABEL).unlink()
    prepared(tmp_path, "potsdam", status=0 if finished else 1)
    before = tree(tmp_path / "out")
    done = prepared(tmp_path, "potsdam", *flags, status=2)
    assert f"was begun with {key} " in done.stderr
    assert "name another folder, or remove this one" in done.stderr
    assert tree(tmp_path / "out") == before


def test_labels_whose_coding_changes_are_not_mixed_with_tiles_of_the_old_one(own, tmp_path):
    """A class that occurs for the first time can change what the other values mean."""
    for name in "abc":
        label = draw_classes((64, 64), shares=[1, 1]) + 1
        write_png(own / f"train/labels/{name}.png", label.astype(np.uint8))
    flags = ["--classes", "other", "road", "roof"]
    prepared(tmp_path, "folder", *flags)  # 1 and 2 of three classes, told as doubtful
    label = draw_classes((64, 64), shares=[1, 1, 1]) + 1
    write_png(own / MAP, label.astype(np.uint8))
    assert "was begun with coding" in prepared(tmp_path, "folder", *flags, status=2).stderr


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("images/mine.png", "mine", "has images, but not by this tool"),
        ("labels/train/mine_0_0.png", "mine", "has labels, but not by this tool"),
        ("images", "a file", "error: --output"),
        ("prepare.jsonl", "{}\n", "damaged"),
        (".lock/mine", "mine", ".lock cannot be opened (Is a directory)"),
    ],
)
def test_an_output_that_is_not_ours_or_damaged_is_refused(source, tmp_path, file, content, text):
    (tmp_path / "out" / file).parent.mkdir(parents=True)
    (tmp_path / "out" / file).write_text(content)
    before = tree(tmp_path / "out")
    done = prepared(tmp_path, "potsdam", status=2)
    assert text in done.stderr
    assert str(tmp_path / "out") in done.stderr
    assert before.items() <= tree(tmp_path / "out").items()


def unfinished(clean: tuple[Path, Path], output: Path, keep: int) -> None:
    """`output` as a run leaves it that was killed after `keep` scenes, within the next."""
    shutil.copytree(clean[1], output)
    audit = json.loads((output / "audit.json").read_text())
    lines = [{"settings": audit["settings"]}, *audit["scenes"][:keep]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (output / "prepare.jsonl").write_text(text + '{"scene": "half a li')
    for number, record in enumerate(audit["scenes"][keep:]):
        for folder in ("images", "labels"):
            tiles = sorted((output / folder / record["split"]).glob(f"{record['scene']}_*"))
            for tile in tiles[0 if number else 4 :]:
                tile.unlink()
            if tiles and not number:
                tiles[3].write_bytes(tiles[3].read_bytes()[:50])
    for file in ("dataset.json", "audit.json"):
        (output / file).unlink()


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_what_a_killed_run_left_is_gone_on_with(clean, tmp_path, keep):
    unfinished(clean, tmp_path / "out", keep)
    if keep == 1:
        prepared(tmp_path, "potsdam", "--source", clean[0], "--leave_out", "3_10")
        left = [name for name in tiles_of(tmp_path / "out") if "/3_10_" in name]
        assert left == [], "half a scene stays, training would take it"
        shutil.rmtree(tmp_path / "out")
        unfinished(clean, tmp_path / "out", keep)
    done = prepared(tmp_path, "potsdam", "--source", clean[0])
    assert ("going on" in done.stdout) == (keep > 0)
    assert_equal_sets(tmp_path / "out", clean[1])


def change_source(source: Path, output: Path):
    write_tiff(source / IMAGE, draw_image(3, (50, 60), 9))
    potsdam_label(source, "3_10", coloured(draw_classes((50, 60), 9)))


def take_away(source: Path, output: Path):
    (source / LABEL).unlink()
    (source / IMAGE).unlink()


@pytest.mark.parametrize(
    ("change", "scenes"),
    [
        (lambda s, o: (o / "images/train/3_10_32_58.png").unlink(), "3 of 4"),
        (lambda s, o: (o / "labels/train/3_10_32_58.png").unlink(), "3 of 4"),
        (lambda s, o: os.truncate(o / "images/train/3_10_32_58.png", 0), "3 of 4"),
        (lambda s, o: cut_short(o / "labels/train/3_10_32_58.png"), "3 of 4"),
        (change_source, "3 of 4"),
        (take_away, "3 of 3"),
    ],
    ids=["image", "label", "empty", "short", "source", "gone"],
)
def test_what_changed_of_a_finished_set_is_made_again_and_no_more(
    clean, source, tmp_path, change, scenes
):
    prepared(tmp_path, "potsdam")
    change(source, tmp_path / "out")
    assert f"going on: {scenes} scenes are done" in prepared(tmp_path, "potsdam").stdout
    straight = prepare("potsdam", "--source", source, "--output", tmp_path / "straight")
    assert straight.returncode == 0
    assert_equal_sets(tmp_path / "out", tmp_path / "straight")
    if change is take_away:  # and there again
        shutil.copytree(clean[0], source, dirs_exist_ok=True)
        assert "going on: 3 of 4" in prepared(tmp_path, "potsdam").stdout
        assert_equal_sets(tmp_path / "out", clean[1])


def write_place(file: Path) -> None:
    """Of pixels of one metre."""
    file.write_text("1\n0\n0\n-1\n500000.5\n4999999.5\n")


def write_nodata(file: Path) -> None:
    band = "<PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
    file.write_text(f"<PAMDataset>{band}</PAMDataset>")


def write_overviews(file: Path) -> None:
    write_tiff(file, np.zeros((32, 32), np.uint8))


@pytest.mark.parametrize("form", ["folder", "zip", "files"])
@pytest.mark.parametrize(
    ("name", "write"), [("B.pgw", write_place), ("b.png.aux.xml", write_nodata)]
)
def test_what_lies_beside_an_image_is_a_part_of_it(tmp_path, name, write, form):
    """Where it comes to a finished set, or is taken away, that scene is cut anew."""
    folder, output = tmp_path / "own", tmp_path / "out"
    for number, scene in enumerate(("a", "b")):
        write_png(folder / f"{scene}.png", draw_image(1, (64, 64), number)[0])

    def again() -> str:
        source = [zipped(folder, tmp_path / "own.zip") if form == "zip" else folder]
        flags = ["--splits", "val=0"]
        if form == "files":
            source = sorted(folder.glob("*.png"))
            flags += ["--labels", tmp_path / "roofs.json", "--background", "land"]
        kind = "polygons" if form == "files" else "folder"
        where = ["--source", *source, "--output", output]
        return prepare(kind, *where, *flags, status=0, tile=32).stdout

    if form == "files":
        pytest.importorskip("pyogrio")
        images = [{"id": i, "file_name": f"{s}.png", "height": 64, "width": 64}
                  for i, s in enumerate(("a", "b"))]  # fmt: skip
        box = {"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0}
        box["segmentation"] = [[4, 4, 40, 4, 40, 40, 4, 40]]
        contents = {"images": images, "categories": [{"id": 1, "name": "roof"}]}
        (tmp_path / "roofs.json").write_text(json.dumps(contents | {"annotations": [box]}))
    again()
    write_overviews(folder / "b.png.ovr")
    assert "nothing left to do" in again()
    write(folder / name)
    assert "going on: 1 of 2 scenes are done" in again()
    assert "nothing left to do" in again()
    record = json.loads((output / "audit.json").read_text())["scenes"][1]
    assert bool(record["masked"]) == (write is write_nodata)
    assert (record["transform"] is None) == (write is write_nodata)
    sources = card_of(output)["sources"]
    assert sources[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).unlink()
    assert "going on: 1 of 2 scenes are done" in again()


def test_a_second_command_at_once_is_refused(clean, tmp_path):
    """It would remove what the first one has cut, and the first would not see it."""
    unfinished(clean, tmp_path / "out", 2)
    before = tree(tmp_path / "out")
    code = "import sys; from pathlib import Path; from SSLRemoteSensing.core import locks; "
    code += "unlock = locks.take(Path(sys.argv[1])); print(flush=True); input()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    lock = tmp_path / "out/.lock"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], **pipes) as other:
        other.stdout.readline()
        done = prepared(tmp_path, "potsdam", "--source", clean[0], status=2)
        after = tree(tmp_path / "out")
        checked(clean[0], "potsdam", "--output", tmp_path / "out")
        other.communicate(b"\n")
    assert f"--output {tmp_path / 'out'}: process {other.pid} on " in done.stderr
    assert "writes there; wait for it" in done.stderr
    assert {name: after[name] for name in before} == before
    prepared(tmp_path, "potsdam", "--source", clean[0])
    assert_equal_sets(tmp_path / "out", clean[1])
    assert not lock.exists()


def test_no_card_is_written_where_tiles_are_gone(clean, tmp_path, monkeypatch):
    def remove_two(*_):
        for place in ("0_0", "0_32"):
            (tmp_path / f"out/labels/train/3_10_{place}.png").unlink()
        return []

    with monkeypatch.context() as patch:  # the last that is done before
        patch.setattr("SSLRemoteSensing.preparation.audit.check_scenes", remove_two)
        done = prepared(tmp_path, "potsdam", "--source", clean[0], status=2)
    assert "tiles of 3_10 that were written are gone or changed; run" in done.stderr
    assert not (tmp_path / "out/dataset.json").exists()
    said = prepared(tmp_path, "potsdam", "--source", clean[0]).stdout
    assert "going on: 3 of 4 scenes are done" in said
    assert_equal_sets(tmp_path / "out", clean[1])


def fill_the_disk(monkeypatch, is_full) -> None:
    """Of files of which `is_full` holds the first bytes are written, and then the disk is full."""
    real = Path.open

    def begin(path, mode="r", *args, **kwargs):
        file = real(path, mode, *args, **kwargs)
        if mode[0] in "wa" and is_full(path):
            with file:
                file.write(b"\x89PNG" if "b" in mode else "")
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    monkeypatch.setattr(Path, "open", begin)


LISTS = ["prepare.jsonl", ".dataset.json.part", ".audit.json.part"]


@pytest.mark.parametrize(
    ("full", "workers"), [*itertools.product((0, 25, 60), (1, 3)), *((name, 2) for name in LISTS)]
)
def test_a_full_disk_leaves_no_half_scene(clean, tmp_path, monkeypatch, full, workers):
    """Full from that number of tiles on, or for that file."""
    output, count = tmp_path / "out", itertools.count()

    def is_full(path: Path) -> bool:
        if full in LISTS:
            return path.name == full
        return path.suffix in (".png", ".tif") and next(count) >= full

    with monkeypatch.context() as patch:
        fill_the_disk(patch, is_full)
        flags = ["--source", clean[0]]
        done = prepared(tmp_path, "potsdam", *flags, status=2, workers=workers)
    assert f"{output}" in done.stderr.split(" cannot be written (No space left")[0].split(": ")[-1]
    assert ".png cannot" in done.stderr or full in LISTS
    assert done.stderr.count("\n") == 1
    assert not (output / "dataset.json").exists()
    lines = (output / "prepare.jsonl").read_text().splitlines()[1:]
    finished = {json.loads(line)["scene"] for line in lines}
    there, whole = tiles_of(output), tiles_of(clean[1])
    for name in there:
        assert there[name] == whole[name], "half a tile"
    scenes = {name.split("/")[2].rsplit("_", 2)[0] for name in there}
    for scene in scenes:
        mine = {name for name in whole if f"/{scene}_" in name}
        assert mine <= set(there), "half a scene"
    assert finished <= scenes
    prepared(tmp_path, "potsdam", "--source", clean[0])
    assert_equal_sets(output, clean[1])


def test_a_command_stopped_by_ctrl_c_goes_on_to_the_same_end(tmp_path):
    scenes = ("2_10", "2_12", "3_10", "3_11", "3_12", "4_11", "5_10", "5_11", "2_11", "2_13")
    draw_potsdam(tmp_path / "source", scenes, size=(600, 600), bordered=False)
    flags = ["--source", "source", "--tile", "128", "--stride", "96", "--workers", "1"]
    line = [sys.executable, str(ROOT / "tools/prepare.py"), "potsdam", *flags, "--output"]
    with subprocess.Popen(
        [*line, "out"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as going:
        state = tmp_path / "out/prepare.jsonl"
        end = time.monotonic() + 60
        while time.monotonic() < end and going.poll() is None:
            if state.is_file() and state.read_text().count("\n") > 2:
                break
            time.sleep(0.01)
        going.send_signal(signal.SIGINT)
        said, errors = going.communicate(timeout=30)
    assert going.returncode == 130, said + errors
    assert "stopped; finished scenes are kept, the same command goes on" in errors
    assert "Traceback" not in errors
    finished = {json.loads(text)["scene"] for text in state.read_text().splitlines()[1:]}
    assert 2 <= len(finished) < len(scenes)
    # What is not in the list is not there.
    assert {name.split("/")[2].rsplit("_", 2)[0] for name in tiles_of(tmp_path / "out")} == finished
    assert len(list((tmp_path / "out").glob("images/*/*"))) == 6 * 6 * len(finished)
    for output in ("out", "straight"):
        done = subprocess.run(
            [*line, output], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert_equal_sets(tmp_path / "out", tmp_path / "straight")
