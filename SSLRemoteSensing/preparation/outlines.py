"""Polygons dealt to images: what is asked of them, their classes, their order, mended shapes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import nearest
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.preparation.burning import Frame, Polygons, only_areas
from SSLRemoteSensing.preparation.catalog import listing
from SSLRemoteSensing.preparation.sources import SourceFile

NO_BACKGROUND = "none"  # what no polygon covers is not scored
OTHER = -1  # of a kind that --classes leaves out


@dataclass(frozen=True)
class PolygonSettings:
    """What the flags say of the polygons.

    Attributes:
        labels, inside: FILE or FILE:LAYER.
        class_field: the field that has the class; None: all polygons are of one class.
        classes: those to take, in order; empty: all that there are.
        touched: whether a pixel is of a polygon as soon as that touches it.
        order: the field by which polygons lie on one another, the highest on top; None: as in the
            file, the last on top.
        background: the class of what no polygon covers; 'none': it is not scored.
    """

    labels: str
    class_field: str | None = None
    classes: Sequence[str] = ()
    inside: str | None = None
    touched: bool = False
    order: str | None = None
    background: str = "background"


@dataclass
class Outlines:
    """The polygons of a file, dealt to images.

    Attributes:
        classes: of the labels, in order.
        frames: name of an image's file -> size and place; None where it cannot be read, which is
            told when it is cut. Images that are not there are left out.
        polygons: name -> those in the image.
        problems: name -> why no polygon can be laid on the image.
        layer: of the file, None where it has none.
        paths: the files.
        notes: what was counted, a sentence each.
    """

    classes: tuple[str, ...]
    frames: dict[str, Frame | None]
    polygons: dict[str, Polygons]
    layer: str | None
    paths: list[Path]
    notes: list[str]
    problems: dict[str, str] = field(default_factory=dict)


def choose_classes(
    counts: Mapping[str, int], settings: PolygonSettings, where: str
) -> tuple[tuple[str, ...], list[str]]:
    """The classes of the labels, the background first unless `settings.classes` has it elsewhere,
    and a sentence of the kinds that are left out.

    Args:
        counts: polygons of each kind, in the order in which they become classes.
        where: the file and field, for messages.

    Raises:
        UserError: no kind of those that are named, a name twice, more than 255.
    """
    background = settings.background
    named = tuple(settings.classes or (name for name in counts if name != background))
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"--classes {name}: stands there twice")
    absent = [name for name in named if not counts.get(name) and name != background]
    if not any(map(counts.get, named)):
        text = f"--classes {' '.join(named)}: no polygon is of them" if named else "no classes"
        raise UserError(f"{text}; {where} has {listing([*counts], 12) or 'no value'}")
    others = [name for name in counts if name not in (*named, background)]
    for name in absent:
        guess = f", {nearest(name, others)}" if others else ""
        warn(f"class {name}: no polygon of {where} is of it{guess}")
    has_background = background != NO_BACKGROUND and background not in named
    classes = (background, *named) if has_background else named
    if len(classes) > IGNORE:
        raise UserError(
            f"{where}: {len(classes)} classes, at most {IGNORE} can be; name those to take with "
            "--classes, or another --class_field"
        )
    notes = []
    if others:
        count = sum(counts[name] for name in others)
        rest = "not scored" if background == NO_BACKGROUND else background
        notes.append(
            f"{count} polygons are of none of the classes ({listing(others)}) and left out; what "
            f"they alone cover is {rest}"
        )
    return classes, notes


def class_numbers(kinds: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """What polygons of `kinds` are burnt as, int16: a class, 255 where none is known, or OTHER."""
    number_of = {name: number for number, name in enumerate(classes)} | {None: IGNORE}
    return np.array([number_of.get(kind, OTHER) for kind in kinds], np.int16)


def mend(geometries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid Polygons and MultiPolygons (N,) of any geometries, without heights, empty where there
    is no area; and which (N,) were invalid.

    Outlines that cross themselves cover all that they enclose; parts that overlap are one.
    """
    import shapely

    areas = only_areas(shapely.force_2d(geometries))
    is_invalid = ~shapely.is_valid(areas)
    mended = shapely.make_valid(areas[is_invalid], method="structure", keep_collapsed=False)
    areas[is_invalid] = only_areas(mended)
    return areas, is_invalid


def areas_above_0(areas: np.ndarray) -> np.ndarray:
    import shapely

    return shapely.area(areas) > 0


def counted(without: int, shapeless: int, mended: int) -> list[str]:
    """What there is to say of features that were no plain polygons."""
    texts = (
        (without, "have no geometry and are left out"),
        (shapeless, "are lines, points or of no area and left out"),
        (mended, "had invalid outlines, which were mended"),
    )
    return [f"{count} {text}" for count, text in texts if count]


def read_frames(images: Sequence[SourceFile]) -> dict[str, Frame | None]:
    """Size and place of each image by name, None where it cannot be read."""

    def read(image: SourceFile) -> Frame | None:
        with suppress(UserError), open_tiff(image.address, beside=True) as source:
            return Frame(source.height, source.width, source.crs, source.transform)
        return None

    names = [image.name for image in images]
    return dict(zip(names, map_files(read, images, "opening"), strict=True))


def placeless(name: str, frame: Frame) -> str:
    """Why polygons of a map cannot be laid on an image without a place."""
    if frame.transform is None:
        return f"{name}: has no georeference, so polygons of a map cannot be laid on it"
    return (
        f"{name}: has no coordinate system, so polygons of a map cannot be laid on it; give it "
        f"one: rio edit-info --crs EPSG:NUMBER {name}"
    )
