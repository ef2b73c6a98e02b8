"""What a run saves, and when; a disk that is full for a while does not end it."""

import contextlib
import json
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import device_name, versions
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog, Silent
from SSLRemoteSensing.training.meters import LossMeter
from SSLRemoteSensing.training.plan import Plan
from SSLRemoteSensing.training.resume import random_state
from SSLRemoteSensing.training.train_step import TrainStep


def write_run_card(config: dict) -> None:
    """Add what makes this run to `run.json`: config, versions, command, processes, device."""
    from SSLRemoteSensing.core.distributed import size  # loads torch, as device_name does

    path = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"]) / "run.json"
    try:
        runs = json.loads(path.read_text())["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        runs = []
    runs.append(
        {
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.argv),
            "versions": versions(),
            "device": device_name(),
            "processes": size(),
            "config": config,
        }
    )
    write_text(path, json.dumps({"runs": runs}, indent=2, default=str) + "\n")


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
    course: Plan
    history: LossMeter
    images: int
    card: dict
    writer: RunLog | Silent
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
        if self.attempt(checkpoints.write, self.folder / "best.pth", weights):
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


def plain_card(card: dict | None) -> dict:
    """`card` in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card or {}, default=str))


@dataclass
class Received:
    """Signals so far: the first that stops the run, or 0; whether one asks for a checkpoint."""

    stop: int = 0
    save: bool = False


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Note SIGINT and SIGTERM, which stop the run, and SIGUSR1, which saves; a second SIGINT
    ends at once.

    A second SIGTERM does not: some batch systems signal a process and its parent, which passes it.
    """
    received, before = Received(), {}
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return

    def note(number: int, frame) -> None:
        if number == signal.SIGUSR1:
            received.save = True
            return
        received.stop = received.stop or number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
