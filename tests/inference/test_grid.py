"""Maps at the ground sampling distance of training: what the network sees, and what lies where."""

import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from conftest import DATA, ROOT
from mapped import CPU, PALETTE, Pointwise, damaged, draw, mapped, network, read, write
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from test_predict_scene import MEASURED, RIO, Noting

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.places import ground_size
from SSLRemoteSensing.inference.windows import probabilities

BLOCKS = dict(tiled=True, blockxsize=64, blockysize=64, compress="deflate")


def place(down: float, across: float | None = None, crs: str = "EPSG:32633") -> dict:
    """Pixels so many metres high and wide."""
    transform = rasterio.Affine(across or down, 0, 366000, 0, -down, 5808000)
    return dict(crs=crs, transform=transform)


def checker(metres: float, side: int = 96, cell: int = 16) -> np.ndarray:
    """Four colours in cells of so many metres, each pixel that of its centre."""
    colours = np.array([(40, 200, 90), (220, 60, 30), (90, 90, 250), (250, 240, 20)], np.uint8)
    cells = (np.arange(round(side / metres)) + 0.5) * metres // cell
    return colours[((cells[:, None] + 2 * cells) % 4).astype(int)].transpose(2, 0, 1)


def means(planes: np.ndarray, down: int, across: int) -> np.ndarray:
    bands, height, width = planes.shape
    cells = planes.reshape(bands, height // down, down, width // across, across)
    return cells.mean((2, 4))


def seen(planes: np.ndarray) -> torch.Tensor:
    """Probabilities of a scene in one piece."""
    pixels = torch.from_numpy(np.rint(planes).astype(np.uint8))[None]
    return probabilities(Pointwise(len(planes)), CPU, "fp32", pixels)[0]


# What the network sees.


@pytest.mark.parametrize("metres", [0.5, 0.4, 0.15, 1.6, 3.0])
@pytest.mark.parametrize("tile", [32, 300])
def test_the_same_ground_has_the_same_map_at_any_size_of_pixels(tmp_path, metres, tile):
    """But for pixels that lie less than a pixel of the network, or of their own, beside another
    class."""
    _, fine = mapped(network(), write(tmp_path / "a.tif", checker(1.0), **place(1.0)),
                     tmp_path / "fine.tif")  # fmt: skip
    assert len(np.unique(fine)) >= 3  # or it would show little
    planes = checker(metres)
    scene = write(tmp_path / "b.tif", planes, **BLOCKS, **place(metres))
    done, found = mapped(network(gsd=1.0), scene, tmp_path / "map.tif", tile=tile)
    assert found.shape == planes.shape[1:]
    centres = (np.arange(len(found)) + 0.5) * metres
    expected = fine[centres.astype(int)][:, centres.astype(int)]
    is_far = np.abs(centres - np.rint(centres / 16) * 16) > max(metres, 1.0)
    assert is_far.mean() > 0.5
    assert np.array_equal(found[is_far][:, is_far], expected[is_far][:, is_far])
    if metres == 0.5:
        assert np.array_equal(found, fine.repeat(2, 0).repeat(2, 1))
    assert f"pixels of {metres:g} x {metres:g} m, seen by the network at 1 m" in done.remarks


# By 30 degrees, 1 m high and 0.5 m wide.
TURNED = rasterio.Affine(0.5 * 0.75**0.5, 0.5, 366000, 0.25, -(0.75**0.5), 5808000)
MERCATOR = rasterio.Affine(1, 0, 1e6, 0, -1, 8399738)  # 60 degrees north: 0.5 m on the ground


@pytest.mark.parametrize("overviews", [(), (2,)])
@pytest.mark.parametrize(
    ("where", "factors", "gsd"),
    [
        (place(0.5), (4, 4), 2.0),
        (place(0.5, 0.25), (4, 8), 2.0),
        (dict(crs="EPSG:32633", transform=TURNED), (2, 4), 2.0),
        (dict(crs="EPSG:3857", transform=MERCATOR), (4, 4), 2.0),
    ],
    ids=["square", "oblong", "rotated", "Web Mercator"],
)
def test_the_network_sees_the_mean_of_the_ground(tmp_path, where, factors, gsd, overviews):
    planes = cv2.GaussianBlur(draw(240, 320).transpose(1, 2, 0), (0, 0), 4).transpose(2, 0, 1)
    scene = write(tmp_path / "scene.tif", planes, **BLOCKS, **where)
    if overviews:
        with rasterio.open(scene, "r+") as file:
            file.build_overviews(overviews, Resampling.average)
    net = network(model=Noting(), gsd=gsd)
    mapped(net, scene, tmp_path / "map.tif", tile=400)
    (batch,) = net.model.batches
    expected = means(planes, *factors)
    assert batch.shape[2:] == expected.shape[1:]
    assert np.abs(batch[0].numpy() - expected).max() <= (4 if overviews else 0.51)
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "map.tif") as target:
        assert (target.crs, target.transform) == (source.crs, source.transform)
        assert target.shape == source.shape
        assert target.tags()["gsd"] == "2"


