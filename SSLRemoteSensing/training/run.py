"""A run of the loop: opened in its folder, gone on with, saved, stopped, closed."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from SSLRemoteSensing.core import checkpoints, distributed, machine
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import SAVE, STOP, CannotWrite, UserError
from SSLRemoteSensing.core.files import make_folder
from SSLRemoteSensing.core.workers import awaited, end_workers, name_lost_workers, stop_waiting
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.meters import LossMeter, Throughput
from SSLRemoteSensing.training.plan import images_per_step, make_plan
from SSLRemoteSensing.training.resume import compare_cards, json_card
from SSLRemoteSensing.training.sampler import load
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Place, Task
from SSLRemoteSensing.training.train_step import TrainStep, named_memory


class Run:
    """A run that has begun. All processes have one; the first one's alone writes.

    Where a file cannot be written, training goes on and the next checkpoint is another attempt;
    `unsaved` has the reason until then.

    Attributes:
        best: the score of `best.pth`, None before there is one.
        saved_at: when the last checkpoint was written, or the run began; in seconds.
        is_finished: nothing is left to do, and the rest not there.
    """

    def __init__(self, task: Task, settings: LoopSettings, ends: contextlib.ExitStack):
        self.task, self.settings, self.folder = task, settings, settings.folder
        images, rank = len(task.dataset), distributed.rank()
        per_step = images_per_step(images, settings)
        self.schedule = build_schedule(settings.lr_schedule)
        self.step = TrainStep(task.model, settings, task.param_groups)
        for key, folder in settings.folders().items():
            make_folder(folder, key)
        distributed.require_shared(self.folder, "train_cfg.checkpoints.checkpoints_path")
        log_folder, pictures = Path(settings.log.log_path), settings.log.pictures()
        if rank == 0:
            run_folder.require_room(task.model, settings, 0)  # at least latest.pth, and the next
            places: dict[Path, str] = {}
            for key, folder in settings.folders().items():
                places.setdefault(folder.resolve(), key)
            for place, key in places.items():
                ends.enter_context(run_folder.locked(place, key))
        with distributed.first_before_others():
            state = run_folder.read(self.folder)
        remedy = f"see that all read the same {self.folder}"
        distributed.require_equal("latest.pth, step", state and state["step"], remedy)
        self.plan = make_plan(images, per_step, settings.num_epoch, settings.num_step, state)
        print(f"{images} images, {self.plan.describe()}, {self.step.describe()}")
        files = task.files or images
        self.losses = LossMeter(task.dataset, max(1, files // 100), files)
        self.throughput = Throughput()
        if rank > 0:  # the weights are the same everywhere, dropout is each process's own
            torch.manual_seed(settings.seed + rank)
        self.card = json_card(task.card)
        self.best, self.unsaved, self.saved_at = None, None, time.monotonic()
        self.is_finished = state is not None and not self.go_on(state)
        if self.is_finished:
            return
        del state  # its copy of all weights
        batches = load(task, settings, self.plan, pins=self.step.device.type == "cuda")
        if task.begin is not None and rank == 0:
            task.begin()
        first, total = self.plan.first, self.plan.total
        self.log = RunLog(log_folder if rank == 0 else None, first, total, pictures)
        ends.callback(self.log.close)
        ends.callback(end_workers, batches)
        self.received = ends.enter_context(signals())
        self.loading = iter(self.step.ahead(awaited(batches)))

    def go_on(self, state: dict) -> bool:
        """Give network, optimizer, generators and losses what `state`, from `run_folder.read`,
        holds of them; say what differs. Whether anything is left to do. A `UserError` for another
        network or optimizer, or a last epoch that these steps cannot end."""
        plan, images, path = self.plan, len(self.task.dataset), self.folder / "latest.pth"
        compare_cards(state["card"], self.card, path)
        if plan.first >= plan.total:
            if not plan.counts_steps and state["epoch"] < plan.epoch(plan.total):
                raise UserError(
                    f"train_cfg.batch_size: the rest of the last epoch is less than a step of "
                    f"{plan.per_step} images; go on with steps of {state['per_step']}"
                )
            print(f"{self.folder}: all {plan.total} steps are done, nothing is left to do")
            self.restore_results(state)
            return False
        best = self.folder / "best.pth"
        if state["best"] is None or best.exists():
            self.best = state["best"]
        else:
            warn(f"{best}: is not there; the best epoch from here on takes its place")
        self.step.load_state_dict(state, path)
        rank, processes = distributed.rank(), state["processes"]
        for part in distributed.shard(processes):
            self.losses.load_state_dict(part["history"])
        if rank < len(processes):
            machine.set_random_state(self.step.device, processes[rank]["random"])
        if state["images"] != images:
            before = state["images"]
            warn(f"going on with {images} images, so far {before}: their order is another one")
        if state["per_step"] != plan.per_step:
            print(
                f"going on with steps of {plan.per_step} images, so far {state['per_step']}: at "
                f"image {plan.position(plan.first)['offset']} of the epoch"
            )
        epoch = plan.epoch(plan.first)
        print(f"going on from {path}: step {plan.first} of {plan.total}, epoch {epoch}")
        return True

    def restore_results(self, state: dict) -> None:
        """Write anew what is missing of the results of a finished run, of its last weights."""
        best, task = self.folder / "best.pth", self.task
        lost = [file for file in task.exported if not file.exists()]
        if distributed.rank() == 0 and task.export is not None and lost:
            warn(f"{lost[0]}: is not there; the weights after the last step are exported again")
            self.step.load_state_dict(state, self.folder / "latest.pth")
            task.export(self.plan.after(state["step"], self.settings))
        if distributed.rank() == 0 and state["best"] is not None and not best.exists():
            warn(f"{best}: is not there; the weights after the last step take its place")
            checkpoints.write(best, {key: state[key] for key in ("model", "step", "card")})
        distributed.barrier()

    def batches(self) -> Iterator[tuple[dict, float, bool]]:
        """The batches of a step, the share of each in it, and whether it is the last of them; the
        wait for them is counted."""
        count = self.settings.accumulate_steps
        for number in range(count):
            with self.throughput.spending("waiting"):
                batch = next(self.loading)
            yield batch, 1 / count, number == count - 1

    def write(self, place: Place, figures: dict) -> None:
        """An entry of the log."""
        self.log.write({"step": place.step, "epoch": place.epoch} | figures)

    def wishes(self) -> tuple[int, int]:
        """The signal that stops the run, or 0, and whether a checkpoint is asked for."""
        minutes = self.settings.checkpoints.save_minutes or math.inf
        is_due = time.monotonic() - self.saved_at >= 60 * minutes
        return self.received.stop, int(is_due or self.received.save)

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
        if self.attempt_to_save(checkpoints.write, self.folder / "best.pth", weights):
            self.best = score

    def write_checkpoint(self, place: Place) -> None:
        """Write all that going on needs, after an epoch as its checkpoint, too; nothing where
        something else of that epoch could not be written."""
        random = machine.random_state(self.step.device)
        own = {"random": random, "history": self.losses.state_dict()}
        contents = self.step.state_dict() | self.plan.position(place.step)
        contents |= {"best": self.best, "images": len(self.task.dataset), "card": self.card}
        contents["processes"] = distributed.all_gather_object(own)
        epoch = place.epoch + 1 if place.is_checkpoint else None
        if self.unsaved is None:
            most = self.settings.checkpoints.max_keep
            self.attempt_to_save(run_folder.save, self.folder, contents, epoch, most)
        distributed.barrier()

    def end(self, place: Place, number: int) -> None:
        """End the program as signal `number` asks; after the last step it ends by itself. What
        could not be written of the last checkpoint is an error."""
        if self.unsaved:
            raise self.unsaved
        if not place.is_last:
            self.log.say(f"stopped after step {place.step}; the same command goes on from there")
            raise SystemExit(128 + number)


@contextlib.contextmanager
def open_run(task: Task, settings: LoopSettings) -> Iterator[Run]:
    """The run of `task` in its folder for as long as the block lasts: locked, gone on with from its
    `latest.pth`, `task.begin` called, and signals noted. What is drawn at random hangs on the order
    in which `Run` does so.

    Raises:
        UserError: fewer images than a step takes, a folder that cannot be written or is another
            run's, a checkpoint of another network; processes that see other images or another
            folder than the first; a worker that is lost, or memory that is full, in the block.
    """
    # Outermost: torch's signal handler may raise between any two of the ends.
    with name_lost_workers(), named_memory(settings), contextlib.ExitStack() as ends:
        yield Run(task, settings, ends)


@dataclass
class Received:
    stop: int = 0  # the first signal that stops the run, or none
    save: bool = False  # one asks for a checkpoint


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Note SIGINT and SIGTERM, which stop the run after a step, or where no batch comes for one,
    and SIGUSR1, which has it save. A second SIGINT ends at once; a second SIGTERM does not, as some
    batch systems signal a process and its parent, which passes it."""
    received = Received()

    def note(number: int, frame) -> None:
        if number in SAVE:
            received.save = True
            return
        if not received.stop:
            received.stop = number
            stop_waiting(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    is_main = threading.current_thread() is threading.main_thread()  # only there can they be set
    numbers = (*STOP, *SAVE) if is_main else ()
    before = {number: signal.signal(number, note) for number in numbers}
    has_alarm = is_main and hasattr(signal, "SIGALRM")
    if has_alarm:
        before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    try:
        yield received
    finally:
        if has_alarm and received.stop:  # else the alarm is the caller's
            signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
