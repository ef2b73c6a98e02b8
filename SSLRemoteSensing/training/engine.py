"""The one training loop. It is handed a `Task` and `LoopSettings`, and knows no kind of task."""

import math
import time

from SSLRemoteSensing.core import distributed, machine
from SSLRemoteSensing.core.workers import NoBatch
from SSLRemoteSensing.training.run import Run, open_run
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Place, Seen, Task


def fit(task: Task, settings: LoopSettings) -> bool:
    """Train `task.model`, going on from `latest.pth` where there is one; whether anything was left
    to do. Under torchrun every process calls it, alike; the first alone writes.

    Raises:
        UserError: as `open_run`; too many unreadable files, a loss that is not finite, no room on
            the disk for the last checkpoint.
    """
    with open_run(task, settings) as run:  # lock, checkpoint, loader, log, signals; closes them
        if run.is_finished:
            return False
        step, losses, batch = run.step, run.losses, None
        if run.plan.first == 0:
            probe(run, run.plan.after(0, settings))
        run.throughput.pause()  # what came before the first step is no time of training
        run.saved_at = time.monotonic()
        for place in run.plan.places(settings):
            wishes = distributed.ask(run.wishes)  # read once the step is under way: no wait
            step.set_lr(run.schedule(*run.plan.progress(place.step - 1)))
            statistics = step.statistics() if settings.max_skipped_steps else None
            try:
                for batch, share, is_last in run.batches():
                    losses.add(place.step, batch, *step.forward_backward(batch, share, is_last))
            except NoBatch as stop:
                leave(run, place, batch, stop.args[0])
                raise
            norm = step.gradient_norm()
            losses.norms[place.step] = norm
            if statistics is None or losses.is_finite(place.step):
                step.update(norm)
            else:
                losses.leave_out(place.step, settings.max_skipped_steps, run.log.say)
                step.undo(statistics)
            run.log.step()
            run.throughput.images += run.plan.per_step
            stop, save_now = wishes()
            saves = place.is_checkpoint or stop > 0 or save_now > 0
            # An entry before each checkpoint, which then need not keep what the log has not said.
            place = place._replace(logs=place.logs or saves)
            observe(run, place, batch)
            probe(run, place)
            if saves:
                save(run, place)
            if stop or place.is_last:
                run.end(place, stop)
        return True


def observe(run: Run, place: Place, batch: dict) -> None:
    """Write what is due after a step: means of the losses, rates, and what the monitors see. All
    processes call it; the first alone looks, and the others wait for it."""
    due = [monitor for monitor in run.task.monitors if monitor.is_due(place)]
    if not place.logs and not due:
        return
    run.losses.check(run.log.say)  # what is not finite is nothing to look at
    figures, counts = run.losses.take() if place.logs else ({}, {})
    sights = []
    machine.wait(run.step.device)  # else the time of steps still under way would count as watching
    with run.throughput.spending("watching"):
        if distributed.rank() == 0 and due:
            batch = run.step.to_device(batch)
            for monitor in due:
                sights.append(run.step.observe(monitor.observe, batch, counts, run.step.to_device))
                tell(run, place, sights[-1])
        distributed.barrier()  # the others' time until here is no time of training either
    if place.logs:
        figures |= distributed.all_mean(run.throughput.lap())
        figures = {"lr": run.step.lr()} | figures
        if not math.isnan(memory := machine.used_memory(run.step.device)):
            figures["memory_gb"] = memory / 1e9
    for sight in sights:
        figures |= sight.figures
    if figures:
        run.write(place, figures)


def probe(run: Run, place: Place) -> None:
    """Measure and write what the task's probe tells, where it is due; before the checkpoint, as the
    scores: else a kill in between would lose them."""
    if run.task.probe is None or not run.task.probe.is_due(place):
        return
    run.losses.check(run.log.say)
    if distributed.rank() == 0:
        sight = run.task.probe.measure(place)
        run.write(place, sight.figures)
        tell(run, place, sight)
    distributed.barrier()
    run.throughput.pause()


def tell(run: Run, place: Place, seen: Seen) -> None:
    run.log.warn(seen.warnings)
    if seen.pictures:
        run.log.show(seen.pictures, place.step)


def save(run: Run, place: Place) -> None:
    """Write what is due; a disk that is full does not end training, the next attempt may do. The
    checkpoint comes last, and only where all else of an epoch could be written: a run that goes on
    from the one before it repeats the epoch."""
    task, run.unsaved, run.received.save = run.task, None, False
    run.step.require_finite(place.step)
    if place.is_checkpoint and task.export is not None:
        run.attempt_to_save(task.export, place)
    if place.is_checkpoint and task.evaluate is not None:
        distributed.broadcast_buffers(task.model)
        scores = task.evaluate()
        run.write(place, {f"val_{name}": value for name, value in scores.items()})
        run.keep_best(place, scores[task.best_by])
    run.write_checkpoint(place)
    run.throughput.pause()
    run.saved_at = time.monotonic()


def leave(run: Run, place: Place, batch: dict | None, number: int) -> None:
    """Save the steps before `place`, whose images do not come, and end by signal `number`. Of a
    step of several batches, or processes, parts may be done: then the last checkpoint stands."""
    done = run.plan.after(place.step - 1, run.settings)._replace(logs=True, is_checkpoint=False)
    has_begun = any(part.step == place.step for part in run.losses.batches)
    if done.step == run.plan.first or has_begun or distributed.size() > 1:
        return
    if run.losses.batches:
        observe(run, done, batch)
    save(run, done)
    run.end(done, number)