def test_overviews_are_what_is_read_of_a_finer_scene(tmp_path):
    scene = write(tmp_path / "scene.tif", draw(256, 256), **BLOCKS, **place(0.5))
    with rasterio.open(scene, "r+") as file:
        file.build_overviews([4], Resampling.average)
    with rasterio.open(scene, "r+", OVERVIEW_LEVEL=0) as file:
        file.write(np.full((3, *file.shape), 77, np.uint8))
    net = network(model=Noting(), gsd=2.0)
    mapped(net, scene, tmp_path / "map.tif", tile=400)
    assert (net.model.batches[0] == 77).all()


def test_a_grid_of_nearly_the_pixels_is_the_pixels(tmp_path):
    planes = draw(70, 90)
    scene = write(tmp_path / "scene.tif", planes, **place(1.008))
    done, found = mapped(network(gsd=1.0), scene, tmp_path / "map.tif")
    assert np.array_equal(found, seen(planes).argmax(0).numpy())
    assert done.remarks == []
    scene = write(tmp_path / "other.tif", planes, **place(1.02))
    done, _ = mapped(network(gsd=1.0), scene, tmp_path / "b.tif")
    assert "seen by the network at 1 m" in str(done)


@pytest.mark.parametrize(("card", "flag", "sees"), [(1.0, "native", 90), (None, 1.0, 45)])
def test_the_flag_comes_before_the_card(tmp_path, card, flag, sees):
    scene = write(tmp_path / "scene.tif", draw(70, 90), **place(0.5))
    net = network(model=Noting(), gsd=card)
    mapped(net, scene, tmp_path / "map.tif", tile=128, gsd=flag)
    assert net.model.batches[0].shape[3] == sees


def test_colours_of_a_palette_and_a_jpeg_have_their_means_too(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(8, 0).repeat(6, 1)
    values[::2] = values[::2, ::-1]
    table = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 90)], 1).astype(np.uint8)
    profile = dict(driver="GTiff", count=1, height=128, width=96, dtype="uint8")
    with rasterio.open(
        tmp_path / "palette.tif", "w", photometric="palette", **profile, **place(0.5)
    ) as file:
        file.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(table)})
        file.write(values, 1)
    with rasterio.open(
        tmp_path / "scene.jpg", "w", **profile | dict(driver="JPEG", count=3), **place(0.5)
    ) as file:  # its place is in the file beside it
        file.write(table[values].transpose(2, 0, 1))
    for name in ("palette.tif", "scene.jpg"):
        stored = table[values] if name == "palette.tif" else cv2.imread(str(tmp_path / name))
        stored = (stored if name == "palette.tif" else stored[:, :, ::-1]).transpose(2, 0, 1)
        net = network(model=Noting(), gsd=1.0)
        _, found = mapped(net, tmp_path / name, tmp_path / "map.tif", tile=128)
        assert np.abs(net.model.batches[0][0].numpy() - means(stored, 2, 2)).max() <= 0.51
        assert found.shape == (128, 96)


