"""Drawn towns and clouds, and the files they are written to."""

import importlib
import itertools
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import rasterio
from conftest import ROOT
from demo_scenes.clouds import draw_clouds
from demo_scenes.town import draw_town

from SSLRemoteSensing.core.errors import run_command
from SSLRemoteSensing.preparation.isprs import (
    CLASSES,
    PALETTE,
    POTSDAM_SHARES,
    POTSDAM_SPLITS,
    VAIHINGEN_SPLITS,
)
from SSLRemoteSensing.preparation.levir_cs import VAL_SHARE
from SSLRemoteSensing.preparation.splits import pick_scenes

SIZE = 96


def make(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "tools/make_demo_scenes.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def read(path) -> np.ndarray:
    with rasterio.open(path) as tiff:
        return tiff.read().transpose(1, 2, 0)


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("make_demo_scenes")
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("potsdam")
    done = make("--output", folder, "--size", SIZE)
    assert done.returncode == 0, done.stderr
    assert f"python tools/prepare.py potsdam --source {folder} --output data/potsdam" in done.stdout
    return folder


@pytest.fixture(scope="module")
def towns() -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight scenes of 54 x 54 m."""
    return [draw_town(np.random.default_rng([7, k]), 360, 360, 0.15) for k in range(8)]


def test_potsdam_files_and_names(potsdam):
    names = ("2_10", "2_11", "2_13", "2_12", "2_14", "3_10")
    expected = set()
    for name in names:
        for folder in ("2_Ortho_RGB", "3_Ortho_IRRG", "4_Ortho_RGBIR"):
            start = f"{folder}/top_potsdam_{name}_{folder.rpartition('_')[2]}"
            expected |= {f"{start}.tif", f"{start}.tfw"}
        expected.add(f"5_Labels_all/top_potsdam_{name}_label.tif")
        expected.add(f"5_Labels_all_noBoundary/top_potsdam_{name}_label_noBoundary.tif")
    found = {str(path.relative_to(potsdam)) for path in potsdam.rglob("*") if path.is_file()}
    assert found == expected
    splits = [next(s for s, all_ in POTSDAM_SPLITS.items() if name in all_) for name in names]
    assert sorted(splits) == ["test"] * 2 + ["train"] * 3 + ["val"]


def test_bands_are_in_the_order_of_each_product(potsdam):
    rgbir = read(potsdam / "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif")
    assert rgbir.shape == (SIZE, SIZE, 4)
    assert rgbir.dtype == np.uint8
    rgb = read(potsdam / "2_Ortho_RGB/top_potsdam_2_10_RGB.tif")
    irrg = read(potsdam / "3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif")
    assert np.array_equal(rgb, rgbir[..., :3])
    assert np.array_equal(irrg, rgbir[..., [3, 0, 1]])


def test_images_are_georeferenced_in_strips_and_beside_their_world_file(potsdam):
    path = potsdam / "3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif"
    with rasterio.open(path) as tiff:
        assert tiff.crs.to_epsg() == 32633
        assert tiff.res == (0.05, 0.05)
        assert not tiff.profile["tiled"]
        centre = tiff.xy(0, 0)
    a, d, b, e, x, y = map(float, path.with_suffix(".tfw").read_text().split())
    assert (a, d, b, e) == (0.05, 0, 0, -0.05)
    assert (x, y) == pytest.approx(centre)


def test_labels_have_the_colours_of_the_classes_only(potsdam):
    for path in (potsdam / "5_Labels_all").iterdir():
        label = read(path)
        assert {tuple(map(int, c)) for c in label.reshape(-1, 3)} <= set(PALETTE)


def test_eroded_label_is_black_within_three_pixels_of_another_class(potsdam):
    full = read(potsdam / "5_Labels_all/top_potsdam_2_12_label.tif")
    eroded = read(potsdam / "5_Labels_all_noBoundary/top_potsdam_2_12_label_noBoundary.tif")
    padded = np.pad(full, ((3, 3), (3, 3), (0, 0)), mode="symmetric")
    near = np.zeros((SIZE, SIZE), bool)
    for dy, dx in np.ndindex(7, 7):
        if (dy - 3) ** 2 + (dx - 3) ** 2 <= 9:
            inside = np.zeros((SIZE + 6, SIZE + 6), bool)
            inside[3:-3, 3:-3] = True
            other = (padded[dy : dy + SIZE, dx : dx + SIZE] != full).any(-1)
            near |= other & inside[dy : dy + SIZE, dx : dx + SIZE]
    assert near.any()
    assert not near.all()
    assert np.array_equal(eroded, np.where(near[..., None], 0, full))


@pytest.mark.parametrize(
    ("like", "splits"), [("potsdam", POTSDAM_SPLITS), ("vaihingen", VAIHINGEN_SPLITS)]
)
def test_three_scenes_or_more_have_each_split_and_six_are_dealt_3_1_2(tool, like, splits):
    names = tool.names_of(like)
    assert sorted(names) == sorted(itertools.chain(*splits.values()))
    where = [next(s for s, all_ in splits.items() if name in all_) for name in names]
    assert set(where[:3]) == set(splits)
    assert [where[:6].count(s) for s in ("train", "val", "test")] == [3, 1, 2]


def test_vaihingen_files(tool):
    files = tool.draw("vaihingen", 0, np.random.default_rng(0), 64)
    assert list(files) == [
        "top/top_mosaic_09cm_area1.tif",
        "gts_for_participants/top_mosaic_09cm_area1.tif",
        "gts_eroded_for_participants/top_mosaic_09cm_area1_noBoundary.tif",
    ]
    assert {bands.shape for bands in files.values()} == {(64, 64, 3)}
    image, _ = draw_town(np.random.default_rng(0), 64, 64, 0.09)
    assert np.array_equal(files["top/top_mosaic_09cm_area1.tif"], image[..., [3, 0, 1]])


def test_levir_cs_files(tmp_path):
    done = make("--output", tmp_path, "--like", "levir_cs", "--size", 100, "--scenes", 10)
    assert done.returncode == 0, done.stderr
    images = sorted(tmp_path.rglob("*_mss.tiff"))
    assert [path.parent.parent.name for path in images].count("test") == 2
    assert len(images) == len({path.name for path in images}) == 10
    trained = [path.name.removesuffix("_mss.tiff") for path in images if "train" in path.parts]
    assert len(pick_scenes(trained, str(VAL_SHARE), "val")) == 1  # of 10, number 1; 7 is in test
    sizes = set()
    for path in images:
        name = r"GF1_WFV[1-4]_E\d+\.\d_N\d+\.\d_20\d{6}_L1A\d{10}"
        name = re.fullmatch(rf"({name})_mss\.tiff", path.name)[1]
        image, label = read(path), read(path.parents[1] / f"label_0_1_2/{name}_roiMap.tif")[..., 0]
        assert image.dtype == np.uint16
        assert image.shape == (*label.shape, 4)
        assert set(np.unique(label)) <= {0, 1, 2}
        sizes.add(label.shape)
    assert len(sizes) > 5
    assert all(90 <= side <= 110 for size in sizes for side in size)


def test_a_scene_depends_on_seed_and_number_only(potsdam, tmp_path):
    arguments = ("--size", SIZE, "--scenes", 3, "--zip")
    assert make("--output", tmp_path, *arguments).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "2_Ortho_RGB.zip"
    for path in (potsdam / "4_Ortho_RGBIR").glob("*2_1[013]_RGBIR.tif"):
        inside = f"/vsizip/{tmp_path}/4_Ortho_RGBIR.zip/4_Ortho_RGBIR/{path.name}"
        assert np.array_equal(read(inside), read(path))


def test_files_that_are_the_same_already_are_left_alone(tool, tmp_path):
    path = tmp_path / "2_Ortho_RGB/scene.tif"
    bands = np.zeros((8, 8, 3), np.uint8)
    place = rasterio.Affine(0.05, 0, 0, 0, -0.05, 0)
    tool.write(path, bands, place)
    before = path.stat().st_mtime_ns, path.with_suffix(".tfw").stat().st_mtime_ns
    tool.write(path, bands, place)
    assert (path.stat().st_mtime_ns, path.with_suffix(".tfw").stat().st_mtime_ns) == before
    tool.write(path, bands + np.uint8(1), place)
    assert read(path).all()


def test_the_same_town_twice_and_other_towns_else(towns):
    again = draw_town(np.random.default_rng([7, 0]), 360, 360, 0.15)
    assert all(np.array_equal(a, b) for a, b in zip(towns[0], again, strict=True))
    for (_, a), (_, b) in itertools.pairwise(towns):
        assert (a == b).mean() < 0.8


def test_town_has_all_classes_in_plausible_shares(towns):
    image, label = towns[0]
    assert image.shape == (360, 360, 4)
    assert image.dtype == label.dtype == np.uint8
    labels = np.stack([label for _, label in towns])
    shares = np.bincount(labels.ravel(), minlength=6) / labels.size
    assert len(shares) == len(CLASSES)
    for share, published in zip(shares, POTSDAM_SHARES, strict=True):
        assert published / 3 < share < published * 2.5


def test_near_infrared_is_bright_over_plants_only(towns):
    for image, label in towns:
        ratio = image[..., 3].astype(float) / np.maximum(image[..., 0], 1)
        for number in (0, 1, 2, 3):
            if (label == number).mean() > 0.02:
                plants = number >= 2
                middle = np.median(ratio[label == number])
                assert 1.3 < middle < 2.8 if plants else 0.7 < middle < 1.25


def test_objects_keep_their_size_in_metres():
    """Cars that stand alone cover about 4.4 x 1.8 m, whatever the ground sampling distance."""
    for metres in (0.07, 0.14):
        areas = []
        for k in range(3):
            size = round(42 / metres)
            _, label = draw_town(np.random.default_rng([3, k]), size, size, metres)
            _, _, stats, _ = cv2.connectedComponentsWithStats(np.uint8(label == 4))
            areas += [area * metres**2 for *_, area in stats[1:]]
        whole = [area for area in areas if area > 5.5]
        assert len(whole) >= 4
        assert 6.3 < np.median(whole) < 9
        # Two that touch are one piece here; nothing else is larger than a van.
        assert max(whole) < 25


def test_shadows_keep_the_class_below(towns):
    """Level ground of one class has both lit and dark pixels, and dark ones are not black."""
    light = np.concatenate([image[..., 1][label == 0] for image, label in towns])
    assert np.quantile(light, 0.03) < 0.6 * np.median(light)
    assert np.quantile(light, 0.03) > 15


def test_clouds_are_brighter_than_the_ground_in_all_bands():
    snowy = 0
    levels = []
    for k in range(12):
        image, label = draw_clouds(np.random.default_rng([1, k]), 160, 200)
        assert image.shape == (160, 200, 4)
        assert image.dtype == np.uint16
        assert image.max() <= 1023
        assert (label == 1).any()
        assert (image[label == 1].mean(0) > 1.4 * image[label == 0].mean(0)).all()
        snowy += (label == 2).mean() > 0.01
        levels.append(image.mean((0, 1)))
    assert 2 <= snowy <= 10
    assert np.allclose(np.mean(levels, 0), (257, 268, 276, 238), rtol=0.35)


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
def test_a_mistake_is_one_line(tool, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    command = ["make_demo_scenes.py", "--output", tmp_path / "file", "--size", 64, *arguments]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as end:
        run_command(tool.main)
    assert end.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert message in told.err


def test_drawing_does_without_torch():
    code = "import sys; sys.path.insert(0, 'tools'); import make_demo_scenes; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
