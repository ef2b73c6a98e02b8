"""Which tile a sample of training is of, where tiles of rare classes shall come more often."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from SSLRemoteSensing.core.errors import UserError


@dataclass
class SamplingSettings:
    """The keys of `sampling`: labelled tiles are drawn by what is in their labels.

    Attributes:
        by: 'class', tiles with rare classes more often.
        power: of a class's rarity, from 0: a tile's weight is the mean, over its labelled pixels,
            of the share of their class in all labels to the power of -`power`. 0 draws all tiles
            alike, 1 a class as often as any other where each tile is of one class.
    """

    by: Literal["class"] = "class"
    power: float = 0.5

    def __post_init__(self):
        if not 0 <= self.power <= 4:
            raise UserError(f"train_data.sampling.power={self.power}: must be 0 to 4")


class ClassSampling:
    """`tile(epoch, index)` says which tile that sample is of, as a function of these and the seed.

    In each epoch of `length` samples a tile comes as often as its weight says, to less than one
    time: samples are places, evenly apart, on a line that the tiles divide. A tile without a
    labelled pixel has nothing to teach, and never comes.

    Args:
        counts: labelled pixels of each class in each tile, (tiles, classes).
    """

    def __init__(self, counts: np.ndarray, power: float, length: int, seed: int):
        pixels = np.maximum(counts.sum(1, keepdims=True), 1)
        shares, total = counts / pixels, counts.sum(0)
        present = total > 0
        rarity = np.zeros(len(total))
        rarity[present] = (total[present] / total.sum()) ** -power
        weights = shares @ rarity
        if not weights.any():
            raise UserError("train_data.sampling: no pixel of the labelled tiles has a label")
        self.weights, self.length, self.seed = weights / weights.sum(), length, seed
        self.ends, self.last = self.weights.cumsum(), int(np.flatnonzero(weights)[-1])
        self.drawn = self.weights @ shares  # of the labelled pixels that are drawn, by class

    def tile(self, epoch: int, index: int) -> int:
        shift = np.random.default_rng([self.seed, epoch]).random()
        place = (index + shift) / self.length * self.ends[-1]
        return min(int(np.searchsorted(self.ends, place, side="right")), self.last)
