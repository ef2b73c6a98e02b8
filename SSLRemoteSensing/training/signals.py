"""Signals as a run takes them: SIGINT and SIGTERM stop it after a step, SIGUSR1 has it save."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Received:
    """Signals so far: the first that stops the run, or 0; whether one asks for a checkpoint."""

    stop: int = 0
    save: bool = False


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Note SIGINT and SIGTERM, which stop the run, and SIGUSR1, which saves; a second SIGINT
    ends at once.

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
            signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
