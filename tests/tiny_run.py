"""A network of three layers, and runs of it in this process, some of them interrupted."""

import json
import os
import signal

import torch
from conftest import fit_task
from torch import nn

from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate


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


def tiny(config: dict) -> nn.Module:
    return TinyNet()


def train(config: dict, sabotage=None, build=tiny, **changes) -> nn.Module:
    """Run `config` in this process; `sabotage(model)` may lay hands on the network first."""
    train_cfg = config["train_cfg"] | changes
    train_cfg.pop("losses")
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build(config)
    dataset = PretextDataset(PretextSettings(**train_cfg.pop("train_data")))
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


def at_call(number: int, act):
    """Call `act()` as the model begins step `number`, counted from 1."""

    def sabotage(model):
        forward, calls = model.forward, []

        def counting(batch):
            calls.append(1)
            if len(calls) == number:
                act()
            return forward(batch)

        model.forward = counting

    return sabotage


def interrupt_at(step: int, number: int = signal.SIGINT):
    """Send this process a signal while the model works on step `step` (counted from 1)."""
    return at_call(step, lambda: os.kill(os.getpid(), number))
