"""fit(): the one training loop. It is handed a module, a data set and functions, and knows no task.

What `model(batch)` returns is a dict of named, weighted losses; their sum is minimised.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.config import OneOf, Part, build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder
from SSLRemoteSensing.core.machine import choose_device
from SSLRemoteSensing.core.workers import end_workers, name_lost_workers, one_thread
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog, Silent
from SSLRemoteSensing.training.meters import LossMeter, Throughput
from SSLRemoteSensing.training.plan import make_plan, require_images
from SSLRemoteSensing.training.resume import resume
from SSLRemoteSensing.training.run import Saver, plain_card, signals
from SSLRemoteSensing.training.sampler import KeySampler
from SSLRemoteSensing.training.schedules import OPTIMIZERS, SCHEDULES
from SSLRemoteSensing.training.settings import (
    CheckpointSettings,
    LogSettings,
    check_graphs,
    check_numbers,
)
from SSLRemoteSensing.training.train_step import TrainStep


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
    watch: Callable[[dict, dict], tuple[dict, dict]] | None = None,
    look: Callable[[Callable], tuple[dict, dict, dict]] | None = None,
    measure: Callable[[int, bool], tuple[dict, dict]] | None = None,
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
        batch_size: images of each process and batch.
        optimizer: torch's, by name, with its parameters; `lr` is the rate before the schedule.
        checkpoints: where and how often to save.
        log: where and how often to write the log.
        num_epoch: length of the run in epochs; this or `num_step`.
        num_step: length of the run in steps; this or `num_epoch`.
        lr_schedule: factor of the learning rate by the place in the run; None: 1 throughout.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'; of several processes
            each takes its own GPU.
        num_workers: processes that read images, of each training process; 0: the training process
            reads them itself.
        precision: 'fp32'; 'bf16' (autocast); 'auto', bf16 where the hardware has it.
        channels_last: keep weights and images in torch's channels_last memory: the same results up
            to rounding, at another speed, which tools/benchmark.py measures.
        compile: True, or a mode of torch.compile ('max-autotune', ...).
        sync_bn: statistics of batch normalization over all processes; GPUs only.
        accumulate_steps: batches whose gradients make one step: a step sees accumulate_steps x
            batch_size x processes images.
        clip_grad_norm: scale the gradient of a step down to this norm where it is larger; None:
            never.
        seed: of weights, order and augmentation, from 0.
        max_skipped_steps: how many steps in all may be left out because a loss or gradient is not
            finite; above 0 each step waits for the device to know. 0 stops at the first, found
            where losses and gradients are read.
        param_groups: as for torch's optimizers, with `lr_factor` besides; default one group.
        evaluate: called with each checkpoint; the best value of its `best_by` makes `best.pth`.
        export: called with (step, epoch, images seen) before each checkpoint of an epoch.
        start: called once all is checked, before the first step.
        watch: called at each entry of the log with a batch on the device and the sums of what the
            network counted; gives figures for it, and what to warn of, by kind, each kind once.
        look: called every `log.vis_step` steps with a function that moves a batch to the device;
            gives figures, what to warn of, and pictures, R, G, B uint8 (H, W, 3) by name.
        measure: called by the first process, while the others wait, with (epochs done, whether it
            is the end), before the first step, after each epoch and at the end; gives what `watch`
            gives. It must leave the network as it is.
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
    if logging.with_vis and look is None:
        raise UserError(
            "train_cfg.log.with_vis=True: there are pictures of pre-training only; leave it out"
        )
    rank, processes = distributed.rank(), distributed.size()
    per_step = batch_size * accumulate_steps * processes
    distributed.require_equal("data", len(dataset), "give all machines the same images")
    require_images(len(dataset), batch_size, accumulate_steps, processes)
    schedule = build(SCHEDULES, lr_schedule, "train_cfg.lr_schedule") if lr_schedule else None
    device = choose_device(device)
    check_graphs(device, accumulate_steps, compile)
    stepper = TrainStep(
        model, optimizer, device, precision, channels_last, compile, clip_grad_norm, param_groups,
        sync_bn,
    )  # fmt: skip
    if dry_run:
        course = make_plan(len(dataset), per_step, num_epoch, num_step, None)
        print(f"{len(dataset)} images, {course.describe()}, {stepper.describe()}")
        stepper.rehearse(collate([dataset[(0, i)] for i in range(batch_size)]), accumulate_steps)
        return True

    folder, key = Path(saving.checkpoints_path), "train_cfg.checkpoints.checkpoints_path"
    distributed.require_shared(make_folder(folder, key), key)
    log_folder = make_folder(logging.log_path, "train_cfg.log.log_path")
    pictures = logging.pictures()
    if pictures is not None:
        make_folder(pictures, "train_cfg.log.vis_path")
    with contextlib.ExitStack() as ends:
        if rank == 0:
            for place in {folder.resolve(), log_folder.resolve()}:
                ends.enter_context(run_folder.locked(place))
        with distributed.first_before_others():
            state = run_folder.read(folder)
        at = None if state is None else state["step"]
        distributed.require_equal("latest.pth, step", at, f"see that all read the same {folder}")
        course = make_plan(len(dataset), per_step, num_epoch, num_step, state)
        first, total = course.first, course.total
        print(f"{len(dataset)} images, {course.describe()}, {stepper.describe()}")
        history = LossMeter(dataset, limit=max(1, len(dataset) // 100))
        if rank > 0:  # the weights are the same everywhere, dropout is each process's own
            torch.manual_seed(seed + rank)
        card, best, pending = plain_card(card), None, False
        if state is not None:
            if not resume(state, folder, card, course, len(dataset), stepper, history):
                return False
            best, pending = state["best"], state["pending"]
        del state  # its copy of all weights

        sampler = KeySampler(
            len(dataset), batch_size, course.per_epoch * accumulate_steps,
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
        if start is not None and rank == 0:
            start()
        writer = RunLog(log_folder, first, total, pictures) if rank == 0 else Silent()
        saver = Saver(
            folder, saving.max_keep, stepper, course, history, len(dataset), card, writer, best
        )
        ends.callback(writer.close)
        ends.enter_context(name_lost_workers())
        ends.callback(end_workers, loading)
        received = ends.enter_context(signals())

        def end_epoch(done: int, epoch: int, again: bool = False) -> None:
            """The checkpoint comes last: a crash before it repeats what went before it."""
            if export is not None:
                saver.attempt(export, done, epoch + 1, course.seen(done))
            if evaluate is not None:
                distributed.broadcast_buffers(model)
                scores = evaluate()
                if not again:
                    named = {f"val_{name}": value for name, value in scores.items()}
                    writer.write({"step": done, "epoch": epoch} | named)
                saver.keep_best(done, scores[best_by])
            saver.save(done, epoch + 1)

        def measured(done: int, epoch: int, epochs: int) -> None:
            """Before the checkpoint, as the scores: else a kill in between would lose them."""
            if rank == 0:
                figures, remarks = measure(epochs, done == total)
                if figures:
                    writer.write({"step": done, "epoch": epoch} | figures)
                writer.warn(remarks)
            distributed.barrier()

        if pending:
            end_epoch(first, course.epoch(first - 1), again=True)
        if measure is not None and first == 0:
            measured(0, 0, 0)
        clock = Throughput()
        told = Entries(logging, total, stepper, history, clock, writer, watch, look)
        saved = time.monotonic()

        def wishes() -> tuple[int, int]:
            """The signal that stops the run, or 0; whether a checkpoint is asked for."""
            due = time.monotonic() - saved >= 60 * (saving.save_minutes or math.inf)
            return received.stop, int(due or received.save)

        for step in range(first, total):
            asked = distributed.ask(wishes)
            done, epoch = step + 1, course.epoch(step)
            stepper.set_lr(schedule(*course.progress(step)) if schedule else 1.0)
            before = stepper.statistics() if max_skipped_steps else None
            for number in range(accumulate_steps):
                with clock.waiting():
                    batch = next(batches)
                last = number == accumulate_steps - 1
                losses = stepper.forward_backward(batch, 1 / accumulate_steps, last)
                history.add(done, batch, losses, stepper.counted())
            norm = stepper.gradient_norm()
            history.add_gradient(done, norm)
            if before is None or history.is_finite(done):
                stepper.update(norm)
            else:
                history.leave_out(done, max_skipped_steps, writer.say)
                stepper.forget_gradient()
                stepper.restore(before)
            writer.step()
            clock.images += per_step
            told.after(done, epoch, batch)

            if measure is not None and (course.ends_epoch(done) or done == total):
                history.check(writer.say)
                measured(done, epoch, epoch + 1)
                clock.pause()
            stopped_by, due = asked()
            due_epoch = course.ends_epoch(done) and (epoch + 1) % saving.save_step == 0
            if done == total or due_epoch or stopped_by or due:
                received.save = False
                saver.begin(done)
                if done == total or due_epoch:
                    end_epoch(done, epoch)
                    clock.pause()
                else:
                    saver.save(done, None)
                saved = time.monotonic()
            if saver.unsaved and stopped_by:
                raise saver.unsaved
            if stopped_by and done < total:
                writer.say(f"stopped after step {done}; the same command goes on from there")
                raise SystemExit(128 + stopped_by)
        if saver.unsaved:
            raise saver.unsaved
        return True


MOST = 0.03  # share of the time for pictures, above which it is said what to set


@dataclass
class Entries:
    """Tells of each step that is due. All processes call it, the first one watches and writes."""

    settings: LogSettings
    total: int
    stepper: TrainStep
    history: LossMeter
    clock: Throughput
    writer: RunLog | Silent
    watch: Callable[[dict, dict], tuple[dict, dict]] | None
    look: Callable[[Callable], tuple[dict, dict, dict]] | None
    looked: tuple[int, float] | None = None  # the last look: its step, and when it had ended

    def after(self, step: int, epoch: int, batch: dict) -> None:
        """Write what is due after `step`, whose last batch was `batch`."""
        last = step == self.total
        entry = last or step % self.settings.log_step == 0
        every = self.settings.vis_step
        look = self.look is not None and every > 0 and (last or step % every == 0)
        if not entry and not look:
            return
        if not entry:
            self.history.check(self.writer.say)  # what is not finite is nothing to look at
        figures = self.history.take(self.writer.say) if entry else {}
        counts = self.history.take_counts() if entry else {}
        seen = {}
        self.stepper.wait()  # else the time of steps still under way would count as watching
        with self.clock.watching():
            if distributed.rank() == 0 and entry and self.watch is not None:
                moved = self.stepper.to_device(batch)
                found, remarks = self.stepper.observe(self.watch, moved, counts)
                self.writer.warn(remarks)
                seen |= found
            if distributed.rank() == 0 and look:
                started = time.perf_counter()
                found, remarks, pictures = self.stepper.observe(self.look, self.stepper.to_device)
                self.writer.warn(remarks)
                seen |= found
                self.writer.show(pictures, step)
                self.writer.warn(self.cost(step, started))
            distributed.barrier()  # the others' time until here is no time of training either
        if entry:
            figures |= distributed.all_mean(self.clock.lap())
            figures["memory_gb"] = self.stepper.peak_memory() / 1e9
            figures = {"lr": self.stepper.lr()} | figures
        if figures | seen:
            self.writer.write({"step": step, "epoch": epoch} | figures | seen)

    def cost(self, step: int, started: float) -> dict[str, str]:
        """A remark where a look takes too much of the time from one to the next.

        The first one is not judged: it reads the images.
        """
        now, before, every = time.perf_counter(), self.looked, self.settings.vis_step
        self.looked = step, now
        if before is None or step - before[0] != every:
            return {}
        share = (now - started) / (now - before[1])
        if share <= MOST:
            return {}
        # With n times as many steps in between, a share s becomes s / (s + n (1 - s)).
        enough = math.ceil(every * share * (1 - MOST) / (MOST * (1 - share)))
        told = f"figures and pictures of fixed samples take {share:.0%} of the time"
        return {"cost": f"{told}; below {MOST:.0%} from train_cfg.log.vis_step={enough}"}
