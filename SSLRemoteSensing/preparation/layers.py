"""Polygons of a layer on the map, dealt to the images in which they lie."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from SSLRemoteSensing.core.config import nearest
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.vectors import VectorLayer
from SSLRemoteSensing.preparation.burning import Frame, Polygons
from SSLRemoteSensing.preparation.outlines import (
    OTHER,
    Outlines,
    PolygonSettings,
    areas_above_0,
    choose_classes,
    class_numbers,
    counted,
    mend,
    placeless,
)

PART = 2**17  # features that are compared with all images at a time


def layer_outlines(
    layer: VectorLayer, frames: dict[str, Frame | None], settings: PolygonSettings
) -> Outlines:
    """The polygons of `layer` in each image of `frames`.

    Raises:
        UserError: a field that is not there, no polygon in any image, and as `choose_classes`.
    """
    numbers, bounds = layer.bounds()
    if np.isnan(bounds).all():
        raise UserError(f"{layer.flag} {layer.path}: the layer {layer.name} holds no polygon")
    classes, values, notes = layer_classes(layer, len(numbers), settings)
    places, problems = place_images(layer, frames)
    is_used = values != OTHER
    wanted = is_used & ~np.isnan(bounds[0]) & near_any(bounds, places)
    areas, is_mended = mend(layer.geometries(numbers, wanted))
    values = values[wanted].astype(np.uint8)
    has_area = areas_above_0(areas)
    if settings.order is not None:
        ranks = order_ranks(layer, settings.order)[wanted]
        order = np.argsort(ranks, kind="stable")
        areas, values, is_mended, has_area = (
            part[order] for part in (areas, values, is_mended, has_area)
        )
    polygons, is_in = deal(Polygons(areas, values, layer.crs), places)
    used, without = int(is_used.sum()), int((is_used & np.isnan(bounds[0])).sum())
    shapeless = int((~has_area).sum())
    outside = used - without - shapeless - int(is_in.sum())
    if places and not is_in.any():
        raise UserError(
            f"{layer.flag} {layer.path}: none of its {used} polygons lies in an image; they lie at "
            f"{extent(bounds)} of {layer.crs.to_string()[:60]}, the images at "
            f"{extent(image_bounds(places))}"
        )
    name = layer.path.name
    notes = [
        f"{name}: {used} polygons, of which {outside} lie in no image",
        *(f"{name}: {note}" for note in notes),
        *(f"{name}: {text}" for text in counted(without, shapeless, int(is_mended.sum()))),
    ]
    return Outlines(classes, frames, polygons, layer.name, layer.files, notes, problems)


def layer_classes(
    layer: VectorLayer, count: int, settings: PolygonSettings
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """The classes, what each of `count` polygons is burnt as, and what to say of it."""
    if settings.class_field is None:
        named = [name for name in settings.classes if name != settings.background]
        if len(named) > 1:
            raise UserError(
                f"--classes {' '.join(named)}: without --class_field all polygons are of one "
                f"class; the fields are {', '.join(layer.fields) or 'none'}"
            )
        kind = named[0] if named else layer.name
        classes, notes = choose_classes({kind: count}, settings, layer.path.name)
        return classes, class_numbers([kind], classes).repeat(count), notes
    require_field(layer, "--class_field", settings.class_field)
    column = layer.column(settings.class_field)
    kinds = list(map(kind_text, column.tolist()))
    is_number = column.dtype.kind in "iuf"
    counts = Counter(kind for kind in kinds if kind is not None)
    counts = {kind: counts[kind] for kind in sorted(counts, key=float if is_number else str)}
    where = f"{layer.path.name}, field {settings.class_field},"
    classes, notes = choose_classes(counts, settings, where)
    if unknown := kinds.count(None):
        text = f"{unknown} polygons have no {settings.class_field}; what they cover is not scored"
        notes.append(text)
    return classes, class_numbers(kinds, classes), notes


def kind_text(value: object) -> str | None:
    """The class that a value of a field names; None of what is empty."""
    if value is None or value != value:  # NaN, and NaT
        return None
    if isinstance(value, float) and value.is_integer():  # of whole numbers, where some are empty
        value = int(value)
    return str(value).strip() or None


def require_field(layer: VectorLayer, flag: str, field: str) -> None:
    if field not in layer.fields:
        fields = ", ".join(layer.fields) or "none"
        guess = f", {nearest(field, layer.fields)}" if layer.fields else ""
        raise UserError(
            f"{flag} {field}: {layer.path.name} has no such field{guess} (its fields: {fields})"
        )


def order_ranks(layer: VectorLayer, field: str) -> np.ndarray:
    """What polygons lie on one another by, float (N,), the highest on top; empty values lowest."""
    require_field(layer, "--order", field)
    values = layer.column(field)
    if values.dtype.kind not in "iufbM":
        raise UserError(
            f"--order {field}: holds text in {layer.path.name}, expected numbers or dates"
        )
    is_empty = np.isnat(values) if values.dtype.kind == "M" else values != values
    ranks = values.astype("int64" if values.dtype.kind == "M" else float).astype(float)
    return np.where(is_empty, -np.inf, ranks)


def place_images(
    layer: VectorLayer, frames: Mapping[str, Frame | None]
) -> tuple[dict[str, object], dict[str, str]]:
    """The outline of each image in the layer's CRS, and why others have none there."""
    places, problems = {}, {}
    for name, frame in frames.items():
        if frame is not None and not frame.has_place:
            problems[name] = placeless(name, frame)
        elif frame is not None:
            try:
                places[name] = frame.outline(layer.crs)
            except UnreadableImage as error:
                problems[name] = f"{name}: {error}"
    return places, problems


