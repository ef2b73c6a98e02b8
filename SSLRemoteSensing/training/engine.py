"""The one training loop. It is handed a `Task` and `LoopSettings`, and knows no kind of task."""

import time

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.training.run import Run, open_run
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Place, Seen, Task


def fit(task: Task, settings: LoopSettings) -> bool:
    """Train `task.model`, going on from the run folder's `latest.pth` if there is one.

    Under torchrun every process calls it with the same arguments; the first alone writes.

    Returns:
        Whether there was anything left to do.

    Raises:
        UserError: as `open_run`; too many unreadable files, a loss that is not finite, no room on
            the disk for the last checkpoint.
    """
    with open_run(task, settings) as run:  # lock, checkpoint, loader, log, signals; closes them
        if run is None:
            return False
        step, losses = run.step, run.losses
        if run.pending:
            end_epoch(run, run.first_place(), again=True)
        if run.plan.first == 0:
            probe(run, run.first_place())
        run.start_clocks()
        for place in run.places():
            wishes = run.ask()  # asked now, read once the step is under way: no wait in between
            step.set_lr(run.lr_factor(place))
            statistics = step.statistics() if settings.max_skipped_steps else None
            for batch, is_last in run.batches():
                share = 1 / settings.accumulate_steps
                losses.add(place.step, batch, *step.forward_backward(batch, share, is_last))
            norm = step.gradient_norm()
            losses.add_gradient(place.step, norm)
            if statistics is None or losses.is_finite(place.step):
                step.update(norm)
            else:
                losses.leave_out(place.step, settings.max_skipped_steps, run.log.say)
                step.undo(statistics)
            run.end_step()
            observe(run, place, batch)
            probe(run, place)
            stop, save_now = wishes()
            if place.is_checkpoint or stop or save_now:
                save(run, place)
            if stop:
                run.end_early(place, stop)
        run.require_saved()
        return True


def observe(run: Run, place: Place, batch: dict) -> None:
    """Write what is due after a step: means of the losses, rates, and what the monitors see.

    All processes call it; the first alone looks, and the others wait for it.
    """
    due = [monitor for monitor in run.task.monitors if monitor.is_due(place)]
    if not place.logs and not due:
        return
    if place.logs:
        figures, counts = run.losses.take(run.log.say), run.losses.take_counts()
    else:
        run.losses.check(run.log.say)  # what is not finite is nothing to look at
        figures, counts = {}, {}
    seen = []
    run.step.wait()  # else the time of steps still under way would count as watching
    with run.throughput.watching():
        if distributed.rank() == 0 and due:
            batch = run.step.to_device(batch)
            for monitor in due:
                seen.append(run.step.observe(monitor.observe, batch, counts, run.step.to_device))
                tell(run, place, seen[-1])
        distributed.barrier()  # the others' time until here is no time of training either
    if place.logs:
        figures |= distributed.all_mean(run.throughput.lap())
        figures = {"lr": run.step.lr()} | figures | {"memory_gb": run.step.peak_memory() / 1e9}
    for sight in seen:
        figures |= sight.figures
    if figures:
        run.log.write({"step": place.step, "epoch": place.epoch} | figures)


def probe(run: Run, place: Place) -> None:
    """Measure and write what the task's probe tells, where it is due.

    Before the checkpoint, as the scores: else a kill in between would lose them.
    """
    if run.task.probe is None or not run.task.probe.is_due(place):
        return
    run.losses.check(run.log.say)
    if distributed.rank() == 0:
        sight = run.task.probe.measure(place)
        run.log.write({"step": place.step, "epoch": place.epoch} | sight.figures)
        tell(run, place, sight)
    distributed.barrier()
    run.throughput.pause()


def tell(run: Run, place: Place, seen: Seen) -> None:
    """Warn of what was seen, and show its pictures."""
    run.log.warn(seen.warnings)
    if seen.pictures:
        run.log.show(seen.pictures, place.step)


def save(run: Run, place: Place) -> None:
    """Write what is due; a disk that is full does not end training, the next attempt may do."""
    run.begin_saving(place)
    if place.is_checkpoint:
        end_epoch(run, place)
        run.throughput.pause()
    else:
        run.write_checkpoint(place, None)
    run.saved_at = time.monotonic()


def end_epoch(run: Run, place: Place, again: bool = False) -> None:
    """Export, score and keep an epoch; `again`: what of it could not be written before.

    The checkpoint comes last: a crash before it repeats what went before it.
    """
    task = run.task
    if task.export is not None:
        run.attempt_to_save(task.export, place)
    if task.evaluate is not None:
        distributed.broadcast_buffers(task.model)
        scores = task.evaluate()
        if not again:
            named = {f"val_{name}": value for name, value in scores.items()}
            run.log.write({"step": place.step, "epoch": place.epoch} | named)
        run.keep_best(place, scores[task.best_by])
    run.write_checkpoint(place, place.epoch + 1)
