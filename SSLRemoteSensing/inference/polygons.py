"""Polygons of a map, with shared borders, in a GeoPackage."""

import io
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.data.places import SAME_SIZE, Place, sides_on_ground
from SSLRemoteSensing.inference.writer import quiet, writing


def write_polygons(
    map_file: Path,
    target: Path,
    layer: str,
    classes: Sequence[str],
    min_area: float = 0.0,
    simplify: float | None = None,
    keep: Sequence[str] | None = None,
) -> int:
    """Write the regions of the map at `map_file` to `target`, a GeoPackage; how many there are.

    Regions hang together by pixels that share a side. Those below `min_area` go to a neighbour
    before, see `without_small`, so that no hole is left. Then outlines are simplified all at once,
    so that neighbours keep one border.

    Takes memory for the whole map (a byte a pixel, two where some have no data, about fifteen more
    for `min_area`) and about 16 bytes for each pixel side that is a border, several times over.

    Args:
        min_area: in square metres; in pixels where the scene has no coordinate system.
        simplify: how far, about, an outline may move, in metres or pixels; None: one pixel; 0:
            outlines follow the pixels' sides.
        keep: the classes to write; None: all.

    Raises:
        CannotWrite: the disk is full, say.
    """
    import pyogrio
    import rasterio
    import shapely
    from rasterio.features import shapes

    with quiet(), rasterio.open(map_file) as source:
        crs, transform, unit = source.crs, source.transform, area_of_pixel(source)
        if transform.is_identity:  # no place: pixels, the first row on top
            crs, transform = None, rasterio.Affine(1, 0, 0, 0, -1, 0)
        values = source.read(1)
    valid = values != IGNORE
    mask = None if valid.all() else valid
    pixels = math.ceil(min(min_area / unit, values.size + 1))
    if pixels > 1 and valid.any():
        values = without_small(values, valid, pixels)
    features = list(shapes(values, mask=mask, connectivity=4))  # corners in pixels, whole numbers
    numbers = np.array([value for _, value in features], np.int64)
    regions = shapely.from_geojson([json.dumps(shape) for shape, _ in features])
    areas = shapely.area(regions) * unit
    tolerance = 1.0 if simplify is None else simplify / unit**0.5
    if tolerance > 0 and len(regions):
        # A corner where three regions meet is a point of all three outlines only if all sides are
        # cut to pixels; then they are the same lines, and are simplified alike.
        sides = shapely.segmentize(regions, 1.0)
        regions = shapely.coverage_simplify(shapely.transform(sides, np.rint), tolerance)
    names = classes if keep is None else keep
    selection = np.isin(numbers, [list(classes).index(name) for name in names])
    matrix = np.reshape(transform[:6], (2, 3))
    outlines = shapely.transform(
        regions[selection], lambda xy: (matrix[:, :2] * xy[:, None]).sum(2) + matrix[:, 2]
    )
    fields = {
        "class": numbers[selection],
        "name": np.array([classes[n] for n in numbers[selection]], object),
        "area": areas[selection],
    }
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no coordinate system
        pyogrio.raw.write(
            file, shapely.to_wkb(outlines), list(fields.values()), list(fields), layer=layer,
            driver="GPKG", geometry_type="Polygon", crs=None if crs is None else crs.to_wkt(),
        )  # fmt: skip
    with writing(target):
        target.write_bytes(file.getbuffer())
    return len(outlines)


def without_small(values: np.ndarray, valid: np.ndarray, pixels: int) -> np.ndarray:
    """A map of classes, uint8 (H, W), whose regions of fewer than `pixels` pixels have the class of
    their largest neighbour. Where all that hang together are as small, they have the class that
    most of their pixels have: such a region stays only alone in what is not `valid`.
    """
    from rasterio.features import sieve

    mask = None if valid.all() else valid
    # GDAL gives a region to no neighbour that is itself too small, as all are in speckle: they grow
    # step by step.
    size, largest = 2, min(pixels, values.size - 1)
    while size <= largest:
        sieved = sieve(values, size, mask=mask, connectivity=4)
        if size == largest and np.array_equal(sieved, values):
            break
        values, size = sieved, min(2 * size, largest)
    count, islands = cv2.connectedComponents(valid.astype(np.uint8), connectivity=4)
    classes, is_small = np.unique(values[valid]), np.ones(count, bool)
    counts = np.zeros((len(classes), count), np.int64)
    for row, number in zip(counts, classes, strict=True):
        own = (values == number) & valid
        row += np.bincount(islands[own], minlength=count)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(
            own.astype(np.uint8), connectivity=4
        )
        is_large = stats[:, cv2.CC_STAT_AREA] >= pixels
        is_small[islands[is_large[regions] & own]] = False
    small = is_small[islands] & valid
    return np.where(small, classes[counts.argmax(0)][islands], values)


def area_of_pixel(source) -> float:
    """Area of a pixel in square metres on the ground, measured in the middle of an open file; 1
    where it has no place, or where its CRS tells no metres.

    A map is taken at its word where its metres are those of the ground to within 1 %, as in UTM:
    areas are then those of its coordinates to the last digit.
    """
    if source.crs is None or source.transform.is_identity:
        return 1.0
    metres = source.crs.linear_units_factor[1] if source.crs.is_projected else 1.0
    stated = abs(source.transform.determinant) * metres**2
    sides = sides_on_ground(Place(source.transform, source.crs), source.shape)
    if sides is None:
        return 1.0 if source.crs.is_geographic else stated
    on_ground = float(abs(np.linalg.det(sides)))
    return stated if 1 / SAME_SIZE <= (on_ground / stated) ** 0.5 <= SAME_SIZE else on_ground
