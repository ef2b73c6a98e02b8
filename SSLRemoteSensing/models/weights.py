"""Backbones with weights: random, ImageNet's, or from a file, and what architecture that is."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal

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
from SSLRemoteSensing.models.strangers import stranger
from SSLRemoteSensing.weight_names import split_weights


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
            unless others are given; or a file, whose card brings them, if it has one, its first
            convolution widened to further bands likewise.
        out_keys: which maps to return, besides `block6`: block2 (1/2) to block6 (1/32).
        mean: taken out of the images, in 0..1, one number a band; None: nothing, or what the
            weights bring.
        std: the images are divided by it, in 0..1, one number a band; given with `mean`.
    """
    backbone = ARCHITECTURES[name](in_channels=in_channels, out_keys=out_keys, mean=mean, std=std)
    if pretrained is True:
        if mean is None and in_channels >= 3:
            both = (widen(list(values), in_channels) for values in (IMAGENET_MEAN, IMAGENET_STD))
            backbone.set_normalization(*both)
        state = imagenet_weights(name)
        if in_channels > 3:
            first = first_convolution(state)
            state[first] = widen_kernel(state[first], in_channels)
        require_fit(backbone, state, name, f"ImageNet weights of {name}", strict=True)
        _load(backbone, state, f"ImageNet weights of {name}")
    elif pretrained:
        print(load_backbone(backbone, pretrained, in_channels=in_channels)["summary"])
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


def load_backbone(
    model: Backbone | None,
    path: str | Path,
    strict: bool = True,
    in_channels: int | None = None,
    adapt: Literal["widen", "average"] = "widen",
) -> dict:
    """Load backbone weights from `path` into `model`, or into the architecture they fit.

    Takes `backbone.pth`, any checkpoint of a run, the published repository's checkpoints, state
    dicts of torchvision, timm and segmentation_models_pytorch (of an encoder or a whole network),
    checkpoints of lightly, MoCo and the like, and `.safetensors`: what may stand before the names,
    and which network is taken where a file holds several, is said in
    `weight_names.backbone_weights`. The mean and std of the card come along. Names and shapes
    are compared before a model is made or changed.

    Args:
        model: a backbone of `BACKBONES`; None makes the one whose weights the file holds.
        strict: refuse what fits only in part; without, load what has name and shape in common,
            and refuse only a file without any.
        in_channels: the number of bands that you want; if the weights have another, their first
            convolution is adapted. None takes no other than that of the file, or of `model`.
        adapt: how. 'widen': the bands of the file stay, and further ones start from their mean.
            'average': each band gets the mean of the file's bands, scaled so that an image whose
            bands are all the same gives what it gave; for fewer bands, or quite other ones.

    Returns:
        dict(model=Backbone, matched, missing, left_over: lists of names, summary: a line of text).
        `left_over` are the entries of the file that were not loaded, those of other parts of a
        network (a head, a decoder) by the names that they have there.

    Raises:
        UserError: no such file, a pickle that is more than weights, another architecture (by its
            name, where it looks alike), or, unless `strict=False`, weights that fill the backbone
            only in part; mean and std other than the card's.
    """
    if in_channels is not None and in_channels < 1:
        raise UserError(f"in_channels={in_channels}: must be at least 1 band")
    if adapt not in ADAPTATIONS:
        raise UserError(f"adapt={adapt!r}: expected one of {', '.join(ADAPTATIONS)}")
    path = Path(path)
    return backbone_of(checkpoint.read(path), path, model, strict, in_channels, adapt)


def backbone_of(
    contents: dict,
    path: Path,
    model: Backbone | None = None,
    strict: bool = True,
    in_channels: int | None = None,
    adapt: Literal["widen", "average"] = "widen",
) -> dict:
    """`load_backbone` once `checkpoint.read` has read the `contents` of `path`."""
    (state, others), card = split_weights(contents), checkpoint.read_card(path, contents)
    name = architecture_of(state)
    if strict or model is None:
        require_known(state, path)
    if model is None and name is None:
        raise UserError(f"weights {path}: fit none of {', '.join(ARCHITECTURES)}")
    first = first_convolution(state)
    there = state[first].shape[1] if first in state and state[first].dim() == 4 else None
    wanted = in_channels or there if model is None else model.in_channels
    if model is not None and in_channels not in (None, wanted):
        raise UserError(f"in_channels={in_channels}: the model given takes {wanted} bands")
    adapted = ""
    if in_channels is not None and there not in (None, wanted):
        state = state | {first: ADAPTATIONS[adapt](state[first], wanted)}
        done = "widened" if adapt == "widen" else "averaged"
        adapted = f", first convolution {done} from {there} to {wanted} bands"
    if model is None:
        model = ARCHITECTURES[name](in_channels=wanted)
    else:
        require_fit(model, state, name, str(path), strict)
    if "mean" in card:
        own = [adapt_values(card[key], wanted, adapt) for key in ("mean", "std")]
        if model.mean is not None and [list(model.mean), list(model.std)] != own:
            raise UserError(
                f"mean={model.mean}, std={model.std}: {path} was trained with "
                f"mean={own[0]}, std={own[1]}; leave them out of the config"
            )
        model.set_normalization(*own)
    found = _load(model, state, str(path))
    found["left_over"] += others
    found["summary"] += f", {len(found['left_over'])} entries of the file left over{adapted}"
    if "mean" not in card and model.mean is None:
        found["summary"] += (
            "; no card says whether mean and std were taken out of its images, none are: "
            "backbone_cfg.mean and std set them"
        )
    return {"model": model} | found


