"""Wrong pixels place by place, counted while a set is scored."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from SSLRemoteSensing.core.classes import IGNORE


@dataclass(frozen=True)
class Place:
    """A part of a scene: rows y to y + height, columns x to x + width, and its pixels.

    Attributes:
        scene: its number in the order of the scenes.
        scored, wrong: pixels with a label; of these, those of another class than it.
    """

    scene: int
    y: int
    x: int
    height: int
    width: int
    scored: int
    wrong: int

    @property
    def share(self) -> float:
        """Share of wrong pixels among the scored ones."""
        return self.wrong / self.scored


class TileErrors:
    """Scored and wrong pixels of each tile of each scene: two numbers a tile, on `device`.

    A scene is divided into as few nearly equal tiles as have sides of at most `side` pixels; one
    that is no larger is one tile. They do not overlap, whatever the files were cut into.

    Args:
        sizes: (height, width) of each scene.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], side: int, device: str | torch.device):
        self.tops = [edges(height, side) for height, _ in sizes]
        self.lefts = [edges(width, side) for _, width in sizes]
        self.first = [0]  # of the tiles of each scene, row by row
        for tops, lefts in zip(self.tops, self.lefts, strict=True):
            self.first.append(self.first[-1] + (len(tops) - 1) * (len(lefts) - 1))
        self.counts = torch.zeros(2, self.first[-1], dtype=torch.int64, device=device)

    def add_rows(self, scene: int, y: int, classes: Tensor, label: Tensor) -> None:
        """Add rows of a scene from row `y`: two integer maps (h, width); label 255 is not scored.

        Rows may come in any order and in parts of any height.
        """
        tops, lefts = self.tops[scene], self.lefts[scene]
        masks = error_masks(classes, label)
        bounds = torch.tensor(lefts, device=masks.device)
        columns = len(lefts) - 1
        for row in range(len(tops) - 1):
            part = masks[:, max(0, tops[row] - y) : max(0, tops[row + 1] - y)]
            if part.shape[1]:
                sums = torch.nn.functional.pad(part.sum(1).cumsum(1), (1, 0))
                start = self.first[scene] + row * columns
                self.counts[:, start : start + columns] += sums[:, bounds].diff(dim=1)

    def add_whole(self, scenes: Sequence[int], classes: Tensor, label: Tensor) -> None:
        """Add scenes that are one tile each: two integer maps (N, h, w)."""
        masks = error_masks(classes, label)
        indices = torch.tensor([self.first[scene] for scene in scenes], device=masks.device)
        self.counts[:, indices] += masks.flatten(2).sum(2)

    def places(self) -> list[Place]:
        """All tiles with what was counted, scene by scene, from top to bottom."""
        boxes = (
            (scene, y, x, below - y, right - x)
            for scene, (tops, lefts) in enumerate(zip(self.tops, self.lefts, strict=True))
            for y, below in itertools.pairwise(tops)
            for x, right in itertools.pairwise(lefts)
        )
        wrong, scored = self.counts.tolist()
        return [Place(*box, *pixels) for box, *pixels in zip(boxes, scored, wrong, strict=True)]


def error_masks(classes: Tensor, label: Tensor) -> Tensor:
    mask = label != IGNORE
    return torch.stack([mask & (classes != label), mask])


def edges(length: int, side: int) -> list[int]:
    """Where nearly equal parts of at most `side` begin, and the end.

    >>> edges(600, 256)
    [0, 200, 400, 600]
    """
    count = -(-length // side)
    return [length * number // count for number in range(count + 1)]


@dataclass(frozen=True)
class RankedTile:
    """Tiles by their share of wrong pixels: up to `each` of the best, the median, the worst.

    Attributes:
        groups: 'best', 'median', 'worst', or 'all' where there are fewer than three, each from few
            errors to many; the worst the other way round.
        of: how many were ranked.
        left_out: how many were not, as too few of their pixels are scored.
    """

    groups: dict[str, list[Place]]
    of: int
    left_out: int


LEAST = 0.1  # share of a tile's pixels that must be scored for it to be ranked


def rank(places: Sequence[Place], each: int = 3) -> RankedTile:
    """The tiles to be looked at. Equal shares stay in the order of the scenes.

    Tiles of which less than a tenth is scored are not ranked, unless there are no others.
    """
    candidates = [place for place in places if place.scored]
    tiles = [
        place for place in candidates if place.scored >= LEAST * place.height * place.width
    ] or candidates
    tiles.sort(key=lambda place: place.share)
    each, count = min(each, len(tiles) // 3), len(tiles)
    rest = len(places) - count
    if not each:
        return RankedTile({"all": tiles} if tiles else {}, count, rest)
    middle = (count - each) // 2
    groups = {"best": tiles[:each], "median": tiles[middle : middle + each]}
    return RankedTile(groups | {"worst": tiles[: -each - 1 : -1]}, count, rest)
