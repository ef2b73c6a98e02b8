"""Whole scenes of tiles: put together again from a prepared set, or an image file as it is."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.images import read_header
from SSLRemoteSensing.data.prepared import LABEL_FOLDERS, positions, read_card
from SSLRemoteSensing.data.segmentation import SegmentationDataset
from SSLRemoteSensing.data.subsets import scene_of

PLACED = re.compile(r"(.+)_(\d+)_(\d+)")
Size = tuple[int, int]  # height, width
PlacedTiles = dict[tuple[int, int], int]  # (y, x) of a tile in its scene -> its index


class TiledImage:
    """An image or label of a whole scene, read by rows from top to bottom.

    Args:
        files: the tile at each (y, x), of a label (image, label); together they cover
            (height, width), where they overlap they agree.
        read: one of `files` to its pixels (h, w) or (h, w, C).
    """

    def __init__(
        self,
        files: dict[tuple[int, int], str | tuple[str, str]],
        read: Callable,
        height: int,
        width: int,
    ):
        self.files, self.read, self.height, self.width = files, read, height, width
        self.tops = sorted({y for y, _ in files})
        self.let_go()

    def let_go(self) -> None:
        self.top, self.strip = -1, np.empty(0)  # the last tiles read, and their first row

    def rows(self, y: int, height: int) -> np.ndarray:
        """Pixels (height, width[, C]) from row `y`; nothing is kept after the scene's last row."""
        parts, end = [], y
        while end < y + height:
            if not self.top <= end < self.top + len(self.strip):
                # Of the strips that hold this row the lowest, which has the most rows to come.
                self.read_strip(max(top for top in self.tops if top <= end))
            part = self.strip[end - self.top : y + height - self.top]
            parts.append(part)
            end += len(part)
        if end == self.height:
            self.let_go()
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_strip(self, top: int) -> None:
        """Hold the tiles whose first row is `top`, side by side; they must be of one size."""
        places = sorted(x for y, x in self.files if y == top)
        names = [self.files[top, x] for x in places]
        with ThreadPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
            tiles = list(pool.map(self.read, names))
        below = min((y for y in self.tops if y > top), default=self.height)
        ends = pairwise([*places, self.width])
        for name, (x, right), tile in zip(names, ends, tiles, strict=True):
            width = tile.shape[1]
            covers = below <= top + len(tile) and right <= x + width
            inside = top + len(tile) <= self.height and x + width <= self.width
            if tile.shape != tiles[0].shape or not covers or not inside:
                name = name if isinstance(name, str) else name[1]
                raise UserError(
                    f"tile {name}: {width} x {len(tile)} pixels, which do not fit beside the "
                    "others; prepare the data set again"
                )
        self.top, self.strip = top, tiles[0]
        if len(tiles) > 1:
            self.strip = np.empty((len(tiles[0]), self.width, *tiles[0].shape[2:]), np.uint8)
            for x, tile in zip(places, tiles, strict=True):
                self.strip[:, x : x + tile.shape[1]] = tile


@dataclass(frozen=True)
class ScoredScene:
    """A scene to be scored: its image, and its labels by kind ('full', 'eroded')."""

    name: str
    height: int
    width: int
    image: TiledImage
    labels: dict[str, TiledImage]


def open_scenes(
    tiles: SegmentationDataset, kinds: dict[str, Sequence[str]], together: bool = True
) -> list[ScoredScene]:
    """The scenes that `tiles` are of, or each tile as a scene of its own.

    Args:
        kinds: kind of label -> a file for each tile, from `label_kinds`.
        together: put prepared tiles together; others are scenes of their own in any case.

    Raises:
        UserError: tiles of a scene are missing, as `hash_range` can have it; or another tool cut
            them, whose names tell the scene, not which pixels they share.
    """
    if together and not tiles.card and any(scene_of(stem(file)) for file, _ in tiles.pairs):
        raise UserError(f"where {tiles.name(0).name} and others lie in their scenes is not known")
    groups = prepared_groups(tiles) if together and tiles.card else single_groups(tiles)
    images = [image for image, _ in tiles.pairs]
    sources = [(images, tiles.read_image)]
    sources += [(list(zip(images, x, strict=True)), tiles.read_scored) for x in kinds.values()]
    scenes = []
    for name, (size, places) in groups.items():
        image, *labels = (
            TiledImage({place: files[index] for place, index in places.items()}, read, *size)
            for files, read in sources
        )
        scenes.append(ScoredScene(name, *size, image, dict(zip(kinds, labels, strict=True))))
    return scenes


