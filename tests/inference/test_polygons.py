"""Polygons of maps: they cover what the map shows, share their borders, and open again."""

import numpy as np
import pytest
import rasterio
from mapped import CLASSES, PLACE, draw, mapped, network, read, write
from rasterio import warp
from rasterio.features import rasterize, shapes

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

from SSLRemoteSensing.core.errors import UserError  # noqa: E402
from SSLRemoteSensing.data.vectors import require_vectors  # noqa: E402
from SSLRemoteSensing.inference.polygons import without_small, write_polygons  # noqa: E402


def opened(path) -> tuple[dict, np.ndarray, dict]:
    """What is known of the layer, its polygons, and its fields."""
    meta, _, shapes, fields = pyogrio.raw.read(path)
    return meta, shapely.from_wkb(shapes), dict(zip(meta["fields"], fields, strict=True))


def drawn_again(regions, fields, like) -> np.ndarray:
    shapes = zip(regions, fields["class"].tolist(), strict=True)
    return rasterize(shapes, like.shape, 255, transform=PLACE["transform"], dtype="uint8")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A map with a hole without data, made of a scene by windows."""
    folder = tmp_path_factory.mktemp("vectors")
    planes = draw(120, 150)
    planes[:, 30:50, 60:90] = 0
    write(folder / "scene.tif", planes, nodata=0, **PLACE)
    asked = dict(vectors=str(folder / "map.gpkg"))
    done, found = mapped(network(), folder / "scene.tif", folder / "map.tif", asked)
    return folder, done, found


def test_polygons_come_with_the_map_and_open_again(scene):
    folder, done, _ = scene
    meta, regions, fields = opened(folder / "map.gpkg")
    assert pyogrio.list_layers(folder / "map.gpkg").tolist() == [["scene", "Polygon"]]
    assert meta["crs"] == "EPSG:32633"
    assert list(fields) == ["class", "name", "area"]
    assert f"{len(regions)} polygons" in str(done)
    assert [CLASSES[number] for number in fields["class"]] == fields["name"].tolist()
    assert fields["area"].sum() == pytest.approx((120 * 150 - 20 * 30) * 0.25)


def test_polygons_along_the_pixels_are_the_map(scene, tmp_path):
    folder, _, found = scene
    write_polygons(folder / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, simplify=0)
    _, regions, fields = opened(tmp_path / "a.gpkg")
    assert np.array_equal(drawn_again(regions, fields, found), found)
    assert shapely.area(regions) == pytest.approx(fields["area"])


def test_simplified_polygons_share_their_borders_and_stay_near(scene):
    folder, _, found = scene
    _, regions, fields = opened(folder / "map.gpkg")
    assert shapely.is_valid(regions).all()
    assert shapely.coverage_is_valid(regions)
    again = drawn_again(regions, fields, found)
    assert (again != found).mean() < 0.03
    all_in_one = shapely.union_all(regions)
    assert all_in_one.area == pytest.approx(shapely.area(regions).sum())  # nothing twice


def test_simplifying_takes_points_out(scene, tmp_path):
    folder, _, _ = scene
    counts = []
    for simplify in (0, 0.5, 2):
        write_polygons(folder / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, simplify=simplify)
        counts.append(shapely.get_num_coordinates(opened(tmp_path / "a.gpkg")[1]).sum())
    assert counts[0] > 1.5 * counts[1] > 1.5 * counts[2]


def test_small_regions_go_to_their_neighbour_and_leave_no_hole(scene, tmp_path):
    folder, _, found = scene
    write_polygons(folder / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, min_area=5)
    _, _, fields = opened(tmp_path / "a.gpkg")
    _, _, every = opened(folder / "map.gpkg")
    assert min(every["area"]) == 0.25  # a pixel
    assert min(fields["area"]) >= 5
    assert fields["area"].sum() == pytest.approx((found != 255).sum() * 0.25)


def regions_of(values, valid) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Each pixel's region from 1, sizes of the regions by number, and those with a neighbour."""
    found = [shape for shape, _ in shapes(values, mask=valid, connectivity=4)]
    numbers = rasterize(zip(found, range(1, len(found) + 1), strict=True), values.shape)
    pairs = [(numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])]
    pairs = np.concatenate([np.stack([a, b], -1).reshape(-1, 2) for a, b in pairs])
    beside = pairs[(pairs[:, 0] != pairs[:, 1]) & pairs.all(1)]
    return numbers, np.bincount(numbers.ravel()), set(beside.ravel().tolist())


WHOLE = np.ones((36, 44), bool)
ISLANDS = np.kron(np.random.default_rng(2).integers(0, 2, (9, 11)), np.ones((4, 4))) > 0


@pytest.mark.parametrize("valid", [WHOLE, ISLANDS], ids=["whole", "islands"])
@pytest.mark.parametrize("pixels", [2, 7, 60, WHOLE.size - 1, WHOLE.size, 9999])
@pytest.mark.parametrize("kind", ["speckle", "checkers"])
def test_no_region_below_the_limit_has_a_neighbour(valid, pixels, kind):
    """And what was large enough stays as it was."""
    values = np.random.default_rng(0).integers(0, 3, WHOLE.shape).astype(np.uint8)
    if kind == "checkers":
        values = (np.indices(WHOLE.shape).sum(0) % 2).astype(np.uint8)
    values[:14, :14] = 1
    values[~valid] = 255
    found = without_small(values, valid, pixels)
    assert found.dtype == np.uint8
    assert (found[~valid] == 255).all()
    numbers, sizes, beside = regions_of(found, valid)
    assert beside.isdisjoint(np.flatnonzero(sizes < pixels).tolist())
    numbers, sizes, _ = regions_of(values, valid)
    kept = valid & (sizes >= pixels)[numbers]
    assert np.array_equal(found[kept], values[kept])


