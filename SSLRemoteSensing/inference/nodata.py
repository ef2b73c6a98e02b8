"""Which pixels of a scene hold data, from when they are read until they are written."""

from collections import deque

import numpy as np


class ValidRows:
    """Rows of bool, or None for rows that all hold data.

    One thread adds at the end, another takes from the front; a deque takes both.
    """

    def __init__(self):
        self.parts: deque[tuple[int, int, np.ndarray | None]] = deque()  # first row, height, rows

    def add(self, y: int, height: int, rows: np.ndarray | None) -> None:
        self.parts.append((y, height, rows))

    def empty(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether no pixel of a window, whose rows have all been added, holds data."""
        for top, count, rows in list(self.parts):
            first, last = max(y, top), min(y + height, top + count)
            if first >= last:
                continue
            if rows is None or rows[first - top : last - top, x : x + width].any():
                return False
        return True

    def take(self, y: int, height: int) -> np.ndarray | None:
        """The rows from `y`, (height, width); what lies above them is let go."""
        while self.parts[0][0] + self.parts[0][1] <= y:
            self.parts.popleft()
        pieces = [
            (rows, slice(max(y, top) - top, min(y + height, top + count) - top))
            for top, count, rows in list(self.parts)
            if top < y + height
        ]
        if all(rows is None for rows, _ in pieces):
            return None
        width = next(rows.shape[1] for rows, _ in pieces if rows is not None)
        return np.concatenate(
            [
                np.ones((part.stop - part.start, width), bool) if rows is None else rows[part]
                for rows, part in pieces
            ]
        )
