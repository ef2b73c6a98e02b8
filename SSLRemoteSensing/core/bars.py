"""Bars of work that takes its time, lines above them, and threads that do it."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

DELAY = 1.0  # seconds of work before a bar appears


def progress(
    what: str,
    items: Iterable | None = None,
    total: int | None = None,
    unit: str = "it",
    unit_scale: bool = False,
) -> tqdm:
    """A tqdm bar with the time that is left, over `items` or, without them, to be updated.

    On stderr, only on a terminal, only of work that takes longer than `DELAY`, and gone when the
    work is done. Lines printed meanwhile go through `print_line`.

    Args:
        what: is done to the items, as a word or two before the bar.
        total: of the items, where they have no length, or of what `update` will count.
        unit_scale: write 12.3M for 12,300,000.
    """
    return Bar(
        items, what, total, unit=unit, unit_scale=unit_scale, delay=DELAY, leave=False,
        dynamic_ncols=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip


def map_files(
    function: Callable, items: Iterable, what: str, workers: int | None = None, unit: str = "file"
) -> Iterator:
    """`function` of each item, in the order of the items, with a bar.

    By threads, one a core if no other number of `workers` is given: reading, decoding, hashing and
    encoding all release Python's lock. The first error is raised in its turn; what has not begun by
    then, or at Ctrl-C, is not done. `what` and `unit` are as `progress` has them.
    """
    from concurrent.futures import ThreadPoolExecutor  # not for --help

    items = list(items)
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        yield from progress(what, pool.map(function, items), len(items), unit)
    finally:
        pool.shutdown(cancel_futures=True)


class Bar(tqdm):
    """A bar of which nothing is drawn before its delay has passed. tqdm's own delay does not hold
    for `refresh`, nor so for lines that are printed meanwhile, and what those draw stays."""

    drawn = False

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        if self._time() < self.start_t + self.delay:
            return None
        self.drawn = True
        return super().display(msg, pos)

    def close(self) -> None:
        if self.drawn:
            self.last_print_t = self._time()  # else there is nothing to clear, to tqdm's mind
        super().close()


def print_line(text: str) -> None:
    """A line on stdout at once, above the bars that are shown; a file's name need not be text."""
    with tqdm.external_write_mode():
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
