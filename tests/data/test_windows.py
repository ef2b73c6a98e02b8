"""Windows of scenes: where they lie, that they are what the file holds, and what it costs."""

import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from calls import command
from conftest import DATA
from drawn import draw_image, write_png, write_tiff
from rasterio.enums import Resampling
from rasterio.shutil import copy as copy_raster
from tiny_run import entries, interrupt_at, moved, train
from torch.utils.data import DataLoader

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data import pretext, segmentation, windows
from SSLRemoteSensing.data.geotiff import encode_tiff
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.places import ground_size
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.data.windows import Windows, WindowSettings
from SSLRemoteSensing.training.meters import LossMeter
from SSLRemoteSensing.training.sampler import KeySampler

TILED = dict(tiled=True, blockxsize=64, blockysize=64, compress="deflate", interleave="pixel")
UTM = rasterio.Affine(0.5, 0, 366000, 0, -0.5, 5806000)


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    windows.close_files()


def places(height: int, width: int) -> np.ndarray:
    """Planes (3, height, width) of which the values of a pixel tell row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256]).astype(np.uint8)


def rows_and_columns(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place (H, W) of each pixel of `places`, as (H, W, 3)."""
    low = pixels.astype(int)
    return low[:, :, 0] + low[:, :, 2] // 16 * 256, low[:, :, 1] + low[:, :, 2] % 16 * 256


