"""Whole scenes of tiles: put together again from a prepared set, or an image file as it is."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SSLRemoteSensing.datasets.cut import LABEL_FOLDERS, positions
from SSLRemoteSensing.datasets.files import stem
from SSLRemoteSensing.datasets.opening import read_card
from SSLRemoteSensing.datasets.segmentation import SegmentationDataset
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.raster import image_size

PLACED = re.compile(r"(.+)_(\d+)_(\d+)")


class Mosaic:
    """An image or label of a whole scene, read by rows from top to bottom.

    Args:
        files: the tile at each (y, x); together they cover (height, width), where they overlap they
            agree.
        read: a file to its pixels (h, w) or (h, w, C).
    """

    def __init__(
        self,
        files: dict[tuple[int, int], str],
        read: Callable[[str], np.ndarray],
        height: int,
        width: int,
    ):
        self.files, self.read, self.height, self.width = files, read, height, width
        self.tops = sorted({y for y, _ in files})
        # The last strip read: rows asked for may end within it.
        self.top, self.strip = -1, np.empty(0)

    def rows(self, y: int, height: int) -> np.ndarray:
        """Pixels (height, width[, C]) from row `y`."""
        parts, end = [], y
        while end < y + height:
            if not self.top <= end < self.top + len(self.strip):
                # Of the strips that hold this row the lowest, which has the most rows to come.
                self.read_strip(max(top for top in self.tops if top <= end))
            part = self.strip[end - self.top : y + height - self.top]
            parts.append(part)
            end += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_strip(self, top: int) -> None:
        """Hold the tiles whose first row is `top`, side by side.

        Raises:
            UserError: one that cannot be read, or is not of the size that the others have.
        """
        places = sorted(x for y, x in self.files if y == top)
        names = [self.files[top, x] for x in places]
        with ThreadPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
            tiles = list(pool.map(self.read, names))
        after = [y for y in self.tops if y > top]
        side = len(tiles[0])
        for name, x, tile in zip(names, places, tiles, strict=True):
            beyond = top + side > self.height or x + tile.shape[1] > self.width
            if len(tile) != side or beyond or top + side < min(after, default=self.height):
                raise UserError(
                    f"tile {name}: {tile.shape[1]} x {len(tile)} pixels, which do not fit beside "
                    "the others; prepare the data set again"
                )
        if len(tiles) == 1:
            self.strip = tiles[0]
        else:
            self.strip = np.empty((side, self.width, *tiles[0].shape[2:]), np.uint8)
            for x, tile in zip(places, tiles, strict=True):
                self.strip[:, x : x + tile.shape[1]] = tile
        self.top = top


@dataclass(frozen=True)
class ScoredScene:
    """A scene to be scored: its image, and its labels by kind ('full', 'eroded')."""

    name: str
    height: int
    width: int
    image: Mosaic
    labels: dict[str, Mosaic]


def open_scenes(tiles: SegmentationDataset) -> list[ScoredScene]:
    """The scenes that `tiles` are of; of tiles that were not prepared by us each is its own scene.

    Raises:
        UserError: tiles of a scene are missing, as `hash_range` or a list file can have it.
    """
    kinds = label_kinds(tiles)
    if tiles.card is None:
        sizes = [image_size(file) for file, _ in tiles.pairs]
        groups = {
            stem(file): (size, {(0, 0): index})
            for index, ((file, _), size) in enumerate(zip(tiles.pairs, sizes, strict=True))
        }
        # A name may come again in another folder.
        if len(groups) < len(tiles):
            groups = {
                file: (size, {(0, 0): index})
                for index, ((file, _), size) in enumerate(zip(tiles.pairs, sizes, strict=True))
            }
    else:
        groups = prepared_groups(tiles)
    scenes = []
    for name, ((height, width), places) in groups.items():
        images = {place: tiles.pairs[index][0] for place, index in places.items()}
        labels = {
            kind: Mosaic(
                {place: files[index] for place, index in places.items()},
                tiles.read_label, height, width,
            )
            for kind, files in kinds.items()
        }  # fmt: skip
        image = Mosaic(images, tiles.read_image, height, width)
        scenes.append(ScoredScene(name, height, width, image, labels))
    return scenes


def prepared_groups(
    tiles: SegmentationDataset,
) -> dict[str, tuple[tuple[int, int], dict[tuple[int, int], int]]]:
    """Scene -> its (height, width) and the index of the tile at each (y, x)."""
    card = tiles.card
    found: dict[tuple[str, str], dict[tuple[int, int], int]] = defaultdict(dict)
    for index, (file, _) in enumerate(tiles.pairs):
        match = PLACED.fullmatch(stem(file))
        split = Path(file).parent.name
        if not match or match[1] not in card["places"].get(split, ()):
            raise UserError(f"tile {file}: is of no scene that {card['root']}/dataset.json names")
        found[split, match[1]][int(match[2]), int(match[3])] = index
    groups = {}
    for (split, scene), places in found.items():
        place = card["places"][split][scene]
        size = place["height"], place["width"]
        wanted = {
            (y, x)
            for y in positions(size[0], card["tile"], card["stride"])
            for x in positions(size[1], card["tile"], card["stride"])
        }
        if wanted != places.keys():
            raise UserError(
                f"scene {scene}: {len(wanted - places.keys())} of its {len(wanted)} tiles are not "
                "among those to score; leave out hash_range, or score the tiles (--tiles)"
            )
        name = scene if sum(key[1] == scene for key in found) == 1 else f"{split}/{scene}"
        groups[name] = size, places
    return groups


def label_kinds(tiles: SegmentationDataset) -> dict[str, Sequence[str]]:
    """Kind of label -> a file for each tile: the kind of `label_path` first, then the other kind
    that a prepared set has, where every tile has it."""
    own = [label for _, label in tiles.pairs]
    if tiles.card is None:
        return {"full": own}
    root = tiles.card["root"]
    inside = [Path(file).absolute().relative_to(root) for file in own]
    kind_of = {folder: kind for kind, folder in LABEL_FOLDERS.items()}
    first = inside[0].parts[0]
    kinds = {kind_of.get(first, "full"): own}
    for kind, folder in LABEL_FOLDERS.items():
        if kind not in kinds and kind in tiles.card["labels"] and first in kind_of:
            files = [str(root / folder / file.relative_to(first)) for file in inside]
            if all(os.path.isfile(file) for file in files):
                kinds[kind] = files
    return {kind: kinds[kind] for kind in LABEL_FOLDERS if kind in kinds}


def require_eroded(protocols: Sequence[str] | None, image_path: str) -> None:
    """Raise a `UserError` where eroded labels are asked for and `image_path` is known to have none.

    A folder that is not there yet may have them.
    """
    if not any(name.endswith("_eroded") for name in protocols or ()):
        return
    card = read_card(image_path)
    if ("eroded" not in card["labels"]) if card else Path(image_path).exists():
        raise UserError(
            f"scoring_cfg.protocols: {image_path} has no eroded labels; prepare the data set with "
            "--labels both, or leave these protocols out"
        )
