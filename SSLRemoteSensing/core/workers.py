"""A loader's worker processes: how they start and end, and what is told where they fail or hang."""

import _thread
import contextlib
import ctypes
import errno
import multiprocessing
import multiprocessing.queues
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.errors import SAVE, STOP, UserError

PREFETCH = 4  # batches that a worker makes ahead
PATIENCE = 5  # seconds for a batch once the run is to stop, and for workers to end by themselves
PR_SET_PDEATHSIG = 1  # of Linux's prctl
SHARED = "/dev/shm"
NO_WORKERS = "--set train_cfg.num_workers=0"
MORE_ROOM = f"give a container more (docker run --shm-size=8g), or pass fewer, or {NO_WORKERS}"
FAILED = 100  # exit status of a worker that could not hand on a batch, plus the system's number

_waiting_since: float | None = None  # when the batch was asked for that has not come yet


class NoBatch(KeyboardInterrupt):
    """A signal, whose number it holds, stops the run, and the batch that it waits for stays away;
    see `stop_waiting`."""


def one_thread(worker: int) -> None:
    """Keep to one thread, as workers run beside each other, and leave signals to the main process.

    Ctrl-C and most batch systems signal the whole process group. The main process then finishes its
    step and saves, for which it may still need a batch. It ends its workers by `end_workers`; they
    end with it where it was killed, also one that hangs.
    """
    cv2.setNumThreads(0)
    for number in (*STOP, *SAVE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The batch would be lost with the error, and the main process wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_worker)
    sys.excepthook = lambda *error: None  # of a connection that the main process has closed


def end_worker(error: Exception, batch) -> None:
    """End this worker, which cannot hand on `batch`, with the number of the system's `error`."""
    match = re.search(r"\((\d+)\)\s*$", str(error))  # torch puts it at the end of a RuntimeError
    number = getattr(error, "errno", None) or (int(match[1]) if match else 0)
    if number not in errno.errorcode:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(FAILED + number if number in errno.errorcode else FAILED)


def start_workers(loader: DataLoader) -> Iterator:
    """The batches of `loader`; a `UserError` where its processes cannot be started."""
    try:
        if loader.num_workers:
            # As many as torch makes, whose iterator complains when it goes where it is half made.
            queues = [multiprocessing.Queue() for _ in range(loader.num_workers + 3)]
            del queues
        return iter(loader)
    except (OSError, ImportError) as error:
        raise UserError(
            f"train_cfg.num_workers={loader.num_workers}: workers cannot be started ({error}); "
            f"give the machine or container room in {SHARED}, or pass {NO_WORKERS}"
        ) from error


def awaited(batches: Iterable) -> Iterator:
    """`batches`, for which `stop_waiting` need not wait for ever."""
    global _waiting_since
    batches = iter(batches)
    while True:
        _waiting_since = time.monotonic()
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            _waiting_since = None
        yield batch


def read_in_order(
    dataset: Dataset, numbers: Sequence[int], num_workers: int, what: str, unit: str
) -> Iterator[tuple[int, Any]]:
    """(number, sample) of a data set in the order of `numbers`, read ahead by workers, with a bar.
    Close it where it is not read to its end."""
    loader = DataLoader(
        dataset, sampler=numbers, batch_size=None, num_workers=num_workers,
        worker_init_fn=one_thread, generator=torch.Generator(),
    )  # fmt: skip
    samples = start_workers(loader)
    try:
        bar = progress(what, awaited(samples), len(numbers), unit)
        yield from zip(numbers, bar, strict=True)
    finally:
        end_workers(samples)


def stop_waiting(number: int) -> None:
    """From now on raise `NoBatch` wherever a batch stays away: the run is to stop by the signal
    `number`. A worker may hang on a file that a lost disk does not give. Windows has no alarm, and
    a second Ctrl-C is what ends such a run there."""
    if not hasattr(signal, "SIGALRM"):
        return

    def look(alarm: int, frame) -> None:
        signal.alarm(1)
        if _waiting_since is not None and time.monotonic() - _waiting_since > PATIENCE:
            text = "stopped, though the images did not come: the same command goes on"
            raise NoBatch(number, text)

    signal.signal(signal.SIGALRM, look)  # which `training.run.signals` gives back
    signal.siginterrupt(signal.SIGALRM, False)
    signal.alarm(1)


