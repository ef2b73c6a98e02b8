"""Losses and gradients of the steps since the log's last entry, and files that were skipped."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.errors import UserError

STOPPED = (
    "the last checkpoint is kept; lower the learning rate or set clip_grad_norm: the same command "
    "with --set train_cfg.clip_grad_norm=1, say"
)


class Batch(NamedTuple):
    """What a batch of a step gave; on the device but for the samples' numbers, `index`."""

    step: int
    index: Tensor
    losses: dict[str, Tensor]
    counts: dict[str, Tensor]  # whole numbers
    redrawn: int | None = None  # windows


class LossMeter:
    """Losses and norms of gradients, left on the device until they are asked for.

    Reading a loss waits for the device, so it happens once a log step; the batches' numbers are
    kept with them, so that a loss that is not finite can still be traced to its files, which
    `dataset` names. Each process has those of its own batches; of what is wrong all come to know at
    `check` and `leave_out`. More than `limit` of its `files`, which are as many as its samples if
    they are not given, that cannot be read are an error.
    """

    def __init__(self, dataset, limit: int, files: int | None = None):
        self.dataset, self.limit, self.files = dataset, limit, files or len(dataset)
        self.batches: list[Batch] = []
        self.norms: dict[int, Tensor] = {}  # of each step's gradient
        self.left_out = 0  # steps
        self.skipped: set[int] = set()
        self.unsaid: set[int] = set()

    def add(self, step: int, batch: dict, losses: dict, counts: dict) -> None:
        self.batches.append(Batch(step, batch["index"], losses, counts, batch.get("redrawn")))
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
                f"{self.files}; repair or remove them: {names}"
            )

    def check(self, say: Callable) -> None:
        """Name the files skipped since the last call; raise `UserError` if a loss or gradient is
        not finite. All processes call it at the same steps."""
        reports = distributed.all_gather_object((self.unsaid, self.not_finite()))
        for unsaid, _ in reports:
            self.note(unsaid)
        for index in sorted(self.unsaid):
            say(f"skipped, cannot be read: {self.dataset.name(index)} ({len(self.skipped)} so far)")
        self.unsaid.clear()
        if steps := [step for _, step in reports if step]:
            what, files = self.culprits(min(steps))
            raise UserError(f"step {min(steps)}: {what} is not finite; {STOPPED}; files: {files}")

    def not_finite(self, since: int = 0) -> int:
        """The first step from `since` with a loss, or a gradient, that is not finite, 0 for none;
        waits for the device."""
        sums = [(b.step, torch.stack([*b.losses.values()]).sum()) for b in self.batches]
        sums = [(s, value.float()) for s, value in [*self.norms.items(), *sums] if s >= since]
        finite = torch.stack([value for _, value in sums]).isfinite().tolist() if sums else []
        wrong = [step for (step, _), good in zip(sums, finite, strict=True) if not good]
        return min(wrong, default=0)

    def culprits(self, step: int) -> tuple[str, str]:
        """What is not finite at `step`, 'loss agr' or 'the gradient', and the files it came of; the
        same for all processes, which all call it."""
        mine = [batch for batch in self.batches if batch.step == step]
        names = [n for batch in mine for n, loss in batch.losses.items() if not loss.isfinite()]
        files = [str(self.dataset.name(int(i))) for batch in mine for i in batch.index]
        reports = distributed.all_gather_object((names, files))
        # A gradient is the sum over the processes: spoilt for all by the loss of one.
        guilty = [report for report in reports if report[0]] or reports
        losses = dict.fromkeys(name for names, _ in guilty for name in names)
        what = f"loss {', '.join(losses)}" if losses else "the gradient"
        return what, ", ".join(file for _, files in guilty for file in files)

    def is_finite(self, step: int) -> bool:
        """Whether all processes' losses and gradients of `step`, the last, are."""
        return not any(distributed.all_gather_object(self.not_finite(step)))

    def leave_out(self, step: int, limit: int, say: Callable) -> None:
        """Forget the losses of `step`, which are not finite, and say whose they were; raise a
        `UserError` where more than `limit` steps of the run have been left out."""
        self.left_out += 1
        what, files = self.culprits(step)
        message = f"step {step}: {what} is not finite"
        self.batches = [batch for batch in self.batches if batch.step != step]
        del self.norms[step]
        if self.left_out > limit:
            raise UserError(
                f"{message}, and max_skipped_steps={limit} are left out already; {STOPPED}; "
                f"files: {files}"
            )
        say(f"{message}, left out ({self.left_out} of at most {limit}); files: {files}")

    def take(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Figures of the steps since the last call, and sums of what was counted in them, int64 on
        the CPU, by name.

        All processes call it, after as many steps. The figures are means over steps and processes:
        `loss`, each loss by name, `gradient_norm`, before it is clipped, and of several losses
        `share_NAME`, the share of each in their sum. Where samples are windows of scenes,
        `redrawn` is how many windows a sample were drawn that held too little data.
        """
        batches, norms = self.batches, self.norms
        self.batches, self.norms = [], {}
        if not batches:  # all left out
            return {}, {}
        values = torch.stack([torch.stack([*batch.losses.values()]) for batch in batches])
        values = values.cpu().double()  # there, as MPS has no float64
        sums = torch.cat([values.sum(0), torch.tensor([float(len(values))])])
        *sums, count = distributed.all_sum(sums).tolist()
        means = {name: value / count for name, value in zip(batches[0].losses, sums, strict=True)}
        total, norm = sum(means.values()), torch.stack([*norms.values()]).mean().item()
        figures = {"loss": total} | means | {"gradient_norm": norm}
        if len(means) > 1 and total:
            figures |= {f"share_{name}": value / total for name, value in means.items()}
        if batches[0].redrawn is not None:
            numbers = [[batch.redrawn, len(batch.index)] for batch in batches]
            redrawn, samples = distributed.all_sum(torch.tensor(numbers).sum(0)).tolist()
            figures["redrawn"] = redrawn / samples
        counts = {
            name: torch.stack([batch.counts[name] for batch in batches]).sum(0).cpu()
            for name in batches[0].counts
        }
        return figures, {name: distributed.all_sum(value) for name, value in counts.items()}

    def state_dict(self) -> dict:
        return {"skipped": sorted(self.skipped), "left_out": self.left_out}

    def load_state_dict(self, state: dict) -> None:
        """Add what another LossMeter wrote; at version 1 it wrote losses besides."""
        self.skipped |= set(state["skipped"])
        self.left_out = max(self.left_out, state["left_out"])


class Throughput:
    """Images a second and shares of the time, lap by lap; `images_per_second` and `data_wait` of
    the time of training, from which that spent on figures and pictures (`watching`, a share of the
    whole lap) is left out."""

    def __init__(self):
        self.pause()

    def pause(self) -> None:
        """Start a new lap, leaving out what came before (an evaluation, say)."""
        self.start, self.images = time.perf_counter(), 0
        self.spent = {"waiting": 0.0, "watching": 0.0}

    @contextlib.contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """The block's time is of `what`, 'waiting' for data or 'watching'."""
        start = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - start

    def lap(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self.start
        training = elapsed - self.spent["watching"]
        rates = {
            "images_per_second": self.images / training,
            "data_wait": self.spent["waiting"] / training,
            "watching": self.spent["watching"] / elapsed,
        }
        self.pause()
        return rates
