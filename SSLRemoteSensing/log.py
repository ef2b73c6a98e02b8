"""What a run says while it runs: metrics.jsonl, TensorBoard, and a bar or plain lines."""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.writing import write_text


@dataclass
class LogSettings:
    """The `log` of a config.

    Attributes:
        log_path: folder of the TensorBoard events and of `metrics.jsonl`.
        log_step: steps between two entries.
    """

    log_path: str
    log_step: int = 50

    def __post_init__(self):
        if self.log_step < 1:
            raise UserError(f"train_cfg.log.log_step={self.log_step}: must be at least 1")


class Log:
    """Entries of a run of `total` steps that starts, or goes on, at step `first`.

    Entries after `first`, left by a run that was cut off, are removed: each step is there once. A
    run that starts anew puts an earlier `metrics.jsonl` aside.
    """

    def __init__(self, folder: Path, first: int, total: int):
        # Imported here: it takes a second, which a config error need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self.total = total
        self.warned: set[str] = set()
        self.path = folder / "metrics.jsonl"
        kept = []
        if first == 0 and self.path.exists():
            numbers = (
                n for n in itertools.count(1) if not (folder / f"metrics.{n}.jsonl").exists()
            )
            self.path.rename(folder / f"metrics.{next(numbers)}.jsonl")
        if self.path.exists():
            for line in self.path.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= first:
                        kept.append(line + "\n")
                except (ValueError, KeyError):  # a line cut off by a crash
                    continue
        write_text(self.path, "".join(kept))
        # Also of a run that starts anew: one that was killed before its first save left events.
        # Its entry of step 0, if it has one, goes with them.
        self.board = SummaryWriter(str(folder), purge_step=first + 1 if first else 0)
        self.bar = tqdm(
            total=total,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def step(self) -> None:
        self.bar.update()

    def write(self, values: dict) -> None:
        """Append one entry; `values` holds `step`, `epoch` and numbers.

        A disk that is full does not end the run, which would lose more than the entry.
        """
        try:
            append(self.path, json.dumps(values) + "\n")
        except OSError as error:
            self.complain(error)
        self.draw(values)
        shown = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        text = "  ".join(f"{key} {brief(value)}" for key, value in shown.items())
        if self.bar.disable:
            self.say(f"step {values['step']}/{self.total}  epoch {values['epoch']}  {text}")
        else:
            self.bar.set_postfix_str(text)

    def draw(self, values: dict) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            if self.board is None:  # after an error, of which TensorBoard's thread has ended
                self.board = SummaryWriter(str(self.path.parent), purge_step=values["step"])
            for name, value in values.items():
                if name not in ("step", "epoch") and value is not None:
                    self.board.add_scalar(name, value, values["step"])
            self.board.flush()  # else SIGKILL loses two minutes of entries
        except OSError as error:
            self.complain(error)
            self.board = None

    def complain(self, error: OSError) -> None:
        text = f"{self.path.parent}: entries are lost ({error}); training goes on"
        self.warn({"entries": text})

    def warn(self, remarks: dict[str, str]) -> None:
        """Say what there is to warn of, each kind of remark once."""
        for kind, text in remarks.items():
            if kind not in self.warned:
                self.say(f"warning: {text}")
            self.warned.add(kind)

    def say(self, text: str) -> None:
        """A line of text that does not break the bar."""
        with contextlib.suppress(OSError):  # a full disk again, or a terminal that was closed
            if self.bar.disable:
                print(text, flush=True)
            else:
                self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        if self.board is not None:
            try:
                self.board.close()
            except OSError as error:
                self.complain(error)


class Silent:
    """The log of all processes but the first."""

    def step(self) -> None:
        pass

    def write(self, values: dict) -> None:
        pass

    def warn(self, remarks: dict[str, str]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def append(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all: on a disk that is full only part of it may fit."""
    with path.open("ab") as file:
        before = file.tell()
        try:
            file.write(line.encode())
            file.flush()
        except OSError:
            os.truncate(path, before)
            raise


def brief(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4g}"


class Clock:
    """Images a second and the share of time spent waiting for data, lap by lap."""

    def __init__(self):
        self.pause()

    def pause(self) -> None:
        """Start a new lap, leaving out what came before (an evaluation, say)."""
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        asked = time.perf_counter()
        yield
        self.waited += time.perf_counter() - asked

    def lap(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self.start
        rates = {
            "images_per_second": self.images / elapsed,
            "data_wait": self.waited / elapsed,
        }
        self.pause()
        return rates