@pytest.mark.parametrize("shape", [(8, 9), (1, 3), (1, 1)])
@pytest.mark.parametrize("min_area", [1e3, 1e300])
def test_a_scene_below_the_limit_is_one_polygon(tmp_path, shape, min_area):
    values = np.where(np.arange(shape[1]) < shape[1] / 2, 2, 0).astype(np.uint8)
    write(tmp_path / "map.tif", np.broadcast_to(values, (1, *shape)), nodata=255, **PLACE)
    assert write_polygons(tmp_path / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, min_area) == 1
    _, _, fields = opened(tmp_path / "a.gpkg")
    assert fields["name"].tolist() == ["tree"]


def test_only_some_classes(scene, tmp_path):
    folder, _, found = scene
    number = write_polygons(
        folder / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, keep=["roof", "water"]
    )
    _, regions, fields = opened(tmp_path / "a.gpkg")
    assert number == len(regions)
    assert set(fields["name"]) == {"roof", "water"} & {CLASSES[n] for n in np.unique(found)[:-1]}


def test_areas_are_square_metres_in_degrees_and_pixels_without_coordinates(tmp_path):
    values = np.zeros((20, 20), np.uint8)
    degrees = rasterio.Affine(1e-4, 0, 12, 0, -1e-4, 60)
    for place, area in ((dict(crs="EPSG:4326", transform=degrees), 61.9), ({}, 1.0)):
        write(tmp_path / "map.tif", values[None], nodata=255, **place)
        write_polygons(tmp_path / "map.tif", tmp_path / "a.gpkg", "a", CLASSES)
        _, regions, fields = opened(tmp_path / "a.gpkg")
        assert fields["area"].tolist() == pytest.approx([400 * area], rel=0.01)
    assert regions[0].bounds == (0, -20, 20, 0)


MERCATOR = rasterio.Affine(0.5, 0, 1_336_000, 0, -0.5, 8_399_738)  # 60 degrees north
TURNED = rasterio.Affine(6e-6, -3e-6, 12, -3e-6, -4e-6, 60)  # and its pixels are no rectangles
FEET = rasterio.Affine(2, 0, 1e6, 0, -2, 2e5)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:3857", MERCATOR), ("EPSG:4326", TURNED), ("EPSG:2263", FEET)],
    ids=["Web Mercator", "degrees", "feet"],
)
def test_areas_are_those_on_the_ground(tmp_path, crs, transform):
    values = np.zeros((64, 80), np.uint8)
    values[10:16, 20:26] = 1  # 36 pixels
    write(tmp_path / "map.tif", values[None], nodata=255, crs=crs, transform=transform)
    corners = np.array([(0, 80, 80, 0, 40), (0, 0, 64, 64, 32), (1, 1, 1, 1, 1)])
    *corners, (x, y) = (np.reshape(transform, (3, 3)) @ corners)[:2].T
    (longitude,), (latitude,) = warp.transform(crs, "EPSG:4326", [x], [y])
    equal_area = f"+proj=laea +lat_0={latitude} +lon_0={longitude} +ellps=WGS84"
    xs, ys = warp.transform(crs, equal_area, *np.transpose(corners))
    pixel = shapely.Polygon(zip(xs, ys, strict=True)).area / (64 * 80)
    write_polygons(tmp_path / "map.tif", tmp_path / "a.gpkg", "a", CLASSES)
    _, _, fields = opened(tmp_path / "a.gpkg")
    assert sorted(fields["area"]) == pytest.approx([36 * pixel, 5084 * pixel], rel=5e-4)
    for pixels, kept in ((35.5, 2), (36.5, 1)):
        least = pixels * pixel
        number = write_polygons(tmp_path / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, least)
        assert number == kept


def test_outlines_move_by_metres_of_the_ground(tmp_path):
    """Half a metre of Web Mercator is a quarter on the ground, at 60 degrees north."""
    values = (np.random.default_rng(0).normal(size=(64, 64)).cumsum(0).cumsum(1) > 0)[None]
    mercator, counts = dict(crs="EPSG:3857", transform=MERCATOR), []
    for place, simplify in ((mercator, 0.75), ({}, 3.0), ({}, 1.5)):
        write(tmp_path / "map.tif", values.astype(np.uint8), nodata=255, **place)
        write_polygons(tmp_path / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, simplify=simplify)
        counts.append(shapely.get_num_coordinates(opened(tmp_path / "a.gpkg")[1]).sum())
    assert abs(counts[0] - counts[1]) < 0.1 * (counts[2] - counts[1])


def test_an_empty_map_gives_an_empty_layer(tmp_path):
    values = np.full((1, 20, 20), 255, np.uint8)
    write(tmp_path / "map.tif", values, nodata=255, **PLACE)
    assert write_polygons(tmp_path / "map.tif", tmp_path / "a.gpkg", "a", CLASSES, 5.0) == 0
    assert pyogrio.read_info(tmp_path / "a.gpkg")["features"] == 0
    assert (read(tmp_path / "map.tif") == 255).all()


@pytest.mark.parametrize("library", ["pyogrio", "shapely"])
def test_a_missing_library_is_named_in_one_line(library, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}; pip install .*vectors") as error:
        require_vectors()
    assert "\n" not in str(error.value)
