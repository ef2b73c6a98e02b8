"""A run as the training loop would be handed it: network, settings, the data opened on demand."""

import copy
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from SSLRemoteSensing import build_pretext
from SSLRemoteSensing.core.config import Part, build, require
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data import pretext, segmentation
from SSLRemoteSensing.data.file_lists import listing
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.evaluation.linear_probe import open_probe
from SSLRemoteSensing.evaluation.scoring import open_scored
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.schedules import SCHEDULES
from SSLRemoteSensing.training.settings import (
    CheckpointSettings,
    LogSettings,
    check_numbers,
    divide_batch,
)
from SSLRemoteSensing.workflows.doctor.subject import is_fine_tuning
from SSLRemoteSensing.workflows.finetuning import SegmentationConfig, open_fine_tuning
from SSLRemoteSensing.workflows.pretraining import PretextConfig, check_pretext

NUMBERS = tuple(inspect.signature(check_numbers).parameters)


@dataclass
class Task:
    """`settings` are fit()'s arguments, defaults included; `config` is what a checkpoint keeps.

    most_epochs: how many checkpoints of epochs are kept.
    open_train: the training set, without the images of a text file as `exclude` takes it; its
        labels, which have been looked through, are in the coding given.
    open_scored: opens val_data and test_data as scoring does, likewise; None in pre-training.
    open_probe: opens the tiles of the probe and prints what they are; None without a probe.
    """

    config: dict
    model: nn.Module
    settings: dict
    most_epochs: int
    collate: Callable
    open_train: Callable[[str | None, ValueCoding | None], Dataset]
    open_scored: Callable[[ValueCoding | None], None] | None
    open_probe: Callable[[], object] | None = None


def require_keys(config: dict) -> None:
    """Raise a `UserError` naming every wrong key of either kind of config."""
    require(Part(SegmentationConfig if is_fine_tuning(config) else PretextConfig), config)


def open_task(config: dict, processes: int = 1) -> Task:
    """Check `config` and build its network; no image is opened.

    Raises:
        UserError: what training would refuse before it opens its data.
    """
    config = copy.deepcopy(config)
    opened = open_labelled if is_fine_tuning(config) else open_pretext
    task = opened(config, processes)
    settings = task.settings
    check_numbers(**{name: settings[name] for name in NUMBERS})
    LogSettings(**settings["log"])
    if settings["lr_schedule"]:
        build(SCHEDULES, settings["lr_schedule"], "train_cfg.lr_schedule")
    return task


def open_pretext(config: dict, processes: int) -> Task:
    check_pretext(config)
    train_cfg = divide_batch(config["train_cfg"], processes)
    data, probe = train_cfg.pop("train_data"), train_cfg.pop("probe", None)
    for key in ("losses", "joint_pass"):  # the network has them
        train_cfg.pop(key, None)
    settings = fit_defaults() | train_cfg
    torch.manual_seed(settings["seed"])
    model = build_pretext(config)
    given = {"in_channels": model.backbone.in_channels, "seed": settings["seed"]}

    def open_train(exclude: str | None, coding: None) -> Dataset:
        try:
            images = pretext.PretextSettings(**data | {"exclude": exclude})
            return pretext.PretextDataset(images, **given)
        except UserError as error:
            raise UserError(f"train_cfg.train_data: {error}") from error

    most = CheckpointSettings(**settings["checkpoints"]).max_keep
    opened = None
    if probe is not None:
        opened = partial(open_probe, probe, model.backbone, settings, data["img_size"])
    return Task(config, model, settings, most, pretext.collate, open_train, None, opened)


def open_labelled(config: dict, processes: int) -> Task:
    task = open_fine_tuning(config, processes=processes)

    def open_train(exclude: str | None, coding: ValueCoding | None) -> Dataset:
        tiles = task.open_split("train", coding, checked=coding is not None, exclude=exclude)
        return segmentation.Repeated(tiles, tiles.full_length)

    def open_scored_splits(coding: ValueCoding | None) -> None:
        for split in sorted({"val", task.scored_split}):
            tiles = task.open_split(split, coding, checked=coding is not None)
            open_scored(tiles, task.classes, task.scoring)

    settings = fit_defaults() | task.train_cfg
    most = CheckpointSettings(**settings["checkpoints"]).max_keep
    return Task(
        config, task.model, settings, most, segmentation.collate, open_train, open_scored_splits
    )


def open_without(task: Task, unusable: Iterable[str], coding: ValueCoding | None) -> Dataset:
    """The training set of `task` without the files `unusable`, so that a step can be tried.

    Raises:
        UserError: as the data set, nothing being left for one.
    """
    data = task.config["train_cfg"]["train_data"]
    before = data.get("exclude")
    if not unusable:
        return task.open_train(before, coding)
    root = Path(data.get("image_path") or data["data_path"])
    root = root if root.is_dir() else root.parent
    lines = (
        [] if before is None else [str(root / line) for line in listing(Path(before), "exclude")]
    )
    lines += map(os.path.abspath, unusable)
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write("\n".join(lines).encode("utf-8", "surrogateescape"))
        file.flush()
        return task.open_train(file.name, coding)


def fit_defaults() -> dict:
    """The arguments of fit() that a config may leave out."""
    known = inspect.signature(fit).parameters.values()
    return {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}


def kept_config(task: Task) -> dict:
    """The card of `task`, as far as it tells whether a run can go on, in JSON's types."""
    return json.loads(json.dumps({"config": task.config}, default=str))
