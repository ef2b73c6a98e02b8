"""Drawn towns and clouds, and the files they are written to."""

import itertools
import subprocess
import sys

import cv2
import make_demo_scenes
import numpy as np
import pytest
import rasterio
from conftest import ROOT
from demo_scenes.clouds import draw_clouds
from demo_scenes.town import draw_town

from SSLRemoteSensing.core.errors import run_command
from SSLRemoteSensing.preparation import isprs
from SSLRemoteSensing.preparation.levir_cs import VAL_SHARE
from SSLRemoteSensing.preparation.splits import pick_scenes

SIZE = 96
SPLITS = {"potsdam": isprs.POTSDAM_SPLITS, "vaihingen": isprs.VAIHINGEN_SPLITS}


def make(*arguments) -> str:
    """What the command prints; it does without torch."""
    code = "import sys; sys.path[0] = 'tools'; sys.modules['torch'] = None; "
    code += "import make_demo_scenes; make_demo_scenes.main()"
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path) -> np.ndarray:
    with rasterio.open(path) as tiff:
        return tiff.read().transpose(1, 2, 0)


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("potsdam")
    printed = make("--output", folder, "--size", SIZE)
    assert f"tools/prepare.py potsdam --source {folder} --output data/potsdam" in printed
    return folder


def test_potsdam_has_the_names_bands_places_and_colours_of_each_product(potsdam):
    files = {str(path.relative_to(potsdam)) for path in potsdam.rglob("*") if path.is_file()}
    assert len(files) == 6 * (3 * 2 + 2)  # images with world files; labels, whole and eroded
    products = (potsdam / name for name in ("4_Ortho_RGBIR", "2_Ortho_RGB", "3_Ortho_IRRG"))
    rgbir, rgb, irrg = (read(next(folder.glob("*_2_10_*.tif"))) for folder in products)
    assert rgbir.shape == (SIZE, SIZE, 4)
    assert np.array_equal(rgb, rgbir[..., :3])
    assert np.array_equal(irrg, rgbir[..., [3, 0, 1]])
    path = potsdam / "3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif"
    with rasterio.open(path) as tiff:
        place = [tiff.res[0], 0, 0, -tiff.res[1], *tiff.xy(0, 0)]
    assert place[0] == 0.05
    assert list(map(float, path.with_suffix(".tfw").read_text().split())) == pytest.approx(place)
    full = read(potsdam / "5_Labels_all/top_potsdam_2_12_label.tif")
    assert {tuple(map(int, c)) for c in full.reshape(-1, 3)} <= set(isprs.PALETTE)


