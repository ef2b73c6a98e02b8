"""What a sample takes, counted from shapes alone: no data, no weights, nothing is computed."""

import argparse
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarking.training import count_flops
from SSLRemoteSensing import build_pretext, build_segmentation, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
NETWORKS = {
    "vgg16_bn": "vr_vgg16_inapinting_agr_examplar",
    "resnet50": "vr_resnet50_inapinting_agr_examplar",
    "few_labels": "few_labels_pretrain",
    "segmentation_vgg16_bn": "seg_potsdam_vgg16",
    "segmentation_resnet50": "seg_potsdam_resnet50",
}
SAMPLES = 4


def measure_flops(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """Of the networks of some configs: parameters, the side of what they see, and 10^9 operations
    that a sample takes in training."""
    entries: dict[str, dict] = {}
    for name, config in NETWORKS.items():
        entries = entries | {name: count(CONFIGS / f"{config}_cfg.py", args.img_size)}
        yield {"networks": entries}


def count(file: Path, side: int) -> dict:
    """The counts of one config, at its own size where that is smaller than `side`."""
    with contextlib.redirect_stderr(io.StringIO()):  # the published configs' idle keys
        config = load_config(file)
    config["backbone_cfg"]["pretrained"] = False
    data, is_pretext = config["train_cfg"]["train_data"], "decoder_cfg" not in config
    side = min(side, data.get("img_size") or side)
    with FakeTensorMode():
        net: nn.Module = build_pretext(config) if is_pretext else build_segmentation(config)
        batch = pretext_batch(side) if is_pretext else labelled_batch(side)
        net.train()
        flops = count_flops(lambda: sum(net(batch).values()).backward())
    parameters = sum(weight.numel() for weight in net.parameters())
    return {"parameters": parameters, "img_size": side, "gflops_per_sample": flops / SAMPLES / 1e9}


def pretext_batch(side: int) -> dict[str, Tensor]:
    views = ("occluded", "anchor", "transformed")
    shape = (SAMPLES, 3, side, side)
    batch = {key: torch.zeros(shape, dtype=torch.uint8) for key in views}
    label = torch.zeros(SAMPLES, dtype=torch.int64)
    return batch | {"transform_label": label, "crop": torch.zeros(SAMPLES, 4)}


def labelled_batch(side: int) -> dict[str, Tensor]:
    image = torch.zeros((SAMPLES, 3, side, side), dtype=torch.uint8)
    return {"image": image, "label": torch.zeros((SAMPLES, side, side), dtype=torch.uint8)}