def classes_at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return ((rows // 3 + columns // 5) % 4).astype(np.uint8)


def draw_scenes(folder: Path, sizes=((300, 280), (120, 400), (90, 90))) -> Path:
    """Scenes whose pixels tell their place, with labels that follow from it."""
    for number, size in enumerate(sizes):
        write_tiff(folder / f"images/scene{number}.tif", places(*size), **TILED)
        write_tiff(folder / f"labels/scene{number}.tif", classes_at(*np.indices(size)), **TILED)
    return folder


def pretext_of(folder: Path, in_channels: int = 3, seed: int = 0, **changes) -> PretextDataset:
    """Samples whose anchor is the window itself."""
    chains = dict(inpainting_transforms_cfg={}, pre_transforms_cfg={})
    chains["agr_transforms_cfg"] = dict(transforms_cfg=dict(a=dict(name="Rotate", angle=0)))
    keys = dict(data_path=str(folder), data_format="*.tif", img_size=64, windows=dict(size=64))
    return PretextDataset(PretextSettings(**chains | keys | changes), in_channels, seed)


def tiles_of(folder: Path, in_channels: int = 3, **changes) -> SegmentationDataset:
    keys = dict(image_path=f"{folder}/images", label_path=f"{folder}/labels")
    keys |= dict(label_format="{stem}.tif", windows=dict(size=64), label_offset=0)
    return SegmentationDataset(TileSettings(**keys | changes), 4, in_channels)


def anchor_and_part(dataset: PretextDataset, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The anchor of the first sample, and the pixels where it lies in its scene."""
    place = dataset.windows.draw(0, scene.shape[:2], np.random.default_rng([0, 0, 0]))
    return dataset[(0, 0)]["anchor"], scene[place.part]


def samples_of(dataset, keys) -> dict:
    return {key: dataset[key]["anchor"].tobytes() for key in keys}


# -- which window a sample is -------------------------------------------------------------------


def test_a_window_depends_on_seed_epoch_and_index_alone(tmp_path):
    folder = draw_scenes(tmp_path) / "images"
    keys = [(epoch, index) for epoch in range(2) for index in range(20)]
    settings = dict(windows=dict(size=64, per_scene=10))
    forth = samples_of(pretext_of(folder, **settings), keys)
    back = samples_of(pretext_of(folder, **settings), reversed(keys))
    assert forth == back
    assert len(set(forth.values())) == len(keys)
    other = samples_of(pretext_of(folder, seed=1, **settings), keys)
    assert all(forth[key] != other[key] for key in keys)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_however_they_start_draw_the_same_windows(tmp_path, start):
    """The main process has the files open, too, when they are forked."""
    dataset = pretext_of(draw_scenes(tmp_path) / "images", windows=dict(size=64, per_scene=8))
    sampler = KeySampler(len(dataset), 4, per_epoch=6, first=2, last=9, seed=0)
    expected = [pretext.collate([dataset[key] for key in keys]) for keys in sampler]
    loader = DataLoader(
        dataset, batch_sampler=sampler, collate_fn=pretext.collate,
        num_workers=2 if start == "fork" else 1,  # which takes seconds to import torch
        multiprocessing_context=start,
    )  # fmt: skip
    for ours, theirs in zip(expected, loader, strict=True):
        assert torch.equal(ours["anchor"], theirs["anchor"])
        assert ours["redrawn"] == theirs["redrawn"] == 0


def test_processes_together_draw_what_one_would(tmp_path):
    dataset = pretext_of(draw_scenes(tmp_path) / "images", windows=dict(size=64, per_scene=8))
    one = [dataset[key]["anchor"] for keys in KeySampler(24, 4, 6, 0, 6, seed=0) for key in keys]
    parts = [KeySampler(24, 2, 6, 0, 6, seed=0, rank=rank, processes=2) for rank in (0, 1)]
    two = [pretext_of(tmp_path / "images", windows=dict(size=64, per_scene=8)) for _ in parts]
    batches = zip(*parts, strict=True)
    shared = [two[rank][key]["anchor"] for both in batches for rank in (0, 1) for key in both[rank]]
    assert all(np.array_equal(a, b) for a, b in zip(one, shared, strict=True))


def test_a_run_that_goes_on_in_mid_epoch_sees_what_a_straight_one_does(pretext_config, tmp_path):
    folder = draw_scenes(tmp_path) / "images"
    data = dict(data_path=str(folder), data_format="*.tif", windows=dict(size=40, per_scene=6))
    pretext_config["train_cfg"]["train_data"] |= data
    seen: dict[str, list] = {}

    def watched(name: str) -> PretextDataset:
        data = pretext_config["train_cfg"]["train_data"]
        dataset, read = PretextDataset(PretextSettings(**data)), PretextDataset.__getitem__
        kind = type("Watched", (PretextDataset,), {})

        def get(self, key):
            sample = read(self, key)
            seen.setdefault(name, []).append((key, sample["anchor"].tobytes()))
            return sample

        kind.__getitem__, dataset.__class__ = get, kind
        return dataset

    straight = moved(pretext_config, tmp_path / "straight")
    model = train(straight, dataset=watched("straight"))
    stopped = moved(pretext_config, tmp_path / "stopped")
    with pytest.raises(SystemExit, match="130"):
        train(stopped, interrupt_at(2), dataset=watched("first"))
    again = train(stopped, dataset=watched("second"))
    assert len(seen["straight"]) == 2 * 16  # two epochs of 18 windows in batches of 4
    assert seen["first"][:8] + seen["second"] == seen["straight"]
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [entry["redrawn"] for entry in entries(straight)] == [0] * len(entries(straight))


def test_windows_of_a_scene_follow_each_other(tmp_path):
    folder = draw_scenes(tmp_path) / "images"
    scenes = [str(folder / f"scene{number}.tif") for number in range(3)]
    some = Windows(WindowSettings(64, per_scene=5), scenes)
    assert [some.scene(index) for index in range(15)] == [0] * 5 + [1] * 5 + [2] * 5
    # Of areas of 84000, 48000 and 8100 pixels a window has 4096.
    whole = Windows(WindowSettings(64), scenes)
    assert Counter(map(whole.scene, range(len(whole)))) == {0: 21, 1: 12, 2: 2}
    assert [whole.first(scene) for scene in range(3)] == [0, 21, 33]
    assert len(Windows(WindowSettings(200), scenes)) == 2 + 1 + 1  # each at least once
    part = whole.of([0, 2])
    assert [len(part), part.scene(20), part.scene(21)] == [23, 0, 1]


def test_every_pixel_of_a_scene_is_reached_and_all_places_alike(tmp_path):
    draw_scenes(tmp_path, [(24, 41)])
    dataset = pretext_of(tmp_path / "images", img_size=32, windows=dict(size=16, per_scene=3000))
    scene = str(tmp_path / "images/scene0.tif")
    tops, lefts = Counter(), Counter()
    for index in range(3000):
        rng = np.random.default_rng([0, 0, index])
        place = dataset.windows.read(0, scene, rng, 3, dataset.reading)[2]
        tops[place.y] += 1
        lefts[place.x] += 1
    assert (set(tops), set(lefts)) == (set(range(9)), set(range(26)))
    # Of 3000 / 9 = 333 and 3000 / 26 = 115 a deviation of five sigmas.
    assert max(abs(n - 333) for n in tops.values()) < 90
    assert max(abs(n - 115) for n in lefts.values()) < 55


# -- what a window holds ------------------------------------------------------------------------


def test_a_window_is_a_part_of_its_scene(tmp_path):
    dataset = pretext_of(draw_scenes(tmp_path) / "images", windows=dict(size=64, per_scene=6))
    for index in range(18):
        anchor = dataset[(0, index)]["anchor"]
        rows, columns = rows_and_columns(anchor)
        corner = rows[0, 0], columns[0, 0]
        assert np.array_equal(rows - corner[0], np.indices((64, 64))[0])
        assert np.array_equal(columns - corner[1], np.indices((64, 64))[1])
        assert dataset.name(index).name == f"scene{index // 6}.tif"


@pytest.mark.parametrize("turned", [False, True])
def test_image_and_label_stay_together(tmp_path, turned):
    changes = dict(flips=turned, turns=turned, windows=dict(size=64, per_scene=8))
    dataset = tiles_of(draw_scenes(tmp_path), **changes)
    kinds = set()
    for index in range(24):
        sample = dataset[(1, index)]
        rows, columns = rows_and_columns(sample["image"])
        assert np.array_equal(sample["label"], classes_at(rows, columns))
        kinds.add((rows[0, 0] < rows[-1, 0], columns[0, 0] < columns[0, -1]))
    assert len(kinds) == (4 if turned else 1)


def test_a_label_may_be_a_png_beside_a_tiff_and_a_scene_a_jpeg(tmp_path):
    size = 100, 130
    write_tiff(tmp_path / "images/a.tif", places(*size), **TILED)
    write_png(tmp_path / "labels/a.png", classes_at(*np.indices(size)))
    dataset = tiles_of(tmp_path, label_format="{stem}.png")
    sample = dataset[(0, 1)]
    expected = classes_at(*rows_and_columns(sample["image"]))
    assert np.array_equal(sample["label"], expected)

    cv2.imwrite(str(tmp_path / "images/a.jpg"), draw_image(3, size).transpose(1, 2, 0))
    whole = read_image(tmp_path / "images/a.jpg")
    dataset = pretext_of(tmp_path / "images", data_format="*.jpg")
    assert np.array_equal(*anchor_and_part(dataset, whole))


@pytest.mark.parametrize("driver", ["VRT", "COG", "JP2OpenJPEG", "PNG"])
def test_other_formats_give_the_same_windows(tmp_path, driver):
    draw_scenes(tmp_path, [(300, 280)])
    source, ending = tmp_path / "images/scene0.tif", dict(COG="tif", JP2OpenJPEG="jp2")
    path = tmp_path / f"other/scene0.{ending.get(driver, driver.lower())}"
    path.parent.mkdir()
    if driver == "JP2OpenJPEG":
        pytest.importorskip("rasterio")
        with rasterio.Env() as env:
            if driver not in env.drivers():
                pytest.skip("this GDAL has no JPEG 2000")
        copy_raster(source, path, driver=driver, quality=100, reversible="YES")
    else:
        copy_raster(source, path, driver=driver)
    ours = pretext_of(tmp_path / "other", data_format=f"*{path.suffix}")
    theirs = pretext_of(tmp_path / "images")
    assert len(ours) == len(theirs) == 21
    for index in range(21):
        assert np.array_equal(ours[(0, index)]["anchor"], theirs[(0, index)]["anchor"])


@pytest.mark.parametrize(
    ("bands", "dtype", "max_value", "channels"),
    [((4, 1, 2), np.uint8, None, 3), (None, np.uint16, 1500, 4), ((2,), np.uint16, 900, 3)],
)
def test_bands_and_scale_are_as_for_whole_files(tmp_path, bands, dtype, max_value, channels):
    planes = draw_image(4, (90, 110), top=255 if dtype == np.uint8 else 2000, dtype=dtype)
    file = write_tiff(tmp_path / "a.tif", planes, **TILED)
    changes = dict(bands=bands, max_value=max_value)
    dataset = pretext_of(tmp_path, channels, **changes)
    whole = read_image(file, channels, bands, up_to(max_value))
    for index in range(len(dataset)):
        rng = np.random.default_rng(index)
        image, _, place, _ = dataset.windows.read(0, str(file), rng, channels, dataset.reading)
        assert np.array_equal(image, whole[place.y : place.y + 64, place.x : place.x + 64])


def test_a_palette_gives_colours(tmp_path):
    indices = np.random.default_rng(0).integers(0, 3, (80, 80)).astype(np.uint8)
    file = write_tiff(tmp_path / "a.tif", indices)
    with rasterio.open(file, "r+") as raster:
        raster.write_colormap(1, {0: (9, 8, 7, 255), 1: (200, 100, 50, 255), 2: (0, 0, 255, 255)})
    colours = np.array([(9, 8, 7), (200, 100, 50), (0, 0, 255)], np.uint8)[indices]
    assert np.array_equal(*anchor_and_part(pretext_of(tmp_path), colours))


def test_a_smaller_scene_is_padded(tmp_path):
    draw_scenes(tmp_path, [(20, 100)])
    sample = tiles_of(tmp_path)[(0, 0)]
    rows, columns = rows_and_columns(sample["image"])
    mirror = [*range(20), *range(19, -1, -1), *range(20), *range(19, -1, -1)][:64]
    assert rows[:, 0].tolist() == mirror
    assert np.array_equal(columns, np.tile(columns[0], (64, 1)))
    assert np.array_equal(sample["label"][:20], classes_at(rows, columns)[:20])
    assert (sample["label"][20:] == 255).all()
    anchor = pretext_of(tmp_path / "images")[(0, 0)]["anchor"]
    assert rows_and_columns(anchor)[0][:, 0].tolist() == mirror


# -- no data ------------------------------------------------------------------------------------


def half_empty(folder: Path, **profile) -> Path:
    """A scene of which the left 200 of 300 columns are 0, and the labels of it."""
    planes = draw_image(3, (128, 300)) // 2 + 100
    planes[:, :, :200] = 0
    write_tiff(folder / "labels/a.tif", np.ones((128, 300), np.uint8))
    return write_tiff(folder / "images/a.tif", planes, **TILED | profile)


@pytest.mark.parametrize("kind", ["value", "mask", "alpha"])
def test_windows_without_enough_data_are_drawn_again_and_counted(tmp_path, kind):
    file = half_empty(tmp_path, nodata=0 if kind == "value" else None)
    holds_data = np.repeat([[0, 255]], 128, 0).repeat([200, 100], 1).astype(np.uint8)
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "r+") as raster:
            raster.write_mask(holds_data)
    if kind == "alpha":
        with rasterio.open(file) as raster:
            planes = np.concatenate([raster.read(), holds_data[None]])
        write_tiff(file, planes, **TILED, photometric="RGB", alpha="YES")
    dataset = tiles_of(tmp_path, windows=dict(size=64, per_scene=200, min_valid=0.75))
    redrawn = 0
    for index in range(200):
        sample = dataset[(0, index)]
        scored, image = sample["label"] == 1, sample["image"]
        assert scored.mean() >= 0.75
        assert np.array_equal(scored, image.any(2))
        assert (sample["label"][~scored] == 255).all()
        redrawn += sample["redrawn"]
    # 184 to 236 are 53 of the 237 columns at which a window may begin.
    assert redrawn / 200 == pytest.approx(237 / 53 - 1, rel=0.35)
    batch = segmentation.collate([dataset[(0, index)] for index in range(50)])
    assert batch["redrawn"] == sum(dataset[(0, index)]["redrawn"] for index in range(50))
    every = tiles_of(tmp_path, windows=dict(size=64, per_scene=50, min_valid=0))
    assert all(every[(0, index)]["redrawn"] == 0 for index in range(50))


def test_a_scene_without_a_valid_window_is_named_or_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MOST_DRAWN", 30)
    draw_scenes(tmp_path, [(128, 128), (128, 128), (128, 128)])
    folder, nothing = tmp_path / "images", np.zeros((3, 128, 128), np.uint8)
    write_tiff(folder / "scene1.tif", nothing, **TILED, nodata=0)
    settings = dict(windows=dict(size=64, per_scene=4))
    with pytest.raises(UnreadableImage, match=r"scene1\.tif: of 30 windows none .* min_valid=0\.5"):
        pretext_of(folder, **settings)[(0, 5)]
    passing = pretext_of(folder, **settings, on_bad_image="skip")
    sample = passing[(0, 5)]
    assert (sample["skipped"], sample["index"]) == ([4], 8)
    assert passing.name(4).name == "scene1.tif"
    # Drawn as if the scene were not there: what it drew in vain changes nothing.
    rng = np.random.default_rng([0, 0, 5])
    place = passing.windows.read(2, str(folder / "scene2.tif"), rng, 3, passing.reading)[2]
    rows, columns = rows_and_columns(sample["anchor"])
    assert (rows[0, 0], columns[0, 0]) == (place.y, place.x)


def test_a_scene_that_cannot_be_read_is_named_or_passed_over(tmp_path):
    folder = draw_scenes(tmp_path) / "images"
    (folder / "scene1.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(UnreadableImage, match=r"scene1\.tif"):
        pretext_of(folder)
    dataset = pretext_of(folder, on_bad_image="skip")
    assert len(dataset) == 21 + 1 + 2  # its size is not known
    assert dataset[(0, 21)]["skipped"] == [21]
    damaged = folder / "scene0.tif"
    damaged.write_bytes(damaged.read_bytes()[:6000])
    for _ in range(2):  # the second time too, whatever GDAL keeps
        assert 0 in dataset[(0, 3)]["skipped"]


def test_scenes_passed_over_are_counted_as_files_not_as_windows(tmp_path):
    folder = draw_scenes(tmp_path) / "images"
    for number in range(2):
        (folder / f"scene{number}.tif").write_bytes(b"II*\0 and no more")
    dataset = pretext_of(folder, windows=dict(size=64, per_scene=200), on_bad_image="skip")
    meter, loss = LossMeter(dataset, limit=1, files=3), {"loss": torch.tensor(1.0)}
    batch = pretext.collate([dataset[(0, index)] for index in (250, 399, 500)])
    assert batch["skipped"] == [200, 200]
    meter.add(1, batch, loss, {})
    meter.norms[1] = torch.tensor(1.0)
    assert meter.take()[0]["redrawn"] == 0
    batch = pretext.collate([dataset[(0, 7)]])
    with pytest.raises(UserError, match=r"2 files .* more than 1 % of 3; .*scene0.*scene1"):
        meter.add(2, batch, loss, {})


# -- ground sampling distance -------------------------------------------------------------------


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / 29 + k) * np.cos(y / 37 - k) for k in range(3)]
    return np.stack(waves).round().astype(np.uint8)


def window_and_mean(file: Path, planes: np.ndarray, gsd: float, factors: tuple[int, int]):
    """The image of a window of 32 pixels, and the mean of `factors` pixels of its place."""
    settings = WindowSettings(32, per_scene=1, gsd=gsd)
    drawing, rng = Windows(settings, [str(file)]), np.random.default_rng(3)
    how = windows.Reading(None, None, str(file))
    image, _, place, _ = drawing.read(0, str(file), rng, 3, how)
    down, across = factors
    assert (place.height, place.width) == (32 * down, 32 * across)
    part = planes[:, place.y : place.y + place.height, place.x : place.x + place.width]
    return image, part.reshape(3, 32, down, 32, across).mean((2, 4)).transpose(1, 2, 0)


@pytest.mark.parametrize("overviews", [(), (2, 4)])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
def test_a_ground_sampling_distance_is_the_mean_of_the_pixels(tmp_path, overviews, crs):
    """At 45 degrees a degree of latitude is 111132 m, one of longitude 78847 m (NGA's tables); at
    60 a metre of Web Mercator is half a metre on the ground."""
    transform, factors, gsd = UTM, (4, 4), 2.0
    if crs == "EPSG:4326":
        transform = rasterio.Affine(1 / 78847, 0, 7, 0, -0.5 / 111132, 45.001)
        factors, gsd = (8, 4), 4.0
    if crs == "EPSG:3857":
        transform = rasterio.Affine(1, 0, 1e6, 0, -1, 8399738)
        factors, gsd = (4, 4), 2.0
    planes = smooth(600, 500)
    file = write_tiff(tmp_path / "a.tif", planes, **TILED, crs=crs, transform=transform)
    if overviews:
        with rasterio.open(file, "r+") as raster:
            raster.build_overviews(overviews, Resampling.average)
    image, expected = window_and_mean(file, planes, gsd, factors)
    # Pixels of an overview lie where they lie, by up to half of one of them beside the window.
    assert np.abs(image - expected).max() <= (14 if overviews else 0.51)
    assert np.abs(image - expected).mean() <= (4 if overviews else 0.51)


def test_overviews_are_what_is_read_at_a_coarser_distance(tmp_path):
    file = write_tiff(
        tmp_path / "a.tif", smooth(600, 500), **TILED, crs="EPSG:32633", transform=UTM
    )
    with rasterio.open(file, "r+") as raster:
        raster.build_overviews([4], Resampling.average)
    with rasterio.open(file, "r+", OVERVIEW_LEVEL=0) as raster:
        raster.write(np.full((3, raster.height, raster.width), 77, np.uint8))
    image, _ = window_and_mean(file, smooth(600, 500), 2.0, (4, 4))
    assert (image == 77).all()


def test_what_the_network_sees_is_known_in_metres(tmp_path):
    """Windows, or squares of a prepared set, scaled to img_size; nothing of whole images."""
    file = tmp_path / "images/train/a_0_0.tif"
    write_tiff(file, smooth(80, 80), **TILED, crs="EPSG:32633", transform=UTM)
    folder, windows_of = file.parent, dict(size=64, gsd=0.5)
    for changes, metres in (
        (dict(windows=dict(size=64)), None),
        (dict(windows=windows_of), 0.5),
        (dict(windows=windows_of, img_size=32), 1.0),
    ):
        assert pretext_of(folder, **changes).reading.gsd == metres
    place = dict(height=80, width=80, crs="EPSG:32633", transform=list(UTM)[:6])
    card = dict(version=1, name="folder", classes=[], bands=["r", "g", "b"], scale=255)
    card |= dict(places=dict(train=dict(a=place)))
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    for changes, metres in (
        (dict(windows=None), None),
        (dict(windows=None, crop_size=64), 0.5),
        (dict(windows=None, crop_size=64, img_size=32), 1.0),
        (dict(windows=dict(size=32), img_size=32), 0.5),
        (dict(windows=dict(size=32, gsd=2.0), img_size=32), 2.0),
    ):
        seen = pretext_of(folder, **changes).reading.gsd
        assert seen == (metres and pytest.approx(metres, rel=1e-3))


def test_pixels_in_feet_are_known_in_metres(tmp_path):
    """EPSG:2263, New York, counts in feet of 0.3048 m."""
    transform = rasterio.Affine(2, 0, 984000, 0, -2, 197000)
    file = write_tiff(tmp_path / "a.tif", smooth(80, 80), crs="EPSG:2263", transform=transform)
    assert ground_size(str(file), (80, 80)) == pytest.approx((0.6096, 0.6096), rel=1e-3)


def test_labels_are_of_the_commonest_class_at_a_coarser_distance(tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (160, 160)).astype(np.uint8)
    label[40:60] = 255
    profile = TILED | dict(crs="EPSG:32633", transform=UTM)
    write_tiff(tmp_path / "labels/a.tif", label, **profile)
    write_tiff(tmp_path / "images/a.tif", places(160, 160), **profile)
    with rasterio.open(tmp_path / "labels/a.tif", "r+") as raster:
        raster.build_overviews([2, 4], Resampling.average)  # which no label is read by
    dataset = tiles_of(tmp_path, windows=dict(size=20, gsd=2.5, per_scene=6))
    for index in range(6):
        rng = np.random.default_rng([0, 0, index])
        place = dataset.windows.draw(0, (160, 160), rng)
        assert (place.height, place.width, place.shape) == (100, 100, (20, 20))
        cells = label[place.y : place.y + 100, place.x : place.x + 100]
        cells = cells.reshape(20, 5, 20, 5).transpose(0, 2, 1, 3).reshape(20, 20, 25)
        counts = np.stack([(cells == k).sum(2) for k in (0, 1, 2, 3, 255)])
        expected = np.array([0, 1, 2, 3, 255])[counts.argmax(0)]
        assert np.array_equal(dataset[(0, index)]["label"], expected)


def test_a_coarser_scene_is_enlarged_and_that_is_said(tmp_path, capsys):
    profile = TILED | dict(crs="EPSG:32633", transform=UTM)
    write_tiff(tmp_path / "images/a.tif", places(160, 160), **profile)
    write_tiff(tmp_path / "labels/a.tif", classes_at(*np.indices((160, 160))), **profile)
    dataset = tiles_of(tmp_path, windows=dict(size=64, gsd=0.25, per_scene=1))
    assert "1 of 1 scenes have larger pixels and are enlarged" in capsys.readouterr().err
    place = dataset.windows.draw(0, (160, 160), np.random.default_rng([0, 0, 0]))
    assert (place.height, place.width) == (32, 32)
    part = classes_at(*np.indices((160, 160)))[place.part]
    assert np.array_equal(dataset[(0, 0)]["label"], part.repeat(2, 0).repeat(2, 1))


def test_a_scene_without_georeference_is_named_where_metres_are_asked_for(tmp_path):
    (tmp_path / "a.tif").write_bytes(encode_tiff(places(80, 80)))
    with pytest.raises(UserError, match=r"a\.tif: has no georeference.*rio edit-info --crs"):
        pretext_of(tmp_path, windows=dict(size=32, gsd=1.0))
    write_tiff(tmp_path / "a.tif", places(80, 80), crs=None, transform=UTM)
    with pytest.raises(UserError, match=r"a\.tif: has no coordinate system"):
        pretext_of(tmp_path, windows=dict(size=32, gsd=1.0))


# -- what it costs, and what is refused ---------------------------------------------------------


def open_here() -> int:
    """Files of scenes that this process has open."""
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum("many" in os.readlink(link) for link in links if os.path.lexists(link))


def test_the_number_of_open_files_is_bounded(tmp_path):
    planes = places(64, 64)
    for number in range(50):
        write_tiff(tmp_path / f"many/{number:02}.tif", planes)
    dataset = pretext_of(tmp_path / "many", img_size=32, windows=dict(size=32, per_scene=2))
    most = 0
    for index in np.random.default_rng(0).permutation(100):
        dataset[(0, int(index))]
        most = max(most, open_here())
    assert most == windows.MOST_OPEN < 50
    windows.close_files()
    assert open_here() == 0


def test_a_forked_process_opens_files_of_its_own(tmp_path):
    """A place in a file that two processes share would be moved by both."""
    dataset = pretext_of(draw_scenes(tmp_path) / "images")
    dataset[(0, 0)]
    ours = windows.opened(dataset.files[0])
    reader, writer = os.pipe()
    if os.fork() == 0:
        theirs = windows.opened(dataset.files[0])
        os.write(writer, b"own" if theirs is not ours else b"shared")
        os._exit(0)
    os.wait()
    assert os.read(reader, 9) == b"own"
    assert windows.opened(dataset.files[0]) is ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(windows=dict(size=0)), "windows.size=0: must be 1 to"),
        (dict(windows=dict(size=64, per_scene=0)), "windows.per_scene=0: must be at least 1"),
        (dict(windows=dict(size=64, min_valid=1.5)), "windows.min_valid=1.5: must be 0 to 1"),
        (dict(windows=dict(size=64, gsd=0.0)), "windows.gsd=0.0: must be above 0"),
        (dict(windows=dict(size=64), crop_size=32), "crop_size=32: windows are cut already"),
        (dict(windows=dict(size=64, gsd=1e4)), "more than can be read at a time"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, message):
    folder = draw_scenes(tmp_path)
    for opening in (
        lambda: pretext_of(folder / "images", **changes),
        lambda: tiles_of(folder, **changes),
    ):
        with pytest.raises(UserError, match=message.replace(".", r"\.")) as error:
            opening()
        assert "\n" not in str(error.value)


def test_a_wrong_setting_is_a_line_and_status_2(pretext_config, tmp_path, capsys):
    status = command(
        "train.py", pretext_config, tmp_path, "--set", "train_cfg.train_data.windows={'sise': 64}"
    )
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1)
    assert "train_data.windows: unknown key 'sise', did you mean 'size'?" in said


def test_a_fraction_keeps_scenes(tmp_path):
    folder = draw_scenes(tmp_path, [(64, 64 * number) for number in range(1, 11)])
    dataset = tiles_of(folder, fraction=0.2)
    assert (len(dataset.pairs), dataset.num_files, dataset.full_length) == (2, 10, 55)
    names = {dataset.name(index).name for index in range(len(dataset))}
    again = dataset.repeated()
    assert (len(again), len(names)) == (55, 2)
    assert {again.name(index).name for index in range(55)} == names
    assert again[(0, 54)]["image"].shape == (64, 64, 3)


def test_the_real_scenes_give_windows_with_data():
    folder = DATA / "naip"
    if not folder.is_dir():
        pytest.skip(f"the real scenes are not at {folder}")
    dataset = pretext_of(folder, 4, windows=dict(size=128))
    assert len(dataset) == 164  # 934 x 724 pixels, four times
    for index in range(0, 164, 20):
        anchor = dataset[(0, index)]["anchor"]
        assert anchor.any(2).mean() >= 0.5
    with rasterio.open(dataset.files[0]) as raster:
        assert dataset.windows.settings.gsd is None
        assert ground_size(dataset.files[0], raster.shape) == pytest.approx(raster.res, rel=1e-3)
