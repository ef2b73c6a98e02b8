"""Backbones with weights: random, ImageNet's, or from a file, and what architecture that is."""

import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import (
    ARCHITECTURES,
    BLOCKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
)

Adaptation = Literal["widen", "average"]


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
    backbone = ARCHITECTURES[name](in_channels=in_channels, out_keys=out_keys)
    backbone.set_normalization(mean, std)
    if pretrained is True:
        card = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)} if mean is None else {}
        contents = {"model": imagenet_weights(name), "card": card}
        backbone_of(contents, f"ImageNet weights of {name}", backbone, in_channels=in_channels)
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
    adapt: Adaptation = "widen",
) -> dict:
    """Load backbone weights from `path` into `model`, or into the architecture they fit.

    Takes `backbone.pth`, any checkpoint of a run, the published repository's checkpoints, state
    dicts of torchvision, timm and segmentation_models_pytorch (of an encoder or a whole network),
    checkpoints of lightly, MoCo and the like, and `.safetensors`: what may stand before the names,
    and which network is taken where a file holds several, is said in `backbone_weights`. The mean
    and std of the card come along. Names and shapes are compared before a model is changed.

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
        UserError: no such file, a pickle that is more than weights, another architecture, or,
            unless `strict=False`, weights that fill the backbone only in part or have entries more;
            mean and std other than the card's.
    """
    if in_channels is not None and in_channels < 1:
        raise UserError(f"in_channels={in_channels}: must be at least 1 band")
    if adapt not in get_args(Adaptation):
        raise UserError(f"adapt={adapt!r}: expected one of {', '.join(get_args(Adaptation))}")
    return backbone_of(checkpoints.read(path), path, model, strict, in_channels, adapt)


def backbone_of(
    contents: dict,
    source: str | Path,
    model: Backbone | None = None,
    strict: bool = True,
    in_channels: int | None = None,
    adapt: Adaptation = "widen",
) -> dict:
    """`load_backbone` once `checkpoints.read` has read the `contents` of `source`."""
    state, other_keys = backbone_weights(contents)
    card, note = checkpoints.read_card(Path(source), contents), ""
    first_key = first_convolution(state)
    kernel = state.get(first_key)
    file_bands = kernel.shape[1] if kernel is not None and kernel.dim() == 4 else None
    bands = in_channels or file_bands if model is None else model.in_channels
    if model is not None and in_channels not in (None, bands):
        raise UserError(f"in_channels={in_channels}: the model given takes {bands} bands")
    if in_channels is not None and file_bands not in (None, bands):
        state |= {first_key: adapt_kernel(kernel, bands, adapt)}
        verb = "widened" if adapt == "widen" else "averaged"
        note = f", first convolution {verb} from {file_bands} to {bands} bands"
    if model is None:
        name = architecture_of(state)
        if name is None:
            raise UserError(f"weights {source}: fit none of {', '.join(ARCHITECTURES)}")
        model = ARCHITECTURES[name](in_channels=bands)
    result = match_weights(model, state, str(source), strict)
    if "mean" in card:
        normalization = [adapt_values(card[key], bands, adapt) for key in ("mean", "std")]
        if model.mean is not None and [list(model.mean), list(model.std)] != normalization:
            raise UserError(
                f"mean={model.mean}, std={model.std}: {source} was trained with "
                f"mean={normalization[0]}, std={normalization[1]}; leave them out of the config"
            )
        model.set_normalization(*normalization)
    model.load_state_dict({key: state[key] for key in result["matched"]}, strict=False)
    result["left_over"] += other_keys
    result["summary"] = (
        f"{source}: {len(result['matched'])} of {len(model.state_dict())} entries of {model.name} "
        f"loaded, {len(result['left_over'])} entries of the file left over{note}"
    )
    if "mean" not in card and model.mean is None:
        result["summary"] += (
            "; no card says whether mean and std were taken out of its images, none are: "
            "backbone_cfg.mean and std set them"
        )
    return {"model": model} | result


def adapt_kernel(kernel: Tensor, bands: int, adapt: Adaptation) -> Tensor:
    """(out, C, h, w) to (out, bands, h, w)."""
    if adapt == "average":  # each band the same, their sum that of the C
        return (kernel.sum(1, keepdim=True) / bands).repeat(1, bands, 1, 1)
    count = kernel.shape[1]
    if bands < count:
        raise UserError(
            f"in_channels={bands}: the weights are for {count} bands, which cannot be widened to "
            f"fewer; pass adapt='average'"
        )
    return torch.cat([kernel, kernel.mean(1, keepdim=True).expand(-1, bands - count, -1, -1)], 1)


def adapt_values(values: list | None, bands: int, adapt: Adaptation) -> list | None:
    """Means or deviations of the bands of a card, as its first convolution is adapted."""
    if not values or len(values) == bands:
        return values
    mean = sum(values) / len(values)
    return [mean] * bands if adapt == "average" else values + [mean] * (bands - len(values))


