"""A run of the loop: opened in its folder, gone on with, saved, stopped, closed."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.core.files import make_folder
from SSLRemoteSensing.core.workers import end_workers, name_lost_workers, one_thread
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog, Silent
from SSLRemoteSensing.training.meters import LossMeter, Throughput
from SSLRemoteSensing.training.plan import Plan, images_per_step, make_plan
from SSLRemoteSensing.training.resume import random_state, resume
from SSLRemoteSensing.training.sampler import KeySampler
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.signals import Received, signals
from SSLRemoteSensing.training.task import Place, Task
from SSLRemoteSensing.training.train_step import TrainStep, open_step


@dataclass
class Run:
    """A run that has begun. All processes have one; the first one's alone writes.

    Where a file cannot be written, training goes on and the next checkpoint is another attempt;
    `unsaved` has the reason until then. A checkpoint remembers that something else of its epoch
    could not be written (`pending`), and a run that goes on from it begins there.

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
    log: RunLog | Silent
    card: dict
    schedule: Callable[[int, int, int], float]
    loading: Iterator[dict]
    received: Received
    best: float | None
    pending: bool
    unsaved: CannotWrite | None = None
    throughput: Throughput = field(default_factory=Throughput)
    saved_at: float = field(default_factory=time.monotonic)

    def places(self) -> Iterator[Place]:
        """Where each step that is left stands once it is done."""
        return self.plan.places(self.settings)

    def first_place(self) -> Place:
        """Where the run stands before its first step."""
        return self.plan.after(self.plan.first, self.settings)

    def start_clocks(self) -> None:
        """What came before the first step is no time of training."""
        self.throughput.pause()
        self.saved_at = time.monotonic()

    def lr_factor(self, place: Place) -> float:
        return self.schedule(*self.plan.progress(place.step - 1))

    def batches(self) -> Iterator[tuple[dict, bool]]:
        """The batches of a step, and whether each is the last of them; the wait is counted."""
        for number in range(self.settings.accumulate_steps):
            with self.throughput.waiting():
                batch = next(self.loading)
            yield batch, number == self.settings.accumulate_steps - 1

    def end_step(self) -> None:
        self.log.step()
        self.throughput.images += self.plan.per_step

    def ask(self) -> Callable[[], list[int]]:
        """The signal that stops the run, or 0, and whether a checkpoint is asked for: as one of the
        processes knows it now, to be read once the step is under way."""
        return distributed.ask(self.wishes)

    def wishes(self) -> tuple[int, int]:
        minutes = self.settings.checkpoints.save_minutes or math.inf
        is_due = time.monotonic() - self.saved_at >= 60 * minutes
        return self.received.stop, int(is_due or self.received.save)

    def begin_saving(self, place: Place) -> None:
        """Raise a `UserError` where what is to be saved is not finite."""
        self.received.save = False
        self.losses.check(self.log.say)
        self.step.require_finite(place.step)
        self.unsaved = None

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

    def write_checkpoint(self, place: Place, finished_epoch: int | None) -> None:
        """Write all that going on needs, after an epoch as its checkpoint, too."""
        own = {"random": random_state(self.step.device), "history": self.losses.state_dict()}
        contents = self.step.state_dict() | self.plan.position(place.step)
        contents |= {
            "best": self.best,
            "images": len(self.task.dataset),
            "pending": self.unsaved is not None,
            "processes": distributed.all_gather_object(own),
            "card": self.card,
        }
        folder, max_keep = self.settings.folder, self.settings.checkpoints.max_keep
        self.attempt_to_save(run_folder.save, folder, contents, finished_epoch, max_keep)
        distributed.barrier()

    def require_saved(self) -> None:
        """Raise the `CannotWrite` of what the last checkpoint could not write."""
        if self.unsaved:
            raise self.unsaved

    def end_early(self, place: Place, signal: int) -> None:
        """End the program as `signal` asks, once all is saved; the last step ends by itself."""
        self.require_saved()
        if not place.is_last:
            self.log.say(f"stopped after step {place.step}; the same command goes on from there")
            raise SystemExit(128 + signal)


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
        card, best, pending = plain_card(task.card), None, False
        if state is not None:
            if not resume(state, folder, card, plan, images, step, losses):
                yield None
                return
            best, pending = state["best"], state["pending"]
        del state  # its copy of all weights
        loading = load(task, settings, plan, step.device)
        if task.begin is not None and rank == 0:
            task.begin()
        log = RunLog(log_folder, plan.first, plan.total, pictures) if rank == 0 else Silent()
        ends.callback(log.close)
        ends.enter_context(name_lost_workers())
        ends.callback(end_workers, loading)
        received = ends.enter_context(signals())
        yield Run(
            task, settings, plan, step, losses, log, card, schedule, iter(step.ahead(loading)),
            received, best, pending,
        )  # fmt: skip


def load(task: Task, settings: LoopSettings, plan: Plan, device: torch.device) -> Iterator[dict]:
    """The batches of this process for the steps that are left, read by its workers."""
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
        prefetch_factor=4 if settings.num_workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=one_thread,
        generator=torch.Generator(),  # its own: the loader must not draw from the model's
    )
    return iter(loader)


def plain_card(card: dict) -> dict:
    """`card` in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card, default=str))
