"""Backbones with weights: random, ImageNet's, or from a file, and what architecture that is."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from SSLRemoteSensing import checkpoint
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.models.backbones import (
    ARCHITECTURES,
    BLOCKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
)


def build_backbone(
    name: str,
    in_channels: int = 3,
    pretrained: bool | str = False,
    out_keys: Sequence[str] = BLOCKS,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """A backbone by name, with weights if asked for.

    Args:
        in_channels: bands of the images.
        pretrained: False, random; True, torchvision's ImageNet weights (downloaded, unless they are
            in its cache) with ImageNet's mean and std, widened to further bands by their mean,
            unless others are given; or a file, whose card brings them, if it has one.
        out_keys: which maps to return, besides `block6`.
        mean, std: taken out of the images, in 0..1, one number a band.
    """
    backbone = ARCHITECTURES[name](in_channels=in_channels, out_keys=out_keys, mean=mean, std=std)
    if pretrained is True:
        if mean is None and in_channels >= 3:
            both = (widen(list(values), in_channels) for values in (IMAGENET_MEAN, IMAGENET_STD))
            backbone.set_normalization(*both)
        _load(backbone, imagenet_weights(name), f"ImageNet weights of {name}")
    elif pretrained:
        print(load_backbone(backbone, pretrained)["summary"])
    return backbone


BACKBONES = {name: partial(build_backbone, name) for name in ARCHITECTURES}


def imagenet_weights(name: str) -> dict[str, Tensor]:
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or not the file that it should be
        raise UserError(
            f"pretrained=True: the ImageNet weights of {name} cannot be downloaded "
            f"({error}); pass a file, or pretrained=False for random weights"
        ) from error


def load_backbone(model: Backbone | None, path: str | Path, strict: bool = True) -> dict:
    """Load backbone weights from `path` into `model`, or into the architecture they fit.

    Takes `backbone.pth`, any checkpoint of a run, the published repository's checkpoints, state
    dicts of torchvision and timm, and checkpoints of lightly, MoCo and the like: what stands before
    the names, and which network is taken where a file holds several, is said in
    `checkpoint.backbone_weights`. Weights for three bands widen to more: the new bands start from
    the mean of the three. The mean and std of the file's card come along.

    Returns:
        dict(model=Backbone, matched, missing, left_over: lists of names, summary: a line of text).

    Raises:
        UserError: no such file, a pickle that is more than weights, another architecture, or,
            unless `strict=False`, weights that fill the backbone only in part; mean and std other
            than the card's.
    """
    path = Path(path)
    contents = checkpoint.read(path)
    state, card = checkpoint.backbone_weights(contents), checkpoint.read_card(path, contents)
    if model is None:
        name = architecture_of(state)
        if name is None:
            raise UserError(f"weights {path}: fit none of {', '.join(ARCHITECTURES)}")
        bands = state[first_convolution(state)].shape[1]
        model = ARCHITECTURES[name](in_channels=bands)
    if "mean" in card:
        own = [widen(card[key], model.in_channels) for key in ("mean", "std")]
        if model.mean is not None and [list(model.mean), list(model.std)] != own:
            raise UserError(
                f"mean={model.mean}, std={model.std}: {path} was trained with "
                f"mean={own[0]}, std={own[1]}; leave them out of the config"
            )
        model.set_normalization(*own)
    found = _load(model, state, str(path), strict)
    if "mean" not in card and model.mean is None:
        found["summary"] += (
            "; no card says whether mean and std were taken out of its images, none are: "
            "backbone_cfg.mean and std set them"
        )
    return {"model": model} | found


def widen(values: list | None, bands: int) -> list | None:
    """`values`, one a band, continued by their mean for bands that the weights did not know."""
    return values and values + [sum(values) / len(values)] * (bands - len(values))


def _load(model: Backbone, state: dict[str, Tensor], source: str, strict: bool = True) -> dict:
    wanted = model.state_dict()
    first = first_convolution(wanted)
    widened = ""
    if first in state and state[first].shape[1] == 3 < model.in_channels:
        extra = state[first].mean(1, keepdim=True).expand(-1, model.in_channels - 3, -1, -1)
        state = state | {first: torch.cat([state[first], extra], dim=1)}
        widened = f", first convolution widened from 3 to {model.in_channels} bands"
    matched = [key for key in wanted if key in state and state[key].shape == wanted[key].shape]
    # Counters of batches seen: older files lack them, and nothing depends on them.
    missing = [k for k in wanted if k not in matched and not k.endswith("num_batches_tracked")]
    left_over = [key for key in state if key not in matched]
    # A deeper ResNet has every entry of a shallower one, of the same shape, and more blocks.
    parts = tuple(f"{name}." for name, _ in model.named_children())
    other = architecture_of(state) if missing or any(k.startswith(parts) for k in left_over) else ""
    if strict and other and other != model.name:
        raise UserError(
            f"weights {source}: are of a {other}, the config's backbone is {model.name}; set "
            f"backbone_cfg.name={other!r}"
        )
    if missing and strict:
        key = missing[0]
        why = f"shape {tuple(state[key].shape)}" if key in state else "not in the file"
        raise UserError(
            f"weights {source}: fill only {len(matched)} of {len(wanted)} entries of {model.name} "
            f"with {model.in_channels} bands ({key}: {why}); set backbone_cfg to what it holds"
        )
    model.load_state_dict({key: state[key] for key in matched}, strict=False)
    summary = (
        f"{source}: {len(matched)} of {len(wanted)} entries of {model.name} loaded, "
        f"{len(left_over)} entries of the file left over{widened}"
    )
    return {"matched": matched, "missing": missing, "left_over": left_over, "summary": summary}


def first_convolution(state: dict[str, Tensor]) -> str:
    return "conv1.weight" if "conv1.weight" in state else "features.0.weight"


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """The name of the architecture whose every weight is in `state`, or None."""
    first = first_convolution(state)
    for name in reversed(ARCHITECTURES):
        if all(
            key in state and (key == first or state[key].shape == shape)
            for key, shape in shapes(name).items()
        ):
            return name
    return None


@cache
def shapes(name: str) -> dict[str, torch.Size]:
    """The shape of each weight of an architecture, counters left out."""
    with torch.device("meta"):
        state = ARCHITECTURES[name]().state_dict()
    return {k: v.shape for k, v in state.items() if not k.endswith("num_batches_tracked")}
