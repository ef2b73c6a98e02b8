"""Where an image and its label lie on the map, and whether that is the same place."""

import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.geotiff import Tiff, open_tiff

NO_PLACE = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}  # of their own
SAME_SIZE = 1.01  # times a size of pixels, within which nothing is resampled for it


class Place(NamedTuple):
    """`transform`: an Affine of (column, row) to the map; `crs`: its CRS, None if not known."""

    transform: Any
    crs: Any = None


def read_place(path: str) -> Place | None:
    """Where the file at `path` lies, None where neither it nor a file beside it says so.

    Files beside it are asked for by name: GDAL would list the folder for each file of it.
    """
    stem, suffix = os.path.splitext(path)
    place = None
    try:
        side_car = Path(f"{path}.aux.xml")
        text = side_car.read_bytes() if side_car.is_file() else b""
        # It may hold one of the two alone, and a world file the other: GDAL puts them together.
        if suffix.lower() not in NO_PLACE or b"<GeoTransform>" in text or b"<SRS" in text:
            with open_tiff(path) as source:
                place = place_of(source)
    except (UnreadableImage, OSError):  # which is told where its pixels are read
        return None
    if place is None:
        endings = (f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld")  # .tfw, .tifw
        files = [stem + (end.upper() if suffix.isupper() else end) for end in endings]
        place = next((read_world_file(file) for file in files if os.path.isfile(file)), None)
    return place


def place_of(source: Tiff) -> Place | None:
    """The place that an open file tells. Without a CRS its own columns and rows may stand there, as
    labelling tools write them."""
    t = source.transform
    if t is None or (source.crs is None and (abs(t.a), t.b, t.c, t.d, abs(t.e)) == (1, 0, 0, 0, 1)):
        return None
    return Place(t, source.crs)


def read_world_file(path: str) -> Place | None:
    """The place that six numbers tell, the last two of the centre of the first pixel."""
    from rasterio.transform import Affine

    try:
        a, d, b, e, x, y = map(float, Path(path).read_text().split())
    except (OSError, ValueError):
        return None
    return Place(Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2))


def displacement(image: Place | None, label: Place | None, height: int, width: int) -> str:
    """How the pixels (height, width) of a label lie on the map to those of its image; '' where none
    is more than half a pixel away, or where one of them has no place."""
    if image is None or label is None or None in (image.transform, label.transform):
        return ""
    a, b = (np.reshape(place.transform, (3, 3)) for place in (image, label))
    if np.linalg.det(a) == 0:
        return ""
    corners = np.array([(0, width, 0, width), (0, 0, height, height), (1, 1, 1, 1)], float)
    points = b @ corners  # a column each: x, y, 1
    differs = None not in (image.crs, label.crs) and image.crs != label.crs
    if differs:
        points[:2] = reprojected_points(points[:2], label.crs, image.crs)
    with np.errstate(invalid="ignore"):
        moves = (np.linalg.inv(a) @ points - corners)[:2]
    if np.abs(moves).max() <= 0.5:
        return ""
    if differs:
        names = [place.crs.to_string()[:60] for place in (label, image)]
        return f"CRS {names[0]}, its image {names[1]}"
    if np.ptp(moves, axis=1).max() < 0.5:
        return f"{moves[0, 0]:+.1f} columns and {moves[1, 0]:+.1f} rows away"
    sizes = [" x ".join(f"{side:g}" for side in np.hypot(*t[:2, :2])) for t in (b, a)]
    same = "turned or mirrored"
    return same if sizes[0] == sizes[1] else f"pixels of {sizes[0]}, its image {sizes[1]}"


