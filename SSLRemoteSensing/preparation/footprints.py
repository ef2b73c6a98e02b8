"""Which images show the same ground, by where they lie on the map."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.places import Place, place_of, reprojected_points
from SSLRemoteSensing.preparation.catalog import SourceScene


class Footprint(NamedTuple):
    """Size of an image in pixels, and where it lies."""

    height: int
    width: int
    place: Place


def read_footprint(scene: SourceScene) -> Footprint | None:
    """Where a scene lies; None where it does not say so, or cannot be read, which is told later."""
    with suppress(UserError), open_tiff(scene.image.address, beside=True) as source:
        if (place := place_of(source)) is not None:
            return Footprint(source.height, source.width, place)
    return None


def boxes_of(
    footprints: Sequence[Footprint | None], rows: Sequence[tuple[int, int] | None]
) -> np.ndarray:
    """Left, bottom, right, top (N, 4) of what lies on the map, around the centres of its pixels, so
    that neighbours do not overlap; NaN of what has no place. In the CRS of all, or in degrees where
    they differ.

    Args:
        rows: the first and end of those that are meant; None: all.
    """
    from rasterio.crs import CRS

    boxes = np.full((len(footprints), 4), np.nan)
    places = [footprint.place for footprint in footprints if footprint is not None]
    has_crs = any(place.crs for place in places)
    differ = any(place.crs != places[0].crs for place in places)
    target = CRS.from_epsg(4326) if differ else places[0].crs if places else None
    for number, (footprint, part) in enumerate(zip(footprints, rows, strict=True)):
        if footprint is None or (has_crs and footprint.place.crs is None):
            continue
        first, end = part or (0, footprint.height)
        columns, lines = (0.5, footprint.width - 0.5) * 2, (first + 0.5,) * 2 + (end - 0.5,) * 2
        points = (np.reshape(footprint.place.transform, (3, 3)) @ [columns, lines, (1,) * 4])[:2]
        if differ:
            points = reprojected_points(points, footprint.place.crs, target)
        if np.isfinite(points).all():
            boxes[number] = *points.min(1), *points.max(1)
    return boxes


def last_overlaps(boxes: np.ndarray) -> np.ndarray:
    """Of each of `boxes` (N, 4) the number of the last one that overlaps it, int (N,): its own
    where no later one does."""
    last, placed = np.arange(len(boxes)), np.flatnonzero(np.isfinite(boxes[:, 0]))
    if not len(placed):
        return last
    # Sorted along the longer side of them all, those that may overlap one begin before its end.
    axis = int(np.argmax(np.ptp(boxes[placed], axis=0)[:2]))
    order = placed[np.argsort(boxes[placed, axis])]
    ends = np.searchsorted(boxes[order, axis], boxes[order, axis + 2], side="right")
    for start, (number, end) in enumerate(zip(order, ends, strict=True)):
        others = order[start:end]
        met = others[overlapping(boxes[number], boxes[others])]
        np.maximum.at(last, np.minimum(met, number), np.maximum(met, number))
    return last


def overlapping(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The numbers of those of `others` (N, 4) that overlap `box`; without a place none does."""
    lower, upper = others[:, :2] <= box[2:], others[:, 2:] >= box[:2]
    return np.flatnonzero((lower & upper).all(1))
