"""A run of the loop: opened in its folder, gone on with, saved, stopped, closed."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.core.files import make_folder
from SSLRemoteSensing.core.workers import end_workers, name_lost_workers
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.meters import LossMeter, Throughput
from SSLRemoteSensing.training.plan import Plan, images_per_step, make_plan
from SSLRemoteSensing.training.resume import random_state, resume
from SSLRemoteSensing.training.sampler import load
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Place, Task
from SSLRemoteSensing.training.train_step import TrainStep, open_step


@dataclass
class Received:
    """Signals so far: the first that stops the run, or 0; whether one asks for a checkpoint."""

    stop: int = 0
    save: bool = False


@dataclass
class Run:
    """A run that has begun. All processes have one; the first one's alone writes.

    Where a file cannot be written, training goes on and the next checkpoint is another attempt;
    `unsaved` has the reason until then.

    Attributes:
        card: of the task, in JSON's types.
        schedule: factor of the learning rate, of what `Plan.progress` gives.
        loading: the batches, in order.
        best: the score of `best.pth`, None before there is one.
        saved_at: when the last checkpoint was written, or the run began; in seconds.
    """

    task: Task
    settings: LoopSettings
    plan: Plan
    step: TrainStep
    losses: LossMeter
    log: RunLog
    card: dict
    schedule: Callable[[int, int, int], float]
    loading: Iterator[dict]
    received: Received
    best: float | None
    unsaved: CannotWrite | None = None
    throughput: Throughput = field(default_factory=Throughput)
    saved_at: float = field(default_factory=time.monotonic)

    def lr_factor(self, place: Place) -> float:
        return self.schedule(*self.plan.progress(place.step - 1))

    def batches(self) -> Iterator[tuple[dict, float, bool]]:
        """The batches of a step, the share of each in it, and whether it is the last of them; the
        wait for them is counted."""
        count = self.settings.accumulate_steps
        for number in range(count):
            with self.throughput.spending("waiting"):
                batch = next(self.loading)
            yield batch, 1 / count, number == count - 1

    def end_step(self) -> None:
        self.log.step()
        self.throughput.images += self.plan.per_step

    def write(self, place: Place, figures: dict) -> None:
        """An entry of the log."""
        self.log.write({"step": place.step, "epoch": place.epoch} | figures)

    def ask(self) -> Callable[[], list[int]]:
        """The signal that stops the run, or 0, and whether a checkpoint is asked for: as one of the
        processes knows it now, to be read once the step is under way."""

        def wishes() -> tuple[int, int]:
            minutes = self.settings.checkpoints.save_minutes or math.inf
            is_due = time.monotonic() - self.saved_at >= 60 * minutes
            return self.received.stop, int(is_due or self.received.save)

        return distributed.ask(wishes)

    def attempt_to_save(self, write: Callable, *args) -> bool:
        """Call `write` on the first process; whether it could, on the others True."""
        try:
            if distributed.rank() == 0:
                write(*args)
        except CannotWrite as error:
            self.unsaved = error
            self.log.say(f"warning: {error}; training goes on, the next checkpoint tries again")
            return False
        return True

    def keep_best(self, place: Place, score: float | None) -> None:
        """Write `best.pth` if no `score` before was as high."""
        if score is None:
            raise UserError("train_cfg.val_data: no pixel of it has a label")
        if self.best is not None and score <= self.best:
            return
        weights = {"model": self.step.model.state_dict(), "step": place.step, "card": self.card}
        if self.attempt_to_save(checkpoints.write, self.settings.folder / "best.pth", weights):
            self.best = score

    def write_checkpoint(self, place: Place) -> None:
        """Write all that going on needs, after an epoch as its checkpoint, too; nothing where
        something else of that epoch could not be written."""
        own = {"random": random_state(self.step.device), "history": self.losses.state_dict()}
        contents = self.step.state_dict() | self.plan.position(place.step)
        contents |= {
            "best": self.best,
            "images": len(self.task.dataset),
            "processes": distributed.all_gather_object(own),
            "card": self.card,
        }
        finished_epoch = place.epoch + 1 if place.is_checkpoint else None
        folder, max_keep = self.settings.folder, self.settings.checkpoints.max_keep
        if self.unsaved is None:
            self.attempt_to_save(run_folder.save, folder, contents, finished_epoch, max_keep)
        distributed.barrier()

    def require_saved(self) -> None:
        """Raise the `CannotWrite` of what the last checkpoint could not write."""
        if self.unsaved:
            raise self.unsaved

    def end_early(self, place: Place, number: int) -> None:
        """End the program as the signal asks, once all is saved; the last step ends by itself."""
        self.require_saved()
        if not place.is_last:
            self.log.say(f"stopped after step {place.step}; the same command goes on from there")
            raise SystemExit(128 + number)


@contextlib.contextmanager
def open_run(task: Task, settings: LoopSettings) -> Iterator[Run | None]:
    """The run of `task` in its folder, for as long as the block lasts; None where it is done.

    Its folder is locked, what its `latest.pth` holds is gone on with, `task.begin` is called, and
    signals are noted. The order of what is drawn at random hangs on the order of these lines.

    Raises:
        UserError: fewer images than a step takes, a folder that cannot be written or is another
            run's, a checkpoint of another network; processes that see other images or another
            folder than the first.
    """
    images, rank = len(task.dataset), distributed.rank()
    per_step = images_per_step(images, settings)
    schedule = build_schedule(settings.lr_schedule)
    step = open_step(task.model, settings, task.param_groups)
    folder, key = settings.folder, "train_cfg.checkpoints.checkpoints_path"
    distributed.require_shared(make_folder(folder, key), key)
    log_folder = make_folder(settings.log.log_path, "train_cfg.log.log_path")
    pictures = settings.log.pictures()
    if pictures is not None:
        make_folder(pictures, "train_cfg.log.vis_path")
    with contextlib.ExitStack() as ends:
        if rank == 0:
            for place in {folder.resolve(), log_folder.resolve()}:
                ends.enter_context(run_folder.locked(place))
        with distributed.first_before_others():
            state = run_folder.read(folder)
        reached = None if state is None else state["step"]
        remedy = f"see that all read the same {folder}"
        distributed.require_equal("latest.pth, step", reached, remedy)
        plan = make_plan(images, per_step, settings.num_epoch, settings.num_step, state)
        print(f"{images} images, {plan.describe()}, {step.describe()}")
        losses = LossMeter(task.dataset, limit=max(1, images // 100))
        if rank > 0:  # the weights are the same everywhere, dropout is each process's own
            torch.manual_seed(settings.seed + rank)
        # In JSON's types, which a checkpoint can hold without pickling objects.
        card = json.loads(json.dumps(task.card, default=str))
        if state is not None and not resume(state, folder, card, plan, images, step, losses):
            yield None
            return
        best = None if state is None else state["best"]
        del state  # its copy of all weights
        batches = load(task, settings, plan, pins=step.device.type == "cuda")
        if task.begin is not None and rank == 0:
            task.begin()
        log = RunLog(log_folder if rank == 0 else None, plan.first, plan.total, pictures)
        ends.callback(log.close)
        ends.enter_context(name_lost_workers())
        ends.callback(end_workers, batches)
        received = ends.enter_context(signals())
        yield Run(
            task, settings, plan, step, losses, log, card, schedule, iter(step.ahead(batches)),
            received, best,
        )  # fmt: skip


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Note SIGINT and SIGTERM, which stop the run after a step, and SIGUSR1, which has it save; a
    second SIGINT ends at once.

    A second SIGTERM does not: some batch systems signal a process and its parent, which passes it.
    """
    received = Received()

    def note(number: int, frame) -> None:
        if number == signal.SIGUSR1:
            received.save = True
            return
        received.stop = received.stop or number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    is_main = threading.current_thread() is threading.main_thread()  # only there can they be set
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) if is_main else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
