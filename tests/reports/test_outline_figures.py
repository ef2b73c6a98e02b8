"""The picture of tiles with the outlines that their labels were burnt from."""

import cv2
import numpy as np
import pytest
import rasterio

pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

from drawn import card_of, prepare  # noqa: E402
from outlined import METRE, on_map, scene, store  # noqa: E402

from SSLRemoteSensing.preparation import outlined_tiles  # noqa: E402
from SSLRemoteSensing.preparation.outlined_tiles import OutlinedTile, spread  # noqa: E402
from SSLRemoteSensing.reports.outline_figures import draw_rings  # noqa: E402

PALETTE = [(225, 225, 225), (200, 60, 50)]


@pytest.mark.parametrize("scale", [8, -2])
def test_lines_lie_on_the_sides_of_pixels(scale):
    """Of a box of columns 10 to 22 and rows 9 to 21, at 8 pixels a pixel or half a pixel."""
    tile = OutlinedTile("a", None, np.zeros((32, 32), np.uint8), [])
    box = np.array([(10, 9), (22, 9), (22, 21), (10, 21), (10, 9)], float)
    side = 32 * 8 if scale == 8 else 16
    page = np.full((side, side, 3), 128, np.uint8)
    drawn = draw_rings(page, tile._replace(rings=[(1, box)]), scale, PALETTE)
    is_line = (drawn != 128).any(2)
    rows, columns = (np.flatnonzero(is_line.any(axis)) for axis in (1, 0))
    factor = side / 32
    # Half of the line lies on each side: four pixels, and what antialiasing adds.
    for places, low, high in ((rows, 9, 21), (columns, 10, 22)):
        assert places.min() + places.max() + 1 == pytest.approx((low + high) * factor, abs=1.01)
        assert places.max() - places.min() + 1 == pytest.approx((high - low) * factor + 6, abs=2.01)
    if scale == 8:
        colours = drawn[13 * 8 + 4, 10 * 8 - 4 : 10 * 8 + 4].astype(int)
        assert np.abs(colours[[3, 4]] - PALETTE[1]).max() < 60
        assert not is_line[11 * 8 : 19 * 8, 12 * 8 : 20 * 8].any()


def test_the_picture_shows_six_tiles_with_borders_of_scenes_that_have_polygons(tmp_path):
    for name in ("a", "b"):
        scene(tmp_path, name)
    areas = [shapely.box(2, 2, 100, 140), shapely.box(10, 10, 90, 20)]
    file = store(tmp_path / "x.gpkg", on_map(areas), kind=["field", "roof"])
    where = ["--source", tmp_path / "source", "--labels", file, "--output", tmp_path / "out"]
    done = prepare("polygons", *where, "--class_field", "kind", "--splits", "val=b", status=0)
    assert f"picture: {tmp_path / 'out/polygons.png'}\n" in done.stdout
    page = cv2.imread(str(tmp_path / "out/polygons.png"))
    assert page.shape[0] > 6 * 512
    assert page.shape[1] > 3 * 512


def test_no_polygon_in_a_tile_makes_no_picture(tmp_path):
    for name in ("a", "b"):
        scene(tmp_path, name)
    file = store(tmp_path / "x.gpkg", on_map([shapely.box(2, 2, 50, 50)]))
    where = ["--source", tmp_path / "source", "--labels", file, "--output", tmp_path / "out"]
    right = METRE @ rasterio.Affine.translation(200, 0)
    scene(tmp_path, "b", transform=right)
    prepare("polygons", *where, "--splits", "train=b", status=0)
    assert card_of(tmp_path / "out")["scenes"] == {"train": ["b"]}
    assert not (tmp_path / "out/polygons.png").exists()


def test_outlines_lie_on_the_labels_of_blocks_of_rows(tmp_path, monkeypatch):
    """Of a scene that is cut into train, val and test, whose tiles count rows from there."""
    tiles, real = [], outlined_tiles.outlined_tiles

    def keep(*arguments):
        tiles.extend(real(*arguments))
        return tiles

    monkeypatch.setattr(outlined_tiles, "outlined_tiles", keep)
    size, areas = (384, 128), [shapely.box(10, y, 50, y + 40) for y in (20, 210, 270, 330)]
    scene(tmp_path, "s", size)
    file = store(tmp_path / "x.geojson", on_map(areas, "EPSG:4326"), "EPSG:4326")
    where = ["--source", tmp_path / "source", "--labels", file, "--output", tmp_path / "out"]
    prepare("polygons", *where, "--splits", "blocks", tile=64, status=0)
    assert (tmp_path / "out/polygons.png").exists()
    found = {tile.name.rsplit("_", 2)[0] for tile in tiles}
    assert found == {"s_train", "s_val", "s_test"}
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    for tile in tiles:
        drawn = [shapely.contains_xy(shapely.Polygon(ring), x, y) for _, ring in tile.rings]
        assert np.array_equal(np.any(drawn, 0), tile.label == 1)


def test_tiles_are_spread_evenly():
    assert spread(6, 6) == [0, 1, 2, 3, 4, 5]
    assert spread(100, 4) == [12, 37, 62, 87]
    assert spread(2, 6) == [0, 1]
    assert spread(0, 6) == []
