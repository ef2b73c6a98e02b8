"""The loop's config keys and their checks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from SSLRemoteSensing.core.config import OneOf, Part
from SSLRemoteSensing.core.distributed import size
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.training.schedules import OPTIMIZERS, SCHEDULES

ABOVE_ZERO = 1e-12
MOST_SEED = 2**63 - 1  # each further process takes the next, and torch has 64 bits for one


def divide_batch(train_cfg: dict, processes: int | None = None) -> dict:
    """`train_cfg` with batch_size = global_batch_size / processes, where that is given; a
    `UserError` for one that does not divide by their number."""
    rest, processes = dict(train_cfg), processes or size()
    whole = rest.pop("global_batch_size", None)
    if whole is None:
        return rest
    if whole < 1 or whole % processes:
        raise UserError(
            f"train_cfg.global_batch_size={whole}: must be a multiple of the {processes} processes"
        )
    return rest | {"batch_size": whole // processes}


def check_least(settings, least: dict[str, float], path: str = "train_cfg") -> None:
    """Raise a `UserError` for a number of `settings` below its least."""
    for key, bound in least.items():
        value = getattr(settings, key)
        if value is not None and not value >= bound:
            raise UserError(f"{path}.{key}={value}: must be at least {bound}")


@dataclass
class LogSettings:
    """The `log` of a config.

    Attributes:
        log_path: folder of the TensorBoard events and of `metrics.jsonl`.
        log_step: steps between two entries.
        vis_step: pre-training: steps between two looks at fixed samples, which give figures and
            TensorBoard pictures; there is one after the last step, too. 0 = never.
        with_vis: pre-training: write the pictures as PNG files, too.
        vis_path: folder of those files; '' = `vis` in the log_path.
    """

    log_path: str
    log_step: int = 50
    vis_step: int = 1000
    with_vis: bool = False
    vis_path: str = ""

    def __post_init__(self):
        check_least(self, {"log_step": 1, "vis_step": 0}, "train_cfg.log")

    def pictures(self) -> Path | None:
        """The folder of the PNG files, None where none are written."""
        if not self.with_vis or not self.vis_step:
            return None
        return Path(self.vis_path) if self.vis_path else Path(self.log_path) / "vis"


@dataclass
class CheckpointSettings:
    """The `checkpoints` of a config.

    Attributes:
        checkpoints_path: the run's folder; it is made.
        save_step: epochs between two checkpoints (and evaluations).
        max_keep: how many `epoch_NNNN.pth` to keep, the newest.
        save_minutes: besides, write `latest.pth` in mid-epoch when so many minutes have passed;
            None: only at the ends of epochs.
    """

    checkpoints_path: str
    save_step: int = 1
    max_keep: int = 3
    save_minutes: float | None = None

    def __post_init__(self):
        least = {"save_step": 1, "max_keep": 1, "save_minutes": ABOVE_ZERO}
        check_least(self, least, "train_cfg.checkpoints")


@dataclass
class LoopSettings:
    """The keys of `train_cfg` that the loop takes; its signature is their schema.

    A step is one update of the weights, from `accumulate_steps` batches of `batch_size` samples of
    each process; an epoch is as many whole steps as the data give. Give `num_epoch` or `num_step`.

    Attributes:
        batch_size: images of each process and batch.
        optimizer: torch's, by name, with its parameters; `lr` is the rate before the schedule.
        checkpoints: where and how often to save.
        log: where and how often to write the log.
        num_epoch: length of the run in epochs; this or `num_step`.
        num_step: length of the run in steps; this or `num_epoch`.
        lr_schedule: factor of the learning rate by the place in the run; None: 1 throughout.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:N' or, of Apple, 'mps'; of
            several processes each takes its own GPU.
        num_workers: processes that read images, of each training process; 0: the training process
            reads them itself.
        precision: 'fp32'; 'bf16' (autocast); 'auto', bf16 where the hardware has it.
        channels_last: keep weights and images in torch's channels_last memory: the same results up
            to rounding, at another speed, which tools/benchmark.py measures.
        compile: True, or a mode of torch.compile ('max-autotune', ...).
        sync_bn: statistics of batch normalization over all processes; GPUs only.
        accumulate_steps: batches whose gradients make one step: a step sees accumulate_steps x
            batch_size x processes images. The gradient is the mean of those of the batches, each
            with losses of its own; that is not the gradient of one large batch where a loss is a
            ratio (of inpainting, of labelled pixels) or compares images of a batch, nor with batch
            normalization.
        clip_grad_norm: scale the gradient of a step down to this norm where it is larger; None:
            never.
        seed: of weights, order and augmentation, 0 to 2^63 - 1.
        max_skipped_steps: how many steps in all may be left out because a loss or gradient is not
            finite; above 0 each step waits for the device to know. 0 stops at the first, found
            where losses and gradients are read.

    Raises:
        UserError: a number that the loop cannot work with.
    """

    batch_size: int
    optimizer: Annotated[dict, OneOf(OPTIMIZERS, given=("params",))]
    checkpoints: Annotated[dict, Part(CheckpointSettings)]
    log: Annotated[dict, Part(LogSettings)]
    num_epoch: int | None = None
    num_step: int | None = None
    lr_schedule: Annotated[dict | None, OneOf(SCHEDULES)] = None
    device: str = "auto"
    num_workers: int = 0
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    channels_last: bool = False
    compile: bool | str = False
    sync_bn: bool = False
    accumulate_steps: int = 1
    clip_grad_norm: float | None = None
    max_skipped_steps: int = 0
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.checkpoints, dict):  # not where a copy is made with another value
            self.checkpoints = CheckpointSettings(**self.checkpoints)
        if isinstance(self.log, dict):
            self.log = LogSettings(**self.log)
        least = dict.fromkeys(("batch_size", "accumulate_steps", "num_epoch", "num_step"), 1)
        least |= dict.fromkeys(("num_workers", "seed", "max_skipped_steps"), 0)
        check_least(self, least | {"clip_grad_norm": ABOVE_ZERO})
        if self.seed > MOST_SEED:
            raise UserError(f"train_cfg.seed={self.seed}: must be 0 to 2^63 - 1")
        if (self.num_epoch is None) == (self.num_step is None):
            raise UserError(
                "train_cfg: give either num_epoch or num_step, and None for the other "
                "(--set train_cfg.num_epoch=None, say)"
            )

    @property
    def folder(self) -> Path:
        """Of the run's checkpoints."""
        return Path(self.checkpoints.checkpoints_path)

    def folders(self) -> dict[str, Path]:
        """All that are written to, by their keys."""
        pictures = self.log.pictures()
        return {
            "train_cfg.checkpoints.checkpoints_path": self.folder,
            "train_cfg.log.log_path": Path(self.log.log_path),
        } | ({} if pictures is None else {"train_cfg.log.vis_path": pictures})


def split(
    train_cfg: dict, task_keys: type, processes: int | None = None
) -> tuple[dict, LoopSettings]:
    """The keys of `train_cfg` that `task_keys`, a TypedDict, names, and the others, the loop's, for
    a run of so many `processes`, by default as many as there are now."""
    cfg = divide_batch(train_cfg, processes)
    own = {key: cfg.pop(key) for key in task_keys.__annotations__ if key in cfg}
    return own, LoopSettings(**cfg)
