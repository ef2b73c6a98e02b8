"""What the measurements of training work on: a config's network, its images and its loop."""

import argparse
import contextlib
import io
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from demo_scenes.town import draw_town

from SSLRemoteSensing import build_pretext, load_config
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.models.pretext import PretextNet
from SSLRemoteSensing.training.plan import require_images
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.train_step import TrainStep
from SSLRemoteSensing.workflows.pretraining import check_pretext

DEFAULTS = {"batch_size": (4, 64), "steps": (3, 30), "loop_steps": (5, 400)}  # on a CPU, on CUDA
DEFAULTS["num_workers"] = (1, min(16, os.cpu_count() or 1))
# Keys of train_cfg that are not the loop's, or that a benchmark sets.
OTHERS = ("train_data", "losses", "joint_pass", "probe", "num_epoch")


class Bench:
    """`settings` are the loop's, with which a step is the fast one: tuned, and where the hardware
    has bf16, in bf16 and channels_last (in fp32 a CPU is faster without).

    Args:
        args: the flags of benchmark.py; those that were not given get the device's defaults.
        scratch: a folder for images and runs.
    """

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args, self.scratch = args, scratch
        self.device = choose_device(args.device)
        for name, values in DEFAULTS.items():
            if getattr(args, name) is None:
                setattr(args, name, values[self.device.type == "cuda"])
        with contextlib.redirect_stderr(io.StringIO()):  # the published configs' idle keys
            self.config = load_config(args.config_file)
        check_pretext(self.config)
        fast, train_cfg = choose_precision("auto", self.device), self.config["train_cfg"]
        self.settings = {k: v for k, v in train_cfg.items() if k not in OTHERS} | {
            "batch_size": args.batch_size,
            "num_workers": args.num_workers,
            "device": str(self.device),
            "precision": fast,
            "channels_last": fast == "bf16",
            "compile": args.compile,
            "accumulate_steps": 1,
            "num_step": 1,
        }
        self.dataset = self.open_images(train_cfg["train_data"])
        flags = {key: vars(args)[key] for key in ("img_size", "batch_size", "num_workers")}
        self.description = {"network": self.config["backbone_cfg"]["name"], **flags}
        self.description |= {"fast_precision": fast, "compiled": args.compile}

    def open_images(self, data: dict) -> PretextDataset:
        """The config's data set at `img_size` on the folder `images`, or on images drawn here."""
        args = self.args
        if data.get("crop_size") == data["img_size"]:
            data = data | {"crop_size": args.img_size}
        images = args.images or str(draw_images(self.scratch / "images", 2 * args.batch_size))
        data = data | {"data_path": images, "data_format": "**/*.jpg", "img_size": args.img_size}
        data |= {"post_transforms_cfg": None, "bands": None, "max_value": None}
        dataset = PretextDataset(PretextSettings(**data))
        require_images(len(dataset), args.batch_size, accumulate_steps=1)
        return dataset

    def network(self, joint_pass: bool = False) -> PretextNet:
        """The config's network, always with the same weights; `joint_pass` is not the config's."""
        torch.manual_seed(0)
        train_cfg = self.config["train_cfg"] | {"joint_pass": joint_pass}
        return build_pretext(self.config | {"train_cfg": train_cfg})

    def step(self, changes: dict | None = None) -> TrainStep:
        """The fast step, or one with `changes` of its settings.

        Among them may be `joint_pass`, which is the network's, and `fused`, the optimizer's.
        """
        changes = dict(changes or {})
        network = self.network(changes.pop("joint_pass", False))
        if "fused" in changes:
            fused = {"fused": changes.pop("fused")}
            changes["optimizer"] = self.settings["optimizer"] | fused
        return TrainStep(network, LoopSettings(**self.settings | changes))

    def batch(self, size: int | None = None) -> dict:
        """A batch as the loader hands it over: pinned where there is a GPU."""
        keys = [(0, i % len(self.dataset)) for i in range(size or self.args.batch_size)]
        batch = collate([self.dataset[key] for key in keys])
        if self.device.type == "cuda":
            return {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}
        return batch


def run_step(step: TrainStep, batch: dict) -> None:
    """One whole training step on a ready batch; does not wait for the device."""
    step.forward_backward(batch)
    step.update()


def draw_images(folder: Path, least: int) -> Path:
    folder.mkdir()
    for number in range(max(64, least)):
        image, _ = draw_town(np.random.default_rng(number), 256, 256)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), image[..., 2::-1])
    return folder