def widen_kernel(kernel: Tensor, bands: int) -> Tensor:
    """(out, C, h, w) to (out, bands, h, w), the new bands the mean of the others."""
    if bands < kernel.shape[1]:
        raise UserError(
            f"in_channels={bands}: the weights are for {kernel.shape[1]} bands, which cannot be "
            f"widened to fewer; pass adapt='average'"
        )
    extra = kernel.mean(1, keepdim=True).expand(-1, bands - kernel.shape[1], -1, -1)
    return torch.cat([kernel, extra], dim=1)


def average_kernel(kernel: Tensor, bands: int) -> Tensor:
    """(out, C, h, w) to (out, bands, h, w), each band the same, their sum that of the C."""
    return (kernel.sum(1, keepdim=True) / bands).repeat(1, bands, 1, 1)


ADAPTATIONS = {"widen": widen_kernel, "average": average_kernel}


def widen(values: list | None, bands: int) -> list | None:
    """`values`, one a band, continued by their mean for bands that the weights did not know."""
    return values and values + [sum(values) / len(values)] * (bands - len(values))


def adapt_values(values: list | None, bands: int, adapt: str) -> list | None:
    """Means or deviations of the bands of a card, as its first convolution is adapted."""
    if values and adapt == "average" and len(values) != bands:
        return [sum(values) / len(values)] * bands
    return widen(values, bands)


def require_known(state: dict[str, Tensor], path: Path) -> None:
    """Refuse, by its name, an architecture that only looks like one of ours."""
    kind = stranger(state)
    if kind is not None:
        raise UserError(
            f"weights {path}: are of {kind}, which is not among the backbones here; take one of "
            f"{', '.join(ARCHITECTURES)}"
        )


def require_fit(
    model: Backbone, state: dict[str, Tensor], name: str | None, source: str, strict: bool
) -> None:
    """Refuse weights of another architecture and those of a part; without `strict`, only those
    that have nothing of the model.
    """
    wanted = model.state_dict()
    matched, missing, left_over = compared(wanted, state)
    # A deeper ResNet has every entry of a shallower one, of the same shape, and more blocks.
    parts = tuple(f"{part}." for part, _ in model.named_children())
    more = [key for key in left_over if key.startswith(parts)]
    if not strict and all(key.endswith("num_batches_tracked") for key in matched):
        raise UserError(
            f"weights {source}: none of its {len(state)} entries has the name and shape of one of "
            f"a {model.name}; set backbone_cfg to what it holds, or take another file"
        )
    if not strict or not (missing or more):
        return
    if name and name != model.name:
        raise UserError(
            f"weights {source}: are of a {name}, the config's backbone is {model.name}; set "
            f"backbone_cfg.name={name!r}"
        )
    first = first_convolution(wanted)
    if missing == [first] and first in state:
        raise UserError(
            f"weights {source}: {first} is {tuple(state[first].shape)}, the backbone takes "
            f"{model.in_channels} bands; set in_channels to theirs, or adapt it by "
            f"load_backbone(..., in_channels={model.in_channels}, adapt='widen' or 'average')"
        )
    if missing:
        key = missing[0]
        why = f"shape {tuple(state[key].shape)}" if key in state else "not in the file"
        raise UserError(
            f"weights {source}: fill only {len(matched)} of {len(wanted)} entries of {model.name} "
            f"with {model.in_channels} bands ({key}: {why}); set backbone_cfg to what it holds"
        )
    raise UserError(
        f"weights {source}: have {len(more)} entries more than a {model.name} ({more[0]}), so "
        f"they are of another architecture; strict=False loads the rest all the same"
    )


def compared(
    wanted: dict[str, Tensor], state: dict[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """The names matched, missing and left over."""
    matched = [key for key in wanted if key in state and state[key].shape == wanted[key].shape]
    # Counters of batches seen: older files lack them, and nothing depends on them.
    missing = [k for k in wanted if k not in matched and not k.endswith("num_batches_tracked")]
    return matched, missing, [key for key in state if key not in matched]


def _load(model: Backbone, state: dict[str, Tensor], source: str) -> dict:
    wanted = model.state_dict()
    matched, missing, left_over = compared(wanted, state)
    model.load_state_dict({key: state[key] for key in matched}, strict=False)
    summary = f"{source}: {len(matched)} of {len(wanted)} entries of {model.name} loaded"
    return {"matched": matched, "missing": missing, "left_over": left_over, "summary": summary}


def first_convolution(state: dict[str, Tensor]) -> str:
    return "conv1.weight" if "conv1.weight" in state else "features.0.weight"


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """The name of the architecture whose every weight is in `state`, for any bands, or None."""
    first = first_convolution(state)
    for name in reversed(ARCHITECTURES):
        if all(
            key in state and without_bands(key, state[key], first) == without_bands(key, one, first)
            for key, one in weights_of(name).items()
        ):
            return name
    return None


def without_bands(key: str, weight: Tensor, first: str) -> tuple:
    """The shape of a weight, the number of bands left open where it is the first convolution's."""
    shape = tuple(weight.shape)
    return (shape[0], *shape[2:]) if key == first and len(shape) == 4 else shape


@cache
def weights_of(name: str) -> dict[str, Tensor]:
    """The weights of an architecture, counters left out, without memory for their values."""
    with torch.device("meta"):
        state = ARCHITECTURES[name]().state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
