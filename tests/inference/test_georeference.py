"""A map keeps the place of its scene, whatever a GeoTIFF's header can hold of it."""

import warnings
from pathlib import Path

import pyogrio
import pytest
import rasterio
from mapped import draw, network, write
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from SSLRemoteSensing.inference.mapper import MapSettings, map_scene
from SSLRemoteSensing.inference.outputs import plan_outputs

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SOUTH_POLE = "+proj=ob_tran +o_proj=longlat +o_lat_p=-30 +o_lon_p=0 +lon_0=10 +R=6370997"
SITE = (
    'ENGCRS["site",EDATUM["mark"],CS[Cartesian,2],AXIS["e",east],AXIS["n",north],UNIT["metre",1]]'
)
GRID = rasterio.Affine(20, 0, 4e5, 0, -20, 5e6)
DEGREES = rasterio.Affine(0.01, 0, 7, 0, -0.01, 46)
SHEARED = rasterio.Affine(2, 0.5, 4e5, 0.25, -2, 5e6)
POINTS = [
    GroundControlPoint(r, c, 7 + c / 50, 46 - r / 40, 3) for r, c in ((0, 0), (0, 49), (39, 0))
]


def mapped(scene: Path, folder: Path, name: str = "map.tif"):
    """Map `scene`, polygons and probabilities too; the files, and what is said."""
    outputs = plan_outputs([scene], str(folder / name), True, False, str(folder / "map.gpkg"))[0]
    net = network()
    return outputs, map_scene(net, outputs, MapSettings(tile=32).for_network(net)).remarks


def place(path: Path) -> tuple:
    with rasterio.open(path) as file:
        points, crs = file.gcps
        points = [(p.row, p.col, p.x, p.y, p.z) for p in points]
        kind = file.tags().get("AREA_OR_POINT", "Area")
        return file.crs, file.transform, points, crs, file.rpcs, kind


@pytest.mark.parametrize(
    ("crs", "transform", "has_side_car"),
    [
        (SOUTH_POLE, DEGREES, True),
        ("+proj=eqearth +lon_0=90 +R=6371000", GRID, True),
        ("+proj=natearth2 +datum=WGS84", SHEARED, None),
        (SITE, GRID, None),
        ("+proj=longlat +a=6378249.2 +b=6356515 +pm=paris", DEGREES, None),
        ("EPSG:31467+5783", GRID, False),
        ("EPSG:2056", SHEARED, False),
        ("EPSG:32633", None, False),
    ],
)
def test_any_coordinate_system_is_that_of_map_probabilities_and_polygons(
    tmp_path, crs, transform, has_side_car
):
    crs = CRS.from_user_input(crs)
    keys = {} if transform is None else {"transform": transform}
    scene = write(tmp_path / "scene.tif", draw(40, 50), crs=crs, **keys)
    outputs, remarks = mapped(scene, tmp_path / "maps")
    assert [text for text in remarks if "polygons" not in text] == []
    assert place(outputs.map) == place(outputs.probabilities) == place(scene)
    side_cars = list((tmp_path / "maps").rglob("*.aux.xml"))
    assert has_side_car is None or len(side_cars) == 2 * has_side_car
    assert not list((tmp_path / "maps").glob(".*"))
    polygons = pyogrio.read_info(outputs.vectors)["crs"]
    if transform is None:
        assert polygons is None
    elif not str(crs.to_wkt()).startswith("LOCAL"):
        assert CRS.from_user_input(polygons) == place(scene)[0]


@pytest.mark.parametrize("crs", ["EPSG:4326", SOUTH_POLE, None])
def test_points_on_the_ground_stay_with_their_coordinate_system(tmp_path, crs):
    scene = write(tmp_path / "scene.tif", draw(40, 50))
    wkt = CRS.from_user_input(crs).to_wkt(version="WKT2_2019").replace('"', "&quot;") if crs else ""
    points = "".join(
        f'<GCP Id="{p.row}" Pixel="{p.col}" Line="{p.row}" X="{p.x}" Y="{p.y}" Z="{p.z}"/>'
        for p in POINTS
    )
    text = f'<PAMDataset><GCPList Projection="{wkt}">{points}</GCPList></PAMDataset>'
    Path(f"{scene}.aux.xml").write_text(text)
    assert len(place(scene)[2]) == 3
    outputs, _ = mapped(scene, tmp_path / "maps")
    assert place(outputs.map) == place(scene)


def test_a_pixel_that_is_a_point_stays_one(tmp_path):
    scene = write(tmp_path / "scene.tif", draw(40, 50), crs="EPSG:32633", transform=GRID)
    with rasterio.open(scene, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    outputs, _ = mapped(scene, tmp_path / "maps")
    assert place(outputs.map) == place(scene)
    assert place(scene)[-1] == "Point"


def test_nothing_of_an_earlier_map_stays_beside_a_new_one(tmp_path):
    """Its coordinate system would be taken for that of the new one, its overviews be shown."""
    strange = write(
        tmp_path / "a.tif", draw(40, 50), crs=CRS.from_user_input(SOUTH_POLE), transform=DEGREES
    )
    outputs, _ = mapped(strange, tmp_path / "maps")
    assert Path(f"{outputs.map}.aux.xml").exists()
    Path(f"{outputs.map}.ovr").write_bytes(b"old")
    usual = write(tmp_path / "b.tif", draw(40, 50), crs="EPSG:32633", transform=GRID)
    again, _ = mapped(usual, tmp_path / "maps")
    assert place(again.map) == place(usual)
    names = {file.name for file in (tmp_path / "maps").iterdir()}
    assert names == {"map.tif", "map_probabilities.tif", "map.gpkg"}


def test_what_cannot_be_kept_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "SSLRemoteSensing.inference.georeference.side_car", lambda path: tmp_path / "x"
    )
    crs = CRS.from_user_input(SOUTH_POLE)
    scene = write(tmp_path / "scene.tif", draw(40, 50), crs=crs, transform=DEGREES)
    _, remarks = mapped(scene, tmp_path / "maps")
    assert "lost, as a GeoTIFF cannot keep it: coordinate system" in remarks


def test_a_png_says_that_it_has_no_place(tmp_path):
    scene = write(
        tmp_path / "scene.tif", draw(40, 50), crs=CRS.from_user_input(SOUTH_POLE), transform=DEGREES
    )
    _, remarks = mapped(scene, tmp_path / "maps", "map.png")
    assert "a PNG has no coordinates; name a .tif to keep them" in remarks
    assert not (tmp_path / "maps/map.png.aux.xml").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        nowhere = write(tmp_path / "nowhere.tif", draw(40, 50))
    _, remarks = mapped(nowhere, tmp_path / "maps", "other.png")
    assert not any("a PNG" in text for text in remarks)
