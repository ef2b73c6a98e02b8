"""A run as the training loop would be handed it: network, settings, the data opened on demand."""

import copy
import inspect
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from SSLRemoteSensing import build_pretext
from SSLRemoteSensing.config import Part, build, require
from SSLRemoteSensing.datasets import pretext, segmentation
from SSLRemoteSensing.distributed import divide_batch
from SSLRemoteSensing.doctor.subject import is_fine_tuning
from SSLRemoteSensing.engine import check_numbers, fit
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.finetuning import FineTuning, open_fine_tuning
from SSLRemoteSensing.log import LogSettings
from SSLRemoteSensing.saving import CheckpointSettings
from SSLRemoteSensing.schedules import SCHEDULES
from SSLRemoteSensing.schema import PretextConfig, SegmentationConfig, check_pretext
from SSLRemoteSensing.scoring import open_scored

NUMBERS = tuple(inspect.signature(check_numbers).parameters)


@dataclass
class Task:
    """`settings` are fit()'s arguments, defaults included; `config` is what a checkpoint keeps.

    open_train: the training set, without the images of a text file as `exclude` takes it.
    open_scored: opens val_data and test_data as scoring does; None in pre-training.
    """

    config: dict
    model: nn.Module
    settings: dict
    collate: Callable
    open_train: Callable[[str | None], Dataset]
    open_scored: Callable[[], None] | None


def require_keys(config: dict) -> None:
    """Raise a `UserError` naming every wrong key of either kind of config."""
    require(Part(SegmentationConfig if is_fine_tuning(config) else PretextConfig), config)


def open_task(config: dict) -> Task:
    """Check `config` and build its network; no image is opened.

    Raises:
        UserError: what training would refuse before it opens its data.
    """
    config = copy.deepcopy(config)
    task = open_labelled(config) if is_fine_tuning(config) else open_pretext(config)
    settings = task.settings
    check_numbers(**{name: settings[name] for name in NUMBERS})
    CheckpointSettings(**settings["checkpoints"])
    LogSettings(**settings["log"])
    if settings["lr_schedule"]:
        build(SCHEDULES, settings["lr_schedule"], "train_cfg.lr_schedule")
    return task


def open_pretext(config: dict) -> Task:
    check_pretext(config)
    train_cfg = divide_batch(config["train_cfg"])
    data = train_cfg.pop("train_data")
    for key in ("losses", "joint_pass"):  # the network has them
        train_cfg.pop(key, None)
    settings = fit_defaults() | train_cfg
    torch.manual_seed(settings["seed"])
    model = build_pretext(config)
    given = {"in_channels": model.backbone.in_channels, "seed": settings["seed"]}

    def open_train(exclude: str | None) -> Dataset:
        try:
            return pretext.PretextDataset(**data | {"exclude": exclude}, **given)
        except UserError as error:
            raise UserError(f"train_cfg.train_data: {error}") from error

    return Task(config, model, settings, pretext.collate, open_train, None)


def open_labelled(config: dict) -> Task:
    task = open_fine_tuning(config)

    def open_train(exclude: str | None) -> Dataset:
        task.data["train"] = task.data["train"] | {"exclude": exclude}
        tiles = task.open_split("train")
        return segmentation.Repeated(tiles, tiles.full_length)

    settings = fit_defaults() | task.train_cfg
    return Task(
        config, task.model, settings, segmentation.collate, open_train,
        lambda: open_scored_splits(task),
    )  # fmt: skip


def open_scored_splits(task: FineTuning) -> None:
    coding = task.open_split("train").coding
    for split in {"val", task.scored_split}:
        open_scored(task.open_split(split, coding), task.classes, task.scoring)


def open_without(task: Task, unusable: Iterable[str]) -> Dataset:
    """The training set of `task` without the files `unusable`, so that a step can be tried.

    Raises:
        UserError: as the data set, nothing being left for one.
    """
    before = task.config["train_cfg"]["train_data"].get("exclude")
    lines = [] if before is None else Path(before).read_text().splitlines()
    lines += [str(Path(file).absolute()) for file in unusable]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        return task.open_train(file.name)


def fit_defaults() -> dict:
    """The arguments of fit() that a config may leave out."""
    known = inspect.signature(fit).parameters.values()
    return {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}


def kept_config(task: Task) -> dict:
    """The card of `task`, as far as it tells whether a run can go on, in JSON's types."""
    return json.loads(json.dumps({"config": task.config}, default=str))
