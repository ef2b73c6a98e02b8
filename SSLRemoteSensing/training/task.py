"""What the loop is handed, and what it hands on: Task, Place, Monitor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from torch import nn
from torch.utils.data import Dataset


class Place(NamedTuple):
    """Where a step stands in its run, and what is due after it."""

    step: int  # steps done: 1 after the first, 0 before it
    epoch: int  # from 0
    images: int  # seen so far, in all epochs
    ends_epoch: bool
    is_last: bool
    logs: bool  # an entry of the log is due
    is_checkpoint: bool  # an epoch's checkpoint is due: exported, evaluated and kept


@dataclass(frozen=True)
class Seen:
    """What a monitor saw: figures for the log, warnings by kind, pictures by name."""

    figures: dict[str, float | None] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # R, G, B uint8 (H, W, 3)


class Monitor(Protocol):
    """Looks at a network in training and leaves it as it was. The first process alone looks."""

    def is_due(self, place: Place) -> bool: ...

    def observe(self, batch: dict, counts: dict, to_device: Callable[[dict], dict]) -> Seen:
        """See the last batch of a step, on the device, the sums of what the network counted since
        the last entry of the log, and what `to_device` makes of a batch of the monitor's own."""


class Probe(Protocol):
    """Measures a network between two steps, and leaves it as it was."""

    def is_due(self, place: Place) -> bool: ...

    def measure(self, place: Place) -> Seen: ...


@dataclass(frozen=True)
class Task:
    """What is trained, and what is done on the way.

    Attributes:
        model: `model(batch)` gives weighted losses by name, whose sum is minimised.
        dataset: a sample is `dataset[(epoch, index)]`, its name `dataset.name(index)`.
        collate: samples to a batch, which holds `index`, the samples' numbers for messages, and may
            hold `skipped`, numbers of files that could not be read, and `redrawn`, how many windows
            held too little data.
        card: what is known of the weights; kept in each checkpoint.
        param_groups: as for torch's optimizers, with `lr_factor` besides; None: one group.
        monitors: asked after each step; what they see belongs to that step's entry of the log.
        probe: asked before the first step and after each; has entries of its own.
        begin: called by the first process once all is checked, before the first step.
        export: called by the first process before each checkpoint of an epoch.
        exported: the files that it writes; a finished run that lacks one has it called again.
        evaluate: called by all processes there, and gives them the same; the best value of its
            `best_by` makes `best.pth`.
        files: those that the samples are of, of which at most 1 % may be skipped; None: each sample
            is one.
        start: how workers begin, 'spawn' where what this process has open may not be inherited;
            None: as is usual here.
    """

    model: nn.Module
    dataset: Dataset
    collate: Callable[[list[dict]], dict]
    card: dict = field(default_factory=dict)
    param_groups: list[dict] | None = None
    monitors: Sequence[Monitor] = ()
    probe: Probe | None = None
    begin: Callable[[], None] | None = None
    export: Callable[[Place], None] | None = None
    exported: Sequence[Path] = ()
    evaluate: Callable[[], dict[str, float]] | None = None
    best_by: str = "miou"
    files: int | None = None
    start: str | None = None
