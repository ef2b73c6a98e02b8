"""Files of weights as other tools write them: keys, prefixes and what stands beside at random."""

import argparse
import datetime
import string
from collections import OrderedDict, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.models.backbone_search import backbone_weights, compare
from SSLRemoteSensing.models.backbones import ARCHITECTURES
from SSLRemoteSensing.models.pretrained import BACKBONES

CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
WORDS = (
    "module",
    "_orig_mod",
    "net",
    "0",
    "4",
    "layer1",
    "features",
    "conv1",
    "resnet",
    "branch_2",
)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
HOLDERS = {
    "args": argparse.Namespace(lr=0.1, out=Path("runs/x"), start=datetime.datetime(2024, 5, 1)),
    "best_acc1": np.float64(71.3),
    "rng": np.random.RandomState(0).get_state(),
    "seen": defaultdict(list, a=[1]),
    "epoch": 3,
}


@cache
def shapes_of(name: str, bands: int) -> dict[str, tuple]:
    with torch.device("meta"):
        state = BACKBONES[name](in_channels=bands).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def draw_weights(
    rng: np.random.Generator, name: str, bands: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Weights of one number each, which is quick to write and to compare."""
    return {
        key: torch.tensor(int(rng.integers(100)))
        if key.endswith("num_batches_tracked")
        else torch.tensor(float(rng.integers(1, 100)) / 64, dtype=dtype).expand(shape)
        for key, shape in shapes_of(name, bands).items()
    }


def draw_word(rng: np.random.Generator) -> str:
    if rng.random() < 0.3:
        return WORDS[int(rng.integers(len(WORDS)))]
    letters = list(string.ascii_letters + string.digits + "-_")
    word = "x" + "".join(rng.choice(letters, int(rng.integers(3, 12))))
    return word.replace("_k", "_x")  # which would say that it is a running mean


def draw_prefix(rng: np.random.Generator) -> str:
    return "".join(f"{draw_word(rng)}." for _ in range(int(rng.integers(5))))


def spelled(rng: np.random.Generator, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under one of the names that its entries have elsewhere."""
    way = int(rng.integers(4))
    if "conv1.weight" in state and way == 0:  # nn.Sequential(*children)
        parts = ((key.partition("."), value) for key, value in state.items())
        return {f"{CHILDREN.index(name)}.{rest}": value for (name, _, rest), value in parts}
    beginning = {0: "", 1: "features_"}.get(way, "features.")
    return {key.replace("features.", beginning, 1): value for key, value in state.items()}


def strangers(rng: np.random.Generator) -> dict[str, Tensor]:
    """Parts of other networks, with names in common."""
    parts = {
        "fc": {"weight": (10, 512), "bias": (10,)},
        "decoder": {
            "conv1.weight": (64, 64, 3, 3),
            "bn1.weight": (64,),
            "0.weight": (32, 64, 3, 3),
        },
        "projector": {"0.weight": (128, 512), "1.running_mean": (128,), "3.weight": (64, 128)},
        "aux.layer1": {"0.conv1.weight": (32, 32, 3, 3), "0.bn1.bias": (32,)},
    }
    chosen = [name for name in parts if rng.random() < 0.5]
    beginning = draw_word(rng) + "y."  # not the backbone's
    return {
        f"{beginning}{name}.{key}": torch.zeros(()).expand(shape)
        for name in chosen
        for key, shape in parts[name].items()
    }


def draw_foreign(rng: np.random.Generator, path: Path) -> dict[str, Tensor]:
    """Write a file of another tool to `path`; the weights that are to be found in it."""
    bands = int(rng.choice([3, 3, 1, 4, 13]))
    name = list(ARCHITECTURES)[int(rng.integers(len(ARCHITECTURES)))]
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    weights = draw_weights(rng, name, bands, dtype)
    prefix, state = draw_prefix(rng), spelled(rng, weights)
    flat = {prefix + key: value for key, value in state.items()} | strangers(rng)
    # More would be what check_values refuses, as one number stands for each tensor.
    is_small = sum(value.nbytes for value in weights.values()) < 2**28
    if rng.random() < 0.2 and is_small:
        flat |= {f"xsame.{prefix}{key}": value for key, value in state.items()}  # a second name
    if rng.random() < 0.2 and is_small:  # a running mean of other values
        word = str(rng.choice(["ema", "teacher", "momentum_encoder", "encoder_k", "target_net"]))
        flat |= {f"{word}.{key}": torch.zeros(()).expand(v.shape) for key, v in state.items()}
    keys = list(flat)
    rng.shuffle(keys)
    contents = OrderedDict((key, flat[key]) for key in keys)
    if rng.random() < 0.2 and name in ("vgg11", "vgg11_bn", "resnet18"):
        save_file({key: value.contiguous().clone() for key, value in contents.items()}, path)
        return weights
    for _ in range(int(rng.integers(5))):
        key = draw_word(rng)
        beside = {k: v for k, v in HOLDERS.items() if rng.random() < 0.3}
        if rng.random() < 0.5:
            moments = {"exp_avg": torch.zeros(3), "step": 1}
            beside |= {"optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.1}]}}
        inner = [contents, [beside, contents], (contents,), argparse.Namespace(a=contents)]
        contents = {**beside, key: inner[int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))]}
    torch.save(contents, path, _use_new_zipfile_serialization=bool(rng.random() < 0.8))
    return weights


def wrong_names(path: Path, weights: dict[str, Tensor]) -> list[str]:
    """The names of the weights that are not found in the file as they are."""
    found = backbone_weights(checkpoints.read(path))[0]
    expected = {key: tuple(value.shape) for key, value in weights.items()}
    matched, _, surplus = compare(expected, {k: tuple(v.shape) for k, v in found.items()})
    same = {key for key in matched if bool((found[key] == weights[key]).all())}
    return [key for key in weights if key not in same] + surplus