def end_workers(batches) -> None:
    """End the workers of a loader's iterator now, whoever still holds it: after an error its
    traceback does, and the process would wait for workers that wait for it."""
    if not hasattr(batches, "_shutdown_workers"):  # torch has no public name for it
        return

    def kill() -> None:
        for worker in batches._workers:  # one that hangs takes no SIGTERM
            worker.kill()

    ended = threading.Event()

    def kill_late() -> None:  # torch would wait for one after the other
        if not ended.wait(PATIENCE / 2):
            kill()

    try:
        # torch's signal handler tells of those killed, anywhere: a Thread might be half started.
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(kill_late, ())
        with contextlib.suppress(RuntimeError):
            batches._shutdown_workers()
    finally:
        ended.set()
        kill()
        for worker in batches._workers:
            worker.join(timeout=PATIENCE)


def shared_memory_remark(batch: Mapping, num_workers: int) -> str:
    """What there is to warn of where workers hand on such batches; '' for nothing.

    Raises:
        UserError: not even a batch of each worker has room.
    """
    if not num_workers or not os.path.isdir(SHARED):
        return ""
    size = sum(value.nbytes for value in batch.values() if isinstance(value, Tensor))
    free = shutil.disk_usage(SHARED).free
    text = (
        f"train_cfg.num_workers={num_workers}: {SHARED}, through which workers hand on batches of "
        f"{size / 2**20:.3g} MiB, has {free / 2**20:.3g} MiB free"
    )
    if free < (num_workers + 1) * size:
        raise UserError(f"{text}; {MORE_ROOM}")
    is_short = free < PREFETCH * num_workers * size
    return f"{text}, and they make {PREFETCH} ahead; {MORE_ROOM}" if is_short else ""


@contextlib.contextmanager
def name_lost_workers() -> Iterator[None]:
    """Raise a `UserError` where a loader's worker was killed, as the system does to free memory, or
    could not hand on what it read.

    torch tells it by a RuntimeError, from a signal handler: wherever the main process is by then.
    If that is just fetching a batch, the worker's connection is what fails, and the signal may come
    later. If it is a finalizer, whose errors Python only prints, nothing is printed, as the loader
    finds its worker gone at the next batch.
    """
    print_unraisable = sys.unraisablehook

    def print_others(unraisable) -> None:
        if not tells_lost_worker(unraisable.exc_value):
            print_unraisable(unraisable)

    sys.unraisablehook = print_others
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        reason = reason_of(error)
        if isinstance(error, RuntimeError):
            is_lost = tells_lost_worker(error)
        else:  # of a worker's own errors it says which worker; a pipe is stdout
            is_lost = "DataLoader worker" not in reason and not isinstance(error, BrokenPipeError)
        if not is_lost:
            raise
        status = re.search(r"exit code (\d+)", reason)
        number = int(status[1]) - FAILED if status else 0
        hint = f"the last checkpoint is kept, the same command goes on, with {NO_WORKERS} too"
        if number == errno.ENOSPC or "shared memory" in reason:
            text = f"a worker found no room in {SHARED} for the images it read; {MORE_ROOM}"
        elif number in errno.errorcode:
            text = f"a worker could not hand on images ({os.strerror(number)}); set fewer, or 0"
        else:
            text = (
                f"a worker that reads images was killed ({reason or type(error).__name__}), "
                f"probably for lack of memory; set fewer num_workers, or smaller crops"
            )
        raise UserError(f"train_cfg.num_workers: {text}; {hint}") from error
    finally:
        sys.unraisablehook = print_unraisable


def tells_lost_worker(error: BaseException | None) -> bool:
    """Whether it is torch's RuntimeError of a worker that is gone."""
    ends = ("killed by signal", "exited unexpectedly", "shared memory(shm)")
    reason = reason_of(error)
    is_of_worker = isinstance(error, RuntimeError) and "DataLoader worker" in reason
    return is_of_worker and any(end in reason for end in ends)


def reason_of(error: BaseException | None) -> str:
    return " ".join(f"{error} {getattr(error, '__cause__', None) or ''}".split())
