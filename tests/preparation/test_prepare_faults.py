"""tools/prepare.py with bad input, stopped half-way, or run again: named, and nothing half left."""

import errno
import json
import os
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
from conftest import ROOT
from drawn import (
    COLOURS,
    SIZE,
    assemble,
    card_of,
    coloured,
    draw_classes,
    draw_image,
    draw_levir,
    draw_potsdam,
    draw_vaihingen,
    potsdam_label,
    prepare,
    tiles_of,
    tree,
    write_png,
    write_tiff,
)

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.subsets import name_hash
from SSLRemoteSensing.preparation.catalog import Catalog
from SSLRemoteSensing.preparation.isprs import CLASSES, POTSDAM_SHARES, VAIHINGEN_SHARES
from SSLRemoteSensing.preparation.prepare import prepare as prepare_collection

IMAGE = "2_Ortho_RGB/top_potsdam_{}_RGB.tif"
LABEL = "5_Labels_all/top_potsdam_{}_label.tif"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """(source, output) of scenes without fault."""
    folder = tmp_path_factory.mktemp("clean")
    draw_potsdam(folder / "source", bordered=False)
    done = prepare("potsdam", "--source", folder / "source", "--output", folder / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "must not" not in done.stdout
    assert "warning" not in done.stdout
    return folder / "source", folder / "out"


@pytest.fixture
def source(clean, tmp_path) -> Path:
    """A copy to spoil."""
    shutil.copytree(clean[0], tmp_path / "source")
    return tmp_path / "source"


def assert_equal_sets(one: Path, two: Path, but=("made", "made_by")):
    """The same tiles byte for byte, and the same dataset.json apart from when and how."""
    assert tiles_of(one) == tiles_of(two)
    cards = [card_of(output) for output in (one, two)]
    for card in cards:
        for key in but:
            card.pop(key, None)
    assert json.dumps(cards[0]) == json.dumps(cards[1])
    assert set(tree(one)) == set(tree(two))


# ---------------------------------------------------------------------------- scenes of no use


def cut_short(file: Path):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])


def orange(source: Path):
    """Another palette: clutter is orange."""
    colours = COLOURS.copy()
    colours[5] = (255, 165, 0)
    potsdam_label(source, "3_10", colours[draw_classes(SIZE, 1)].transpose(2, 0, 1))


def magenta(source: Path):
    colours = COLOURS.copy()
    colours[5] = (255, 0, 255)
    potsdam_label(source, "3_10", colours[draw_classes(SIZE, 1)].transpose(2, 0, 1))


def half_black(source: Path):
    classes = draw_classes(SIZE, 1)
    classes[:40] = 6
    potsdam_label(source, "3_10", coloured(classes))


def small(source: Path):
    write_tiff(source / IMAGE.format("3_10"), draw_image(3, (20, 90)))
    potsdam_label(source, "3_10", coloured(draw_classes((20, 90))))


FAULTS = {
    "label smaller": (
        lambda s: potsdam_label(s, "3_10", coloured(draw_classes((70, 89)))),
        "is 70 x 89 pixels (height x width), its image",
    ),
    "image smaller": (
        lambda s: write_tiff(s / IMAGE.format("3_10"), draw_image(3, (69, 90))),
        "69 x 90",
    ),
    "smaller than a tile": (small, "is 20 x 90 pixels, smaller than a tile; set --tile 20"),
    "one class only": (
        lambda s: potsdam_label(s, "3_10", coloured(np.full(SIZE, 3, np.uint8))),
        "the whole label is one single class, tree",
    ),
    "no label": (lambda s: (s / LABEL.format("3_10")).unlink(), "has no label (full)"),
    "orange for red": (orange, "wrong palette: colour (255, 165, 0)"),
    "magenta for red": (magenta, "of no class"),
    "black": (half_black, "57% of the pixels are not scored"),
    "image cut short": (lambda s: cut_short(s / IMAGE.format("3_10")), IMAGE.format("3_10")),
    "label cut short": (lambda s: cut_short(s / LABEL.format("3_10")), LABEL.format("3_10")),
    "image empty": (
        lambda s: (s / IMAGE.format("3_10")).write_bytes(b""),
        IMAGE.format("3_10"),
    ),
    "image is a web page": (
        lambda s: (s / IMAGE.format("3_10")).write_text("<html>log in</html>"),
        IMAGE.format("3_10"),
    ),
    "image of decimal numbers": (
        lambda s: write_tiff(s / IMAGE.format("3_10"), draw_image(3).astype(np.float32)),
        "holds float32; convert it to uint8 or uint16",
    ),
    "image of one band": (
        lambda s: write_tiff(s / IMAGE.format("3_10"), draw_image(1)),
        "has 1 bands, not band 3",
    ),
    "label of one band": (
        lambda s: write_tiff(s / LABEL.format("3_10"), draw_classes()),
        "has 1 bands, not band 3",
    ),
    "label of 16 bits": (
        lambda s: potsdam_label(s, "3_10", coloured(draw_classes()).astype(np.uint16) * 257),
        "holds uint16 values outside 0 to 255",
    ),
}


