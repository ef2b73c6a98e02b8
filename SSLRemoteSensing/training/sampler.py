"""Which sample comes when, as a function of the step alone; and the loader that reads them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.workers import PREFETCH, one_thread, start_workers
from SSLRemoteSensing.training.plan import Plan
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task


@dataclass(frozen=True)
class KeySampler:
    """Batches of (epoch, index) keys from batch number `first` up to `last`, over all epochs.

    Each epoch is one permutation of the data, drawn from (seed, epoch), cut into whole batches of
    `processes * batch_size`; the rest of it is left out. Process number `rank` has the `rank`-th
    part of each, so that together they see what one process with that batch would see. One iterator
    runs through all epochs, so that a loader's workers never pause between two of them, and going
    on in mid-epoch is starting at another `first`.
    """

    size: int  # samples in the data set
    batch_size: int  # samples of this process
    per_epoch: int  # batches
    first: int
    last: int
    seed: int
    rank: int = 0
    processes: int = 1

    def __post_init__(self):
        assert 0 < self.per_epoch * self.batch_size * self.processes <= self.size

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in range(self.first, self.last):
            epoch, place = divmod(number, self.per_epoch)
            if number == self.first or place == 0:
                order = epoch_order(self.seed, epoch, self.size)
            start = (place * self.processes + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[start : start + self.batch_size]]


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The permutation of `size` samples that (seed, epoch) draws; of 32 bits where they suffice."""
    numbers = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
    np.random.default_rng([seed, epoch]).shuffle(numbers)
    return numbers


def load(task: Task, settings: LoopSettings, plan: Plan, pins: bool) -> Iterator[dict]:
    """The batches of this process for the steps that are left, read by its workers; where it `pins`
    them, into memory that a GPU copies from while it works."""
    several = settings.accumulate_steps
    sampler = KeySampler(
        len(task.dataset), settings.batch_size, plan.per_epoch * several,
        plan.index(plan.first) * several, plan.index(plan.total) * several, settings.seed,
        distributed.rank(), distributed.size(),
    )  # fmt: skip
    loader = DataLoader(
        task.dataset,
        batch_sampler=sampler,
        collate_fn=task.collate,
        num_workers=settings.num_workers,
        multiprocessing_context=task.start if settings.num_workers else None,
        prefetch_factor=PREFETCH if settings.num_workers else None,
        pin_memory=pins,
        worker_init_fn=one_thread,
        generator=torch.Generator(),  # its own: the loader must not draw from the model's
    )
    return start_workers(loader)
