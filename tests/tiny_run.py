"""A network of three layers, and runs of it in this process, some of them interrupted."""

import itertools
import json
import os
import signal
from collections.abc import Callable

import torch
from conftest import fit_task
from torch import nn

from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.train_step import TrainStep


class TinyNet(nn.Module):
    """All that can spoil going on, in milliseconds: batch normalization, dropout, three losses."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
        )
        self.agr = nn.Linear(8, 6)

    def forward(self, batch):
        anchor, transformed = (
            self.body(batch[key].float() / 255).mean((2, 3)) for key in ("anchor", "transformed")
        )
        agr = nn.functional.cross_entropy(self.agr(transformed - anchor), batch["transform_label"])
        exemplar = (anchor - transformed).square().mean()
        return {"inpainting": anchor.square().mean(), "agr": agr, "exemplar": exemplar}


def step_of(model: nn.Module, param_groups: list[dict] | None = None, **settings) -> TrainStep:
    """A training step on the CPU, of SGD unless the settings say otherwise."""
    places = dict(checkpoints=dict(checkpoints_path="."), log=dict(log_path="."))
    optimizer = dict(name="SGD", lr=0.1)
    keys = dict(batch_size=1, num_step=1, device="cpu", optimizer=optimizer) | places | settings
    return TrainStep(model, LoopSettings(**keys), param_groups)


def images_of(config: dict) -> PretextDataset:
    return PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))


def train(config: dict, sabotage=None, build=None, dataset=None, **changes) -> nn.Module:
    """Run `config` in this process; `sabotage(model)` may lay hands on the network first.

    Args:
        changes: of train_cfg, and what a `Task` has besides (`export`, `evaluate`, `monitors`).
    """
    train_cfg = config["train_cfg"] | changes
    for key in ("losses", "train_data"):
        train_cfg.pop(key)
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build(config) if build else TinyNet()
    dataset = images_of(config) if dataset is None else dataset
    if sabotage:
        sabotage(model)
    fit_task(model, dataset, collate, **train_cfg, card={"config": config})
    return model


def entries(config: dict) -> list[dict]:
    path = f"{config['train_cfg']['log']['log_path']}/metrics.jsonl"
    with open(path) as file:
        return [json.loads(line) for line in file]


def moved(config: dict, folder) -> dict:
    """`config` with its run in another folder."""
    changed = {**config, "train_cfg": {**config["train_cfg"]}}
    changed["train_cfg"]["checkpoints"] = dict(checkpoints_path=str(folder))
    changed["train_cfg"]["log"] = config["train_cfg"]["log"] | dict(log_path=str(folder / "log"))
    return changed


def changing(change: Callable):
    """The network's losses of its call number n, from 1, become `change(n, losses, model)`."""

    def sabotage(model):
        forward, numbers = model.forward, itertools.count(1)
        model.forward = lambda batch: change(next(numbers), forward(batch), model)

    return sabotage


def at_call(number: int, act):
    """Call `act()` as the model begins step `number`, counted from 1."""

    def sabotage(model):
        numbers = itertools.count(1)

        def count(*_) -> None:
            if next(numbers) == number:
                act()

        model.register_forward_pre_hook(count)

    return sabotage


def interrupt_at(step: int, number: int = signal.SIGINT):
    """Send this process a signal while the model works on step `step` (counted from 1)."""
    return at_call(step, lambda: os.kill(os.getpid(), number))