def test_a_real_scene_is_seen_as_gdal_warps_it(tmp_path):
    scenes = sorted((DATA / "naip").glob("*.tif"))
    if not scenes:
        pytest.skip(f"the real scenes are not at {DATA / 'naip'}")
    with rasterio.open(scenes[0]) as source:  # without the overviews that it has
        profile = dict(crs=source.crs, transform=source.transform, nodata=source.nodata)
        copy = write(tmp_path / "a.tif", source.read(), photometric="minisblack", **profile)
    with rasterio.open(copy) as source:
        assert source.res == (5, 5)
        sides = [round(side / 2.5) for side in source.shape]
        a, b = (own / side for own, side in zip(source.shape, sides, strict=True))
        profile["transform"] = rasterio.Affine(5 * b, 0, source.bounds.left, 0, -5 * a,
                                               source.bounds.top)  # fmt: skip
        grid = dict(transform=profile["transform"], height=sides[0], width=sides[1])
        with WarpedVRT(source, resampling=Resampling.average, **grid) as warped:
            coarse = write(tmp_path / "b.tif", warped.read(), photometric="minisblack", **profile)
    _, expected = mapped(network(4), coarse, tmp_path / "expected.tif")
    _, found = mapped(network(4, gsd=12.5), copy, tmp_path / "found.tif", tile=100)
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(found.shape, sides, strict=True)
    )
    assert (found == expected[rows][:, columns]).mean() > 0.995


# What lies where.


@pytest.mark.parametrize("size", [(64, 80), (300, 130)])
@pytest.mark.parametrize("metres", [0.25, 0.7, 2.0])
def test_probabilities_are_linear_between_the_pixels_of_the_network(tmp_path, size, metres):
    planes = draw(*size)
    scene = write(tmp_path / "scene.tif", planes, **place(metres))
    net, asked = network(model=Noting(), gsd=1.0), dict(probabilities=True)
    _, found = mapped(net, scene, tmp_path / "map.tif", asked, tile=700)
    coarse = probabilities(net.model, CPU, "fp32", net.model.batches[0])
    expected = F.interpolate(coarse, size, mode="bilinear", align_corners=False)[0]
    shares = read(tmp_path / "map_probabilities.tif").astype(int)
    assert np.abs(shares - 255 * expected.numpy()).max() <= 0.51
    nearest = F.interpolate(coarse.argmax(1)[None].float(), size, mode="nearest-exact")
    assert np.array_equal(found, nearest[0, 0].numpy())
    # Strips that begin anywhere give the same.
    for tile in (40, 97):
        _, again = mapped(network(gsd=1.0), scene, tmp_path / "b.tif", asked, tile=tile)
        assert (again == found).mean() > 0.999
        parts = read(tmp_path / "b_probabilities.tif").astype(int)
        assert np.abs(parts - shares).max() <= 6  # of inputs that differ by 1


@pytest.mark.parametrize("kind", ["value", "mask band", "alpha band", "not a number"])
@pytest.mark.parametrize("metres", [0.2, 1.7])
def test_what_holds_no_data_is_what_does_not_in_the_scene(tmp_path, kind, metres):
    """To the pixel: a corner, a few spots."""
    planes, valid = draw(150, 190), np.ones((150, 190), bool)
    valid[:80, :80] = valid[100:103, 90:92] = valid[149, 189] = False
    planes[:, ~valid] = 0 if kind == "value" else 77
    alpha = np.where(valid, 255, 0).astype(np.uint8)[None]
    scene, profile = tmp_path / "scene.tif", BLOCKS | place(metres)
    net = network(gsd=1.0)
    if kind == "value":
        write(scene, planes, nodata=0, **profile)
    elif kind == "mask band":
        write(scene, planes, mask=valid, **profile)
    elif kind == "alpha band":
        write(scene, np.concatenate([planes, alpha]), True, **profile)
    else:
        planes = np.where(valid, planes, np.nan).astype(np.float32)
        write(scene, planes, **profile)
        net = network(gsd=1.0, max_value=255.0, dtype="float32")
    asked = dict(probabilities=True, preview=True)
    done, found = mapped(net, scene, tmp_path / "map.tif", asked, tile=32, overlap=0)
    assert np.array_equal(found == 255, ~valid)
    assert sum(done.counts) == valid.sum()
    with rasterio.open(tmp_path / "map_probabilities.tif") as file:
        assert np.array_equal(file.dataset_mask() > 0, valid)


