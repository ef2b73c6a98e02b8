"""The loop's config keys and their checks."""

from dataclasses import dataclass
from pathlib import Path

import torch

from SSLRemoteSensing.core.distributed import size
from SSLRemoteSensing.core.errors import UserError


def divide_batch(train_cfg: dict, processes: int | None = None) -> dict:
    """`train_cfg` with batch_size = global_batch_size / processes, where that is given.

    Raises:
        UserError: a global_batch_size that does not divide by the number of processes.
    """
    rest = {key: value for key, value in train_cfg.items() if key != "global_batch_size"}
    whole = train_cfg.get("global_batch_size")
    if whole is None:
        return rest
    processes = processes or size()
    if whole < 1 or whole % processes:
        raise UserError(
            f"train_cfg.global_batch_size={whole}: must be a multiple of the {processes} processes"
        )
    return rest | {"batch_size": whole // processes}


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile


def check_graphs(device: torch.device, accumulate_steps: int, compile: bool | str) -> None:
    """Raise a `UserError` for a mode of torch.compile that a step of several batches cannot use."""
    if device.type == "cuda" and accumulate_steps > 1 and compile in CUDA_GRAPHS:
        raise UserError(
            f"train_cfg.compile={compile!r}: its CUDA graphs cannot add up the gradients of "
            f"accumulate_steps={accumulate_steps}; set compile=True"
        )


def check_numbers(
    batch_size: int,
    accumulate_steps: int,
    num_epoch: int | None,
    num_step: int | None,
    num_workers: int,
    seed: int,
    clip_grad_norm: float | None,
    max_skipped_steps: int,
) -> None:
    """Raise a `UserError` for numbers that fit() cannot work with."""
    check_counts(
        {
            "batch_size": (batch_size, 1),
            "accumulate_steps": (accumulate_steps, 1),
            "num_epoch": (num_epoch, 1),
            "num_step": (num_step, 1),
            "num_workers": (num_workers, 0),
            "seed": (seed, 0),
            "clip_grad_norm": (clip_grad_norm, 1e-12),
            "max_skipped_steps": (max_skipped_steps, 0),
        }
    )
    require_one_length(num_epoch, num_step)


def check_counts(least: dict[str, tuple[float | None, float]]) -> None:
    """Raise a `UserError` for a number below its least: key -> (value, least)."""
    for key, (value, bound) in least.items():
        if value is not None and value < bound:
            raise UserError(f"train_cfg.{key}={value}: must be at least {bound}")


def require_one_length(num_epoch: int | None, num_step: int | None) -> None:
    """Raise a `UserError` unless exactly one of both is given."""
    if (num_epoch is None) == (num_step is None):
        raise UserError("train_cfg: give either num_epoch or num_step")


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
        if self.log_step < 1:
            raise UserError(f"train_cfg.log.log_step={self.log_step}: must be at least 1")
        if self.vis_step < 0:
            raise UserError(
                f"train_cfg.log.vis_step={self.vis_step}: must be at least 1, or 0 for no pictures"
            )

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
        if self.save_step < 1 or self.max_keep < 1:
            raise UserError("train_cfg.checkpoints: save_step and max_keep must be at least 1")
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise UserError(
                f"train_cfg.checkpoints.save_minutes={self.save_minutes}: must be above 0"
            )
