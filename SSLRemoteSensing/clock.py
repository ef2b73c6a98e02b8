"""How fast training is, and what else takes the time."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Images a second and shares of the time, lap by lap.

    `images_per_second` and `data_wait` are of the time of training, from which the time spent on
    figures and pictures (`watching`, a share of the whole lap) is left out.
    """

    def __init__(self):
        self.pause()

    def pause(self) -> None:
        """Start a new lap, leaving out what came before (an evaluation, say)."""
        self.start, self.waited, self.watched, self.images = time.perf_counter(), 0.0, 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        asked = time.perf_counter()
        yield
        self.waited += time.perf_counter() - asked

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        asked = time.perf_counter()
        yield
        self.watched += time.perf_counter() - asked

    def lap(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self.start
        training = elapsed - self.watched
        rates = {
            "images_per_second": self.images / training,
            "data_wait": self.waited / training,
            "watching": self.watched / elapsed,
        }
        self.pause()
        return rates
