"""Polygons of a map, with shared borders, in a GeoPackage."""

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.inference.writer import quiet, writing

METRES = 111_320.0  # a degree of latitude


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

    Regions hang together by pixels that share a side. Those below `min_area` go to their largest
    neighbour before (GDAL's sieve), so that no hole is left; one that lies alone in what has no
    data stays. Then outlines are simplified all at once, so that neighbours keep one border.

    Takes memory for the whole map (a byte a pixel, two where some have no data) and about 16 bytes
    for each pixel side that is a border, several times over.

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
    from rasterio.features import shapes, sieve

    with quiet(), rasterio.open(map_file) as source:
        crs, transform, unit = source.crs, source.transform, metres_of_pixel(source)
        if transform.is_identity:  # no place: pixels, the first row on top
            crs, transform = None, rasterio.Affine(1, 0, 0, 0, -1, 0)
        values = source.read(1)
    valid = values != IGNORE
    mask = None if valid.all() else valid
    pixels = int(np.ceil(min_area / (unit[0] * unit[1])))
    if pixels > 1:
        values = sieve(values, pixels, mask=mask, connectivity=4)
    features = list(shapes(values, mask=mask, connectivity=4))  # corners in pixels, whole numbers
    numbers = np.array([value for _, value in features], np.int64)
    regions = shapely.from_geojson([json.dumps(shape) for shape, _ in features])
    areas = shapely.area(regions) * unit[0] * unit[1]
    tolerance = 1.0 if simplify is None else simplify / float(np.sqrt(unit[0] * unit[1]))
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


def metres_of_pixel(source) -> tuple[float, float]:
    """Width and height of a pixel in metres; 1 by 1 where it has no place.

    In degrees it is that of the scene's middle.
    """
    if source.crs is None or source.transform.is_identity:
        return 1.0, 1.0
    a, b, _, d, e, _ = source.transform[:6]
    along, across = np.hypot(a, d), abs(a * e - b * d) / np.hypot(a, d)
    if source.crs.is_geographic:
        _, latitude = source.xy(source.height // 2, source.width // 2)
        return along * METRES * np.cos(np.radians(latitude)), across * METRES
    factor = source.crs.linear_units_factor[1] if source.crs.is_projected else 1.0
    return along * factor, across * factor