def single_groups(tiles: SegmentationDataset) -> dict[str, tuple[Size, PlacedTiles]]:
    """Each tile by its path: its (height, width), and itself at (0, 0)."""
    files = [file for file, _ in tiles.pairs]
    if tiles.card and "tile" in tiles.card:
        sizes = [(tiles.card["tile"],) * 2] * len(files)
    else:
        sizes = [header.shape for header in map_files(read_header, files, "reading sizes")]
    return {file: (sizes[i], {(0, 0): i}) for i, file in enumerate(files)}


def prepared_groups(tiles: SegmentationDataset) -> dict[str, tuple[Size, PlacedTiles]]:
    """Scene -> its (height, width) and the index of the tile at each (y, x)."""
    card = tiles.card
    missing = {"places", "tile", "stride"} - card.keys()
    if missing:
        where = f"{card['root']}/dataset.json"
        raise UserError(f"{where}: damaged (lacks {min(missing)}); prepare the data set again")
    scenes: dict[tuple[str, str], PlacedTiles] = defaultdict(dict)
    for index, (file, _) in enumerate(tiles.pairs):
        match = PLACED.fullmatch(stem(file))
        split = Path(file).parent.name
        if not match or match[1] not in card["places"].get(split, ()):
            raise UserError(f"tile {file}: is of no scene that {card['root']}/dataset.json names")
        scenes[split, match[1]][int(match[2]), int(match[3])] = index
    splits_of = Counter(scene for _, scene in scenes)
    groups = {}
    for (split, scene), places in scenes.items():
        place = card["places"][split][scene]
        size = place["height"], place["width"]
        tops, lefts = (positions(length, card["tile"], card["stride"]) for length in size)
        grid = {(y, x) for y in tops for x in lefts}
        if grid != places.keys():
            raise UserError(
                f"scene {scene}: {len(grid - places.keys())} of its {len(grid)} tiles are not "
                "among those to score; leave out hash_range, or score the tiles (--tiles)"
            )
        groups[scene if splits_of[scene] == 1 else f"{split}/{scene}"] = size, places
    return groups


def label_kinds(tiles: SegmentationDataset) -> dict[str, Sequence[str]]:
    """Kind of label -> a file for each tile: that of `label_path`, and the other one that a
    prepared set has. A kind that not every tile has is left out, which is said on stderr."""
    labels = [label for _, label in tiles.pairs]
    if tiles.card is None:
        return {"full": labels}
    root = tiles.card["root"]
    paths = [Path(label).absolute().relative_to(root) for label in labels]
    kind_of = {folder: kind for kind, folder in LABEL_FOLDERS.items()}
    own_folder = paths[0].parts[0]
    kinds = {kind_of.get(own_folder, "full"): labels}
    for kind, folder in LABEL_FOLDERS.items():
        if kind not in kinds and kind in tiles.card.get("labels", ()) and own_folder in kind_of:
            files = [str(root / folder / path.relative_to(own_folder)) for path in paths]
            missing = sum(not os.path.isfile(file) for file in files)
            if missing:
                text = f"{missing} of {len(files)} tiles have no {kind} label"
                warn(f"{text}; {kind} labels are not scored")
            else:
                kinds[kind] = files
    return {kind: kinds[kind] for kind in LABEL_FOLDERS if kind in kinds}


def require_eroded(protocols: Sequence[str] | None, image_path: str, label_path: str) -> None:
    """Raise a `UserError` where eroded labels are asked for and the paths are known to have none.

    Folders that are not there yet may have them.
    """
    if not any(name.endswith("_eroded") for name in protocols or ()):
        return
    for path in (image_path, label_path):
        card = read_card(path)
        if ("eroded" not in card["labels"]) if card else Path(path).exists():
            raise UserError(
                f"scoring_cfg.protocols: {path} has no eroded labels; prepare the data set with "
                "--labels both, or leave these protocols out"
            )