def deal(whole: Polygons, places: Mapping[str, object]) -> tuple[dict[str, Polygons], np.ndarray]:
    """The polygons in each place, and which (N,) lie in any."""
    import shapely

    tree, is_in = shapely.STRtree(whole.areas), np.zeros(len(whole.areas), bool)
    polygons = {}
    for name, outline in places.items():
        indices = np.sort(tree.query(outline, predicate="intersects"))
        is_in[indices] = True
        polygons[name] = whole.take(indices)
    return polygons, is_in


def layer_inside(
    layer: VectorLayer, frames: dict[str, Frame | None]
) -> tuple[dict[str, Polygons], dict[str, str]]:
    """The areas of `layer` in each image, and why some images can have none."""
    numbers, bounds = layer.bounds()
    places, problems = place_images(layer, frames)
    wanted = ~np.isnan(bounds[0]) & near_any(bounds, places)
    areas, _ = mend(layer.geometries(numbers, wanted))
    kept = areas[areas_above_0(areas)]
    polygons, is_in = deal(Polygons(kept, np.zeros(len(kept), np.uint8), layer.crs), places)
    if places and not is_in.any():
        raise UserError(f"{layer.flag} {layer.path}: no image lies inside any of its polygons")
    return polygons, problems


def near_any(bounds: np.ndarray, places: Mapping[str, object]) -> np.ndarray:
    """Which of the boxes (4, N) meet that of any place."""
    import shapely

    tree = shapely.STRtree([shapely.box(*place.bounds) for place in places.values()])
    near = np.zeros(bounds.shape[1], bool)
    for start in range(0, len(near), PART):
        boxes = shapely.box(*bounds[:, start : start + PART])
        near[start + np.unique(tree.query(boxes)[0])] = True
    return near


def image_bounds(places: Mapping[str, object]) -> np.ndarray:
    """Left, bottom, right, top (4, N) of the places."""
    return np.array([place.bounds for place in places.values()]).T


def extent(bounds: np.ndarray) -> str:
    """Where boxes (4, N) lie together, in words."""
    left, bottom = np.nanmin(bounds[:2], 1)
    right, top = np.nanmax(bounds[2:], 1)
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"