def test_a_pixel_that_no_window_covers_has_no_class(tmp_path):
    """A spot of data that the coarse pixels miss, alone in its window."""
    planes = draw(640, 640)
    planes[:, :320] = 0
    planes[:, 100, 100] = 200
    scene = write(tmp_path / "scene.tif", planes, nodata=0, **BLOCKS, **place(0.1))
    net = network(gsd=1.0)
    _, found = mapped(net, scene, tmp_path / "map.tif", tile=32, overlap=0)
    assert (found[:320] == 255).all()
    assert (found[320:] < 255).all()
    assert net.model.windows == 2


def test_polygons_and_preview_are_of_the_scene(tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    planes = checker(0.5)
    scene = write(tmp_path / "scene.tif", planes, **place(0.5))
    asked = dict(preview=True, vectors=str(tmp_path / "map.gpkg"))
    _, found = mapped(network(gsd=2.0), scene, tmp_path / "map.tif", asked, simplify=0)
    _, _, _, fields = pyogrio.raw.read(tmp_path / "map.gpkg")
    assert fields[2].sum() == 96 * 96  # square metres
    page = cv2.imread(str(tmp_path / "map_preview.png"))[:, :, ::-1]
    zoom = 400 // 192
    image, classes = page[: 192 * zoom, : 192 * zoom], page[: 192 * zoom, 192 * zoom + 8 :]
    expected = means(planes, 4, 4).transpose(1, 2, 0).repeat(4 * zoom, 0).repeat(4 * zoom, 1)
    assert np.abs(image - expected).max() <= 0.51
    shown = np.array(PALETTE, np.uint8)[found].repeat(zoom, 0).repeat(zoom, 1)
    assert np.array_equal(classes[:, : 192 * zoom], shown)


# What cannot be.


def test_without_georeference_a_scene_is_refused_until_one_does_as_is_said(tmp_path):
    planes = draw(64, 80)
    scene = write(tmp_path / "scene.tif", planes)
    for net, gsd in ((network(gsd=1.0), None), (network(gsd=1.0, prepared=True), 1.0)):
        with pytest.raises(UserError, match=r"scene\.tif: has no georeference.*--gsd native") as no:
            mapped(net, scene, tmp_path / "map.tif", gsd=gsd)
    _, found = mapped(network(gsd=1.0), scene, tmp_path / "map.tif", gsd="native")
    assert np.array_equal(found, seen(planes).argmax(0).numpy())
    line = shlex.split(str(no.value).rpartition("as in: ")[2])
    subprocess.run([str(RIO), *line[1:]], check=True)
    done, _ = mapped(network(gsd=1.0), scene, tmp_path / "map.tif")
    assert "pixels of 0.3 x 0.3 m, seen by the network at 1 m" in done.remarks


def test_a_scene_of_unknown_size_is_a_tile_to_a_network_of_prepared_tiles(tmp_path):
    planes = draw(64, 80)
    cv2.imwrite(str(tmp_path / "tile.png"), planes.transpose(1, 2, 0)[:, :, ::-1])
    net = network(gsd=0.5, prepared=True)
    done, found = mapped(net, tmp_path / "tile.png", tmp_path / "map.tif")
    assert np.array_equal(found, seen(planes).argmax(0).numpy())
    assert "the size of its pixels is not known, and taken for training's 0.5 m" in done.remarks


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("world", ["scene.pgw", "scene.wld"])
def test_a_world_file_and_a_crs_beside_a_png_tell_the_size_of_its_pixels(tmp_path, world, prepared):
    scene = tmp_path / "scene.png"
    cv2.imwrite(str(scene), draw(64, 80).transpose(1, 2, 0))
    (tmp_path / world).write_text("0.5\n0\n0\n-0.5\n366000.25\n5807999.75\n")
    crs = rasterio.crs.CRS.from_epsg(32633).to_wkt().replace('"', "&quot;")
    text = f'<PAMDataset><SRS dataAxisToSRSAxisMapping="1,2">{crs}</SRS></PAMDataset>'
    Path(f"{scene}.aux.xml").write_text(text)
    net = network(model=Noting(), gsd=1.0, prepared=prepared)
    done, _ = mapped(net, scene, tmp_path / "map.tif", tile=128)
    assert done.remarks == ["pixels of 0.5 x 0.5 m, seen by the network at 1 m"]
    assert net.model.batches[0].shape[2:] == (32, 40)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32633, place(0.5)["transform"])
    assert ground_size(str(scene), (64, 80)) == pytest.approx((0.5, 0.5), rel=1e-3)  # of training


