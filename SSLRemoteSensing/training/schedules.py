"""Optimizers by name, and learning-rate schedules as functions of the place in the run alone."""

import math
from collections.abc import Callable

import torch

from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
Schedule = Callable[[int, int, int], float]  # (step, total, epoch) -> factor of the learning rate


def step_lr(step_size: int, gamma: float = 0.1) -> Schedule:
    """Times `gamma` after every `step_size` epochs.

    Args:
        step_size: epochs, from 1.
        gamma: the factor.
    """
    if step_size < 1:
        raise UserError(f"step_size={step_size}: must be at least 1 epoch")
    return lambda step, total, epoch: gamma ** (epoch // step_size)


def cosine(warmup_steps: int = 0, min_factor: float = 0.0) -> Schedule:
    """Up from 0 over `warmup_steps` steps, then half a cosine from 1 down to `min_factor`.

    Args:
        warmup_steps: steps of the linear rise.
        min_factor: share of the learning rate at the end of the run.
    """
    return fall(lambda done: 0.5 * (1 + math.cos(math.pi * done)), warmup_steps, min_factor)


def poly(power: float = 0.9, warmup_steps: int = 0, min_factor: float = 0.0) -> Schedule:
    """Up from 0 over `warmup_steps` steps, then (1 - done)^power down to `min_factor`.

    Args:
        power: 1 is a straight line.
        warmup_steps: steps of the linear rise.
        min_factor: share of the learning rate at the end of the run.
    """
    return fall(lambda done: (1 - done) ** power, warmup_steps, min_factor)


def fall(curve: Callable[[float], float], warmup_steps: int, min_factor: float) -> Schedule:
    """A linear rise, then `curve` of the share of the rest that is done before a step."""

    def factor(step: int, total: int, epoch: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup_steps))
        done = max(0, step - warmup_steps) / max(1, total - warmup_steps)
        return rise * (min_factor + (1 - min_factor) * curve(done))

    return factor


SCHEDULES = {"stepLR": step_lr, "cosine": cosine, "poly": poly}


def build_schedule(cfg: dict | None) -> Schedule:
    """The factor of the learning rate; without `cfg` 1 throughout."""
    if not cfg:
        return lambda step, total, epoch: 1.0
    return build(SCHEDULES, cfg, "train_cfg.lr_schedule")
