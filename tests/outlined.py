"""Areas in pixels of a scene, on the map and in files of polygons; `prepare polygons` of them."""

import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pyogrio
import shapely
from drawn import PLACE, assemble, draw_image, prepare, write_tiff
from rasterio.warp import transform as moved

from SSLRemoteSensing.commands import prepare as command

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile", ".fgb": "FlatGeobuf"}
SIZE = (150, 110)  # of a scene: five strips of tiles of 32
UTM, WGS84 = "EPSG:32633", "EPSG:4326"
METRE = PLACE["transform"]  # of pixels of 5 cm


def to_map(x, y, transform=METRE) -> np.ndarray:
    """Points (N, 2) on the map of columns and rows."""
    a, b, c, d, e, f = transform[:6]
    return np.stack([a * x + b * y + c, d * x + e * y + f], -1)


def on_map(areas, crs: str = UTM, transform=METRE) -> np.ndarray:
    """Areas in columns and rows of a scene, in UTM, moved to `crs`."""

    def move(points):
        x, y = to_map(*points.T, transform).T
        return np.stack(moved(UTM, crs, x, y), -1) if crs != UTM else np.stack([x, y], -1)

    return shapely.transform(np.array(areas, object), move)


def store(path: Path, areas, crs: str | None = UTM, layer: str = "roofs", **fields) -> Path:
    """Write geometries and the columns `fields`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {shapely.get_type_id(area) for area in areas if area is not None}
    columns = list(map(np.asarray, fields.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no CRS
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array(areas, object)), columns, list(fields),
            layer=layer, driver=DRIVERS[path.suffix], crs=crs, append=path.exists(),
            geometry_type="Polygon" if types == {3} else "Unknown",
            **({"COORDINATE_PRECISION": 10} if path.suffix == ".geojson" else {}),
        )  # fmt: skip
    return path


def blobs(count: int, size=SIZE, seed: int = 0, radii=(3, 25)) -> list:
    """Turned boxes, discs and rings, some of them partly outside of (height, width)."""
    rng, areas = np.random.default_rng(seed), []
    for number in range(count):
        x, y = rng.uniform((-8, -8), (size[1] + 8, size[0] + 8))
        radius = rng.uniform(*radii)
        disc = shapely.Point(x, y).buffer(radius, quad_segs=5)
        box = shapely.affinity.rotate(shapely.box(x - radius, y - 3, x + 4, y + radius), radius * 7)
        ring = disc.difference(shapely.Point(x, y).buffer(radius / 2))
        areas.append((disc, box, ring)[number % 3])
    return areas


def centres(size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    """x and y (H, W) of the pixels' centres, in columns and rows."""
    return np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)


def covered(areas, values, fill: int = 0, size=SIZE) -> np.ndarray:
    """Classes (H, W) of the areas, in columns and rows, that have the pixels' centres; the last."""
    x, y = centres(size)
    classes = np.full(size, fill, np.uint8)
    for area, value in zip(areas, values, strict=True):
        classes[shapely.contains_xy(area, x, y)] = value
    return classes


def assert_covered(labels: np.ndarray, areas, values, fill: int = 0) -> None:
    """`labels` (H, W) are `covered` but where a pixel's centre is 0.01 pixels from an outline."""
    is_other = labels != covered(areas, values, fill, labels.shape)
    x, y = centres(labels.shape)
    lines = shapely.union_all(shapely.boundary(np.array(areas, object)))
    assert (shapely.distance(lines, shapely.points(x[is_other], y[is_other])) < 0.01).all()


def scene(folder: Path, name: str = "a", size=SIZE, **profile) -> Path:
    return write_tiff(folder / "source" / f"{name}.tif", draw_image(3, size), **profile)


def outlined(folder: Path, labels: object, *flags, source=None, output="out", status=0, **options):
    """`prepare polygons` of `folder`/source into `folder`/out; what it said."""
    sources = [folder / "source"] if source is None else source
    where = ["--source", *sources, "--labels", labels, "--output", folder / output]
    splits = [] if "--splits" in flags else ["--splits", "val=0"]
    with mock.patch.object(command, "draw_picture", return_value=None):  # which takes a second
        return prepare("polygons", *where, *splits, *flags, status=status, **options)


def labels_of(folder: Path, name: str = "a", split: str = "train", output="out") -> np.ndarray:
    return assemble(folder / output / "labels" / split, name)
