"""Maps of scenes: equal to the whole image, in place, whole, and honest about what is no data."""

import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from conftest import DATA, ROOT
from mapped import (
    CLASSES,
    CPU,
    PALETTE,
    PLACE,
    Pointwise,
    damaged,
    draw,
    mapped,
    network,
    read,
    write,
)
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.windows import Window
from torch import nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import no_damage
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.windows import predict_scene, probabilities
from SSLRemoteSensing.models.segmentation import build_segmentation

RIO = Path(sys.executable).with_name("rio")


def whole(net: MapNetwork, planes: np.ndarray) -> torch.Tensor:
    """Probabilities (K, H, W) of a scene in one piece."""
    return probabilities(net.model, CPU, "fp32", torch.from_numpy(planes.copy())[None])[0]


# Equal to the whole image.


BLOCKS = dict(tiled=True, blockxsize=64, blockysize=32, compress="deflate")
STRIP = dict(blockysize=150, compress="lzw", interleave="pixel")


@pytest.mark.parametrize(
    ("size", "profile"),
    [
        ((150, 190), BLOCKS),
        ((150, 190), STRIP),
        ((64, 64), {}),
        ((65, 129), dict(blockysize=1)),
        ((40, 300), {}),
        ((1, 7), {}),
        ((257, 33), {}),
    ],
)
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0.5), (64, 0.0), (50, 0.3), (96, 0.8)])
def test_the_map_equals_the_whole_image_whatever_the_size_and_the_blocks(
    tmp_path, size, profile, tile, overlap
):
    """For a network without context."""
    net, planes = network(), draw(*size)
    scene = write(tmp_path / "scene.tif", planes, **profile, **PLACE)
    asked = dict(probabilities=True)
    done, found = mapped(net, scene, tmp_path / "map.tif", asked, tile=tile, overlap=overlap)
    expected = whole(net, planes)
    assert np.array_equal(found, expected.argmax(0).numpy())
    shares = read(tmp_path / "map_probabilities.tif").astype(int)
    assert np.abs(shares - 255 * expected.numpy()).max() <= 0.501
    assert done.counts == np.bincount(found.ravel(), minlength=4).tolist()
    assert min(size) == 1 or np.count_nonzero(done.counts) >= 3  # or it would show little


@pytest.fixture(scope="module")
def real() -> MapNetwork:
    """ResNet-18 with random weights, whose statistics are those of images."""
    torch.manual_seed(0)
    config = dict(
        classes=CLASSES,
        backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
        decoder_cfg=dict(name="Decoder"),
    )
    model = build_segmentation(config)
    images = torch.from_numpy(np.stack([draw(96, 96, seed=n) for n in range(4)]))
    model.train()
    with torch.no_grad():
        for _ in range(12):
            model.logits(images)
    return network(model=model.eval())


def seam_error(net: MapNetwork, overlap: float) -> float:
    """Mean difference of windows and whole image 32 pixels or more from the image's border."""
    planes = draw(256, 256, seed=9)
    pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
    expected = whole(net, planes)
    strips = predict_scene(
        lambda images: probabilities(net.model, CPU, "fp32", images),
        lambda y, height: pixels[y : y + height], 256, 256, 96, overlap, 4, CPU,
    )  # fmt: skip
    found = torch.cat([part for _, part in strips], dim=1)
    return float((found - expected)[:, 32:-32, 32:-32].abs().mean())


def test_seams_of_a_real_network_are_small_and_fall_with_the_overlap(real):
    none, half, most = (seam_error(real, overlap) for overlap in (0, 0.5, 0.75))
    assert none > half > most
    assert half < 0.01
    assert most < 0.7 * none


# Where the scene lies.


def test_real_scenes_keep_place_size_and_nodata(tmp_path):
    scenes = sorted((DATA / "naip").glob("*.tif"))
    if not scenes:
        pytest.skip(f"the real scenes are not at {DATA / 'naip'}")
    net = network(4)
    for scene in scenes:
        done, found = mapped(net, scene, tmp_path / "map.tif", tile=256)
        with rasterio.open(scene) as source, rasterio.open(tmp_path / "map.tif") as target:
            assert (target.crs, target.transform) == (source.crs, source.transform)
            assert target.shape == source.shape
            assert (target.nodata, target.dtypes, target.count) == (255, ("uint8",), 1)
            planes = source.read()
            empty = (planes == 0).all(0)
            assert target.overviews(1) == [2, 4]
        expected = whole(net, planes).argmax(0).numpy()
        assert np.array_equal(found, np.where(empty, 255, expected))
        assert sum(done.counts) == (~empty).sum()


