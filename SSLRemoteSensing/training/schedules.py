"""Optimizers by name, and learning-rate schedules as functions of the place in the run alone."""

import math
from collections.abc import Callable

import torch

from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}


class StepLR:
    """Times `gamma` after every `step_size` epochs.

    Args:
        step_size: epochs, from 1.
        gamma: the factor.
    """

    def __init__(self, step_size: int, gamma: float = 0.1):
        if step_size < 1:
            raise UserError(f"step_size={step_size}: must be at least 1 epoch")
        self.step_size, self.gamma = step_size, gamma

    def __call__(self, step: int, total: int, epoch: int) -> float:
        return self.gamma ** (epoch // self.step_size)


class Cosine:
    """Up from 0 over `warmup_steps` steps, then half a cosine from 1 down to `min_factor`.

    Args:
        warmup_steps: steps of the linear rise.
        min_factor: share of the learning rate at the end of the run.
    """

    def __init__(self, warmup_steps: int = 0, min_factor: float = 0.0):
        self.warmup_steps, self.min_factor = warmup_steps, min_factor

    def __call__(self, step: int, total: int, epoch: int) -> float:
        rise, done = progress(step, total, self.warmup_steps)
        return rise * (
            self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * done))
        )


class Poly:
    """Up from 0 over `warmup_steps` steps, then (1 - done)^power down to `min_factor`.

    Args:
        power: 1 is a straight line.
        warmup_steps: steps of the linear rise.
        min_factor: share of the learning rate at the end of the run.
    """

    def __init__(self, power: float = 0.9, warmup_steps: int = 0, min_factor: float = 0.0):
        self.power, self.warmup_steps, self.min_factor = power, warmup_steps, min_factor

    def __call__(self, step: int, total: int, epoch: int) -> float:
        rise, done = progress(step, total, self.warmup_steps)
        return rise * (self.min_factor + (1 - self.min_factor) * (1 - done) ** self.power)


def progress(step: int, total: int, warmup_steps: int) -> tuple[float, float]:
    """The share of the warm-up reached at `step`, from 0, and of the rest done before it."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps, 0.0
    return 1.0, (step - warmup_steps) / max(1, total - warmup_steps)


SCHEDULES = {"stepLR": StepLR, "cosine": Cosine, "poly": Poly}


def build_schedule(cfg: dict | None) -> Callable[[int, int, int], float]:
    """The factor of the learning rate by (step, total, epoch); without `cfg` 1 throughout."""
    if not cfg:
        return lambda step, total, epoch: 1.0
    return build(SCHEDULES, cfg, "train_cfg.lr_schedule")
