"""Validation and test as blocks of ground, where nothing says which scenes are whose.

Neighbouring tiles show the same roofs and the same light: dealt at random, what is trained on would
be scored. So images are put in the order in which they lie, and validation and test take its end;
of a few large scenes they take the last rows of each.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.preparation.catalog import Catalog, SourceScene

BLOCKS = "blocks"  # in --splits
SHARE = 0.15  # of each of validation and test
FEW = 7  # fewer scenes are cut into blocks of rows, each by itself


def deal_blocks(catalog: Catalog, tile: int) -> None:
    """Deal the scenes of `catalog`, all of train, to train, val and test, and note how.

    Raises:
        UserError: few scenes, and one that is no three tiles high.
    """
    if len(catalog.scenes) < FEW:
        catalog.scenes = [part for scene in catalog.scenes for part in rows_of(scene, tile)]
        catalog.notes.append(
            f"no split is named, so of each scene the last {SHARE:.0%} of the rows are test, those "
            f"before validation: blocks of ground, no random tiles"
        )
        return
    count = len(catalog.scenes)
    held = max(1, round(SHARE * count))
    order, how = in_order(catalog.scenes)
    splits = ["train"] * (count - 2 * held) + ["val"] * held + ["test"] * held
    split_of = dict(zip(order, splits, strict=True))
    catalog.scenes = [replace(s, split=split_of[i]) for i, s in enumerate(catalog.scenes)]
    catalog.notes.append(
        f"no split is named, so of the images, {how}, the last {held} are test and the {held} "
        f"before them validation: blocks of ground, no random tiles"
    )


def in_order(scenes: Sequence[SourceScene]) -> tuple[list[int], str]:
    """The numbers of the scenes as they lie, and in words how that is known: along the longer side
    of the ground that they cover, or else by the numbers in their names."""
    centres = list(map_files(centre, scenes, "opening"))
    if all(place is not None for place in centres) and len({crs for crs, _ in centres}) == 1:
        points = np.array([point for _, point in centres])
        axis = int(np.argmax(np.ptp(points, axis=0)))
        order = np.argsort(points[:, axis], kind="stable").tolist()
        return order, f"from {('west to east', 'south to north')[axis]}"
    numbers = sorted(range(len(scenes)), key=lambda i: by_numbers(scenes[i].image.name))
    return numbers, "in the order of their names"


def centre(scene: SourceScene) -> tuple[str, tuple[float, float]] | None:
    """CRS and middle of a scene on the map; None where it says none."""
    if Path(scene.image.name).suffix.lower() not in (".tif", ".tiff"):
        return None
    with suppress(UserError), open_tiff(scene.image.address, beside=True) as source:
        if (place := source.transform) is not None:
            x, y = source.width / 2, source.height / 2
            point = place.a * x + place.b * y + place.c, place.d * x + place.e * y + place.f
            return source.crs.to_string() if source.crs else "", point
    return None


def by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10, also in the middle of a name."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def rows_of(scene: SourceScene, tile: int) -> list[SourceScene]:
    """The blocks of rows of a scene: train, val and test from top to bottom, of whole tiles but for
    the first."""
    with open_tiff(scene.image.address, beside=True) as source:
        height = source.height
    tiles = height // tile
    if tiles < 3:
        raise UserError(
            f"{scene.image.name}: is {height} pixels high, no three tiles of {tile} for train, val "
            f"and test; set a smaller --tile, or name whole scenes: --splits val=A test=B"
        )
    held = max(1, round(SHARE * tiles)) * tile
    ends = {"train": (0, height - 2 * held), "val": (height - 2 * held, height - held)}
    ends["test"] = height - held, height
    return [
        replace(scene, name=f"{scene.name}_{split}", split=split, rows=rows)
        for split, rows in ends.items()
    ]
