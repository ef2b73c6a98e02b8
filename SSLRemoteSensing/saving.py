"""What a run saves, and when; a disk that is full for a while does not end it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing import checkpoint, distributed, run_folder
from SSLRemoteSensing.course import Course
from SSLRemoteSensing.errors import CannotWrite, UserError
from SSLRemoteSensing.history import History
from SSLRemoteSensing.log import Log, Silent
from SSLRemoteSensing.resuming import random_state
from SSLRemoteSensing.step import TrainStep


@dataclass
class CheckpointSettings:
    """The `checkpoints` of a config.

    Attributes:
        checkpoints_path: the run's folder; it is made.
        save_step: epochs between two checkpoints (and evaluations).
        max_keep: how many `epoch_NNNN.pth` to keep, the newest.
        save_minutes: besides, write `latest.pth` in mid-epoch when so many minutes have passed;
            None: only at the ends of epochs.
    """

    checkpoints_path: str
    save_step: int = 1
    max_keep: int = 3
    save_minutes: float | None = None

    def __post_init__(self):
        if self.save_step < 1 or self.max_keep < 1:
            raise UserError("train_cfg.checkpoints: save_step and max_keep must be at least 1")
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise UserError(
                f"train_cfg.checkpoints.save_minutes={self.save_minutes}: must be above 0"
            )


@dataclass
class Saver:
    """Writes a run's checkpoints. All processes call it, the first one writes.

    Where a file cannot be written, training goes on and the next checkpoint is another attempt;
    `unsaved` has the reason until `begin` is called for that one. A checkpoint remembers that
    something else of its epoch could not be written, and a run that goes on from it begins there.
    """

    folder: Path
    max_keep: int
    stepper: TrainStep
    course: Course
    history: History
    images: int
    card: dict
    writer: Log | Silent
    best: float | None = None  # the score of `best.pth`
    unsaved: CannotWrite | None = None

    def begin(self, step: int) -> None:
        """Raise a `UserError` where what is to be saved after `step` is not finite."""
        self.history.check(self.writer.say)
        self.stepper.require_finite(step)
        self.unsaved = None

    def save(self, step: int, finished_epoch: int | None) -> None:
        """Write all that going on needs, after an epoch as its checkpoint, too."""
        own = {"random": random_state(self.stepper.device), "history": self.history.state_dict()}
        contents = (
            self.stepper.state_dict()
            | self.course.position(step)
            | {
                "best": self.best,
                "images": self.images,
                "pending": self.unsaved is not None,
                "processes": distributed.all_gather_object(own),
                "card": self.card,
            }
        )
        self.attempt(run_folder.save, self.folder, contents, finished_epoch, self.max_keep)
        distributed.barrier()

    def keep_best(self, step: int, score: float | None) -> None:
        """Write `best.pth` if no `score` before was as high."""
        if score is None:
            raise UserError("train_cfg.val_data: no pixel of it has a label")
        if self.best is not None and score <= self.best:
            return
        weights = {"model": self.stepper.model.state_dict(), "step": step, "card": self.card}
        if self.attempt(checkpoint.write, self.folder / "best.pth", weights):
            self.best = score

    def attempt(self, write: Callable, *args) -> bool:
        """Call `write` on the first process; whether it could, on the others True."""
        try:
            if distributed.rank() == 0:
                write(*args)
        except CannotWrite as error:
            self.unsaved = error
            self.writer.say(f"warning: {error}; training goes on, the next checkpoint tries again")
            return False
        return True


def plain(card: dict | None) -> dict:
    """`card` in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card or {}, default=str))
