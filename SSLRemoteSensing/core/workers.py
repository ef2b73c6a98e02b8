"""What a loader's worker process does first, and how its workers end."""

import contextlib
import signal
from collections.abc import Iterator

import cv2

from SSLRemoteSensing.core.errors import UserError


def one_thread(worker: int) -> None:
    """Keep to one thread, as workers run beside each other, and leave signals to the main process.

    Ctrl-C and most batch systems signal the whole process group. The main process then finishes its
    step and saves, for which it may still need a batch. It ends its workers by `end_workers`; they
    end by themselves where it was killed.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def end_workers(batches) -> None:
    """End the workers of a loader's iterator now, whoever still holds it: after an error its
    traceback does, and the process would wait for workers that wait for it."""
    if hasattr(batches, "_shutdown_workers"):  # torch has no public name for it
        try:
            batches._shutdown_workers()
        finally:  # torch's signal handler may raise in there too
            for worker in batches._workers:  # one that hangs, and takes no SIGTERM
                worker.kill()
            for worker in batches._workers:
                worker.join(timeout=5)


@contextlib.contextmanager
def name_lost_workers() -> Iterator[None]:
    """Raise a `UserError` where a loader's worker was killed, as the system does to free memory.

    torch tells it by a RuntimeError, from a signal handler: wherever the main process is by then.
    If that is just fetching a batch, the worker's connection is what fails, and the signal may come
    as late as in `end_workers`, which therefore belongs inside.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        reason = " ".join(str(error).split())
        is_killed = "killed by signal" in reason or "exited unexpectedly" in reason
        if isinstance(error, RuntimeError):
            is_lost = is_killed and "DataLoader worker" in reason
        else:  # of a worker's own errors it says which worker; a pipe is stdout
            is_lost = "DataLoader worker" not in reason and not isinstance(error, BrokenPipeError)
        if not is_lost:
            raise
        raise UserError(
            f"train_cfg.num_workers: a worker that reads images was killed "
            f"({reason or type(error).__name__}), probably for lack of memory; set fewer "
            f"num_workers, or smaller crops; the last checkpoint is kept, the same command goes on"
        ) from error
