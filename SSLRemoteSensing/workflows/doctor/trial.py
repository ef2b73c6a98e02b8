"""A run as the training loop would begin it: network and settings, the data opened on demand."""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn
from torch.utils.data import Dataset

from SSLRemoteSensing.core.config import Part, require
from SSLRemoteSensing.data import pretext, segmentation
from SSLRemoteSensing.data.file_lists import listing
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.evaluation.scoring import open_scored
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.workflows import finetuning, pretraining
from SSLRemoteSensing.workflows.doctor.subject import is_fine_tuning
from SSLRemoteSensing.workflows.finetuning import SegmentationConfig
from SSLRemoteSensing.workflows.pretraining import PretextConfig


@dataclass
class Trial:
    """What training would begin with.

    Attributes:
        config: what a checkpoint keeps.
        settings: the loop's keys.
        open_train: the training set, without the images of a text file as `exclude` takes it; its
            labels, which have been looked through, are in the coding given.
        open_scored: opens val_data and test_data as scoring does, likewise; None in pre-training.
        open_probe: opens the tiles of the probe and prints what they are; None without a probe.
    """

    config: dict
    model: nn.Module
    settings: LoopSettings
    param_groups: list[dict] | None
    collate: Callable
    open_train: Callable[[str | None, ValueCoding | None], Dataset]
    open_scored: Callable[[ValueCoding | None], None] | None = None
    open_probe: Callable[[], object] | None = None


def require_keys(config: dict) -> None:
    """Raise a `UserError` naming every wrong key of either kind of config."""
    require(Part(SegmentationConfig if is_fine_tuning(config) else PretextConfig), config)


def open_trial(config: dict, processes: int = 1) -> Trial:
    """Check `config` and build its network; no image is opened.

    Raises:
        UserError: what training would refuse before it opens its data.
    """
    config = copy.deepcopy(config)
    open_kind = open_labelled if is_fine_tuning(config) else open_pretext
    trial = open_kind(config, processes)
    build_schedule(trial.settings.lr_schedule)
    return trial


def open_pretext(config: dict, processes: int) -> Trial:
    network, keys, settings = pretraining.open_network(config, processes)
    data, probe = keys["train_data"], keys.get("probe")

    def open_train(exclude: str | None, coding: None) -> Dataset:
        data_left = data | {"exclude": exclude}
        return pretraining.open_images(data_left, network.backbone.in_channels, settings.seed)

    if probe is not None:
        probe = partial(pretraining.open_probe, probe, network, settings, data["img_size"])
    return Trial(config, network, settings, None, pretext.collate, open_train, open_probe=probe)


def open_labelled(config: dict, processes: int) -> Trial:
    opened = finetuning.open_network(config, processes=processes)

    def open_train(exclude: str | None, coding: ValueCoding | None) -> Dataset:
        tiles = opened.open_split("train", coding, checked=coding is not None, exclude=exclude)
        return tiles.repeated()

    def open_scored_splits(coding: ValueCoding | None) -> None:
        for split in sorted({"val", opened.scored_split}):
            tiles = opened.open_split(split, coding, checked=coding is not None)
            open_scored(tiles, opened.classes, opened.scoring)

    groups = opened.param_groups()
    return Trial(
        config, opened.model, opened.loop, groups, segmentation.collate, open_train,
        open_scored_splits,
    )  # fmt: skip


def open_without(trial: Trial, unusable: Iterable[str], coding: ValueCoding | None) -> Dataset:
    """The training set of `trial` without the files `unusable`, so that a step can be tried.

    Raises:
        UserError: as the data set, nothing being left for one.
    """
    data = trial.config["train_cfg"]["train_data"]
    exclude = data.get("exclude")
    if not unusable:
        return trial.open_train(exclude, coding)
    root = Path(data.get("image_path") or data["data_path"])
    root = root if root.is_dir() else root.parent
    lines = [] if exclude is None else listing(Path(exclude), "exclude")
    lines = [str(root / line) for line in lines] + [os.path.abspath(file) for file in unusable]
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write("\n".join(lines).encode("utf-8", "surrogateescape"))
        file.flush()
        return trial.open_train(file.name, coding)


def kept_config(trial: Trial) -> dict:
    """The card of `trial`, as far as it tells whether a run can go on, in JSON's types."""
    return json.loads(json.dumps({"config": trial.config}, default=str))
