"""Which steps a run has, and where each of them stands in the epochs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Place


def images_per_step(images: int, settings: LoopSettings) -> int:
    """Images that a step of all processes takes, of `images` that each of them sees. Raises a
    `UserError` for processes that see others than the first, or fewer than a step takes."""
    distributed.require_equal("data", images, "give all machines the same images")
    processes = distributed.size()
    return require_images(images, settings.batch_size, settings.accumulate_steps, processes)


def require_images(images: int, batch_size: int, accumulate_steps: int, processes: int = 1) -> int:
    """Images that a step takes; raise a `UserError` for fewer."""
    per_step = batch_size * accumulate_steps * processes
    if images < per_step:
        raise UserError(
            f"train_cfg.batch_size={batch_size} (x accumulate_steps={accumulate_steps}, x "
            f"{processes} processes): only {images} images; add images or set a smaller batch_size"
        )
    return per_step


@dataclass(frozen=True)
class Plan:
    """The steps `first` to `total` of a run, each of `per_step` images of all processes.

    Step s stands at place s + `shift` of the epochs of `per_epoch` steps. The shift is 0 but where
    a run goes on with other numbers of images a step, as with other numbers of processes: what was
    seen of an epoch is then not seen again.
    """

    per_step: int
    per_epoch: int
    first: int
    total: int
    shift: int
    counts_steps: bool

    def index(self, step: int) -> int:
        """Where `step` stands in the steps of all epochs, from 0."""
        return step + self.shift

    def epoch(self, step: int) -> int:
        return self.index(step) // self.per_epoch

    def progress(self, step: int) -> tuple[int, int, int]:
        """What a schedule takes: step and total (places, where epochs are counted), and epoch."""
        shift = 0 if self.counts_steps else self.shift
        return step + shift, self.total + shift, self.epoch(step)

    def places(self, settings: LoopSettings) -> Iterator[Place]:
        """Where each step that is left stands once it is done, in order."""
        return (self.after(step, settings) for step in range(self.first + 1, self.total + 1))

    def after(self, step: int, settings: LoopSettings) -> Place:
        """Where the run stands when `step` steps are done."""
        epoch, index, is_last = self.epoch(max(0, step - 1)), self.index(step), step == self.total
        ends_epoch = step > 0 and index % self.per_epoch == 0
        saves = ends_epoch and (epoch + 1) % settings.checkpoints.save_step == 0
        logs, images = is_last or step % settings.log.log_step == 0, index * self.per_step
        return Place(step, epoch, images, ends_epoch, is_last, logs, is_last or saves)

    def position(self, step: int) -> dict[str, int]:
        """What a checkpoint keeps of it, in images, for going on with other steps."""
        epoch, steps = divmod(self.index(step), self.per_epoch)
        offset = steps * self.per_step
        return {"step": step, "epoch": epoch, "offset": offset, "per_step": self.per_step}

    def describe(self) -> str:
        return f"{self.per_epoch} steps of {self.per_step} an epoch, {self.total} steps in all"


def make_plan(
    images: int, per_step: int, num_epoch: int | None, num_step: int | None, state: dict | None
) -> Plan:
    """The plan of a run over `images` images, from the start or a checkpoint's `position`."""
    per_epoch, first, shift = images // per_step, 0, 0
    if state is not None:
        first = state["step"]
        seen = min(math.ceil(state["offset"] / per_step), per_epoch)
        shift = state["epoch"] * per_epoch + seen - first
    total = num_step or num_epoch * per_epoch - shift
    return Plan(per_step, per_epoch, first, total, shift, num_step is not None)