def test_the_map_tells_classes_and_colours(tmp_path):
    scene = write(tmp_path / "scene.tif", draw(70, 300), **PLACE)
    mapped(network(), scene, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        tags, colours = file.tags(), file.colormap(1)
        assert [tags[f"class_{index}"] for index in range(4)] == CLASSES
        assert tags["checkpoint"] == "best.pth"
        assert [colours[index][:3] for index in range(4)] == PALETTE
        assert colours[255][3] == 0
        assert file.profile["tiled"]
        assert file.profile["compress"] == "deflate"
        assert file.block_shapes == [(256, 256)]
        assert file.overviews(1) == [2]
        assert file.descriptions == ("class",)


TURNED = rasterio.Affine(0.43, 0.25, 5e5, 0.25, -0.43, 5e6)
POINTS = [GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, 50), (40, 0))]
MODEL = RPC(
    line_num_coeff=[0.5] * 20, line_den_coeff=[1.0] * 20, line_off=20, line_scale=20,
    samp_num_coeff=[0.25] * 20, samp_den_coeff=[1.0] * 20, samp_off=25, samp_scale=25,
    height_off=40, height_scale=500, lat_off=52.5, lat_scale=0.1, long_off=13.4, long_scale=0.2,
)  # fmt: skip


def test_a_full_gpu_is_told_with_the_flags_to_set(tmp_path):
    class Large(nn.Module):
        def logits(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    scene = write(tmp_path / "scene.tif", draw(70, 90), **PLACE)
    with pytest.raises(
        UserError, match=r"--batch_size 3: predicting needs more .*; set a smaller one, or a --ti"
    ):
        mapped(network(model=Large()), scene, tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("place", "rpcs", "remarks"),
    [
        (dict(crs="EPSG:32633", transform=TURNED), None, []),
        (dict(crs="EPSG:4326", gcps=POINTS), None, []),
        ({}, MODEL, []),
        ({}, None, ["has no coordinate system, so the map has none"]),
    ],
    ids=["rotated", "ground control points", "rpcs", "no place, which is said"],
)
def test_the_map_lies_where_the_scene_does(tmp_path, place, rpcs, remarks):
    scene = write(tmp_path / "scene.tif", draw(40, 50), **place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(scene, "r+") as file:
            if rpcs is not None:
                file.rpcs = rpcs
        done, _ = mapped(network(), scene, tmp_path / "map.tif")
        with rasterio.open(scene) as source, rasterio.open(tmp_path / "map.tif") as target:
            assert (target.crs, target.transform) == (source.crs, source.transform)
            points, crs = target.gcps
            assert [p.asdict() for p in points] == [p.asdict() for p in source.gcps[0]]
            assert (len(points), crs and crs.to_epsg()) == (
                (3, 4326) if "gcps" in place else (0, None)
            )
            assert (target.rpcs and target.rpcs.to_dict()) == (rpcs and source.rpcs.to_dict())
    assert done.remarks == remarks


def test_png_and_jpeg_scenes_and_a_png_map(tmp_path):
    net, planes = network(), draw(90, 120)
    pixels = planes.transpose(1, 2, 0)
    for name in ("scene.png", "scene.jpg"):
        cv2.imwrite(str(tmp_path / name), pixels[:, :, ::-1])
        stored = cv2.imread(str(tmp_path / name))[:, :, ::-1].transpose(2, 0, 1)
        expected = whole(net, stored).argmax(0).numpy()
        _, found = mapped(net, tmp_path / name, tmp_path / "map.tif")
        assert np.array_equal(found, expected)
        _, found = mapped(net, tmp_path / name, tmp_path / "map.png")
        assert np.array_equal(found, expected)
        colours = cv2.imread(str(tmp_path / "map.png"))[:, :, ::-1]
        assert np.array_equal(colours, np.array(PALETTE, np.uint8)[found])
    names = ["map.png", "map.tif", "scene.jpg", "scene.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


# What holds no data.


class Noting(Pointwise):
    """It keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def logits(self, images):
        self.batches.append(images)
        return super().logits(images)


@pytest.mark.parametrize("kind", ["value", "mask band", "alpha band", "value, everywhere"])
def test_what_holds_no_data_stays_empty_and_is_not_predicted(tmp_path, kind):
    """The left 80 columns of the first 80 rows, and a few spots, or all of it."""
    net, planes, valid = network(), draw(150, 190), np.ones((150, 190), bool)
    valid[:80, :80] = valid[100:103, 90:92] = False
    valid &= kind != "value, everywhere"
    planes[:, ~valid] = 0 if "value" in kind else 77
    alpha = np.where(valid, 255, 0).astype(np.uint8)[None]
    scene = tmp_path / "scene.tif"
    if "value" in kind:
        write(scene, planes, nodata=0, **PLACE)
    elif kind == "mask band":
        write(scene, planes, mask=valid, **PLACE)
    else:
        write(scene, np.concatenate([planes, alpha]), True, **PLACE)
    asked = dict(probabilities=True, preview=True)
    done, found = mapped(net, scene, tmp_path / "map.tif", asked, tile=32, overlap=0)
    # 2 x 2 of the 5 x 6 windows of 32 are empty, or all.
    assert net.model.windows == (5 * 6 - 4 if valid.any() else 0)
    expected = whole(net, planes).argmax(0).numpy()
    assert np.array_equal(found, np.where(valid, expected, 255))
    assert sum(done.counts) == valid.sum()
    assert f"no data {1 - valid.mean():.1%}" in str(done)
    assert kind.split()[0].strip(",") in str(done)
    with rasterio.open(tmp_path / "map_probabilities.tif") as file:
        assert np.array_equal(file.dataset_mask() > 0, valid)
        assert file.descriptions == tuple(CLASSES)


def test_empty_pixels_go_in_as_zeros_whatever_the_file_has_there(tmp_path):
    planes = draw(40, 40, dtype=np.float32)
    planes[0, 5, 6] = np.nan
    planes[:, 7, 8] = -9999
    scene = write(tmp_path / "scene.tif", planes, nodata=-9999, **PLACE)
    net = network(model=Noting(), max_value=255.0, dtype="float32")
    _, found = mapped(net, scene, tmp_path / "map.tif")
    assert np.argwhere(found == 255).tolist() == [[5, 6], [7, 8]]
    (batch,) = net.model.batches
    assert (batch[0, :, [5, 7], [6, 8]] == 0).all()


# Bands and values.


def test_bands_and_scale_are_those_of_the_checkpoint_or_of_the_user(tmp_path):
    deep = draw(70, 80, 5, dtype=np.uint16) * 4
    scene = write(tmp_path / "scene.tif", deep, **PLACE)
    eight = np.rint(deep * np.float32(255 / 1023)).clip(0, 255).astype(np.uint8)
    net = network(max_value=1023, dtype="uint16")
    _, found = mapped(net, scene, tmp_path / "map.tif", bands=(5, 1, 2))
    assert np.array_equal(found, whole(net, eight[[4, 0, 1]]).argmax(0).numpy())
    net = network(max_value=1023, bands=(5, 1, 2), dtype="uint16")
    done, again = mapped(net, scene, tmp_path / "map.tif")
    assert np.array_equal(again, found)
    assert "bands 5, 1, 2 taken as in training" in done.remarks
    # Tiles of 16 bits without max_value: 65535 became 1, and does so in the scene.
    deep = draw(70, 80, dtype=np.uint16) * 257
    scene = write(tmp_path / "scene.tif", deep, photometric="minisblack", **PLACE)
    _, found = mapped(network(dtype="uint16"), scene, tmp_path / "map.tif")
    assert np.array_equal(found, whole(net, (deep // 257).astype(np.uint8)).argmax(0).numpy())


def test_grey_palette_and_four_bands_with_a_so_called_alpha_are_taken_as_in_training(tmp_path):
    net, grey = network(), draw(40, 50, 1)
    scene = write(tmp_path / "grey.tif", grey, **PLACE)
    _, found = mapped(net, scene, tmp_path / "map.tif")
    assert np.array_equal(found, whole(net, np.repeat(grey, 3, 0)).argmax(0).numpy())
    four, planes = network(4), draw(40, 50, 4)
    scene = write(tmp_path / "four.tif", planes, alpha=True, **PLACE)
    _, found = mapped(four, scene, tmp_path / "map.tif")
    assert np.array_equal(found, whole(four, planes).argmax(0).numpy())
    colours = {index: (index, 255 - index, 90, 255) for index in range(256)}
    with rasterio.open(
        tmp_path / "palette.tif", "w", driver="GTiff", count=1, height=40, width=50,
        dtype="uint8", photometric="palette", **PLACE,
    ) as file:  # fmt: skip
        file.write_colormap(1, colours)
        file.write(grey)
    _, found = mapped(net, tmp_path / "palette.tif", tmp_path / "map.tif")
    looked_up = np.stack([grey[0], 255 - grey[0], np.full_like(grey[0], 90)])
    assert np.array_equal(found, whole(net, looked_up).argmax(0).numpy())
    # A network of one band gets no colours, but the values where it was trained on them.
    four = network(1, bands=(1,))
    _, found = mapped(four, tmp_path / "palette.tif", tmp_path / "map.tif")
    assert np.array_equal(found, whole(four, grey).argmax(0).numpy())


def test_transparent_colours_of_a_palette_hold_no_data(tmp_path):
    net, values = network(), np.arange(40 * 50, dtype=np.uint8).reshape(40, 50)
    image = Image.new("P", (50, 40))
    image.putdata(values.ravel().tolist())
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 90)], 1).astype(np.uint8)
    image.putpalette(colours.tobytes())
    alpha = bytes(0 if value in (3, 77) else 255 for value in range(256))
    image.save(tmp_path / "scene.png", transparency=alpha)
    done, found = mapped(net, tmp_path / "scene.png", tmp_path / "map.tif")
    expected = whole(net, colours[values].transpose(2, 0, 1)).argmax(0).numpy()
    empty = (values == 3) | (values == 77)
    assert np.array_equal(found, np.where(empty, 255, expected))
    assert "pixels without data by its transparent colours" in done.remarks


# Damaged scenes.


@pytest.mark.parametrize(
    ("compress", "why"), [("deflate", "IReadBlock failed"), ("jpeg", "JPEGLib:Pre")]
)
@pytest.mark.parametrize("tile", [64, 50])
def test_a_damaged_block_is_named_and_the_remedy_mends_the_file(tmp_path, compress, why, tile):
    """Strips of other heights than the blocks begin within the bad one."""
    scene, planes = damaged(tmp_path / "scene.tif", compress)
    settings = dict(asked=dict(probabilities=True), overlap=0.3, tile=tile)
    with pytest.raises(UserError) as error:
        mapped(network(), scene, tmp_path / "map.tif", **settings)
    assert "scene.tif: the block at columns 64 to 127, rows 128 to 191 cannot" in str(error.value)
    assert why in str(error.value)
    assert "previous exception" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
    # What the message says to do, and what comes of it.
    command = str(error.value).rpartition(": ")[2].replace(" rio ", f" {RIO} ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, stderr=subprocess.DEVNULL)
    _, found = mapped(network(), tmp_path / "copy.tif", tmp_path / "map.tif", **settings)
    good = np.ones((250, 190), bool)
    good[128:192, 64:128] = False
    share = (found == whole(network(), planes).argmax(0).numpy())[good].mean()
    assert share == 1 if compress == "deflate" else share > 0.98  # the copy is a JPEG again


def test_of_many_damaged_blocks_some_are_named_and_all_counted(tmp_path):
    planes = np.random.default_rng(0).integers(1, 256, (3, 256, 256), np.uint8)
    tiles = dict(tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    scene = write(tmp_path / "scene.tif", planes, **tiles, **PLACE)
    data = scene.read_bytes()
    scene.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(UserError, match=r"the blocks at columns .*rows.* and \d+ more cannot be"):
        mapped(network(), scene, tmp_path / "map.tif", tile=256)


def test_damage_is_noted_for_the_thread_that_reads_alone():
    said = logging.getLogger("rasterio._err")
    other = threading.Thread(target=said.warning, args=["CPLE_AppDefined:JPEGLib:Premature end"])
    with no_damage():
        other.start()
        other.join()
        said.warning("CPLE_AppDefined:something else")
    with pytest.raises(OSError, match=r"^JPEGLib:Corrupt JPEG data$"), no_damage():
        said.warning("CPLE_AppDefined:JPEGLib:Corrupt JPEG data")
    assert not said.handlers


def test_a_damaged_jpeg_scene_is_refused(tmp_path):
    _, data = cv2.imencode(".jpg", draw(90, 120).transpose(1, 2, 0))
    (tmp_path / "scene.jpg").write_bytes(data.tobytes()[: len(data) // 2])
    with pytest.raises(UserError, match=r"scene\.jpg: is truncated; replace or remove it"):
        mapped(network(), tmp_path / "scene.jpg", tmp_path / "map.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.jpg"]


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (300, 2**31 - 1)])
def test_a_scene_of_absurd_size_is_refused_at_once(tmp_path, size):
    vrt = tmp_path / "scene.vrt"
    band = '<VRTRasterBand dataType="Byte" band="{}"/>'
    bands = "".join(band.format(n) for n in (1, 2, 3))
    vrt.write_text(
        f'<VRTDataset rasterXSize="{size[1]}" rasterYSize="{size[0]}">{bands}</VRTDataset>'
    )
    with pytest.raises(UserError, match=r"claims 2147483647 x|lower --tile"):
        mapped(network(), vrt, tmp_path / "map.tif")


# As the network likes it.


@pytest.mark.parametrize(("precision", "last"), [("fp32", False), ("bf16", True)])
def test_batches_have_the_memory_format_of_the_weights(tmp_path, precision, last):
    scene = write(tmp_path / "scene.tif", draw(70, 90), **PLACE)
    for tta in (False, True):
        net = network(model=Noting(), precision=precision)
        mapped(net, scene, tmp_path / "map.tif", tta=tta)
        batches = net.model.batches
        layouts = {batch.is_contiguous(memory_format=torch.channels_last) for batch in batches}
        assert layouts == {last}


# The picture.


@pytest.mark.parametrize(("size", "step"), [((300, 200), 1), ((2101, 900), 2), ((900, 2501), 2)])
def test_the_preview_shows_scene_and_map_small_and_a_legend(tmp_path, size, step):
    planes = draw(*size)
    scene = write(tmp_path / "scene.tif", planes, **PLACE)
    settings = dict(tile=1000, overlap=0.3)
    _, found = mapped(network(), scene, tmp_path / "map.tif", dict(preview=True), **settings)
    page = cv2.imread(str(tmp_path / "map_preview.png"))[:, :, ::-1]
    assert max(page.shape) <= 1760
    part = (slice(step // 2, None, step),) * 2
    shown = np.array(PALETTE, np.uint8)[found[part]]
    height, width = shown.shape[:2]
    assert np.array_equal(page[:height, :width], planes.transpose(1, 2, 0)[part])
    y, x, end = (0, width + 8, height) if size[0] >= size[1] else (height + 8, 0, 2 * height + 8)
    assert np.array_equal(page[y:, x:][:height, :width], shown)
    assert len(np.unique(page[end:].reshape(-1, 3), axis=0)) > 4  # a legend


# Memory.


MEASURED = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
from mapped import network
from SSLRemoteSensing.inference.outputs import plan_outputs
from SSLRemoteSensing.inference import mapper
# What GDAL holds at most, of blocks and for overviews, is more than scenes as small as these.
mapper.SPARE, os.environ["GDAL_OVR_CHUNK_MAX_SIZE"] = 2**21, "500000"
net = network()
settings = mapper.MapSettings(tile=128, overlap=0.0).for_network(net)
for scene in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        mapper.map_scene(net, *plan_outputs([Path(scene)], scene + "_map.tif"), settings)
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    assert status == 0
    print(used.ru_maxrss * 1024)
"""


def test_memory_does_not_grow_with_the_height(tmp_path):
    """The peak of a process for a scene and of one for a scene of twenty times the height."""
    # So high that its map, 20 MB, stands out from the allocator's noise, up to 7 MB.
    heights, width = (1024, 20480), 1000
    scenes, strip = [], draw(256, width)
    for height in heights:
        scenes.append(tmp_path / f"{height}.tif")
        profile = dict(count=3, dtype="uint8", width=width, height=height, driver="GTiff")
        profile |= dict(tiled=True, blockxsize=256, blockysize=256, compress="deflate", zlevel=1)
        with rasterio.open(scenes[-1], "w", **profile, **PLACE) as file:
            for y in range(0, height, 256):
                file.write(strip, window=Window(0, y, width, 256))
    line = [sys.executable, "-c", MEASURED, str(ROOT / "tests"), *map(str, scenes)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr
    low, tall = map(int, done.stdout.split())
    # Less than the map alone would take, were it held: a third of the image.
    assert tall - low < (heights[1] - heights[0]) * width


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_an_orientation_that_is_not_applied_is_told(tmp_path, name):
    image, exif = Image.fromarray(draw(40, 60).transpose(1, 2, 0)), Image.Exif()
    exif[274] = 6
    image.save(tmp_path / name, **{"tiffinfo": {274: 6}} if name == "a.tif" else {"exif": exif})
    done, classes = mapped(network(dtype="uint8"), tmp_path / name, tmp_path / "map.tif")
    assert classes.shape == (40, 60)
    assert any("orientation 6 (EXIF or TIFF tag) is not applied" in x for x in done.remarks)
