"""A label that lies elsewhere on the map than its image: told, and nothing else is."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_tiles
from drawn import write_png, write_tiff
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from SSLRemoteSensing.data.labels import check_labels, find_stray

UTM = CRS.from_epsg(32633)


def at(x: float, y: float, size: float = 0.5) -> Affine:
    return Affine(size, 0, x, 0, -size, y)


def beside(columns: float, rows: float) -> Affine:
    return at(400000 + columns / 2, 5000000 - rows / 2)


HERE = beside(0, 0)
SIZE = (48, 64)
WORLD = "0.5\n0\n0\n-0.5\n{}\n4999999.75\n"


def write(path: Path, transform=HERE, crs=UTM, bands: int = 1) -> Path:
    planes = np.zeros((bands, *SIZE), np.uint8)
    planes[:, 5:9] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return write_tiff(path, planes, transform=transform, crs=crs)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (dict(transform=beside(20, 0)), "+20.0 columns and +0.0 rows away"),
        (dict(transform=beside(0, -0.6)), "+0.0 columns and -0.6 rows away"),
        (dict(transform=at(400000, 5000000, 1)), "pixels of 1 x 1, its image 0.5 x"),
        (dict(transform=Affine(0.4, 0.3, 400000, 0.3, -0.4, 5000000)), "turned or mirrored"),
        (dict(transform=Affine(0.5, 0, 400000, 0, 0.5, 4999976)), "turned or mirrored"),
        (dict(transform=at(5000000, 400000)), "rows away"),
        (dict(crs=CRS.from_epsg(32632)), "CRS EPSG:32632, its image EPSG:32633"),
        (dict(transform=at(14, 45, 5e-6), crs=CRS.from_epsg(4326)), "CRS EPSG:4326"),
        (dict(crs=CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')), "CRS LOCAL_CS"),
    ],
)
def test_a_label_of_another_place_is_told(tmp_path, place, message):
    image, label = write(tmp_path / "i.tif", bands=3), write(tmp_path / "l.tif", **place)
    assert message in find_stray(str(image), str(label), SIZE)
    _, remarks = check_labels([str(image)], [str(label)], 2)
    assert any("1 of 1 labels lie at another place on the map" in text for text in remarks)


@pytest.mark.parametrize(
    "place",
    [
        {},
        dict(transform=beside(0.4, -0.4)),
        dict(transform=at(400000, 5000000, 0.5 + 1e-9)),
        dict(crs=CRS.from_wkt(UTM.to_wkt(version="WKT1_ESRI"))),
        dict(crs=CRS.from_wkt(UTM.to_wkt(version="WKT2_2019"))),
        dict(crs=None),
        dict(transform=None, crs=None),
        dict(transform=at(0, 48, 1), crs=None),  # columns and rows of its own
    ],
)
def test_the_same_place_or_none_is_no_word_worth(tmp_path, place):
    image, label = write(tmp_path / "i.tif", bands=3), write(tmp_path / "l.tif", **place)
    assert find_stray(str(image), str(label), SIZE) == ""
    nowhere = write(tmp_path / "n.tif", transform=None, crs=None)
    assert find_stray(str(nowhere), str(label), SIZE) == ""


@pytest.mark.parametrize("name", ["l.png", "l.tif", "L.TIF"])
def test_a_world_file_tells_a_place(tmp_path, name):
    image = write(tmp_path / "i.tif", bands=3)
    label = tmp_path / name
    if name == "l.png":
        write_png(label, np.zeros(SIZE, np.uint8))
    else:
        write(label, transform=None, crs=None)
    assert find_stray(str(image), str(label), SIZE) == ""
    world = {"l.png": "l.pgw", "l.tif": "l.tfw", "L.TIF": "L.TFW"}[name]
    (tmp_path / world).write_text(WORLD.format(400000.25))
    assert find_stray(str(image), str(label), SIZE) == ""
    (tmp_path / world).write_text(WORLD.format(400010.25))
    assert "+20.0 columns" in find_stray(str(image), str(label), SIZE)
    (tmp_path / world).write_text("no numbers")
    assert find_stray(str(image), str(label), SIZE) == ""


def test_fine_tuning_and_the_doctor_tell_it(run, seg_config, tmp_path):
    folder, rng = draw_tiles(tmp_path / "set", 8, seed=1), np.random.default_rng(0)
    for number in range(8):
        name = f"tile_{number:03d}"
        (folder / f"images/{name}.jpg").unlink()
        planes = rng.integers(0, 255, (3, 64, 64)).astype(np.uint8)
        write_tiff(folder / f"images/{name}.tif", planes, transform=HERE, crs=UTM)
        away = beside(3 * (number % 2), 0)
        label = rng.integers(0, 2, (64, 64)).astype(np.uint8)
        write_tiff(folder / f"labels/{name}.tif", label, transform=away, crs=UTM)
    tiles = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    tiles |= dict(label_format="{stem}.tif")
    train_cfg = seg_config["train_cfg"]
    train_cfg["train_data"] = tiles | dict(crop_size=32)
    train_cfg |= dict(val_data=tiles, test_data=None)
    text = "4 of 8 labels lie at another place on the map than their image"
    done = run("finetune_seg.py", seg_config, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert f"{text}, first {folder}/labels/tile_001.tif: +3.0 columns" in done.stderr
    done = run("tools/doctor.py", seg_config)
    assert f"warn  train: {text}" in done.stdout
    assert f"{folder}/labels/tile_001.tif: +3.0 columns and +0.0 rows away" in done.stdout