def test_eroded_label_is_black_within_three_pixels_of_another_class(potsdam):
    full = read(potsdam / "5_Labels_all/top_potsdam_2_12_label.tif")
    eroded = read(potsdam / "5_Labels_all_noBoundary/top_potsdam_2_12_label_noBoundary.tif")
    exact = (cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    masks = (np.uint8((full == colour).all(-1)) for colour in isprs.PALETTE)
    near = sum(cv2.distanceTransform(mask, *exact) for mask in masks) <= 3
    assert 0 < near.mean() < 1
    assert np.array_equal(eroded, np.where(near[..., None], 0, full))


@pytest.mark.parametrize("like", SPLITS)
def test_three_scenes_or_more_have_each_split_and_six_are_dealt_3_1_2(like):
    names = make_demo_scenes.names_of(like)
    assert sorted(names) == sorted(itertools.chain(*SPLITS[like].values()))
    where = [next(s for s, known in SPLITS[like].items() if name in known) for name in names]
    assert set(where[:3]) == set(SPLITS[like])
    assert [where[:6].count(s) for s in ("train", "val", "test")] == [3, 1, 2]
    files = make_demo_scenes.draw(like, 0, np.random.default_rng(0), 64)
    assert len(files) == {"potsdam": 5, "vaihingen": 3}[like]
    assert all(names[0] in name and bands.shape[:2] == (64, 64) for name, bands in files.items())


def test_levir_cs_has_clouds_in_two_parts_and_some_scenes_to_validate(tmp_path):
    make("--output", tmp_path, "--like", "levir_cs", "--size", 100, "--scenes", 10)
    images = sorted(tmp_path.rglob("*_mss.tiff"))
    assert [path.parent.parent.name for path in images].count("test") == 2
    trained = [path.name.removesuffix("_mss.tiff") for path in images if "train" in path.parts]
    assert len(trained) == 8
    assert len(pick_scenes(trained, str(VAL_SHARE), "val")) == 1  # of 10, number 1; 7 is in test
    image = read(images[0])
    label = read(next(images[0].parents[1].glob(f"label_0_1_2/{images[0].name[:-9]}*.tif")))
    assert (image.dtype, image.shape) == (np.uint16, (*label.shape[:2], 4))


def test_a_scene_depends_on_seed_and_number_only(potsdam, tmp_path):
    make("--output", tmp_path, "--size", SIZE, "--scenes", 3, "--zip")
    for path in (potsdam / "4_Ortho_RGBIR").glob("*2_1[013]_RGBIR.tif"):
        inside = f"/vsizip/{tmp_path}/4_Ortho_RGBIR.zip/4_Ortho_RGBIR/{path.name}"
        assert np.array_equal(read(inside), read(path))


def test_files_that_are_the_same_already_are_left_alone(tmp_path):
    path, bands = tmp_path / "2_Ortho_RGB/scene.tif", np.zeros((8, 8, 3), np.uint8)
    times, place = [], rasterio.Affine(0.05, 0, 0, 0, -0.05, 0)
    for value in (0, 0, 1):
        make_demo_scenes.write(path, bands + np.uint8(value), place)
        times.append([file.stat().st_mtime_ns for file in (path, path.with_suffix(".tfw"))])
    assert times[0] == times[1]
    assert read(path).all()


def test_towns_differ_have_all_classes_and_bright_plants_in_near_infrared():
    towns = [draw_town(np.random.default_rng([7, k]), 360, 360, 0.15) for k in range(8)]
    again = draw_town(np.random.default_rng([7, 0]), 360, 360, 0.15)
    assert all(np.array_equal(a, b) for a, b in zip(towns[0], again, strict=True))
    for (_, a), (_, b) in itertools.pairwise(towns):
        assert (a == b).mean() < 0.8
    images, labels = map(np.stack, zip(*towns, strict=True))
    shares = np.bincount(labels.ravel(), minlength=6) / labels.size
    for share, published in zip(shares, isprs.POTSDAM_SHARES, strict=True):
        assert published / 3 < share < published * 2.5
    ratio = images[..., 3] / np.maximum(images[..., 0], 1)
    for number, (low, high) in enumerate([(0.7, 1.25), (0.7, 1.25), (1.3, 2.8), (1.3, 2.8)]):
        assert low < np.median(ratio[labels == number]) < high
    # Level ground of one class has both lit and dark pixels, and dark ones are not black.
    light = images[..., 1][labels == 0]
    assert 15 < np.quantile(light, 0.03) < 0.6 * np.median(light)


def test_clouds_are_brighter_than_the_ground_in_all_bands():
    for k in range(4):
        image, label = draw_clouds(np.random.default_rng([1, k]), 160, 200)
        assert image.max() <= 1023
        assert (image[label == 1].mean(0) > 1.4 * image[label == 0].mean(0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenes", 2), "--scenes 2: choose 3 (train, val, test) to 38"),
        (("--scenes", 34, "--like", "vaihingen"), "--scenes 34: choose 3"),
        (("--size", 3), "--size 3: choose 64 to 20000"),
        (("--like", "mars"), "--like mars: choose potsdam, vaihingen, levir_cs"),
        (("--seed", -1), "--seed -1"),
        ((), "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    command = ["make_demo_scenes.py", "--output", tmp_path / "file", "--size", 64, *arguments]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as end:
        run_command(make_demo_scenes.main)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err
