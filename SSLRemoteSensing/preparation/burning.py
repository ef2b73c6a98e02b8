"""Labels that polygons make, burnt as they are read, so that a scene of any size fits in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UnreadableImage
from SSLRemoteSensing.data.geotiff import unplaced
from SSLRemoteSensing.data.places import reprojected_points
from SSLRemoteSensing.preparation.sources import SourceFile

# A line that is straight in one CRS is bent in another. In pieces of so many pixels the way from
# the bent line is below 0.01 pixels of 30 m, as the earth's radius has it, and less of smaller.
PIECE = 64
AREA, AREAS = 3, 6  # shapely's numbers of Polygon and MultiPolygon
POINTS = 17  # along each side of a scene, where its outline is brought into another CRS


@dataclass(frozen=True, eq=False)
class Polygons:
    """Areas in the order in which they are burnt, the last one on top.

    Attributes:
        areas: shapely's Polygon or MultiPolygon (N,), valid.
        values: uint8 (N,), what each is burnt as: a class, or 255 = not scored.
        crs: a rasterio CRS; None: x and y are columns and rows of the image, from its corner.
    """

    areas: np.ndarray
    values: np.ndarray
    crs: Any

    @classmethod
    def none(cls) -> "Polygons":
        return cls(np.empty(0, object), np.empty(0, np.uint8), None)

    def take(self, indices: np.ndarray) -> "Polygons":
        return Polygons(self.areas[indices], self.values[indices], self.crs)


@dataclass(frozen=True)
class Frame:
    """Size of an image in pixels, and where it lies; None where it has no place."""

    height: int
    width: int
    crs: Any = None
    transform: Any = None

    @property
    def has_place(self) -> bool:
        return self.crs is not None and self.transform is not None

    def outline(self, crs: Any) -> Any:
        """The image's sides as a polygon in `crs`, in which they may be bent.

        Raises:
            UnreadableImage: no way leads into that CRS, or it crosses the 180th meridian there.
        """
        import shapely

        sides = np.linspace(0, 1, POINTS)[:-1]
        zeros, ones = np.zeros_like(sides), np.ones_like(sides)
        x = np.concatenate([sides, ones, 1 - sides, zeros]) * self.width
        y = np.concatenate([zeros, sides, ones, 1 - sides]) * self.height
        a, b, c, d, e, f = self.transform[:6]
        points = np.array([a * x + b * y + c, d * x + e * y + f])
        if crs != self.crs:
            points = reprojected_points(points, self.crs, crs)
        if not np.isfinite(points).all():
            raise UnreadableImage(
                f"no way leads from its CRS, {self.crs.to_string()[:60]}, to that of the polygons"
            )
        if crs.is_geographic and np.ptp(points[0]) > 180:
            raise UnreadableImage(
                "crosses the 180th meridian; store the polygons in the CRS of the image"
            )
        return shapely.make_valid(shapely.Polygon(points.T))


@dataclass(frozen=True, eq=False)
class BurntLabel:
    """A label of classes that polygons give.

    Attributes:
        name: of the file of polygons, for messages.
        files, hashes: what it is made of, and the SHA-256 of each by name.
        frame: size and place of the scene.
        polygons: those of the scene.
        inside: where there are labels; elsewhere pixels are not scored. None: everywhere.
        background: the class of what no polygon covers, or 255.
        touched: whether a pixel is of a polygon that touches it; else of one that has its centre.
    """

    name: str
    files: tuple[SourceFile, ...]
    hashes: dict[str, str]
    frame: Frame
    polygons: Polygons
    inside: Polygons | None = None
    background: int = 0
    touched: bool = False

    def digests(self) -> dict[str, str]:
        return self.hashes

    def rows(self) -> Callable[[int, int], tuple[np.ndarray, None]]:
        """`rows(y, height)` gives classes uint8 (1, height, width), as a `Raster` has them."""
        burn_classes = burner(self.polygons, self.frame, self.touched)
        burn_inside = self.inside and burner(self.inside, self.frame, False)

        def rows(y: int, height: int) -> tuple[np.ndarray, None]:
            classes = burn_classes(y, height, self.background)
            if burn_inside is not None:
                classes[burn_inside(y, height, IGNORE) == IGNORE] = IGNORE
            return classes[None], None

        return rows


def only_areas(geometries: np.ndarray) -> np.ndarray:
    """Of each geometry what has an area, as a Polygon or MultiPolygon, which may be empty."""
    import shapely

    areas = geometries.copy()
    is_other = ~np.isin(shapely.get_type_id(areas), (AREA, AREAS))
    for number in np.flatnonzero(is_other):
        parts = shapely.get_parts(geometries[number])
        while (is_nested := shapely.get_type_id(parts) > AREA).any():
            parts = np.concatenate([parts[~is_nested], shapely.get_parts(parts[is_nested])])
        areas[number] = shapely.multipolygons(parts[shapely.get_type_id(parts) == AREA])
    return areas


def burner(
    polygons: Polygons, frame: Frame, touched: bool
) -> Callable[[int, int, int], np.ndarray]:
    """`burn(y, height, fill)` gives rows uint8 (height, width) of what the polygons are."""
    import shapely
    from rasterio import Affine
    from rasterio.features import rasterize

    areas = in_pixels(polygons, frame)
    tree = shapely.STRtree(areas)

    def burn(y: int, height: int, fill: int) -> np.ndarray:
        canvas = np.full((height, frame.width), fill, np.uint8)
        near = shapely.box(-1, y - 1, frame.width + 1, y + height + 1)
        shapes = [(areas[i], int(polygons.values[i])) for i in np.sort(tree.query(near)).tolist()]
        if shapes:
            with unplaced():
                place = Affine.translation(0, y)
                rasterize(shapes, out=canvas, transform=place, all_touched=touched)
        return canvas

    return burn


def in_pixels(polygons: Polygons, frame: Frame) -> np.ndarray:
    """The areas in columns and rows of the image, (0, 0) the corner of its first pixel; of those
    that reach far beyond it, what lies near.

    Raises:
        UnreadableImage: no way leads from their CRS to that of the image.
    """
    import shapely

    if polygons.crs is None or not len(polygons.areas):
        return polygons.areas
    left, bottom, right, top = frame.outline(polygons.crs).bounds
    margins = (right - left) / 8, (top - bottom) / 8  # no edge of the cut is to be seen
    near = left - margins[0], bottom - margins[1], right + margins[0], top + margins[1]
    areas = polygons.areas.copy()
    bounds = shapely.bounds(areas)
    is_large = (bounds[:, :2] < near[:2]).any(1) | (bounds[:, 2:] > near[2:]).any(1)
    areas[is_large] = only_areas(shapely.intersection(areas[is_large], shapely.box(*near)))
    if polygons.crs != frame.crs:
        pixel = np.hypot(right - left, top - bottom) / np.hypot(frame.height, frame.width)
        areas = shapely.segmentize(areas, PIECE * pixel)
        areas = shapely.transform(
            areas, lambda xy: reprojected_points(xy.T, polygons.crs, frame.crs).T
        )
    a, b, c, d, e, f = (~frame.transform)[:6]
    with np.errstate(invalid="ignore"):  # of what is infinitely far, which is told next
        areas = shapely.transform(areas, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
    if not np.isfinite(shapely.get_coordinates(areas)).all():
        raise UnreadableImage(
            f"some polygons cannot be brought from {polygons.crs.to_string()[:60]} to the image's "
            f"CRS, {frame.crs.to_string()[:60]}; store them in that CRS"
        )
    return areas
