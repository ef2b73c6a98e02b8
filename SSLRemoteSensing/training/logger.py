"""What a run says while it runs: metrics.jsonl, TensorBoard, pictures, and a bar or plain lines."""

import contextlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import CannotWrite
from SSLRemoteSensing.core.files import write_bytes, write_text
from SSLRemoteSensing.training.tensorboard import charts, tag

# What stands in no line of text: there are many, and TensorBoard shows them better.
DETAILS = ("share_", "agr_accuracy_", "gradient_norm_", "gradient_cosine_", "memory_gb", "watching")
PICTURE = re.compile(r"step_(\d{7,})_[a-z_]+\.png")


class RunLog:
    """Entries of a run of `total` steps that starts, or goes on, at step `first`.

    Entries after `first`, left by a run that was cut off, are removed: each step is there once. A
    run that starts anew puts an earlier `metrics.jsonl` aside.

    Args:
        pictures: folder for PNG files, None to write none.
    """

    def __init__(self, folder: Path, first: int, total: int, pictures: Path | None = None):
        # Imported here: it takes a second, which a config error need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self.first, self.total, self.pictures = first, total, pictures
        self.started = time.monotonic()
        self.warned: set[str] = set()
        self.path = folder / "metrics.jsonl"
        kept, self.keys = [], set()  # the keys of all entries
        if first == 0 and self.path.exists():
            numbers = (
                n for n in itertools.count(1) if not (folder / f"metrics.{n}.jsonl").exists()
            )
            self.path.rename(folder / f"metrics.{next(numbers)}.jsonl")
        if self.path.exists():
            for line in self.path.read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    if entry["step"] <= first:
                        kept.append(line + "\n")
                        self.keys |= entry.keys() - {"step", "epoch"}
                except (ValueError, KeyError):  # a line cut off by a crash
                    continue
        write_text(self.path, "".join(kept))
        # Also of a run that starts anew: one that was killed before its first save left events.
        # Its entry of step 0, if it has one, goes with them.
        self.board = SummaryWriter(str(folder), purge_step=first + 1 if first else 0)
        self.charts: dict = {}  # as laid out in this board
        if pictures is not None:
            clear_pictures(pictures, first)
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
        shown = {k: v for k, v in values.items() if not k.startswith(DETAILS)}
        shown = {k: v for k, v in shown.items() if k not in ("step", "epoch")}
        text = "  ".join(f"{key} {brief(value)}" for key, value in shown.items())
        if self.bar.disable or "loss" not in shown:  # scores stay on a terminal, too
            left = f"left {self.time_left(values['step'])}  " if "loss" in shown else ""
            self.say(f"step {values['step']}/{self.total}  epoch {values['epoch']}  {left}{text}")
        else:
            self.bar.set_postfix_str(on_the_bar(values))

    def time_left(self, step: int) -> str:
        """[H:]MM:SS from the end of `step` to the end of the run, as fast as it went since this
        start, with all that is not training."""
        pace = (time.monotonic() - self.started) / (step - self.first)
        return tqdm.format_interval(pace * (self.total - step))

    def draw(self, values: dict) -> None:
        step = values["step"]
        rest = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        scalars = {key: value for key, value in rest.items() if value is not None}

        def add(board) -> None:
            self.keys |= scalars.keys()
            if charts(self.keys) != self.charts:  # TensorBoard takes the last one
                self.charts = charts(self.keys)
                board.add_custom_scalars(self.charts)
            for key, value in scalars.items():
                board.add_scalar(tag(key), value, step)

        self.on_board(add, step)

    def show(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Put pictures, R, G, B uint8 (H, W, 3) by name, on the board, and into files if asked.

        A disk that is full does not end the run.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        coded = {
            name: cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
            for name, pixels in pictures.items()
        }

        def add(board) -> None:
            for name, data in coded.items():
                # SummaryWriter.add_image would code it once more, and slowly.
                height, width = pictures[name].shape[:2]
                image = Summary.Image(
                    height=height, width=width, colorspace=3, encoded_image_string=data
                )
                value = Summary.Value(tag=f"pictures/{name}", image=image)
                board.file_writer.add_summary(Summary(value=[value]), step)

        self.on_board(add, step)
        if self.pictures is not None:
            try:
                self.pictures.mkdir(parents=True, exist_ok=True)
                for name, data in coded.items():
                    write_bytes(self.pictures / f"step_{step:07d}_{name}.png", data)
            except (OSError, CannotWrite) as error:
                told = f"{self.pictures}: pictures are lost ({error}); training goes on"
                self.warn({"pictures": told})

    def on_board(self, add: Callable, step: int) -> None:
        """Call `add` with TensorBoard's writer, and see that the disk has what it adds."""
        from torch.utils.tensorboard import SummaryWriter

        try:
            if self.board is None:  # after an error, of which TensorBoard's thread has ended
                self.board = SummaryWriter(str(self.path.parent), purge_step=step)
                self.charts = {}
            add(self.board)
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
                with tqdm.external_write_mode(sys.stderr), contextlib.suppress(OSError):
                    warn(text)
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

    def show(self, pictures: dict[str, np.ndarray], step: int) -> None:
        pass

    def warn(self, remarks: dict[str, str]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def clear_pictures(folder: Path, first: int) -> None:
    """Remove pictures of steps after `first`; those of an earlier run, where this one starts anew,
    go into a folder `earlier_N`."""
    found = [(path, PICTURE.fullmatch(path.name)) for path in sorted(folder.glob("step_*.png"))]
    later = [path for path, name in found if name and int(name[1]) > first]
    if first > 0:
        for path in later:
            path.unlink()
    elif later:
        numbers = (n for n in itertools.count(1) if not (folder / f"earlier_{n}").exists())
        aside = folder / f"earlier_{next(numbers)}"
        aside.mkdir()
        for path in later:
            path.rename(aside / path.name)


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
    shown = [f"epoch {values['epoch']}", f"loss {brief(values['loss'])}"]
    return ", ".join(shown if rate is None else [*shown, f"{rate:.3g} images/s"])


def brief(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4g}"
