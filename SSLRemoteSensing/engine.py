"""fit(): the one training loop. It is handed a module, a data set and functions, and knows no task.

What `model(batch)` returns is a dict of named, weighted losses; their sum is minimised.
"""

import contextlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from SSLRemoteSensing import checkpoint, distributed, run_folder
from SSLRemoteSensing.config import OneOf, Part, build, differences
from SSLRemoteSensing.course import plan
from SSLRemoteSensing.datasets.sampler import KeySampler
from SSLRemoteSensing.datasets.workers import end_workers, lost_workers_told, one_thread
from SSLRemoteSensing.errors import CannotWrite, UserError
from SSLRemoteSensing.log import STOPPED, Clock, History, Log, LogSettings, Silent
from SSLRemoteSensing.schedules import OPTIMIZERS, SCHEDULES
from SSLRemoteSensing.step import TrainStep, choose_device
from SSLRemoteSensing.writing import make_folder


@dataclass
class CheckpointSettings:
    """The `checkpoints` of a config.

    Attributes:
        checkpoints_path: the run's folder.
        save_step: epochs between two checkpoints (and evaluations).
        max_keep: how many `epoch_NNNN.pth` to keep.
        save_minutes: besides, write `latest.pth` in mid-epoch when so many minutes have passed.
    """

    checkpoints_path: str
    save_step: int = 1
    max_keep: int = 3
    save_minutes: float | None = None

    def __post_init__(self):
        if self.save_step < 1 or self.max_keep < 1:
            raise UserError("train_cfg.checkpoints: save_step and max_keep must be at least 1")


