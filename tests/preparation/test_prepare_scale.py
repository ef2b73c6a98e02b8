"""Scenes of floats and decibels as tiles: their values stay, their scale stands beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import card_of, prepared, read_tile, write_png, write_tiff
from mapped import network

from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.inference.scene import InputScene

DB = Scale((-25.0, -32.0), (0.0, -5.0))


def whole_of(folder: Path, name: str, ending: str) -> np.ndarray:
    """A scene of 64 x 96 put together from its tiles of 32."""
    rows = ([read_tile(folder / f"{name}_{y}_{x}.{ending}") for x in (0, 32, 64)] for y in (0, 32))
    return np.concatenate([np.concatenate(row, -1) for row in rows], -2)


def draw_db(folder: Path, scenes=("a", "b"), nodata: float | None = None) -> dict:
    """Decibels of two bands (2, 64, 96) with NaN at the left, or `nodata`; labels 0/1."""
    drawn = {}
    for number, name in enumerate(scenes):
        rng = np.random.default_rng(number)
        planes = np.stack([rng.normal(mean, 4, (64, 96)) for mean in (-12, -19)])
        planes[:, :, :10] = np.nan if nodata is None else nodata
        drawn[name] = planes.astype(np.float32)
        profile = {} if nodata is None else {"nodata": nodata}
        write_tiff(folder / f"train/images/{name}.tif", drawn[name], **profile)
        write_png(folder / f"train/labels/{name}.png", (planes[0] > -12).astype(np.uint8))
    return drawn


FOLDER = ("folder", "--classes", "dark", "bright", "--splits", "val=0")


@pytest.mark.parametrize("nodata", [None, 0, -9999])
def test_tiles_keep_their_values_and_the_card_their_scale(tmp_path, nodata):
    drawn = draw_db(tmp_path / "source", nodata=nodata)
    said = prepared(tmp_path, *FOLDER, "--scale", -25, 0, -32, -5).stdout
    card = card_of(tmp_path / "out")
    assert card["scale"] == {"minimum": [-25, -32], "maximum": [0, -5]}
    held = np.concatenate([planes[:, :, 10:].reshape(2, -1) for planes in drawn.values()], 1)
    low, high = np.array([[-25], [-32]]), np.array([[0], [-5]])
    shares = (np.clip(held, low, high) - low) / (high - low)
    np.testing.assert_allclose(card["mean"], shares.mean(1), atol=1e-3)
    np.testing.assert_allclose(card["std"], shares.std(1), atol=1e-3)
    outside = ((held < low) | (held > high)).mean()
    told = f"{outside:.1%} of the values lie outside the scale; clipped"
    assert f"note: {told}" in said
    assert said.count("lie outside the scale") == 1  # not of each scene
    for name, planes in drawn.items():
        tiles = whole_of(tmp_path / "out/images/train", name, "tif")
        np.testing.assert_array_equal(tiles[:, :, 10:], planes[:, :, 10:])
        np.testing.assert_array_equal(
            tiles[:, :, :10], np.broadcast_to(low[..., None], (2, 64, 10))
        )
        assert (whole_of(tmp_path / "out/labels/train", name, "png")[:, :10] == 255).all()


def test_training_on_tiles_and_maps_of_their_scenes_see_the_same(tmp_path):
    """The bands of the tiles may be chosen; the scale goes with them."""
    draw_db(tmp_path / "source")
    prepared(tmp_path, *FOLDER, "--scale", -25, 0, -32, -5)
    paths = [str(tmp_path / f"out/{kind}/train") for kind in ("images", "labels")]
    tiles = SegmentationDataset(TileSettings(*paths), 2, in_channels=2)
    assert tiles.reading.scale == DB
    file = tmp_path / "source/train/images/a.tif"
    whole = read_image(file, 2, scale=DB)
    names = [Path(image).stem for image, _ in tiles.pairs]
    np.testing.assert_array_equal(tiles.read(names.index("a_32_64"))[0], whole[32:, 64:])
    net = network(2, scale=DB, dtype="float32", prepared=True, bands=(1, 2))
    with open_tiff(file, beside=True) as source:
        np.testing.assert_array_equal(InputScene(source, net, None, None).rows(0, 64), whole)
    second = SegmentationDataset(TileSettings(*paths, bands=(2,)), 2, in_channels=1)
    np.testing.assert_array_equal(second.read(0)[0][..., 0], tiles.read(0)[0][..., 1])


def test_percentiles_are_found_once_and_stay(tmp_path):
    drawn = draw_db(tmp_path / "source", ("a", "b", "c"))
    said = prepared(tmp_path, *FOLDER, "--scale", "percentile").stdout
    assert "(2nd and 98th percentile of some of the training scenes)" in said
    scale = card_of(tmp_path / "out")["scale"]
    held = np.concatenate([planes[:, :, 10:].reshape(2, -1) for planes in drawn.values()], 1)
    expected = np.percentile(held, (2, 98), axis=1)
    np.testing.assert_allclose([scale["minimum"], scale["maximum"]], expected, atol=0.02)
    before = json.dumps(scale)
    draw_db(tmp_path / "source", ("d",))
    said = prepared(tmp_path, *FOLDER, "--scale", "percentile").stdout
    assert "(of the tiles so far)" in said
    assert json.dumps(card_of(tmp_path / "out")["scale"]) == before


def test_a_scene_that_is_mostly_clipped_is_told(tmp_path):
    drawn = draw_db(tmp_path / "source")
    write_tiff(tmp_path / "source/train/images/b.tif", drawn["b"] + 60)
    said = prepared(tmp_path, *FOLDER, "--scale", -25, 0, -32, -5).stdout
    assert "warning: b: 100.0% of the values lie outside the scale; clipped" in said


def test_bytes_and_16_bits_have_a_scale_too(tmp_path):
    planes = np.random.default_rng(0).integers(1000, 3000, (3, 64, 64)).astype(np.uint16)
    write_tiff(tmp_path / "source/train/a.tif", planes)
    prepared(tmp_path, "folder", "--scale", 1000, 3000)
    card = card_of(tmp_path / "out")
    assert card["scale"] == {"minimum": [1000], "maximum": [3000]}
    np.testing.assert_allclose(card["mean"], (planes.mean((1, 2)) - 1000) / 2000, atol=1e-3)
    (tmp_path / "plain").mkdir()
    (tmp_path / "source").rename(tmp_path / "plain/source")
    prepared(tmp_path / "plain", "folder", "--scale", 0, 3000)
    assert card_of(tmp_path / "plain/out")["scale"] == 3000  # as by --max_value


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--scale", "percentil"),
            "--scale percentil: give percentile, or a minimum",
        ),
        (("--scale", 3), "--scale 3: give percentile, or"),
        (("--scale", 3, 1), "minimum 3, maximum 1: the minimum must be below"),
        (("--scale", 0, 1, "--max_value", 3), "--max_value 3.0, --scale: both are given; leave"),
    ],
)
def test_wrong_flags_are_refused_in_a_line(tmp_path, flags, said):
    draw_db(tmp_path / "source")
    error = prepared(tmp_path, *FOLDER, *flags, status=2).stderr
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
