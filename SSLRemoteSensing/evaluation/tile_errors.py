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

    def add(self, scenes: Sequence[int], y: int, classes: Tensor, label: Tensor) -> None:
        """Add rows of one scene from row `y`, or several scenes that are one tile each, whole.

        Rows may come in any order and in parts of any height.

        Args:
            classes, label: integer maps (N, h, w) of N scenes; label 255 is not scored.
        """
        mask = label != IGNORE
        masks = torch.stack([mask & (classes != label), mask])
        if len(scenes) > 1:
            indices = torch.tensor([self.first[scene] for scene in scenes], device=masks.device)
            self.counts[:, indices] += masks.flatten(2).sum(2)
            return
        tops, start = self.tops[scenes[0]], self.first[scenes[0]]
        bounds = torch.tensor(self.lefts[scenes[0]], device=masks.device)
        columns = len(bounds) - 1
        for row in range(len(tops) - 1):
            part = masks[:, 0, max(0, tops[row] - y) : max(0, tops[row + 1] - y)]
            if part.shape[1]:
                sums = torch.nn.functional.pad(part.sum(1).cumsum(1), (1, 0))
                first = start + row * columns
                self.counts[:, first : first + columns] += sums[:, bounds].diff(dim=1)

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


def edges(length: int, side: int) -> list[int]:
    """Where nearly equal parts of at most `side` begin, and the end.

    >>> edges(600, 256)
    [0, 200, 400, 600]
    """
    count = -(-length // side)
    return [length * number // count for number in range(count + 1)]


LEAST = 0.1  # share of a tile's pixels that must be scored for it to be ranked
EACH = 3  # tiles of a group, at most


def rank(places: Sequence[Place]) -> tuple[dict[str, list[Place]], int]:
    """The tiles to be looked at by their share of wrong pixels, and how many of them were ranked.

    They are the 'best', the 'median' and the 'worst', or 'all' where there are fewer than three:
    from few errors to many; the worst the other way round. Equal shares stay in the order of the
    scenes. Tiles of which less than a tenth is scored are not ranked, unless there are no others.
    """
    candidates = [place for place in places if place.scored]
    tiles = [
        place for place in candidates if place.scored >= LEAST * place.height * place.width
    ] or candidates
    tiles.sort(key=lambda place: place.share)
    each, count = min(EACH, len(tiles) // 3), len(tiles)
    if not each:
        return ({"all": tiles} if tiles else {}), count
    middle = (count - each) // 2
    groups = {"best": tiles[:each], "median": tiles[middle : middle + each]}
    return groups | {"worst": tiles[: -each - 1 : -1]}, count
