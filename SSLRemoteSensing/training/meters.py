"""Losses and gradients of the steps since the log's last entry, and files that were skipped."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.errors import UserError

STOPPED = "the last checkpoint is kept; lower the learning rate or set clip_grad_norm"


class LossMeter:
    """Losses and norms of gradients, left on the device until they are asked for.

    Reading a loss waits for the device, so it happens once a log step; the batches' numbers are
    kept with them, so that a loss that is not finite can still be traced to its files. Each process
    has those of its own batches; of what is wrong all come to know at `check` and `leave_out`.

    Args:
        dataset: gives a sample's name, for messages.
        limit: how many files may be unreadable.
    """

    def __init__(self, dataset, limit: int):
        self.dataset, self.limit = dataset, limit
        self.entries: list[tuple[int, Tensor, dict[str, Tensor]]] = []
        self.gradients: list[tuple[int, Tensor]] = []
        self.counts: list[tuple[int, dict[str, Tensor]]] = []
        self.left_out = 0  # steps
        self.skipped: set[int] = set()
        self.unsaid: set[int] = set()

    def add(
        self,
        step: int,
        batch: dict,
        losses: dict[str, Tensor],
        counts: dict[str, Tensor] | None = None,
    ) -> None:
        """Keep the losses of a batch, and what else was counted in it: whole numbers, by name."""
        self.entries.append((step, batch["index"], losses))
        if counts:
            self.counts.append((step, counts))
        self.note(batch.get("skipped", ()))

    def add_gradient(self, step: int, norm: Tensor) -> None:
        self.gradients.append((step, norm))

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
        """Name the files skipped since the last call; raise `UserError` if a loss or gradient is
        not finite.

        All processes call it at the same steps.
        """
        reports = distributed.all_gather_object((self.unsaid, self.not_finite()))
        for unsaid, _ in reports:
            self.note(unsaid)
        for index in sorted(self.unsaid):
            say(f"skipped, cannot be read: {self.dataset.name(index)} ({len(self.skipped)} so far)")
        self.unsaid.clear()
        first = min((step for _, step in reports if step is not None), default=None)
        if first is not None:
            what, files = self.culprits(first)
            raise UserError(f"step {first}: {what} is not finite; {STOPPED}; files: {files}")

    def not_finite(self, since: int = 0) -> int | None:
        """The first step from `since` with a loss, or a gradient, that is not finite; waits for the
        device."""
        sums = list(self.gradients)
        sums += [(step, torch.stack([*losses.values()]).sum()) for step, _, losses in self.entries]
        steps = [step for step, _ in sums if step >= since]
        values = [value.float() for step, value in sums if step >= since]
        if not steps:
            return None
        finite = torch.stack(values).isfinite().tolist()
        return min(
            (step for step, good in zip(steps, finite, strict=True) if not good), default=None
        )

    def culprits(self, step: int) -> tuple[str, str]:
        """What is not finite at `step`, 'loss agr' or 'the gradient', and the files it came of.

        All processes call it, and all get the same.
        """
        mine = [entry for entry in self.entries if entry[0] == step]
        names = [n for *_, losses in mine for n, loss in losses.items() if not loss.isfinite()]
        files = [str(self.dataset.name(int(i))) for _, index, _ in mine for i in index]
        reports = distributed.all_gather_object((names, files))
        # A gradient is the sum over the processes: spoilt for all by the loss of one.
        guilty = [report for report in reports if report[0]] or reports
        losses = dict.fromkeys(name for names, _ in guilty for name in names)
        what = f"loss {', '.join(losses)}" if losses else "the gradient"
        return what, ", ".join(file for _, files in guilty for file in files)

    def is_finite(self, step: int) -> bool:
        """Whether all processes' losses and gradients of `step`, the last, are; waits for the
        device."""
        steps = distributed.all_gather_object(self.not_finite(step))
        return all(step is None for step in steps)

    def leave_out(self, step: int, limit: int, say: Callable) -> None:
        """Forget the losses of `step`, which are not finite, and say whose they were.

        Raises:
            UserError: more than `limit` steps of the run have been left out.
        """
        self.left_out += 1
        what, files = self.culprits(step)
        message = f"step {step}: {what} is not finite"
        self.entries = [entry for entry in self.entries if entry[0] != step]
        self.gradients = [entry for entry in self.gradients if entry[0] != step]
        self.counts = [entry for entry in self.counts if entry[0] != step]
        if self.left_out > limit:
            raise UserError(
                f"{message}, and max_skipped_steps={limit} are left out already; {STOPPED}; "
                f"files: {files}"
            )
        say(f"{message}, left out ({self.left_out} of at most {limit}); files: {files}")

    def take(self, say: Callable) -> dict[str, float]:
        """Means over steps and processes since the last call, checked: `loss`, each loss by name,
        `gradient_norm`, before it is clipped, and of several losses `share_NAME`, the share of each
        in their sum."""
        self.check(say)
        if not self.entries:  # all left out
            return {}
        names = list(self.entries[0][2])
        values = torch.stack([torch.stack(list(losses.values())) for _, _, losses in self.entries])
        sums = torch.cat([values.double().sum(0).cpu(), torch.tensor([float(len(values))])])
        *sums, count = distributed.all_sum(sums).tolist()
        means = [value / count for value in sums]
        norm = torch.stack([norm for _, norm in self.gradients]).mean().item()
        self.entries.clear()
        self.gradients.clear()
        total = sum(means)
        figures = {"loss": total} | dict(zip(names, means, strict=True)) | {"gradient_norm": norm}
        if len(names) > 1 and total:
            shares = zip(names, means, strict=True)
            figures |= {f"share_{name}": value / total for name, value in shares}
        return figures

    def take_counts(self) -> dict[str, Tensor]:
        """Sums of what was counted over steps and processes since the last call, int64 on the CPU.

        All processes call it, after as many steps.
        """
        names = list(self.counts[0][1]) if self.counts else []
        sums = {name: torch.stack([c[name] for _, c in self.counts]).sum(0) for name in names}
        self.counts.clear()
        return {name: distributed.all_sum(value.cpu()) for name, value in sums.items()}

    def state_dict(self) -> dict:
        entries = [
            (step, index.cpu(), {key: loss.cpu() for key, loss in losses.items()})
            for step, index, losses in self.entries
        ]
        return {
            "entries": entries,
            "gradients": [(step, norm.cpu()) for step, norm in self.gradients],
            "counts": [
                (step, {key: count.cpu() for key, count in counts.items()})
                for step, counts in self.counts
            ],
            "skipped": sorted(self.skipped),
            "left_out": self.left_out,
        }

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Add what another LossMeter wrote."""
        self.skipped |= set(state["skipped"])
        self.left_out = max(self.left_out, state["left_out"])
        self.gradients += [(step, norm.to(device)) for step, norm in state["gradients"]]
        self.entries += [
            (step, index, {key: loss.to(device) for key, loss in losses.items()})
            for step, index, losses in state["entries"]
        ]
        self.counts += [
            (step, {key: count.to(device) for key, count in counts.items()})
            for step, counts in state.get("counts", [])  # an earlier version counted nothing
        ]


class Throughput:
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
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.watched += time.perf_counter() - start

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
