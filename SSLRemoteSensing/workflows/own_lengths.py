"""How long a run without a config file is: by its flags, by --set, or else by its preset."""

import time
from collections.abc import Mapping, Sequence

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.config import override
from SSLRemoteSensing.training.plan import require_images
from SSLRemoteSensing.training.rehearsal import measure_step
from SSLRemoteSensing.training.settings import divide_batch
from SSLRemoteSensing.training.train_step import TrainStep, named_memory
from SSLRemoteSensing.workflows.own_requests import PretrainingRequest, Request
from SSLRemoteSensing.workflows.pretraining import open_pretraining

LENGTHS = ("num_epoch", "num_step")  # keys of train_cfg, of which one is given
SHARE = 0.9  # of --minutes for steps: checkpoints, reading and the start take the rest


def set_below(settings: Sequence[str], *path: str) -> dict:
    """What `settings` says of the part of a config at `path`. Raises as `override`."""
    part: dict = {}
    for text in settings:
        override(part, text)
    for key in path:
        value = part.get(key)
        part = value if isinstance(value, dict) else {}
    return part


def set_lengths(settings: Sequence[str]) -> list[str]:
    """Those of `LENGTHS` to which `settings` gives a number. Raises as `override`."""
    loop = set_below(settings, "train_cfg")
    return [key for key in LENGTHS if loop.get(key) is not None]


def length_of(train_cfg: Mapping) -> dict[str, int]:
    """The one of `LENGTHS` that a checked config gives."""
    return {key: train_cfg[key] for key in LENGTHS if train_cfg.get(key) is not None}


def samples_per_step(train_cfg: Mapping) -> int:
    """Images or tiles in a step of all processes."""
    cfg = divide_batch(dict(train_cfg))
    return cfg["batch_size"] * cfg.get("accumulate_steps", 1) * distributed.size()


def steps_per_epoch(samples: int, train_cfg: Mapping, is_exact: bool = True) -> int:
    """Whole steps that so many samples give, at least 1.

    Raises:
        UserError: fewer than a step takes, unless their number is not known exactly, as of windows.
    """
    cfg = divide_batch(dict(train_cfg))
    if is_exact:
        accumulated = cfg.get("accumulate_steps", 1)
        require_images(samples, cfg["batch_size"], accumulated, distributed.size())
    return max(1, samples // samples_per_step(train_cfg))


def steps_within(config: dict, request: PretrainingRequest) -> int:
    """How many steps the minutes of `request` hold, this measurement among them, by the time that
    one of `config` takes here and now."""
    began = time.perf_counter()
    task, settings = open_pretraining(config)
    start = time.perf_counter()
    batch = task.collate([task.dataset[(0, index)] for index in range(settings.batch_size)])
    reading = (time.perf_counter() - start) * settings.accumulate_steps
    step, count = TrainStep(task.model, settings), settings.accumulate_steps
    with named_memory(settings):
        _, computing = measure_step(step, batch, count)
    # Workers read beside the steps, the process itself before them.
    workers = settings.num_workers
    seconds = max(computing, reading / workers) if workers else computing + reading
    left = 60 * request.minutes - (time.perf_counter() - began)
    return max(1, int(SHARE * left / seconds))


def length_fact(request: Request, train_cfg: Mapping, samples: int) -> str:
    """How long a run of a config is, of so many samples an epoch, in a line."""
    is_pretraining, (length,) = request.task == "pretrain", length_of(train_cfg).items()
    key, number = length
    what, flags = ("images", "--epochs, --minutes") if is_pretraining else ("tiles", "--epochs")
    each = samples // samples_per_step(train_cfg)
    text = f"{number:,} steps" if key == "num_step" else f"{number} epochs of {each:,} steps"
    why = f" ({flags})"
    if is_pretraining and request.minutes and key not in set_lengths(request.settings):
        why = f", as many as {request.minutes:g} minutes hold here"
    return f"length: {text}{why}, {samples_per_step(train_cfg)} {what} a step"