def match_weights(model: Backbone, state: dict[str, Tensor], source: str, strict: bool) -> dict:
    """Which entries of `state` fit the model, as `load_backbone` returns them; a `UserError` for
    what it refuses."""
    expected = {key: value.shape for key, value in model.state_dict().items()}
    shapes = {key: value.shape for key, value in state.items()}
    matched_keys = [key for key in expected if shapes.get(key) == expected[key]]
    # Counters of batches seen: older files lack them, and nothing depends on them.
    weight_keys = [key for key in expected if not key.endswith("num_batches_tracked")]
    missing_keys = [key for key in weight_keys if key not in matched_keys]
    left_over_keys = [key for key in state if key not in matched_keys]
    # A deeper ResNet has every entry of a shallower one, of the same shape, and more blocks.
    parts = tuple(f"{part}." for part, _ in model.named_children())
    surplus_keys = [key for key in left_over_keys if key.startswith(parts)]
    if missing_keys == weight_keys or (strict and (missing_keys or surplus_keys)):
        key, name = (missing_keys + surplus_keys)[0], architecture_of(state)
        remedy = "set backbone_cfg to what they are of, or load what fits with strict=False"
        if name not in (None, model.name):
            remedy = f"they are of a {name}, set backbone_cfg.name={name!r}"
        elif name is not None and missing_keys:  # all but the number of bands
            remedy = (
                "set in_channels to theirs, or adapt it by "
                f"load_backbone(..., in_channels={model.in_channels}, adapt='widen' or 'average')"
            )
        raise UserError(
            f"weights {source}: fill {len(matched_keys)} of {len(expected)} entries of "
            f"{model.name} with {model.in_channels} bands and have {len(surplus_keys)} more ({key} "
            f"is {tuple(shapes[key]) if key in shapes else 'missing'}); {remedy}"
        )
    return {"matched": matched_keys, "missing": missing_keys, "left_over": left_over_keys}


def first_convolution(state: dict[str, Tensor]) -> str:
    return "conv1.weight" if "conv1.weight" in state else "features.0.weight"


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """The name of the architecture whose every weight is in `state`, for any bands, or None."""
    shapes = shapes_of(state).items()
    names = (n for n in reversed(ARCHITECTURES) if architecture_shapes(n).items() <= shapes)
    return next(names, None)


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple]:
    """The shapes of weights, the number of bands left open in that of the first convolution."""
    first_key = first_convolution(state)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if len(shapes.get(first_key, ())) == 4:
        shapes[first_key] = (shapes[first_key][0], None, *shapes[first_key][2:])
    return shapes


@cache
def architecture_shapes(name: str) -> dict[str, tuple]:
    """`shapes_of` an architecture, counters left out, without memory for its weights."""
    with torch.device("meta"):
        shapes = shapes_of(ARCHITECTURES[name]().state_dict())
    return {k: shape for k, shape in shapes.items() if not k.endswith("num_batches_tracked")}


# What stands before the names of a backbone's weights, first choice first: a network that was
# trained by its gradient comes before one without a name of its own, that before a running mean.
TRAINED = (
    "backbone",  # ours, lightly, solo-learn, mmsegmentation
    "encoder",  # segmentation_models_pytorch, SimSiam
    "encoder_q",  # MoCo
    "base_encoder",  # MoCo v3
    "student_backbone",  # lightly
    "student",
)
AVERAGED = ("encoder_k", "momentum_encoder", "momentum_backbone", "backbone_momentum")
AVERAGED += ("teacher_backbone", "teacher")
WRAPPERS = ("module", "_orig_mod", "model")
# How the weights of a ResNet or VGG begin; the last two: its children in a nn.Sequential, and a VGG
# as timm's features_only has it.
BEGINNINGS = ("conv1.", "layer1.", "features.", "4.0.conv1.", "features_")
WORDS = "|".join([*TRAINED, *AVERAGED, *WRAPPERS])
PLACE = re.compile(rf"((?:(?:{WORDS})\.)*)({'|'.join(map(re.escape, BEGINNINGS))})")
DECODER = re.compile(rf"(?:(?:{'|'.join(WRAPPERS)})\.)*inpainting_head\.(.+)")
NUMBERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def backbone_weights(contents: dict) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's tensors in `contents`, under torchvision's names, and the other names.

    Found inside `model`, `state_dict`, `student` or `teacher`, and after the words of `WRAPPERS`,
    `TRAINED` and `AVERAGED` in any nesting; a ResNet's children may be numbered, as lightly's
    Lightning checkpoints have them (`backbone.0.` = conv1, `backbone.4.` = layer1). Where a file
    holds several networks, the first choice is taken: a student before its teacher, and neither
    momentum nor teacher if another is there.
    """
    for key in ("model", "state_dict", "student", "teacher"):
        if isinstance(contents.get(key), dict):
            contents = contents[key]
    tensors = {k: v for k, v in contents.items() if isinstance(k, str) and isinstance(v, Tensor)}
    places = {match.group(1) for key in tensors if (match := PLACE.match(key))}
    prefix = min(places, key=preference, default="")
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    other_keys = [key for key in tensors if not key.startswith(prefix)]
    if "4.0.conv1.weight" in state:
        parts = ((key.partition("."), value) for key, value in state.items())
        state = {NUMBERS.get(n, n) + dot + rest: value for (n, dot, rest), value in parts}
    state = {re.sub(r"^features_(?=\d)", "features.", key): v for key, v in state.items()}
    return state, other_keys


def preference(prefix: str) -> tuple:
    """What comes first is taken."""
    words = prefix.split(".")[:-1]
    rank = min((TRAINED.index(word) for word in words if word in TRAINED), default=len(TRAINED))
    return any(word in AVERAGED for word in words), rank, len(words), prefix


def decoder_weights(path: str | Path) -> dict[str, Tensor]:
    """The inpainting decoder's tensors in a checkpoint of pre-training, under its own names."""
    contents = checkpoints.read(path)
    contents = contents["model"] if isinstance(contents.get("model"), dict) else contents
    names = {match[1]: key for key in contents if (match := DECODER.fullmatch(str(key)))}
    if not names:
        raise UserError(
            f"weights {path}: holds no inpainting decoder (inpainting_head.*) for "
            f"decoder_cfg.transfer; pass latest.pth or an epoch_*.pth of that pre-training run"
        )
    return {name: contents[key] for name, key in names.items()}