def reprojected_points(points: np.ndarray, source: Any, target: Any) -> np.ndarray:
    """`points` (2, N) of a CRS in another; infinite where no way leads there. Two spellings of a
    CRS, and one with heights, give the same points."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    try:
        return np.array(transform(source, target, *points))
    except (RasterioError, CPLE_BaseError):
        return np.full(points.shape, np.inf)


def ground_size(path: str, shape: tuple[int, int]) -> tuple[float, float]:
    """Height and width in metres of the pixel in the middle of the image at `path`, of (height,
    width); raises as `size_of_place`."""
    return size_of_place(read_place(path), path, shape, "leave out gsd")


def size_of_place(
    place: Place | None, path: str | Path, shape: tuple[int, int], remedy: str
) -> tuple[float, float]:
    """Height and width in metres of the pixel in the middle of an image of (height, width) that
    lies at `place`, see `pixel_on_ground`.

    Args:
        path: of the image.
        remedy: what else may be done where they are not known.

    Raises:
        UserError: the file has no georeference with a CRS.
    """
    if place is None or place.crs is None:
        lacks = "georeference" if place is None else "coordinate system (CRS)"
        example = "rio edit-info --crs EPSG:32633"
        if place is None:
            transform = "[0.3, 0, 366000, 0, -0.3, 5806000]"
            example = f"rio edit-info --crs EPSG:32633 --transform '{transform}'"
        raise UserError(
            f"image {path}: has no {lacks}, so the size of its pixels in metres is not known; "
            f"{remedy}, or give it its own as in: {example} {shlex.quote(str(path))}"
        )
    metres = pixel_on_ground(place, shape)
    if metres is None:
        raise UserError(
            f"image {path}: the size of its pixels in metres cannot be told from its CRS "
            f"{place.crs.to_string()[:60]}; {remedy}, or mend its georeference"
        )
    return metres


def pixel_on_ground(place: Place, shape: tuple[int, int]) -> tuple[float, float] | None:
    """Height and width in metres of the pixel in the middle of an image of (height, width), see
    `sides_on_ground`; None where the CRS does not tell them."""
    sides = sides_on_ground(place, shape)
    if sides is None:
        return None
    down, right = (float(np.hypot(*side)) for side in sides)
    return down, right


def sides_on_ground(place: Place, shape: tuple[int, int]) -> np.ndarray | None:
    """The sides of the pixel in the middle of an image of (height, width), down and to the right,
    as vectors (east, north) in metres, float64 (2, 2), on the ground of the WGS 84 ellipsoid: also
    of a map in degrees, in feet, or stretched as Web Mercator. None where the CRS does not tell
    them."""
    from rasterio.crs import CRS

    # Some pixels apart: of neighbours in degrees, few digits of the difference would be left.
    steps, middle = [min(100, length) for length in shape], [length / 2 for length in shape]
    offsets = np.array([(-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5)]) * np.repeat(steps, 2)[:, None]
    offsets += middle
    points = np.reshape(place.transform, (3, 3)) @ [offsets[:, 1], offsets[:, 0], np.ones(4)]
    points = reprojected_points(points[:2], place.crs, CRS.from_epsg(4326))
    if not np.isfinite(points).all():
        return None
    up, down, left, right = points.T
    latitude = np.radians(points[1].mean())
    pairs = zip(((up, down), (left, right)), steps, strict=True)
    sides = np.array([np.divide(metres_apart(a, b, latitude), step) for (a, b), step in pairs])
    lengths = np.hypot(*sides.T)
    return sides if ((lengths > 0) & (lengths < np.inf)).all() else None


def metres_apart(a: np.ndarray, b: np.ndarray, latitude: float) -> tuple[float, float]:
    """East and north in metres from `a` to `b`, near points (longitude, latitude) in degrees, by
    the radii of curvature of WGS 84 at `latitude` in radians."""
    radius, square = 6378137.0, 0.00669437999014  # semi-major axis in metres, eccentricity squared
    root = np.sqrt(1 - square * np.sin(latitude) ** 2)
    east = np.radians((b[0] - a[0] + 180) % 360 - 180) * np.cos(latitude) * radius / root
    return east, np.radians(b[1] - a[1]) * radius * (1 - square) / root**3