@pytest.mark.parametrize(("spoil", "text"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_scene_is_named_the_rest_is_kept_and_mending_it_finishes(
    clean, source, tmp_path, spoil, text
):
    output = tmp_path / "out"
    spoil(source)
    done = prepare("potsdam", "--source", source, "--output", output)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("must not be used: 3_10")]
    assert len(lines) == 1
    assert text in lines[0]
    assert "3_10" in lines[0]
    assert f"{output} is not ready" in done.stdout
    assert done.stderr == ""
    # Nothing is left of that scene, all of the others, and it is no data set.
    expected = {name: data for name, data in tiles_of(clean[1]).items() if "/3_10_" not in name}
    assert tiles_of(output) == expected
    assert not (output / "dataset.json").exists()
    record = json.loads((output / "audit.json").read_text())["scenes"]
    assert [r["scene"] for r in record if "refused" in r] == ["3_10"]
    # A check alone has the same verdict.
    check = prepare("potsdam", "--source", source, "--check")
    assert check.returncode == 1
    assert lines[0] in check.stdout
    # Mended, only this scene is made.
    shutil.copytree(clean[0], source, dirs_exist_ok=True)
    kept = {file: file.stat().st_mtime_ns for file in output.rglob("2_1*.png")}
    done = prepare("potsdam", "--source", source, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on: 3 of 4 scenes are done" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert_equal_sets(output, clean[1])


@pytest.mark.parametrize("fault", ["image cut short", "label cut short", "image empty"])
def test_what_is_said_of_a_broken_file_fits_preparing(source, fault):
    FAULTS[fault][0](source)
    done = prepare("potsdam", "--source", source, "--check")
    assert done.returncode == 1
    assert "on_bad_image" not in done.stdout, "a key of training configs, no help here"


def test_leaving_a_faulty_scene_out_finishes_too(source, tmp_path):
    orange(source)
    ask = ["potsdam", "--source", source, "--output", tmp_path / "out"]
    assert prepare(*ask).returncode == 1
    done = prepare(*ask, "--leave_out", "3_10")
    assert done.returncode == 0, done.stdout + done.stderr
    card = card_of(tmp_path / "out")
    assert card["left_out"] == ["3_10"]
    assert card["scenes"]["train"] == ["2_10"]
    assert not any("3_10" in name for name in tiles_of(tmp_path / "out"))


def test_a_label_without_a_scene_is_told(source):
    potsdam_label(source, "7_7", coloured(draw_classes()))
    done = prepare("potsdam", "--source", source, "--check")
    assert done.returncode == 0
    assert f"{LABEL.format('7_7')}: a label without a scene; not used" in done.stdout


def test_labels_that_are_all_missing_are_told(source):
    shutil.rmtree(source / "5_Labels_all")
    (source / IMAGE.format("2_13")).unlink()  # a test scene would do without
    done = prepare("potsdam", "--source", source, "--check")
    assert done.returncode in (1, 2)
    assert "no label" in done.stdout + done.stderr, "why is there nothing to prepare?"


def test_a_broken_link_in_the_source_is_told(source):
    file = source / IMAGE.format("3_10")
    file.unlink()
    os.symlink("/nowhere/at/all.tif", file)
    done = prepare("potsdam", "--source", source, "--check")
    assert done.returncode in (1, 2)
    assert IMAGE.format("3_10") in done.stdout + done.stderr


def test_scenes_without_georeference_are_told(source, tmp_path):
    image = draw_image(3, SIZE, 1)
    cv2.imwrite(str(source / IMAGE.format("3_10")), image[::-1].transpose(1, 2, 0))
    done = prepare("potsdam", "--source", source, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no georeference: 3_10; their tiles lie on no map" in done.stdout
    assert card_of(tmp_path / "out")["places"]["train"]["3_10"]["transform"] is None


def test_a_tile_larger_than_every_scene_is_refused_by_name(source, tmp_path):
    done = prepare("potsdam", "--source", source, "--output", tmp_path / "out", tile=80)
    assert done.returncode == 1
    assert "is 70 x 90 pixels, smaller than a tile; set --tile 70 or less" in done.stdout
    assert tiles_of(tmp_path / "out") == {}


# ---------------------------------------------------------------------------- known faults, audit


def lossy(classes: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-6, 7, (3, *classes.shape))
    noisy = np.clip(coloured(classes) + noise, 0, 255).astype(np.uint8)
    stored = cv2.imencode(".jpg", noisy[::-1].transpose(1, 2, 0), [cv2.IMWRITE_JPEG_QUALITY, 70])
    return np.ascontiguousarray(cv2.imdecode(stored[1], 1)[:, :, ::-1].transpose(2, 0, 1))


def test_the_known_faults_of_potsdam_are_met_warned_of_and_decoded(tmp_path):
    size = (300, 300)
    drawn = draw_potsdam(
        tmp_path / "source", ("4_12", "6_7", "7_10", "2_11"), size=size, bordered=False
    )
    dense = draw_classes(size, 0, block=30)
    potsdam_label(tmp_path / "source", "4_12", lossy(dense))
    cars = coloured(drawn["6_7"][1])
    cars[0][drawn["6_7"][1] == 4] = 252
    potsdam_label(tmp_path / "source", "6_7", cars)
    done = prepare("potsdam", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert any("4_12" in line and "lossy re-encode" in line for line in warnings)
    assert any("6_7" in line and "252,255,0" in line for line in warnings)
    assert any("7_10" in line and "errors of annotation" in line for line in warnings)
    assert not any("2_11" in line for line in warnings)
    count = int((drawn["6_7"][1] == 4).sum())
    assert any("6_7" in line and f"{count} pixels" in line for line in warnings)
    assert (assemble(tmp_path / "out/labels/train", "4_12") == dense).mean() > 0.97
    assert np.array_equal(assemble(tmp_path / "out/labels/train", "6_7"), drawn["6_7"][1])
    audit = json.loads((tmp_path / "out/audit.json").read_text())["scenes"]
    inexact = {record["scene"]: record["labels"]["full"]["inexact"] for record in audit}
    assert inexact["4_12"] > 0.8 * dense.size
    assert (inexact["6_7"], inexact["7_10"], inexact["2_11"]) == (count, 0, 0)


def test_a_single_class_is_only_warned_of_in_levir_cs(tmp_path):
    drawn = draw_levir(tmp_path, train=3, test=0)
    name = next(iter(drawn))
    write_tiff(tmp_path / f"train/label_0_1_2/{name}_roiMap.tif", np.zeros(SIZE, np.uint8))
    done = prepare("levir_cs", "--source", tmp_path, "--check")
    assert done.returncode == 0
    assert f"warning: {name}: the whole label is one single class, background" in done.stdout


def test_one_single_class_in_vaihingen_is_refused(tmp_path):
    draw_vaihingen(tmp_path)
    file = tmp_path / "gts_for_participants/top_mosaic_09cm_area3.tif"
    write_tiff(file, coloured(np.full(SIZE, 1, np.uint8)))
    done = prepare("vaihingen", "--source", tmp_path, "--check")
    assert done.returncode == 1
    assert "must not be used: 3: the whole label is one single class, building" in done.stdout


def isprs_folder(folder: Path, order, shares=None) -> Path:
    """A folder whose label value v means class order[v]."""
    value_of = np.argsort(order).astype(np.uint8)
    for number in range(3):
        given = {} if shares is None else {"shares": shares}
        classes = draw_classes((100, 100), number, **given)
        image = draw_image(3, (100, 100), number).transpose(1, 2, 0)
        write_png(folder / f"train/images/{number}.png", image)
        write_png(folder / f"train/labels/{number}.png", value_of[classes])
    return folder


@pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0), (4, 5, 0, 1, 2, 3)])
@pytest.mark.parametrize("shares", [POTSDAM_SHARES, VAIHINGEN_SHARES])
def test_class_shares_far_from_the_published_ones_are_told(tmp_path, order, shares):
    """As of labels in another order of classes."""
    isprs_folder(tmp_path, order, shares)
    done = prepare("folder", "--source", tmp_path, "--check", "--classes", *CLASSES)
    assert "% are far from the published ones of " in done.stdout


def test_labels_in_our_order_are_not_warned_of(tmp_path):
    isprs_folder(tmp_path, range(6))
    done = prepare("folder", "--source", tmp_path, "--check", "--classes", *CLASSES)
    assert done.returncode == 0
    assert "published" not in done.stdout


# ---------------------------------------------------------------------------- folders of one's own


@pytest.fixture
def own(tmp_path) -> Path:
    for name in ("a", "b", "c"):
        image = draw_image(3, (64, 64), ord(name)).transpose(1, 2, 0)
        write_png(tmp_path / f"own/train/images/{name}.png", image)
        write_png(tmp_path / f"own/train/labels/{name}.png", draw_classes((64, 64), shares=[1, 1]))
    return tmp_path / "own"


TWO = ["--classes", "other", "road"]


def test_a_broken_label_of_a_folder_is_named_and_the_rest_is_kept(own, tmp_path):
    cut_short(own / "train/labels/b.png")
    ask = ["folder", "--source", own, "--output", tmp_path / "out", *TWO, "--label_offset", 0]
    done = prepare(*ask)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "must not be used: b" in done.stdout
    assert len(list((tmp_path / "out/images/train").iterdir())) == 8


def test_a_broken_image_of_a_folder_is_named_and_the_rest_is_kept(own, tmp_path):
    cut_short(own / "train/images/b.png")
    done = prepare("folder", "--source", own, "--output", tmp_path / "out", *TWO)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "must not be used: b" in done.stdout
    assert len(list((tmp_path / "out/images/train").iterdir())) == 8


def test_an_image_without_label_is_named(own):
    (own / "train/labels/b.png").unlink()
    done = prepare("folder", "--source", own, "--check", *TWO)
    assert done.returncode == 1
    assert "must not be used: b: train/images/b.png has no label" in done.stdout


def test_two_images_of_one_name_in_a_folder_are_not_one_dropped(own):
    cv2.imwrite(str(own / "train/images/a.jpg"), np.zeros((64, 64, 3), np.uint8))
    done = prepare("folder", "--source", own, "--check", *TWO)
    assert done.returncode in (1, 2)
    assert "a.jpg" in done.stdout + done.stderr


def test_bands_that_a_picture_does_not_have_are_refused_by_name(own):
    done = prepare("folder", "--source", own, "--check", *TWO, "--bands", "irrg")
    assert done.returncode in (1, 2)
    assert "a.png" in done.stdout + done.stderr


def test_images_of_different_bands_have_one_verdict(tmp_path):
    write_tiff(tmp_path / "own/train/a.tif", draw_image(3, (64, 64)))
    write_tiff(tmp_path / "own/train/b.tif", draw_image(4, (64, 64)), photometric="MINISBLACK")
    done = prepare("folder", "--source", tmp_path / "own", "--output", tmp_path / "out")
    check = prepare("folder", "--source", tmp_path / "own", "--check")
    assert done.returncode in (1, 2)
    assert "bands" in done.stdout + done.stderr
    assert check.returncode == done.returncode


def test_two_labels_for_one_image_are_not_one_dropped(own):
    write_png(own / "train/labels/a_label.png", np.zeros((64, 64), np.uint8))
    done = prepare("folder", "--source", own, "--check", *TWO)
    assert "a_label.png" in done.stdout + done.stderr


def test_tiles_of_a_refused_scene_go_whatever_its_name(own, tmp_path):
    write_png(own / "train/images/d [1].png", draw_image(3, (64, 64)).transpose(1, 2, 0))
    write_png(own / "train/labels/d [1].png", np.full((64, 64), 7, np.uint8))
    ask = ["folder", "--source", own, "--output", tmp_path / "out", *TWO, "--label_offset", 0]
    done = prepare(*ask)
    assert done.returncode == 1
    assert "must not be used: d [1]" in done.stdout
    assert not [name for name in tiles_of(tmp_path / "out") if "d [1]" in name]


def test_whole_scenes_with_numbers_in_their_names_can_be_validation(tmp_path):
    for name in ("site_2019_05", "site_2020_05", "site_2021_05"):
        image = draw_image(3, (64, 64)).transpose(1, 2, 0)
        write_png(tmp_path / f"own/{name}.png", image)
    done = prepare(
        "folder", "--source", tmp_path / "own", "--output", tmp_path / "out",
        "--splits", "val=site_2020_05",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert card_of(tmp_path / "out")["scenes"]["val"] == ["site_2020_05"]


def test_labels_of_indices_are_not_decoded_as_colours(own):
    """0 and 1 are both black to a threshold: all would become the first class."""
    colours = ["--palette", "0,0,0", "255,0,0"]
    done = prepare("folder", "--source", own, "--check", *TWO, *colours)
    assert done.returncode in (1, 2)
    assert "a.png" in done.stdout + done.stderr


def test_a_scene_without_any_data_is_told(own):
    (own / "train/images/b.png").unlink()
    write_tiff(own / "train/images/b.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    done = prepare("folder", "--source", own, "--check", *TWO)
    said = [line for line in done.stdout.splitlines() if line.startswith(("warning", "must not"))]
    assert any(" b:" in line for line in said)


def test_labels_without_classes_are_refused(own):
    done = prepare("folder", "--source", own, "--check")
    assert done.returncode == 2
    assert "--classes" in done.stderr


def test_classes_that_the_labels_do_not_have_are_told(own):
    done = prepare("folder", "--source", own, "--check", *TWO, "river")
    assert done.returncode == 0
    assert "no pixel of train is river" in done.stdout


def test_values_that_are_no_class_are_refused_by_name(own):
    write_png(own / "train/labels/b.png", np.full((64, 64), 9, np.uint8))
    done = prepare("folder", "--source", own, "--check", *TWO)
    assert done.returncode == 2
    assert "value 9 where classes are 0 to 1" in done.stderr
    assert "b.png" in done.stderr, "which file?"


@pytest.mark.parametrize("inside", ["out", "train/out", "."])
def test_an_output_inside_the_source_is_not_taken_for_a_source(own, inside):
    ask = ["folder", "--source", own, "--output", own / inside, *TWO]
    first = prepare(*ask)
    if first.returncode == 0:
        again = prepare(*ask)
        assert again.returncode == 0, again.stderr
        assert "nothing left to do" in again.stdout
    else:
        assert "--output" in first.stderr


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--palette", "0,0,0", "255,165,0"], "threshold"),
        (["--palette", "0,0,0"], "1 colours for 2 classes"),
        (["--palette", "0,0", "0,0,0"], "R,G,B"),
        (["--label_codes", "0", "1", "2"], "label_codes"),
        (["--label_codes", "0", "1", "--label_offset", "0"], "keep one"),
        (["--labels", "both"], "--labels"),
        (["--splits", "dev"], "known are train, val, test"),
        (["--splits", "val=0.5"], "the folders say the split already"),
        (["--max_value", "0"], "--max_value"),
        (["--max_value", "-3"], "--max_value"),
        (["--max_value", "nan"], "--max_value"),
        (["--stride", "33"], "--stride 33"),
        (["--stride", "0"], "--stride 0"),
        (["--stride", "-4"], "--stride -4"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(own, flags, match):
    done = prepare("folder", "--source", own, "--check", *TWO, *flags)
    assert done.returncode == 2
    assert match in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("tile", [-5, 1_000_000])
def test_a_tile_of_no_use_is_refused_by_name(own, tile):
    done = prepare("folder", "--source", own, "--check", *TWO, tile=tile)
    assert done.returncode in (1, 2)
    assert "--tile" in done.stdout + done.stderr


def test_a_published_set_takes_no_classes(source):
    done = prepare("potsdam", "--source", source, "--check", "--classes", "a")
    assert done.returncode == 2
    assert "--classes: is for tools/prepare.py folder" in done.stderr


@pytest.mark.parametrize("name", ["potsdam", "vaihingen", "levir_cs", "folder"])
def test_a_source_of_something_else_is_refused(tmp_path, name):
    (tmp_path / "readme.txt").write_text("nothing")
    done = prepare(name, "--source", tmp_path, "--check")
    assert done.returncode == 2
    assert "among 1 files of --source" in done.stderr
    done = prepare(name, "--source", tmp_path / "no", "--check")
    assert done.returncode == 2
    assert "no such folder or zip file" in done.stderr


def test_an_output_is_asked_for(source):
    done = prepare("potsdam", "--source", source)
    assert done.returncode == 2
    assert "--output" in done.stderr


# ---------------------------------------------------------------------------- zip files


def zipped(source: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(source.rglob("*.tif")):
            archive.write(path, path.relative_to(source).as_posix())
    return file


def test_a_broken_zip_is_refused(source, tmp_path):
    file = zipped(source, tmp_path / "all.zip")
    cut_short(file)
    done = prepare("potsdam", "--source", file, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert f"{file}: no readable zip file" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("member", [IMAGE, LABEL])
def test_a_damaged_member_of_a_zip_is_named_and_the_rest_is_kept(source, clean, tmp_path, member):
    file = zipped(source, tmp_path / "all.zip")
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(member.format("3_10"))
    data = bytearray(file.read_bytes())
    middle = info.header_offset + 100 + info.compress_size // 2
    data[middle : middle + 20] = bytes(20)
    file.write_bytes(data)
    done = prepare("potsdam", "--source", file, "--output", tmp_path / "out")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"must not be used: 3_10: {member.format('3_10')}: cannot be unpacked" in done.stdout
    expected = {name: data for name, data in tiles_of(clean[1]).items() if "/3_10_" not in name}
    assert tiles_of(tmp_path / "out") == expected


def test_a_broken_scene_in_a_zip_is_named_as_it_is_called_there(source, tmp_path):
    cut_short(source / IMAGE.format("3_10"))
    file = zipped(source, tmp_path / "all.zip")
    done = prepare("potsdam", "--source", file, "--check")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("must not"))
    assert IMAGE.format("3_10") in line
    assert "prepare_" not in line, "a temporary file that is gone"


def test_a_zip_in_a_zip_is_refused_with_what_to_do(source, tmp_path):
    inner = zipped(source, tmp_path / "inner.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(inner, "2_Ortho_RGB.zip")
    done = prepare("potsdam", "--source", tmp_path / "outer.zip", "--check")
    assert done.returncode == 2
    assert "holds 2_Ortho_RGB.zip, another zip file; unzip it first" in done.stderr


# ---------------------------------------------------------------------------- again and going on


def test_a_finished_folder_is_left_as_it_is(clean):
    source, output = clean
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*")}
    done = prepare("potsdam", "--source", source, "--output", output)
    assert done.returncode == 0
    said, where, *following = done.stdout.splitlines()
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
    draw_potsdam(tmp_path / "source", ("2_10", "2_12", "2_11"), ("RGB", "IRRG"))
    if not finished:
        (tmp_path / "source" / LABEL.format("2_10")).unlink()
    ask = ["potsdam", "--source", tmp_path / "source", "--output", tmp_path / "out"]
    assert prepare(*ask).returncode == (0 if finished else 1)
    before = tree(tmp_path / "out")
    done = prepare(*ask, *flags)
    assert done.returncode == 2
    assert f"was begun with {key} " in done.stderr
    assert "name another folder, or remove this one" in done.stderr
    assert tree(tmp_path / "out") == before


def test_images_that_are_not_ours_are_not_touched(source, tmp_path):
    write_png(tmp_path / "out/images/mine.png", np.zeros((4, 4), np.uint8))
    before = tree(tmp_path / "out")
    done = prepare("potsdam", "--source", source, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "has images, but not by this tool" in done.stderr
    assert tree(tmp_path / "out") == before


def unfinished(clean: tuple[Path, Path], output: Path, keep: int) -> None:
    """`output` as a run leaves it that was killed after `keep` scenes, within the next."""
    shutil.copytree(clean[1], output)
    audit = json.loads((output / "audit.json").read_text())
    lines = [{"settings": audit["settings"]}, *audit["scenes"][:keep]]
    (output / "prepare.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"scene": "half a li'
    )
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
    output = tmp_path / "out"
    unfinished(clean, output, keep)
    done = prepare("potsdam", "--source", clean[0], "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("going on" in done.stdout) == (keep > 0)
    assert_equal_sets(output, clean[1])


def test_half_a_scene_of_a_killed_run_does_not_stay_when_the_scene_is_left_out(clean, tmp_path):
    output = tmp_path / "out"
    unfinished(clean, output, 1)
    done = prepare("potsdam", "--source", clean[0], "--output", output, "--leave_out", "3_10")
    assert done.returncode == 0, done.stdout + done.stderr
    there = {name for name in tiles_of(output) if "/3_10_" in name}
    assert there == set(), "training would take them"


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_deleted_tile_is_made_again(clean, tmp_path, folder):
    output = tmp_path / "out"
    shutil.copytree(clean[1], output)
    (output / folder / "train/3_10_32_58.png").unlink()
    done = prepare("potsdam", "--source", clean[0], "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on: 3 of 4" in done.stdout
    assert_equal_sets(output, clean[1])


def test_a_scene_whose_source_changed_is_made_again(clean, source, tmp_path):
    output = tmp_path / "out"
    ask = ["potsdam", "--source", source, "--output", output]
    assert prepare(*ask).returncode == 0
    write_tiff(source / IMAGE.format("3_10"), draw_image(3, (50, 60), 9))
    classes = draw_classes((50, 60), 9)
    potsdam_label(source, "3_10", coloured(classes))
    done = prepare(*ask)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on: 3 of 4" in done.stdout
    assert np.array_equal(assemble(output / "labels/train", "3_10"), classes)
    straight = tmp_path / "straight"
    assert prepare("potsdam", "--source", source, "--output", straight).returncode == 0
    assert_equal_sets(output, straight)


def test_a_scene_added_or_taken_away_changes_that_scene_only(clean, source, tmp_path):
    output = tmp_path / "out"
    ask = ["potsdam", "--source", source, "--output", output]
    label, image = source / LABEL.format("3_10"), source / IMAGE.format("3_10")
    kept = [file.rename(tmp_path / file.name) for file in (label, image)]
    assert prepare(*ask).returncode == 0
    for file, place in zip(kept, (label, image), strict=True):
        file.rename(place)
    done = prepare(*ask)
    assert done.returncode == 0
    assert "going on: 3 of 4" in done.stdout
    assert_equal_sets(output, clean[1])


def test_while_it_is_not_finished_there_is_no_dataset_json(clean, tmp_path, monkeypatch):
    output = tmp_path / "out"
    shutil.copytree(clean[1], output)
    (output / "images/train/3_10_0_0.png").unlink()
    fill_the_disk(monkeypatch, after=2)
    done = prepare("potsdam", "--source", clean[0], "--output", output)
    assert done.returncode == 2
    assert not (output / "dataset.json").exists()
    assert (output / "prepare.jsonl").exists()


def test_what_an_earlier_run_left_damaged_is_told(clean, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(clean[1], output)
    (output / "audit.json").write_text("{")
    done = prepare("potsdam", "--source", clean[0], "--output", output)
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert str(output) in done.stderr


def fill_the_disk(monkeypatch, after: int) -> None:
    """From the tile number `after` on, files are written half and then the disk is full."""
    real, count = Path.write_bytes, iter(range(10**9))

    def write(path, data):
        if path.suffix in (".png", ".tif") and next(count) >= after:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("after", [0, 25, 60])
def test_a_full_disk_leaves_no_half_scene(clean, tmp_path, monkeypatch, workers, after):
    output = tmp_path / "out"
    ask = ["potsdam", "--source", clean[0], "--output", output]
    with monkeypatch.context() as patch:
        fill_the_disk(patch, after)
        done = prepare(*ask, workers=workers)
    assert done.returncode == 2
    assert "cannot be written (No space left on device)" in done.stderr
    assert done.stderr.count("\n") == 1
    lines = (output / "prepare.jsonl").read_text().splitlines()[1:]
    finished = {json.loads(line)["scene"] for line in lines}
    there = tiles_of(output)
    whole = tiles_of(clean[1])
    for name in there:
        assert there[name] == whole[name], "half a tile"
    scenes = {name.split("/")[2].rsplit("_", 2)[0] for name in there}
    for scene in scenes:
        mine = {name for name in whole if f"/{scene}_" in name}
        assert mine <= set(there), "half a scene"
    assert finished <= scenes
    done = prepare(*ask)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal_sets(output, clean[1])


@pytest.mark.parametrize("name", ["prepare.jsonl", ".dataset.json.part", ".audit.json.part"])
def test_a_disk_that_is_full_for_the_lists_is_told_too(clean, tmp_path, monkeypatch, name):
    output = tmp_path / "out"
    real = Path.open

    def full(path, mode="r", *args, **kwargs):
        if path.name == name and mode[0] in "wa":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        done = prepare("potsdam", "--source", clean[0], "--output", output)
    assert done.returncode == 2
    assert "cannot be written (No space left on device)" in done.stderr
    assert not (output / "dataset.json").exists()
    done = prepare("potsdam", "--source", clean[0], "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
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
    lines = state.read_text().splitlines()[1:]
    finished = {json.loads(text)["scene"] for text in lines}
    assert 2 <= len(finished) < len(scenes)
    there = {name.split("/")[2].rsplit("_", 2)[0] for name in tiles_of(tmp_path / "out")}
    # A scene may be done and not yet in the list, never half.
    for scene in there:
        tiles = list((tmp_path / "out").glob(f"images/*/{scene}_*"))
        assert len(tiles) == 6 * 6
    assert len(there - finished) <= 1
    for output in ("out", "straight"):
        done = subprocess.run(
            [*line, output], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert_equal_sets(tmp_path / "out", tmp_path / "straight")


def test_a_collection_without_scenes_is_refused(tmp_path):
    empty = Catalog("x", CLASSES, None, None, 255, None, [])
    with pytest.raises(UserError, match="no scene to prepare"):
        prepare_collection(empty, tmp_path / "out", {"tile": 32, "stride": 32}, 1)


def test_labels_whose_coding_changes_are_not_mixed_with_tiles_of_the_old_one(tmp_path):
    """A class that occurs for the first time can change what the other values mean."""
    for name, low in (("a", 1), ("b", 1)):
        image = draw_image(3, (64, 64), ord(name)).transpose(1, 2, 0)
        write_png(tmp_path / f"own/train/images/{name}.png", image)
        label = draw_classes((64, 64), shares=[1, 1]) + low
        write_png(tmp_path / f"own/train/labels/{name}.png", label.astype(np.uint8))
    ask = ["folder", "--source", tmp_path / "own", "--output", tmp_path / "out"]
    ask += ["--classes", "other", "road", "roof"]
    assert prepare(*ask).returncode == 0  # 1 and 2 of three classes, told as doubtful
    label = draw_classes((64, 64), shares=[1, 1, 1]) + 1
    write_png(tmp_path / "own/train/labels/b.png", label.astype(np.uint8))
    done = prepare(*ask)
    assert done.returncode == 2
    assert "was begun with coding" in done.stderr


# ---------------------------------------------------------------------- things that must not mix


def test_two_shares_of_a_folder_do_not_overlap(tmp_path):
    for number in range(60):
        image = draw_image(3, (32, 32), number).transpose(1, 2, 0)
        write_png(tmp_path / f"own/s{number}x.png", image)
    ask = ["folder", "--source", tmp_path / "own", "--output", tmp_path / "out"]
    done = prepare(*ask, "--splits", "test=0.2", "val=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    scenes = card_of(tmp_path / "out")["scenes"]
    for split, low in (("test", 0), ("val", 0.2)):
        wanted = {f"s{n}x" for n in range(60) if low <= name_hash(f"s{n}x") < low + 0.2}
        assert len(wanted) > 3
        assert set(scenes[split]) == wanted


def test_images_of_8_and_16_bits_do_not_mix(tmp_path):
    write_tiff(tmp_path / "own/train/a.tif", draw_image(3, (64, 64), top=1000, dtype=np.uint16))
    write_tiff(tmp_path / "own/train/b.tif", draw_image(3, (64, 64), top=1000, dtype=np.uint16))
    write_tiff(tmp_path / "own/train/c.tif", draw_image(3, (64, 64)))
    done = prepare("folder", "--source", tmp_path / "own", "--check", "--max_value", 1023)
    assert done.returncode == 1
    assert "must not be used: c: has 3 bands of uint8" in done.stdout


def test_codings_of_levir_cs_do_not_mix_between_scenes(tmp_path):
    drawn = draw_levir(tmp_path / "source", train=4, test=0)
    name = list(drawn)[1]
    other = np.where(drawn[name][1] == 0, 0, 255).astype(np.uint8)  # snow there, or not scored?
    write_tiff(tmp_path / f"source/train/label_0_1_2/{name}_roiMap.tif", other)
    done = prepare("levir_cs", "--source", tmp_path / "source", "--check")
    assert done.returncode == 1
    assert f"must not be used: {name}: values [0, 255] where others have (0, 1, 2)" in done.stdout


def test_labels_that_may_begin_at_1_are_told(own):
    """Values 0 to 2 of four classes: the last is missing, or 0 is 'not scored'."""
    done = prepare("folder", "--source", own, "--check", "--classes", *CLASSES[:2], "c", "d")
    assert "label_offset" not in done.stdout  # two values only: nothing to go by
    label = draw_classes((64, 64), shares=[1, 1, 1])
    write_png(own / "train/labels/a.png", label)
    done = prepare("folder", "--source", own, "--check", "--classes", *CLASSES[:2], "c", "d")
    assert "values are 0 to 2, of 4 classes" in done.stdout
    assert "label_offset=-1" in done.stdout


def test_a_label_at_another_place_on_the_map_is_told(source):
    import rasterio

    file = source / LABEL.format("3_10")
    with rasterio.open(file, "r+") as label:
        label.transform = rasterio.Affine(0.05, 0, 371000, 0, -0.05, 5806000)
    done = prepare("potsdam", "--source", source, "--check")
    assert f"3_10: {LABEL.format('3_10')} lies at another place" in done.stdout


def test_empty_pixels_are_counted_as_not_scored(own, tmp_path):
    (own / "train/images/b.png").unlink()
    pixels = np.maximum(draw_image(3, (64, 64)), 1)
    pixels[:, :16] = 0
    write_tiff(own / "train/images/b.tif", pixels, nodata=0)
    done = prepare("folder", "--source", own, "--output", tmp_path / "out", *TWO)
    assert "25.0% of the pixels hold no data" in done.stdout
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    record = next(r for r in audit["scenes"] if r["scene"] == "b")
    assert record["labels"]["full"]["not_scored"] == 16 * 64


def test_a_zip_that_is_not_needed_stops_nothing(source):
    with zipfile.ZipFile(source / "outer.zip", "w") as outer:
        outer.writestr("inner.zip", b"")
    (source / "1_DSM.zip").write_bytes(b"PK half a download")
    done = prepare("potsdam", "--source", source, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("outer.zip", "1_DSM.zip"):
        assert name in done.stderr


def test_a_world_file_in_a_zip_gives_the_place(tmp_path):
    image = draw_image(3, (64, 64)).transpose(1, 2, 0)
    cv2.imwrite(str(tmp_path / "a.tif"), image)
    (tmp_path / "a.tfw").write_text("0.05\n0\n0\n-0.05\n1000.025\n1999.975\n")
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as packed:
        for ending in ("tif", "tfw"):
            packed.write(tmp_path / f"a.{ending}", f"train/a.{ending}")
    ask = ["folder", "--source", tmp_path / "own.zip", "--output", tmp_path / "out"]
    assert prepare(*ask).returncode == 0
    place = card_of(tmp_path / "out")["places"]["train"]["a"]["transform"]
    assert place == pytest.approx([0.05, 0, 1000, 0, -0.05, 2000])


def test_linked_folders_are_followed(source, tmp_path):
    (tmp_path / "links").mkdir()
    for folder in ("2_Ortho_RGB", "5_Labels_all"):
        os.symlink(source / folder, tmp_path / "links" / folder)
    os.symlink(tmp_path / "links", tmp_path / "links/again")  # leads back
    done = prepare("potsdam", "--source", tmp_path / "links", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_output_that_cannot_hold_folders_is_one_line(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").write_text("")
    done = prepare("potsdam", "--source", source, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --output")
