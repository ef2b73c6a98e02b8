"""Tiles of a prepared set with the outlines that their labels were burnt from."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.data.images import read_image, read_label
from SSLRemoteSensing.data.prepared import agreed_scale, positions
from SSLRemoteSensing.preparation.burning import in_pixels
from SSLRemoteSensing.preparation.catalog import Catalog, SourceScene
from SSLRemoteSensing.preparation.tiling import tile_file


class OutlinedTile(NamedTuple):
    """A tile by its file's name: image uint8 (H, W, C), label uint8 (H, W), and rings of outlines,
    each as what it is burnt as and its points (N, 2), x and y in pixels of the tile."""

    name: str
    image: np.ndarray
    label: np.ndarray
    rings: list[tuple[int, np.ndarray]]


def outlined_tiles(collection: Catalog, card: dict, output: Path, count: int) -> list[OutlinedTile]:
    """At most `count` tiles in which polygons lie, of scenes evenly spread; fewer where few have.

    Args:
        card: the contents of dataset.json of the prepared set at `output`.
    """
    wanted = {f"{split}/{name}" for split, names in card["scenes"].items() for name in names}
    scenes = [
        scene
        for scene in collection.scenes
        if scene.key in wanted and len(scene.labels["full"].polygons.areas)
    ]
    scenes = [scenes[i] for i in spread(len(scenes), count)]
    tiles: list[OutlinedTile] = []
    for number, scene in enumerate(scenes):
        # Those before may have had fewer than their share.
        share = -(-(count - len(tiles)) // (len(scenes) - number))
        tiles += tiles_of(scene, card, output, share)
    return tiles


def tiles_of(scene: SourceScene, card: dict, output: Path, count: int) -> list[OutlinedTile]:
    import shapely

    label, side = scene.labels["full"], card["tile"]
    first, end = scene.rows or (0, label.frame.height)  # tiles count from there, outlines from 0
    areas = in_pixels(label.polygons, label.frame)
    tree = shapely.STRtree(areas)
    corners = [
        (y, x)
        for y in positions(end - first, side, card["stride"])
        for x in positions(label.frame.width, side, card["stride"])
    ]
    boxes = np.array([shapely.box(x, first + y, x + side, first + y + side) for y, x in corners])
    hits = np.unique(tree.query(boxes, predicate="intersects")[0])
    if label.inside is not None:
        scored = shapely.STRtree(in_pixels(label.inside, label.frame))
        hits = np.intersect1d(hits, scored.query(boxes, predicate="intersects")[0])
    # Rather those with a border: a tile inside one polygon shows nothing.
    covered = np.unique(tree.query(boxes, predicate="covered_by")[0])
    hits = hits if np.isin(hits, covered).all() else np.setdiff1d(hits, covered)
    tiles = []
    for hit in (hits[i] for i in spread(len(hits), count)):
        y, x = corners[hit]
        near = areas[order := np.sort(tree.query(boxes[hit]))]
        rings = [
            (int(value), shapely.get_coordinates(ring) - (x, first + y))
            for area, value in zip(near, label.polygons.values[order], strict=True)
            for ring in shapely.get_rings(area)
        ]
        tiles.append(read_tile(scene, y, x, card, output, rings))
    return tiles


def read_tile(
    scene: SourceScene, y: int, x: int, card: dict, output: Path, rings: list
) -> OutlinedTile:
    bands = len(card["bands"])
    names = (tile_file("image", scene.key, y, x, as_png) for as_png in (True, False))
    image = next(path for path in map(output.joinpath, names) if path.is_file())
    label = output / tile_file("full", scene.key, y, x, True)
    pixels = read_image(image, bands, scale=agreed_scale(card, None, None))
    return OutlinedTile(image.name, pixels, read_label(label), rings)


def spread(length: int, count: int) -> list[int]:
    """At most `count` numbers below `length`, each in the middle of its share."""
    count = min(length, count)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]
