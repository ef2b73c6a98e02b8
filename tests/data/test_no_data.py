"""Pixels that an image says hold no data have no class, however the image is read."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from drawn import write_png, write_tiff

from SSLRemoteSensing.data.class_weights import label_shares
from SSLRemoteSensing.data.images import read_image, read_masked, read_valid
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
from SSLRemoteSensing.evaluation.scoring import open_scored, score

HEIGHT, WIDTH, EMPTY = 70, 90, 30  # rows, columns, and rows from the top that hold no data
KINDS = ("value", "mask", "alpha", "nan", "transparent")


def draw(folder: Path, kind: str) -> Path:
    """An image whose first rows hold no data by `kind`, and its label, 0 there, else 0 where rows
    are even and 1 where they are odd. A pixel of data is 0 in one band, and one in all where that
    says nothing."""
    planes = np.random.default_rng(7).integers(1, 200, (3, HEIGHT, WIDTH)).astype(np.uint8)
    planes[1, 40, 5] = 0
    label = np.arange(HEIGHT, dtype=np.uint8)[:, None].repeat(WIDTH, 1) % 2
    label[:EMPTY] = 0
    write_png(folder / "labels/a.png", label)
    file, holds = folder / "images/a.tif", np.full((1, HEIGHT, WIDTH), 255, np.uint8)
    holds[:, :EMPTY] = 0
    if kind != "value":
        planes[:, 50, 6] = 0
    if kind == "value":
        planes[:, :EMPTY] = 0
        write_tiff(file, planes, nodata=0)
    elif kind == "mask":
        write_tiff(file, planes)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "r+") as raster:
            raster.write_mask(holds[0])
    elif kind == "alpha":
        write_tiff(file, np.concatenate([planes, holds]), photometric="RGB", alpha="YES")
    elif kind == "nan":
        planes = planes.astype(np.float32)
        planes[0, :EMPTY] = np.nan
        write_tiff(file, planes)
    else:
        file = file.with_suffix(".png")
        file.parent.mkdir(parents=True)
        assert cv2.imwrite(str(file), np.dstack([*planes[::-1], holds[0]]))
    return file


def open_tiles(folder: Path, kind: str, **changes) -> SegmentationDataset:
    paths = dict(image_path=f"{folder}/images", label_path=f"{folder}/labels")
    scale = dict(max_value=255) if kind == "nan" else {}
    return SegmentationDataset(TileSettings(**paths | scale | changes), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_crops_and_windows_agree(tmp_path, kind):
    draw(tmp_path, kind)
    tiles = open_tiles(tmp_path, kind)
    image, label = tiles.read(0)
    assert (label[:EMPTY] == 255).all()
    assert np.array_equal(label[EMPTY:], np.indices(label.shape)[0][EMPTY:] % 2)
    assert np.array_equal(tiles.read_scored(tiles.pairs[0]), label)
    assert np.array_equal(tiles[0, 0]["label"], label)
    assert label_shares(tiles) == {"tiles": 1, "shares": [0.5, 0.5]}
    window = open_tiles(tmp_path, kind, windows=dict(size=WIDTH, min_valid=0.1))[0, 0]
    assert np.array_equal(window["label"][:HEIGHT], label)
    assert np.array_equal(window["image"][:HEIGHT], image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_stays_as_it_is_read_without_its_mask(tmp_path, kind):
    file, scale = draw(tmp_path, kind), open_tiles(tmp_path, kind).reading.scale
    image, valid = read_masked(file, scale=scale)
    assert np.array_equal(image, read_image(file, scale=scale))
    assert np.array_equal(valid, np.indices(valid.shape)[0] >= EMPTY)
    assert np.array_equal(valid, read_valid(file))


def test_black_that_says_nothing_has_its_class(tmp_path):
    draw(tmp_path, "mask")
    planes = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for file in (write_tiff(tmp_path / "a.tif", planes), write_png(tmp_path / "a.png", planes[0])):
        assert read_masked(file)[1] is None
        assert read_valid(file) is None


@pytest.mark.parametrize("window", [32, 128], ids=["scenes by windows", "stacked tiles"])
@pytest.mark.parametrize("kind", ["value", "transparent"])
def test_no_data_is_not_scored(tmp_path, kind, window):
    draw(tmp_path, kind)
    opened = open_scored(open_tiles(tmp_path, kind), ["a", "b"], ScoringSettings(window=window))

    def predict(images):
        ones = torch.ones(len(images), 1, *images.shape[2:])
        return torch.cat([0.6 * ones, 0.4 * ones], 1)

    counts = score(predict, opened, torch.device("cpu"))["full"]
    assert counts.tolist() == [[20 * WIDTH, 0], [20 * WIDTH, 0]]
