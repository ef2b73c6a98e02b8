"""Outlines in COCO's JSON: polygons and run-length codes in pixels of images named by file.

Format: Lin et al., Microsoft COCO (2014), https://cocodataset.org/#format-data.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import nearest
from SSLRemoteSensing.core.errors import UserError
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
    read_frames,
)
from SSLRemoteSensing.preparation.sources import SourceFile

FLAG = "--labels"
KEYS = ("images", "annotations", "categories")
HEAD = 2**16  # bytes in which GeoJSON mostly says that it is such
GEOJSON = re.compile(rb'"type"\s*:\s*"(?:FeatureCollection|Feature)"')


@dataclass
class ImageEntry:
    """An image of the file: its height and width, None where they are not told, and its
    annotations, as the file has them."""

    size: tuple[int, int] | None
    annotations: list[dict] = field(default_factory=list)


def read_coco(path: Path) -> dict | None:
    """The contents of a COCO file; None of GeoJSON.

    Raises:
        UserError: a file that is neither, or damaged.
    """
    try:
        with path.open("rb") as file:
            if GEOJSON.search(file.read(HEAD)):
                return None
            file.seek(0)
            contents = json.loads(file.read().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{FLAG} {path}: cannot be read ({reason}); store it again") from error
    keys = [*contents] if isinstance(contents, dict) else []
    is_coco = all(key in keys for key in KEYS)
    if "type" in keys and not is_coco:
        return None
    if not is_coco:
        raise UserError(
            f"{FLAG} {path}: is neither GeoJSON nor COCO, which has {', '.join(KEYS)}; it has "
            f"{', '.join(keys[:8]) or 'none'}"
        )
    for key in KEYS:
        entries = contents[key]
        if not isinstance(entries, list) or not all(isinstance(x, dict) for x in entries):
            raise UserError(f"{FLAG} {path}: {key} is not a list of objects")
    return contents


def coco_outlines(
    contents: dict, path: Path, images: Sequence[SourceFile], settings: PolygonSettings
) -> Outlines:
    """The outlines of a COCO file in each of `images` that it names.

    Classes are its categories. A crowd, whose outline goes around many things, is not scored where
    nothing else lies on it.

    Raises:
        UserError: none of the images, an outline that is damaged, flags that COCO has no use for.
    """
    if settings.class_field is not None:
        raise UserError(f"--class_field: the classes of COCO, {path}, are its categories")
    counts, names = kinds_of(contents, path), category_names(contents, path)
    classes, notes = choose_classes(counts, settings, f"{path.name}, categories,")
    entries, strays = match_images(contents, path, images)
    if not entries:
        raise UserError(
            f"{FLAG} {path}: none of its {len(contents['images'])} images is in --source"
        )
    ranks = settings.order and order_values(contents, path, settings.order)
    placed = [
        image
        for image in images
        if image.name in entries and (settings.inside or not entries[image.name].size)
    ]
    frames = read_frames(placed) if placed else {}
    polygons, tally = {}, Counter()
    for name, entry in progress("reading", entries.items(), len(entries), "image"):
        frame = frames.get(name)
        if entry.size is not None:
            place = (frame.crs, frame.transform) if frame else ()
            frames[name] = frame = Frame(*entry.size, *place)
        annotations = sorted(
            entry.annotations,
            # What has an outline of its own lies on a crowd.
            key=lambda x: (not x.get("iscrowd"), ranks[id(x)] if ranks else 0),
        )
        kinds = [names[x["category_id"]] for x in annotations]
        values = class_numbers(kinds, classes)
        is_crowd = np.array([bool(x.get("iscrowd")) for x in annotations], bool)
        values[is_crowd & (values != OTHER)] = IGNORE
        tally["crowds"] += int((values == IGNORE).sum())
        tally["empty"] += not annotations
        if frame is not None:
            used = [x for x, value in zip(annotations, values, strict=True) if value != OTHER]
            polygons[name] = polygons_of(used, values[values != OTHER], frame, path, tally)
    unknown = len(images) - len(entries)
    notes = [
        f"{len(contents['annotations'])} outlines, of which {strays['annotations']} lie in none "
        f"of the images; {tally['empty']} images have none",
        *notes,
        *counted(tally["without"], tally["shapeless"], tally["mended"]),
        *([f"{tally['crowds']} crowds are not scored"] if tally["crowds"] else []),
        *([f"{strays['images']} of its images are not there"] if strays["images"] else []),
        *([f"{unknown} images are not in it and left out"] if unknown else []),
    ]
    notes = [f"{path.name}: {note}" for note in notes]
    return Outlines(classes, frames, polygons, None, [path], notes)


def polygons_of(
    annotations: Sequence[dict], values: np.ndarray, frame: Frame, path: Path, tally: Counter
) -> Polygons:
    """The areas of annotations of an image, burnt as `values`; `tally` counts what is none."""
    shapes = [area_of(annotation, frame, path) for annotation in annotations]
    areas = np.array([area for area, _ in shapes], object)
    is_exact = np.array([exact for _, exact in shapes], bool)
    has_outline = np.array([area is not None for area in areas], bool)
    areas, values, is_exact = areas[has_outline], values[has_outline], is_exact[has_outline]
    areas[~is_exact], is_invalid = mend(areas[~is_exact])
    has_area = areas_above_0(areas)
    tally["without"] += int((~has_outline).sum())
    tally["mended"] += int(is_invalid.sum())
    tally["shapeless"] += int((~has_area).sum())
    return Polygons(areas[has_area], values[has_area].astype(np.uint8), None)


def category_names(contents: dict, path: Path) -> dict[Any, str]:
    """Category -> name, in the order of the file."""
    names = {}
    for entry in contents["categories"]:
        names[required(entry, "id", "categories", path)] = str(
            required(entry, "name", "categories", path)
        )
    return names


def match_images(
    contents: dict, path: Path, files: Sequence[SourceFile]
) -> tuple[dict[str, ImageEntry], dict[str, int]]:
    """The outlines of each image of `files`, by its name, and how many entries found none.

    By `file_name`: the path below the source, or its end, or the name alone where that is enough.

    Returns:
        name of a file -> its outlines; 'images' and 'annotations' of the file that lie in none.

    Raises:
        UserError: two images that would be one, an entry without `file_name` or id.
    """
    by_base = defaultdict(list)
    for file in files:
        by_base[PurePosixPath(file.name).name].append(file.name)
    entries: dict[str, ImageEntry] = {}
    name_of: dict[Any, str | None] = {}
    for entry in contents["images"]:
        number = required(entry, "id", "images", path)
        file_name = str(required(entry, "file_name", "images", path)).replace("\\", "/")
        names = by_base[PurePosixPath(file_name).name]
        if len(names) > 1:
            names = [name for name in names if f"/{name}".endswith(f"/{file_name}")]
        if len(names) > 1:
            raise UserError(
                f"{FLAG} {path}: file_name {file_name} may be {' or '.join(names[:2])}; name "
                "its folder"
            )
        if number in name_of:
            raise UserError(f"{FLAG} {path}: two images have the id {number}")
        name_of[number] = names[0] if names else None
        if names and names[0] in entries:
            raise UserError(f"{FLAG} {path}: two images are {names[0]}; rename one")
        if names:
            size = entry.get("height"), entry.get("width")
            has_size = all(isinstance(side, int) and side > 0 for side in size)
            entries[names[0]] = ImageEntry(size if has_size else None)
    strays = 0
    for entry in contents["annotations"]:
        name = name_of.get(required(entry, "image_id", "annotations", path))
        strays += name is None
        if name is not None:
            entries[name].annotations.append(entry)
    return entries, {"images": list(name_of.values()).count(None), "annotations": strays}


def kinds_of(contents: dict, path: Path) -> Counter:
    """How many outlines there are of each category, by name."""
    names = category_names(contents, path)
    counts = Counter()
    for entry in contents["annotations"]:
        number = required(entry, "category_id", "annotations", path)
        if number not in names:
            raise UserError(
                f"{FLAG} {path}: annotation {entry.get('id')} is of category {number}, which is "
                f"not among the categories ({', '.join(map(str, [*names][:12]))})"
            )
        counts[names[number]] += 1
    return counts


def order_values(contents: dict, path: Path, order: str) -> dict[int, float]:
    """The number that `--order` names, by `id(annotation)`."""
    values = {id(entry): entry.get(order) for entry in contents["annotations"]}
    if values and all(value is None for value in values.values()):
        known = sorted({key for entry in contents["annotations"][:1000] for key in entry})
        raise UserError(f"--order {order}: no annotation of {path} has it, {nearest(order, known)}")
    for value in values.values():
        if value is not None and not isinstance(value, int | float):
            raise UserError(f"--order {order}: holds {value!r} in {path}, which is no number")
    return {key: -np.inf if value is None else value for key, value in values.items()}


def required(entry: dict, key: str, part: str, path: Path) -> Any:
    value = entry.get(key)
    if value is None or isinstance(value, dict | list):
        known = entry.get("id", json.dumps(entry)[:60])
        raise UserError(f"{FLAG} {path}: {part}: {known} has no {key}")
    return value


def area_of(annotation: dict, frame: Frame, path: Path) -> tuple[Any, bool]:
    """What an annotation covers, a shapely geometry in pixels (None: it has no outline, as one of
    a box alone), and whether it is made of whole pixels.

    Args:
        frame: of its image.

    Raises:
        UserError: points that are no numbers, a run-length code that is damaged or of another size.
    """
    import shapely
    from rasterio import Affine
    from rasterio.features import shapes

    outline = annotation.get("segmentation")
    try:
        if isinstance(outline, dict):
            mask = decode_runs(outline, (frame.height, frame.width))
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if not len(rows):
                return shapely.Polygon(), True
            y, x = rows[0], columns[0]
            part = mask[y : rows[-1] + 1, x : columns[-1] + 1]
            features = shapes(part.astype(np.uint8), mask=part, transform=Affine.translation(x, y))
            polygons = [shapely.from_geojson(json.dumps(shape)) for shape, _ in features]
            return shapely.multipolygons(polygons), True
        rings = [np.asarray(ring, float) for ring in outline or ()]
        if any(ring.ndim != 1 or len(ring) % 2 or not np.isfinite(ring).all() for ring in rings):
            raise ValueError("points are not x, y, x, y, ...")
        # Of less than three points there is no area.
        parts = [shapely.Polygon(ring.reshape(-1, 2)) for ring in rings if len(ring) >= 6]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{FLAG} {path}: segmentation of annotation {annotation.get('id')}: {error}"
        ) from error
    if not rings:
        return None, False
    return shapely.MultiPolygon(parts), False


def decode_runs(code: dict, size: tuple[int, int]) -> np.ndarray:
    """The mask bool (height, width) of a run-length code: lengths of runs of 0 and 1 in turn, down
    the columns, as a list or as text.

    Raises:
        ValueError: it is damaged, or of another size than (height, width).
    """
    height, width = map(int, code["size"])
    if (height, width) != tuple(size):
        raise ValueError(f"is of {height} x {width} pixels, its image {size[0]} x {size[1]}")
    counts = code["counts"]
    counts = decode_counts(counts) if isinstance(counts, str) else list(map(int, counts))
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"its runs do not add up to {height} x {width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def decode_counts(text: str) -> list[int]:
    """The lengths of runs in COCO's text.

    Each is a number in groups of five bits, the lowest first, as characters from '0' (48) on, whose
    sixth bit says that more follow; the fifth bit of the last group is the sign. From the fourth
    number on it is the difference to the number two before.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"counts hold {character!r}, which is none of its characters")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("counts are cut short")
    return counts
