"""Which sample comes when, as a function of the step alone."""

from collections.abc import Iterator

import numpy as np


class KeySampler:
    """Batches of (epoch, index) keys from batch number `first` up to `last`, over all epochs.

    Each epoch is one permutation of the data, drawn from (seed, epoch), cut into whole batches of
    `processes * batch_size`; the rest of it is left out. Process number `rank` has the `rank`-th
    part of each, so that together they see what one process with that batch would see. One iterator
    runs through all epochs, so that a loader's workers never pause between two of them, and going
    on in mid-epoch is starting at another `first`.

    Args:
        size: number of samples in the data set.
        batch_size: samples of this process.
        per_epoch: batches an epoch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        per_epoch: int,
        first: int,
        last: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ):
        assert 0 < per_epoch * batch_size * processes <= size
        assert 0 <= rank < processes
        self.size, self.batch_size, self.per_epoch = size, batch_size, per_epoch
        self.first, self.last, self.seed = first, last, seed
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, drawn = None, None
        for number in range(self.first, self.last):
            epoch, place = divmod(number, self.per_epoch)
            if epoch != drawn:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
                drawn = epoch
            start = (place * self.processes + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[start : start + self.batch_size]]