def fit(
    model: nn.Module,
    dataset,
    collate: Callable,
    batch_size: int,
    optimizer: Annotated[dict, OneOf(OPTIMIZERS, given=("params",))],
    checkpoints: Annotated[dict, Part(CheckpointSettings)],
    log: Annotated[dict, Part(LogSettings)],
    num_epoch: int | None = None,
    num_step: int | None = None,
    lr_schedule: Annotated[dict | None, OneOf(SCHEDULES)] = None,
    device: str = "auto",
    num_workers: int = 0,
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    channels_last: bool = False,
    compile: bool | str = False,
    sync_bn: bool = False,
    accumulate_steps: int = 1,
    clip_grad_norm: float | None = None,
    max_skipped_steps: int = 0,
    seed: int = 0,
    param_groups: list[dict] | None = None,
    evaluate: Callable[[], dict] | None = None,
    best_by: str = "miou",
    export: Callable[[int, int, int], None] | None = None,
    start: Callable[[], None] | None = None,
    watch: Callable[[dict], tuple[dict, list[str]]] | None = None,
    card: dict | None = None,
    dry_run: bool = False,
) -> bool:
    """Train `model` on `dataset`, going on from the run folder's `latest.pth` if there is one.

    A step is one update of the weights, from `accumulate_steps` batches of `batch_size` samples of
    each process; an epoch is as many whole steps as the data give. A sample is `dataset[(epoch,
    index)]`; a collated batch holds `index`, the samples' numbers for messages, and may hold
    `skipped`, numbers of files that could not be read. Give `num_epoch` or `num_step`.

    Under torchrun every process calls it with the same arguments. The first alone writes, exports
    and calls `start`; all call `evaluate`, which must give them the same.

    Args:
        max_skipped_steps: how many steps in all may be left out because a loss or gradient is not
            finite; above 0 each step waits for the device to know. 0 stops at the first, found
            where the losses are read.
        param_groups: as for torch's optimizers, with `lr_factor` besides; default one group.
        evaluate: called with each checkpoint; the best value of its `best_by` makes `best.pth`.
        export: called with (step, epoch, images seen) before each checkpoint of an epoch.
        start: called once all is checked, before the first step.
        watch: called with a batch on the device at each entry of the log; gives figures for it, and
            lines to warn of, each said once.
        card: what is known of the weights; kept in each checkpoint.
        dry_run: run and describe one step, write nothing.

    Returns:
        Whether there was anything left to do.

    Raises:
        UserError: fewer samples than a step takes, a folder that cannot be written, a checkpoint of
            another network, too many unreadable files, a loss that is not finite; processes that
            see other images or another folder than the first.
    """
    saving, logging = CheckpointSettings(**checkpoints), LogSettings(**log)
    check_numbers(
        batch_size,
        accumulate_steps,
        num_epoch,
        num_step,
        num_workers,
        seed,
        clip_grad_norm,
        max_skipped_steps,
    )
    rank, processes = distributed.rank(), distributed.size()
    per_step = batch_size * accumulate_steps * processes
    distributed.require_equal("data", len(dataset), "give all machines the same images")
    if len(dataset) < per_step:
        raise UserError(
            f"train_cfg.batch_size={batch_size} (x accumulate_steps={accumulate_steps}, x "
            f"{processes} processes): only {len(dataset)} images; add images or set a smaller "
            f"batch_size"
        )
    schedule = build(SCHEDULES, lr_schedule, "train_cfg.lr_schedule") if lr_schedule else None
    device = choose_device(device)
    if device.type == "cuda" and accumulate_steps > 1 and compile in CUDA_GRAPHS:
        raise UserError(
            f"train_cfg.compile={compile!r}: its CUDA graphs cannot add up the gradients of "
            f"accumulate_steps={accumulate_steps}; set compile=True"
        )
    stepper = TrainStep(
        model, optimizer, device, precision, channels_last, compile, clip_grad_norm, param_groups,
        sync_bn,
    )  # fmt: skip
    folder, key = Path(saving.checkpoints_path), "train_cfg.checkpoints.checkpoints_path"
    if not dry_run:
        distributed.require_shared(make_folder(folder, key), key)
    with contextlib.nullcontext() if dry_run or rank > 0 else run_folder.held(folder):
        with distributed.first_before_others():
            state = None if dry_run else run_folder.read(folder)
        course = plan(len(dataset), per_step, num_epoch, num_step, state)
        first, total, per_epoch = course.first, course.total, course.per_epoch
        print(
            f"{len(dataset)} images, {per_epoch} steps of {per_step} an epoch, {total} steps in "
            f"all, {stepper.describe()}"
        )
        if dry_run:
            stepper.rehearse(
                collate([dataset[(0, i)] for i in range(batch_size)]), accumulate_steps
            )
            return True

        log_folder = make_folder(logging.log_path, "train_cfg.log.log_path")
        best = None if state is None else state["best"]
        history = History(dataset, limit=max(1, len(dataset) // 100))
        if state is not None:
            compare_cards(state["card"], plain(card), folder)
            if first >= total and num_epoch and state["epoch"] < num_epoch:
                raise UserError(
                    f"train_cfg.batch_size={batch_size}: the rest of the last epoch is less than a "
                    f"step of {per_step} images; go on with steps of {state['per_step']}"
                )
            if first >= total:
                print(f"{folder}: all {total} steps are done, nothing is left to do")
                return False
            stepper.load_state_dict(state, f"{folder}/latest.pth")
            for part in state["processes"][rank::processes]:
                history.load_state_dict(part["history"], device)
            if state["images"] != len(dataset):
                print(
                    f"warning: going on with {len(dataset)} images, so far {state['images']}: "
                    f"their order is another one",
                    file=sys.stderr,
                )
            if state["per_step"] != per_step:
                print(
                    f"going on with steps of {per_step} images, so far {state['per_step']}: at "
                    f"image {course.position(first)['offset']} of the epoch"
                )
            print(
                f"going on from {folder}/latest.pth: step {first} of {total}, epoch "
                f"{course.epoch(first)}"
            )

        sampler = KeySampler(
            len(dataset), batch_size, per_epoch * accumulate_steps,
            course.place(first) * accumulate_steps, course.place(total) * accumulate_steps, seed,
            rank, processes,
        )  # fmt: skip
        loading = iter(
            DataLoader(
                dataset,
                batch_sampler=sampler,
                collate_fn=collate,
                num_workers=num_workers,
                prefetch_factor=4 if num_workers else None,
                pin_memory=device.type == "cuda",
                worker_init_fn=one_thread,
                generator=torch.Generator(),  # its own: the loader must not draw from the model's
            )
        )
        batches = stepper.ahead(loading)
        if state is not None and rank < len(state["processes"]):
            set_random_state(state["processes"][rank]["random"], device)
        elif rank > 0:  # the weights are the same everywhere, dropout is each process's own
            torch.manual_seed(seed + rank)
        del state  # its copy of all weights
        if start is not None and rank == 0:
            start()
        writer = Log(log_folder, first, total) if rank == 0 else Silent()

        unsaved = None  # why the last checkpoint could not be written

        def attempt(write: Callable, *args) -> bool:
            """Write on the first process. Where the disk is full, say, training goes on, and the
            next checkpoint is another attempt.
            """
            nonlocal unsaved
            try:
                if rank == 0:
                    write(*args)
            except CannotWrite as error:
                unsaved = error
                writer.say(f"warning: {error}; training goes on, the next checkpoint tries again")
                return False
            return True

        def save(step: int, finished_epoch: int | None) -> None:
            contents = (
                stepper.state_dict()
                | course.position(step)
                | {
                    "best": best,
                    "images": len(dataset),
                    "processes": distributed.all_gather_object(
                        {"random": random_state(device), "history": history.state_dict()}
                    ),
                    "card": plain(card),
                }
            )
            attempt(run_folder.save, folder, contents, finished_epoch, saving.max_keep)
            distributed.barrier()

        def finish_epoch(step: int, epoch: int) -> None:
            """What belongs to an epoch's end. The checkpoint comes last: a crash before it repeats
            what went before it.
            """
            nonlocal best
            if export is not None:
                attempt(export, step, epoch + 1, course.seen(step))
            if evaluate is not None:
                distributed.broadcast_buffers(model)
                scores = evaluate()
                named = {f"val_{name}": value for name, value in scores.items()}
                writer.write({"step": step, "epoch": epoch} | named)
                if scores[best_by] is None:
                    raise UserError("train_cfg.val_data: no pixel of it has a label")
                if best is None or scores[best_by] > best:
                    weights = {
                        "model": stepper.model.state_dict(),
                        "step": step,
                        "card": plain(card),
                    }
                    if attempt(checkpoint.write, folder / "best.pth", weights):
                        best = scores[best_by]
            save(step, finished_epoch=epoch + 1)

        with lost_workers_told(), contextlib.ExitStack() as ends:
            ends.callback(writer.close)
            ends.callback(end_workers, loading)
            with signals() as received:
                clock = Clock()
                saved = time.monotonic()

                def wishes() -> tuple[int, int]:
                    """The signal that stops the run, or 0; whether a checkpoint is asked for."""
                    due = minutes_since(saved) >= (saving.save_minutes or math.inf)
                    return received.stop, int(due or received.save)

                for step in range(first, total):
                    asked = distributed.ask(wishes)
                    epoch = course.epoch(step)
                    stepper.set_lr(schedule(*course.progress(step)) if schedule else 1.0)
                    before = stepper.statistics() if max_skipped_steps else None
                    for number in range(accumulate_steps):
                        with clock.waiting():
                            batch = next(batches)
                        last = number == accumulate_steps - 1
                        losses = stepper.forward_backward(batch, 1 / accumulate_steps, last)
                        history.add(step + 1, batch, losses)
                    if before is None or stepper.gradient_is_finite():
                        stepper.update()
                    else:
                        history.leave_out(step + 1, max_skipped_steps, writer.say)
                        stepper.forget_gradient()
                        stepper.restore(before)
                    writer.step()
                    done = step + 1
                    clock.images += per_step
                    if done % logging.log_step == 0 or done == total:
                        figures = history.take(writer.say) | distributed.all_mean(clock.lap())
                        if watch is not None and rank == 0:
                            seen, remarks = stepper.observe(watch, batch)
                            figures |= seen
                            history.warn(remarks, writer.say)
                        writer.write({"step": done, "epoch": epoch, "lr": stepper.lr()} | figures)
                    stopped_by, due = asked()
                    due_epoch = course.ends_epoch(done) and (epoch + 1) % saving.save_step == 0
                    if done == total or due_epoch or stopped_by or due:
                        history.check(writer.say)
                        if not stepper.finite():
                            raise UserError(f"step {done}: weights are not finite; {STOPPED}")
                        unsaved, received.save = None, False
                        if done == total or due_epoch:
                            finish_epoch(done, epoch)
                            clock.pause()
                        else:
                            save(done, finished_epoch=None)
                        saved = time.monotonic()
                    if unsaved and (done == total or stopped_by):
                        raise unsaved
                    if stopped_by and done < total:
                        writer.say(
                            f"stopped after step {done}; the same command goes on from there"
                        )
                        raise SystemExit(128 + stopped_by)
        return True


@dataclass
class Received:
    """Signals so far: the first that stops the run, or 0; whether one asks for a checkpoint."""

    stop: int = 0
    save: bool = False


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Note SIGINT and SIGTERM, which stop the run, and SIGUSR1, which saves; a second SIGINT acts
    as ever.

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
            signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def random_state(device: torch.device) -> dict:
    """The states of torch's generators, which dropout draws from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def plain(card: dict | None) -> dict:
    """`card` in JSON's types, which a checkpoint can hold without pickling objects."""
    return json.loads(json.dumps(card or {}, default=str))


def compare_cards(old: dict, new: dict, folder) -> None:
    """Name what changed in the config since the checkpoint; refuse another network or optimizer."""
    for path, before, now, refused in config_changes(old, new):
        if refused:
            raise UserError(
                f"{folder}/latest.pth: {path} was {before!r} and is now {now!r}; set another "
                f"checkpoints_path for a new run, or the old value to go on"
            )
        print(f"warning: going on with {path}={now!r}, so far {before!r}", file=sys.stderr)


def config_changes(old: dict, new: dict) -> list[tuple[str, object, object, bool]]:
    """What differs between the configs of two cards: key, before, now, and whether a run cannot go
    on with it."""
    changed = []
    for path, before, now in differences(old.get("config", {}), new.get("config", {})):
        network = path.startswith(NETWORK_KEYS) and (before or path.endswith("pretrained"))
        refused = path == "train_cfg.optimizer.name" or bool(network)
        changed.append((path, before, now, refused))
    return changed


NETWORK_KEYS = (
    "backbone_cfg",
    "inpainting_head_cfg",
    "agr_head_cfg",
    "examplar_head_cfg",
    "decoder_cfg",
    "classes",
)


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile


def minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60


def check_numbers(
    batch_size: int,
    accumulate_steps: int,
    num_epoch: int | None,
    num_step: int | None,
    num_workers: int,
    seed: int,
    clip_grad_norm: float | None,
    max_skipped_steps: int,
) -> None:
    """Raise a `UserError` for numbers that fit() cannot work with."""
    check_counts(
        {
            "batch_size": (batch_size, 1),
            "accumulate_steps": (accumulate_steps, 1),
            "num_epoch": (num_epoch, 1),
            "num_step": (num_step, 1),
            "num_workers": (num_workers, 0),
            "seed": (seed, 0),
            "clip_grad_norm": (clip_grad_norm, 1e-12),
            "max_skipped_steps": (max_skipped_steps, 0),
        }
    )
    if (num_epoch is None) == (num_step is None):
        raise UserError("train_cfg: give either num_epoch or num_step")


def check_counts(least: dict[str, tuple[float | None, float]]) -> None:
    """Raise a `UserError` for a number below its least: key -> (value, least)."""
    for key, (value, bound) in least.items():
        if value is not None and value < bound:
            raise UserError(f"train_cfg.{key}={value}: must be at least {bound}")
