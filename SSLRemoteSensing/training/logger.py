"""What a run says while it runs: metrics.jsonl, TensorBoard, pictures, and a bar or plain lines."""

import contextlib
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from SSLRemoteSensing.core.bars import print_line
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import CannotWrite
from SSLRemoteSensing.core.files import write_bytes, write_text
from SSLRemoteSensing.training.tensorboard import Board

# What stands in no line of text: there are many, and TensorBoard shows them better.
DETAILS = ("share_", "agr_accuracy_", "gradient_norm_", "gradient_cosine_", "memory_gb", "watching")
PICTURE = re.compile(r"step_(\d{7,})_[a-z_]+\.png")


class RunLog:
    """Entries of a run of `total` steps that starts, or goes on, at step `first`; without a folder,
    as for all processes but the first, nothing is said or written.

    Entries after `first`, left by a run that was cut off, are removed: each step is there once. A
    run that starts anew puts an earlier `metrics.jsonl` aside. PNG files go to `pictures`.
    """

    def __init__(self, folder: Path | None, first: int, total: int, pictures: Path | None = None):
        self.folder, self.first, self.total, self.pictures = folder, first, total, pictures
        self.started = time.monotonic()
        self.warned: set[str] = set()
        hidden = folder is None or not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=first, unit="step", dynamic_ncols=True, disable=hidden)
        if folder is None:
            return
        self.path = folder / "metrics.jsonl"
        if first == 0 and self.path.exists():
            self.path.rename(free_name(folder, "metrics.{}.jsonl"))
        lines, keys = earlier_entries(self.path, first)
        write_text(self.path, "".join(lines))
        self.board = Board(folder, first, keys, self.complain)
        if pictures is not None:
            clear_pictures(pictures, first)

    def step(self) -> None:
        self.bar.update()

    def write(self, values: dict) -> None:
        """Append one entry; `values` holds `step`, `epoch` and numbers. A full disk does not end
        the run, which would lose more than the entry."""
        if self.folder is None:
            return
        try:
            append(self.path, json.dumps(values) + "\n")
        except OSError as error:
            self.complain(error)
        step = values["step"]
        figures = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        numbers = {key: value for key, value in figures.items() if value is not None}
        self.board.write(step, numbers, {})
        if not self.bar.disable and "loss" in figures:  # scores stay on a terminal, too
            self.bar.set_postfix_str(on_the_bar(values))
            return
        shown = [key for key in figures if not key.startswith(DETAILS)]
        text = "  ".join(f"{key} {brief(figures[key])}" for key in shown)
        left = f"left {self.time_left(step)}  " if "loss" in figures else ""
        self.say(f"step {step}/{self.total}  epoch {values['epoch']}  {left}{text}")

    def time_left(self, step: int) -> str:
        """[H:]MM:SS from the end of `step` to the end of the run, as fast as it went since this
        start, with all that is not training."""
        pace = (time.monotonic() - self.started) / (step - self.first)
        return tqdm.format_interval(pace * (self.total - step))

    def show(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Put pictures, R, G, B uint8 (H, W, 3) by name, on the board, and into files if asked. A
        disk that is full does not end the run."""
        files = {  # height, width, PNG
            name: (*pixels.shape[:2], cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes())
            for name, pixels in pictures.items()
        }
        self.board.write(step, {}, files)
        if self.pictures is None:
            return
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            for name, (_, _, data) in files.items():
                write_bytes(self.pictures / f"step_{step:07d}_{name}.png", data)
        except (OSError, CannotWrite) as error:
            text = f"{self.pictures}: pictures are lost ({error}); training goes on"
            self.warn({"pictures": text})

    def complain(self, error: OSError) -> None:
        self.warn({"entries": f"{self.folder}: entries are lost ({error}); training goes on"})

    def warn(self, remarks: dict[str, str]) -> None:
        """Say what there is to warn of, each kind of remark once."""
        for kind, text in remarks.items():
            if kind not in self.warned:
                with tqdm.external_write_mode(sys.stderr), contextlib.suppress(OSError):
                    warn(text)
            self.warned.add(kind)

    def say(self, text: str) -> None:
        """A line of text that does not break the bar."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):  # a full disk again, or a terminal that was closed
            print_line(text)

    def close(self) -> None:
        self.bar.close()
        if self.folder is not None:
            self.board.close()


def earlier_entries(path: Path, first: int) -> tuple[list[str], set[str]]:
    """The lines of metrics.jsonl until step `first`, and the keys of their figures."""
    lines, keys = [], set()
    text = path.read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError):  # a line cut off by a crash
            entry = json.loads(line)
            if entry["step"] <= first:
                lines.append(line + "\n")
                keys |= entry.keys() - {"step", "epoch"}
    return lines, keys


def clear_pictures(folder: Path, first: int) -> None:
    """Remove pictures of steps after `first`; those of an earlier run, where this one starts anew,
    go into a folder `earlier_N`."""
    matches = [(path, PICTURE.fullmatch(path.name)) for path in sorted(folder.glob("step_*.png"))]
    later = [path for path, match in matches if match and int(match[1]) > first]
    aside = free_name(folder, "earlier_{}")
    if later and first == 0:
        aside.mkdir()
    for path in later:
        path.rename(aside / path.name) if first == 0 else path.unlink()


def free_name(folder: Path, pattern: str) -> Path:
    """The name of `pattern` with the first number, from 1, that is not there."""
    names = (folder / pattern.format(number) for number in itertools.count(1))
    return next(name for name in names if not name.exists())


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


def on_the_bar(values: dict) -> str:
    """The main figures of an entry, short enough for a line of 80 columns with the bar."""
    rate = values.get("images_per_second")
    speed = "" if rate is None else f", {rate:.3g} images/s"
    return f"epoch {values['epoch']}, loss {brief(values['loss'])}{speed}"


def brief(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4g}"
