"""What a loader's worker process does first, and how its workers end."""

import signal

import cv2

GRACE = 20  # seconds


def one_thread(worker: int) -> None:
    """Keep to one thread, as workers run beside each other, and leave signals to the main process.

    Ctrl-C and most batch systems signal the whole process group. The main process then finishes its
    step and saves, for which it may still need a batch, so SIGTERM ends a worker only later.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def end_workers(batches) -> None:
    """End the workers of a loader's iterator now, whoever still holds it.

    After an error its traceback does, and the process would wait for workers that wait for it.
    """
    if hasattr(batches, "_shutdown_workers"):  # torch has no public name for it
        batches._shutdown_workers()
