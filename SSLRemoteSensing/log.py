"""What a run says while it runs: metrics.jsonl, TensorBoard, and a bar or plain lines."""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from SSLRemoteSensing import distributed
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.writing import write_text

STOPPED = "the last checkpoint is kept; lower the learning rate or set clip_grad_norm"


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
        self.path = folder / "metrics.jsonl"
        kept = []
        if first == 0 and self.path.exists():
            numbers = (
                n for n in itertools.count(1) if not (folder / f"metrics.{n}.jsonl").exists()
            )
            self.path.rename(folder / f"metrics.{next(numbers)}.jsonl")
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= first:
                        kept.append(line + "\n")
                except (ValueError, KeyError):  # a line cut off by a crash
                    continue
        write_text(self.path, "".join(kept))
        # Also of a run that starts anew: one that was killed before its first save left events.
        self.board = SummaryWriter(str(folder), purge_step=first + 1)
        self.complained = False
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
            with self.path.open("a") as file:
                file.write(json.dumps(values) + "\n")
            for name, value in values.items():
                if name not in ("step", "epoch") and value is not None:
                    self.board.add_scalar(name, value, values["step"])
            self.board.flush()  # else SIGKILL loses two minutes of entries
        except OSError as error:
            self.complain(error)
        shown = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        text = "  ".join(f"{key} {brief(value)}" for key, value in shown.items())
        if self.bar.disable:
            self.say(f"step {values['step']}/{self.total}  epoch {values['epoch']}  {text}")
        else:
            self.bar.set_postfix_str(text)

    def complain(self, error: OSError) -> None:
        if not self.complained:
            self.complained = True
            self.say(f"warning: {self.path.parent}: entries are lost ({error}); training goes on")

    def say(self, text: str) -> None:
        """A line of text that does not break the bar."""
        with contextlib.suppress(OSError):  # a full disk again, or a terminal that was closed
            if self.bar.disable:
                print(text, flush=True)
            else:
                self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
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

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def brief(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4g}"


class History:
    """Losses since the last entry of the log, left on the device until they are asked for.

    Reading a loss waits for the device, so it happens once a log step; the batches' numbers are
    kept with them, so that a loss that is not finite can still be traced to its files. Each process
    has those of its own batches; of unreadable files all come to know at `check`.
    """

    def __init__(self, dataset, limit: int):
        self.dataset, self.limit = dataset, limit
        self.entries: list[tuple[int, Tensor, dict[str, Tensor]]] = []
        self.left_out = 0  # steps
        self.warned: set[str] = set()
        self.skipped: set[int] = set()
        self.unsaid: set[int] = set()

    def add(self, step: int, batch: dict, losses: dict[str, Tensor]) -> None:
        self.entries.append((step, batch["index"], losses))
        self.note(batch.get("skipped", ()))

    def note(self, skipped: Iterable[int]) -> None:
        """Count files that could not be read; raise `UserError` where they are too many."""
        new = set(skipped) - self.skipped
        self.skipped |= new
        self.unsaid |= new
        if len(self.skipped) > self.limit:
            names = ", ".join(str(self.dataset.name(index)) for index in sorted(self.skipped)[:5])
            raise UserError(
                f"data: {len(self.skipped)} files cannot be read, more than 1 % of "
                f"{len(self.dataset)}; repair or remove them: {names}"
            )

    def check(self, say: Callable) -> None:
        """Name the files skipped since the last call; raise `UserError` if a loss is not finite.

        All processes call it at the same steps.
        """
        for others in distributed.all_gather_object(self.unsaid):
            self.note(others)
        for index in sorted(self.unsaid):
            say(f"skipped, cannot be read: {self.dataset.name(index)} ({len(self.skipped)} so far)")
        self.unsaid.clear()
        if not self.entries:
            return
        values = torch.stack([torch.stack(list(losses.values())) for _, _, losses in self.entries])
        finite = values.float().cpu().isfinite()
        for (step, indices, losses), good in zip(self.entries, finite.tolist(), strict=True):
            if not all(good):
                names = ", ".join(n for n, ok in zip(losses, good, strict=True) if not ok)
                files = ", ".join(str(self.dataset.name(int(i))) for i in indices)
                raise UserError(
                    f"step {step}: loss {names} is not finite; {STOPPED}; files: {files}"
                )

    def warn(self, remarks: list[str], say: Callable) -> None:
        """Say each remark the first time it is made."""
        for text in remarks:
            kind = text.partition("(")[0]
            if kind not in self.warned:
                say(f"warning: {text}")
            self.warned.add(kind)

    def leave_out(self, step: int, limit: int, say: Callable) -> None:
        """Forget the losses of `step`, whose gradient is not finite, and say whose they were.

        Raises:
            UserError: more than `limit` steps of the run have been left out.
        """
        self.left_out += 1
        bad = [entry for entry in self.entries if entry[0] == step]
        self.entries = [entry for entry in self.entries if entry[0] != step]
        names = {n for *_, losses in bad for n, loss in losses.items() if not loss.isfinite()}
        reason = f"loss {', '.join(sorted(names))}" if names else "gradient"
        files = ", ".join(str(self.dataset.name(int(i))) for _, index, _ in bad for i in index)
        told = f"step {step}: {reason} is not finite"
        if self.left_out > limit:
            raise UserError(
                f"{told}, and max_skipped_steps={limit} are left out already; {STOPPED}; "
                f"files: {files}"
            )
        say(f"{told}, left out ({self.left_out} of at most {limit}); files: {files}")

    def take(self, say: Callable) -> dict[str, float]:
        """Mean losses of all processes since the last call, checked: `loss` and each by name."""
        self.check(say)
        if not self.entries:  # all left out
            return {}
        names = list(self.entries[0][2])
        values = torch.stack([torch.stack(list(losses.values())) for _, _, losses in self.entries])
        sums = torch.cat([values.double().sum(0).cpu(), torch.tensor([float(len(values))])])
        *sums, count = distributed.all_sum(sums).tolist()
        means = [value / count for value in sums]
        self.entries.clear()
        return {"loss": sum(means)} | dict(zip(names, means, strict=True))

    def state_dict(self) -> dict:
        entries = [
            (step, index.cpu(), {key: loss.cpu() for key, loss in losses.items()})
            for step, index, losses in self.entries
        ]
        return {
            "entries": entries,
            "skipped": sorted(self.skipped),
            "left_out": self.left_out,
        }

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Add what another History wrote."""
        self.skipped |= set(state["skipped"])
        self.left_out = max(self.left_out, state["left_out"])
        self.entries += [
            (step, index, {key: loss.to(device) for key, loss in losses.items()})
            for step, index, losses in state["entries"]
        ]


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