def test_a_grid_that_cannot_be_is_refused(tmp_path):
    scene = write(tmp_path / "scene.tif", draw(64, 80), **place(1000.0))
    for gsd, message in ((1e-9, "more than can be mapped; pass another --gsd"),
                         (1e-320, "more than can be mapped"),
                         (0.07, r"pixels of 0\.07 m; strips .*lower --tile")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            mapped(network(), scene, tmp_path / "map.tif", gsd=gsd, tile=2**16)
    for gsd in (0.0, -1.0, float("nan"), float("inf"), "natural"):
        with pytest.raises(UserError, match="must be a number of metres above 0, or native"):
            mapped(network(), scene, tmp_path / "map.tif", gsd=gsd)
    _, found = mapped(network(), scene, tmp_path / "map.tif", gsd=1e9)  # one pixel is enough
    assert len(np.unique(found)) == 1


@pytest.mark.parametrize("tile", [32, 300])
def test_a_damaged_block_is_named_in_the_scenes_own_pixels(tmp_path, tile):
    scene, _ = damaged(tmp_path / "scene.tif")
    with pytest.raises(UserError, match="the block at columns 64 to 127, rows 128 to 191 cannot"):
        mapped(network(gsd=1.0), scene, tmp_path / "map.tif", tile=tile)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_memory_does_not_grow_with_the_height(tmp_path):
    """As where the network sees the scene's own pixels; some hold no data, so it is read twice."""
    heights, width, scenes = (1024, 12288), 1000, []
    strip = draw(256, width)
    strip[:, :, :100] = 0
    profile = dict(count=3, dtype="uint8", width=width, driver="GTiff", nodata=0, tiled=True)
    profile |= dict(blockxsize=256, blockysize=256, compress="deflate", zlevel=1) | place(0.5)
    for height in heights:
        scenes.append(tmp_path / f"{height}.tif")
        with rasterio.open(scenes[-1], "w", height=height, **profile) as file:
            for y in range(0, height, 256):
                file.write(strip, window=Window(0, y, width, 256))
    program = MEASURED.replace("network()", "network(gsd=2.0)")
    line = [sys.executable, "-c", program, str(ROOT / "tests"), *map(str, scenes)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    low, tall = map(int, done.stdout.split())
    assert tall - low < (heights[1] - heights[0]) * width
    found = read(Path(f"{scenes[1]}_map.tif"))
    assert np.array_equal((found == 255).all(0), np.arange(width) < 100)
    assert (found[:, 100:] < 255).all()
