"""Validation and test as blocks of ground, where nothing says which scenes are whose.

Neighbouring tiles show the same roofs and the same light: dealt at random, what is trained on would
be scored. So images are put in the order in which they lie, and validation and test take its end;
of a few large scenes they take the last rows of each. No ground is in two splits, as far as the
images say where they lie: the blocks begin where the fewest images overlap, and these are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.prepared import UNLABELLED
from SSLRemoteSensing.preparation.catalog import Catalog, SourceScene, listing
from SSLRemoteSensing.preparation.footprints import (
    Footprint,
    boxes_of,
    last_overlaps,
    overlapping,
    read_footprint,
)

BLOCKS = "blocks"  # in --splits
SHARE = 0.15  # of each of validation and test
FEW = 7  # fewer scenes are cut into blocks of rows, each by itself
LOSS = 2  # one image that is left out counts as so many by which a block misses its share


def deal_blocks(catalog: Catalog, tile: int) -> None:
    """Deal the scenes of `catalog`, all of train, to train, val and test, and note how; those
    without labels stay what they are, but for those that show ground of validation or test.

    Raises:
        UserError: few scenes, or many of few places, and one that is no three tiles high; rows of
            two that overlap.
    """
    labelled = [scene for scene in catalog.scenes if scene.split != UNLABELLED]
    others = [scene for scene in catalog.scenes if scene.split == UNLABELLED]
    catalog.scenes = labelled
    footprints = list(map_files(read_footprint, labelled, "opening"))
    if len(labelled) < FEW or not deal_whole(catalog, footprints):
        deal_rows(catalog, footprints, tile)
    catalog.scenes += off_scored_ground(others, catalog)


def deal_whole(catalog: Catalog, footprints: Sequence[Footprint | None]) -> bool:
    """Deal whole scenes, in the order in which they lie; False where nothing can be in train or in
    validation, as of many images of one place."""
    scenes, boxes = catalog.scenes, boxes_of(footprints, [None] * len(footprints))
    order, how = in_order(scenes, boxes)
    last = last_overlaps(boxes[order])
    held = max(1, round(SHARE * len(scenes)))
    test = first_of_block(last, len(scenes), held)
    val = first_of_block(last, test, held)
    numbers, ends = np.arange(len(scenes)), {"train": (0, val), "val": (val, test)}
    ends["test"] = test, len(scenes)
    split_of = {}
    for split, (first, end) in ends.items():
        apart = numbers[first:end][last[first:end] < end]
        split_of |= {order[number]: split for number in apart}
    if {*split_of.values()} != {*ends}:
        return False
    counts = {split: [*split_of.values()].count(split) for split in ends}
    catalog.notes.append(
        f"no split is named, so of the images, {how}, the last {counts['test']} are test and "
        f"{counts['val']} before them validation: blocks of ground, no random tiles"
    )
    if lost := [scene.name for number, scene in enumerate(scenes) if number not in split_of]:
        catalog.notes.append(
            f"{len(lost)} images are left out, as they overlap those of the next block: "
            f"{listing(lost)}"
        )
    catalog.scenes = [
        replace(scene, split=split_of[number])
        for number, scene in enumerate(scenes)
        if number in split_of
    ]
    return True


def deal_rows(catalog: Catalog, footprints: Sequence[Footprint | None], tile: int) -> None:
    """Deal the rows of each scene. Where scenes overlap and their rows do not lie alike, as those
    of several years seldom do, all give as many for validation and test, and as many rows between
    the blocks are left out as it takes."""
    heights = [read_height(scene, tile) for scene in catalog.scenes]
    threefold = [footprint for footprint in footprints for _ in range(3)]
    own = [max(1, round(SHARE * (height // tile))) * tile for height in heights]
    alike = [min(own)] * len(own)
    room = (min(heights) - 2 * min(own) - tile) // 2
    gaps = 0, *(2**power for power in range(room.bit_length()))
    for held, gap in ((own, 0), *((alike, gap) for gap in gaps)):
        parts = [
            part
            for scene, height, count in zip(catalog.scenes, heights, held, strict=True)
            for part in rows_of(scene, height, count, gap)
        ]
        pair = mixed_pair(parts, threefold)
        if pair is None:
            break
    else:
        first, second = pair
        raise UserError(
            f"{first.image.name} and {second.image.name} overlap on the map, so that rows for "
            f"{first.split} and for {second.split} would show the same ground; name whole scenes: "
            f"--splits val=A test=B"
        )
    catalog.scenes = parts
    catalog.notes.append(
        f"no split is named, so of each scene the last {SHARE:.0%} of the rows are test, those "
        f"before validation: blocks of ground, no random tiles"
        + (f"; {gap} rows between them are left out, as scenes overlap" if gap else "")
    )


def in_order(scenes: Sequence[SourceScene], boxes: np.ndarray) -> tuple[list[int], str]:
    """The numbers of the scenes as they lie, and in words how that is known: along the longer side
    of the ground that they cover, or else by the numbers in their names."""
    if np.isfinite(boxes).all():
        points = (boxes[:, :2] + boxes[:, 2:]) / 2
        axis = int(np.argmax(np.ptp(points, axis=0)))
        order = np.lexsort((points[:, 1 - axis], points[:, axis])).tolist()
        return order, f"from {('west to east', 'south to north')[axis]}"
    numbers = sorted(range(len(scenes)), key=lambda i: by_numbers(scenes[i].image.name))
    return numbers, "in the order of their names"


def first_of_block(last: np.ndarray, end: int, held: int) -> int:
    """Where a block of about `held` images begins that ends before number `end`: half of these at
    least, at most a third of all.

    Args:
        last: int (N,), as `last_overlaps` gives it.
    """
    largest, least = max(held, len(last) // 3), (held + 1) // 2
    firsts = np.arange(max(1, end - largest), end - least + 1)
    lost = firsts - np.searchsorted(np.sort(last), firsts)  # before it, but for what ends before it
    return int(firsts[np.argmin(LOSS * lost + np.abs(end - firsts - held))])


def off_scored_ground(others: Sequence[SourceScene], catalog: Catalog) -> list[SourceScene]:
    """Those of `others`, without labels, that show no ground of validation or test; those that do
    are noted."""
    if not others:
        return []
    scored = [scene for scene in catalog.scenes if scene.split != "train"]
    scenes = [*scored, *others]
    footprints = list(map_files(read_footprint, scenes, "opening"))
    boxes = boxes_of(footprints, [scene.rows for scene in scenes])
    held, boxes = boxes[: len(scored)], boxes[len(scored) :]
    pairs = list(zip(others, boxes, strict=True))
    kept = [scene for scene, box in pairs if not overlapping(box, held).size]
    if len(kept) < len(others):
        catalog.notes.append(
            f"{len(others) - len(kept)} images without a label are left out, as they show ground "
            f"of validation or test"
        )
    return kept


def by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10, also in the middle of a name."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def read_height(scene: SourceScene, tile: int) -> int:
    """The rows of a scene, a `UserError` where they are no three tiles."""
    with open_tiff(scene.image.address, beside=True) as source:
        height = source.height
    if height // tile < 3:
        raise UserError(
            f"{scene.image.name}: is {height} pixels high, no three tiles of {tile} for train, val "
            f"and test; set a smaller --tile, or name whole scenes: --splits val=A test=B"
        )
    return height


def rows_of(scene: SourceScene, height: int, held: int, gap: int) -> list[SourceScene]:
    """The blocks of rows of a scene from top to bottom, `gap` rows apart: train, and `held` rows
    each for val and test."""
    test = height - held
    val = test - gap - held
    ends = {"train": (0, val - gap), "val": (val, val + held), "test": (test, height)}
    return [
        replace(scene, name=f"{scene.name}_{split}", split=split, rows=rows)
        for split, rows in ends.items()
    ]


def mixed_pair(
    parts: Sequence[SourceScene], footprints: Sequence[Footprint | None]
) -> tuple[SourceScene, SourceScene] | None:
    """The first blocks of rows of two splits that show the same ground; None where none do."""
    boxes = boxes_of(footprints, [part.rows for part in parts])
    splits = np.array([part.split for part in parts])
    for number, part in enumerate(parts):
        met = number + overlapping(boxes[number], boxes[number:])
        for other in met[splits[met] != part.split]:
            return part, parts[other]
    return None
