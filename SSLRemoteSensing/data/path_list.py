"""Paths of many files in one block of memory."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

CODEC = "utf-8", "surrogatepass"  # which has bytes for any name that a system may give


class PathList(Sequence):
    """Paths, as a list has them, in half the memory or less, and none of it counted: where each is
    a string, every worker process soon has a copy of all, as reading one writes how often it is
    used into it.

    A slice is a list.
    """

    def __init__(self, paths: Iterable[str]):
        text, ends = bytearray(), array("q")
        for path in paths:
            text += path.encode(*CODEC)
            ends.append(len(text))
        self.text = np.frombuffer(text, np.uint8)
        self.ends = np.frombuffer(ends, np.int64) if ends else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        first = self.ends[place - 1] if place else 0
        return self.text[first : self.ends[place]].tobytes().decode(*CODEC)
