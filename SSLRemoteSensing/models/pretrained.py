"""Backbones with weights: random, ImageNet's, or from a file, and what architecture that is."""

import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.checkpoints import read
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import (
    ARCHITECTURES,
    BLOCKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
)


def decoder_weights(path: str | Path) -> dict[str, Tensor]:
    """The inpainting decoder's tensors in a checkpoint of a pre-training run, under its own names.

    Raises:
        UserError: no such file, or one without that decoder, as a backbone.pth is.
    """
    contents = read(path)
    state = unwrapped(contents["model"] if isinstance(contents.get("model"), dict) else contents)
    prefix = "inpainting_head."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not state:
        raise UserError(
            f"weights {path}: holds no inpainting decoder ({prefix}*) for decoder_cfg.transfer; "
            f"pass latest.pth or an epoch_*.pth of that pre-training run"
        )
    return state


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
            normalization = (
                widen(list(values), in_channels) for values in (IMAGENET_MEAN, IMAGENET_STD)
            )
            backbone.set_normalization(*normalization)
        state = imagenet_weights(name)
        if in_channels > 3:
            first_key = first_convolution(state)
            state[first_key] = widen_kernel(state[first_key], in_channels)
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
    return backbone_of(checkpoints.read(path), path, model, strict, in_channels, adapt)


def backbone_of(
    contents: dict,
    path: Path,
    model: Backbone | None = None,
    strict: bool = True,
    in_channels: int | None = None,
    adapt: Literal["widen", "average"] = "widen",
) -> dict:
    """`load_backbone` once `checkpoint.read` has read the `contents` of `path`."""
    (state, other_keys), card = split_weights(contents), checkpoints.read_card(path, contents)
    name = architecture_of(state)
    if strict or model is None:
        require_known(state, path)
    if model is None and name is None:
        raise UserError(f"weights {path}: fit none of {', '.join(ARCHITECTURES)}")
    first_key = first_convolution(state)
    file_bands = (
        state[first_key].shape[1] if first_key in state and state[first_key].dim() == 4 else None
    )
    bands = in_channels or file_bands if model is None else model.in_channels
    if model is not None and in_channels not in (None, bands):
        raise UserError(f"in_channels={in_channels}: the model given takes {bands} bands")
    note = ""
    if in_channels is not None and file_bands not in (None, bands):
        state = state | {first_key: ADAPTATIONS[adapt](state[first_key], bands)}
        verb = "widened" if adapt == "widen" else "averaged"
        note = f", first convolution {verb} from {file_bands} to {bands} bands"
    if model is None:
        model = ARCHITECTURES[name](in_channels=bands)
    else:
        require_fit(model, state, name, str(path), strict)
    if "mean" in card:
        normalization = [adapt_values(card[key], bands, adapt) for key in ("mean", "std")]
        if model.mean is not None and [list(model.mean), list(model.std)] != normalization:
            raise UserError(
                f"mean={model.mean}, std={model.std}: {path} was trained with "
                f"mean={normalization[0]}, std={normalization[1]}; leave them out of the config"
            )
        model.set_normalization(*normalization)
    result = _load(model, state, str(path))
    result["left_over"] += other_keys
    result["summary"] += f", {len(result['left_over'])} entries of the file left over{note}"
    if "mean" not in card and model.mean is None:
        result["summary"] += (
            "; no card says whether mean and std were taken out of its images, none are: "
            "backbone_cfg.mean and std set them"
        )
    return {"model": model} | result


def widen_kernel(kernel: Tensor, bands: int) -> Tensor:
    """(out, C, h, w) to (out, bands, h, w), the new bands the mean of the others."""
    if bands < kernel.shape[1]:
        raise UserError(
            f"in_channels={bands}: the weights are for {kernel.shape[1]} bands, which cannot be "
            f"widened to fewer; pass adapt='average'"
        )
    extra_bands = kernel.mean(1, keepdim=True).expand(-1, bands - kernel.shape[1], -1, -1)
    return torch.cat([kernel, extra_bands], dim=1)


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
    kind = name_stranger(state)
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
    expected = model.state_dict()
    matched_keys, missing_keys, left_over_keys = match_names(expected, state)
    # A deeper ResNet has every entry of a shallower one, of the same shape, and more blocks.
    parts = tuple(f"{part}." for part, _ in model.named_children())
    surplus = [key for key in left_over_keys if key.startswith(parts)]
    if not strict and all(key.endswith("num_batches_tracked") for key in matched_keys):
        raise UserError(
            f"weights {source}: none of its {len(state)} entries has the name and shape of one of "
            f"a {model.name}; set backbone_cfg to what it holds, or take another file"
        )
    if not strict or not (missing_keys or surplus):
        return
    if name and name != model.name:
        raise UserError(
            f"weights {source}: are of a {name}, the config's backbone is {model.name}; set "
            f"backbone_cfg.name={name!r}"
        )
    first_key = first_convolution(expected)
    if missing_keys == [first_key] and first_key in state:
        raise UserError(
            f"weights {source}: {first_key} is {tuple(state[first_key].shape)}, the backbone takes "
            f"{model.in_channels} bands; set in_channels to theirs, or adapt it by "
            f"load_backbone(..., in_channels={model.in_channels}, adapt='widen' or 'average')"
        )
    if missing_keys:
        key = missing_keys[0]
        reason = f"shape {tuple(state[key].shape)}" if key in state else "not in the file"
        raise UserError(
            f"weights {source}: fill only {len(matched_keys)} of {len(expected)} entries of "
            f"{model.name} with {model.in_channels} bands ({key}: {reason}); set backbone_cfg to "
            f"what it holds"
        )
    raise UserError(
        f"weights {source}: have {len(surplus)} entries more than a {model.name} ({surplus[0]}), "
        f"so they are of another architecture; strict=False loads the rest all the same"
    )


def match_names(
    expected: dict[str, Tensor], state: dict[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """The names matched, missing and left over."""
    matched_keys = [
        key for key in expected if key in state and state[key].shape == expected[key].shape
    ]
    # Counters of batches seen: older files lack them, and nothing depends on them.
    missing_keys = [
        k for k in expected if k not in matched_keys and not k.endswith("num_batches_tracked")
    ]
    return matched_keys, missing_keys, [key for key in state if key not in matched_keys]


def _load(model: Backbone, state: dict[str, Tensor], source: str) -> dict:
    expected = model.state_dict()
    matched_keys, missing_keys, left_over_keys = match_names(expected, state)
    model.load_state_dict({key: state[key] for key in matched_keys}, strict=False)
    summary = f"{source}: {len(matched_keys)} of {len(expected)} entries of {model.name} loaded"
    return {
        "matched": matched_keys,
        "missing": missing_keys,
        "left_over": left_over_keys,
        "summary": summary,
    }


def first_convolution(state: dict[str, Tensor]) -> str:
    return "conv1.weight" if "conv1.weight" in state else "features.0.weight"


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """The name of the architecture whose every weight is in `state`, for any bands, or None."""
    first_key = first_convolution(state)
    for name in reversed(ARCHITECTURES):
        if all(
            key in state
            and without_bands(key, state[key], first_key) == without_bands(key, weight, first_key)
            for key, weight in weights_of(name).items()
        ):
            return name
    return None


def without_bands(key: str, weight: Tensor, first_key: str) -> tuple:
    """The shape of a weight, the number of bands left open where it is the first convolution's."""
    shape = tuple(weight.shape)
    return (shape[0], *shape[2:]) if key == first_key and len(shape) == 4 else shape


@cache
def weights_of(name: str) -> dict[str, Tensor]:
    """The weights of an architecture, counters left out, without memory for their values."""
    with torch.device("meta"):
        state = ARCHITECTURES[name]().state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


WRAPPERS = ("module.", "_orig_mod.", "model.")

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
AVERAGED = (
    "encoder_k",
    "momentum_encoder",
    "momentum_backbone",
    "backbone_momentum",
    "teacher_backbone",
    "teacher",
)
# How the weights of a ResNet or VGG begin; the last two: its children in a nn.Sequential, and a VGG
# as timm's features_only has it.
BEGINNINGS = ("conv1.", "layer1.", "features.", "4.0.conv1.", "features_")
WORDS = "|".join([*TRAINED, *AVERAGED, *(wrapper[:-1] for wrapper in WRAPPERS)])
PLACE = re.compile(rf"((?:(?:{WORDS})\.)*)({'|'.join(map(re.escape, BEGINNINGS))})")
NUMBERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def backbone_weights(contents: dict) -> dict[str, Tensor]:
    """The backbone's tensors in `contents`, under torchvision's names.

    Found inside `model`, `state_dict`, `student` or `teacher`, and after `module.`, `_orig_mod.`,
    `model.` and the words of `TRAINED` and `AVERAGED` in any nesting; a ResNet's children may be
    numbered, as lightly's Lightning checkpoints have them (`backbone.0.` = conv1, `backbone.4.` =
    layer1). Where a file holds several networks, the first choice is taken: a student before its
    teacher, and neither momentum nor teacher if another is there.
    """
    return split_weights(contents)[0]


def split_weights(contents: dict) -> tuple[dict[str, Tensor], list[str]]:
    """`backbone_weights(contents)`, and the names of the other tensors of the network's file."""
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


def unwrapped(contents: dict) -> dict[str, Tensor]:
    """The tensors of `contents`, without what wrappers put before their names."""
    state = {}
    for key, value in contents.items():
        if isinstance(value, Tensor):
            while key.startswith(WRAPPERS):
                key = key.split(".", 1)[1]
            state[key] = value
    return state


# Names of weights that only this architecture has, the most particular first.
SIGNS = {
    r"layer\d\.\d+\.(conv2\.fc1|conv2\.bn0)\.": "a ResNeSt (resnest*)",
    r"layer\d\.\d+\.convs\.\d": "a Res2Net (res2net*)",
    r"layer\d\.\d+\.conv\d\.(paths|attn)\.": "a selective-kernel ResNet (skresnet*)",
    r"layer\d\.\d+\.se\.conv\.": "an ECA-ResNet (ecaresnet*)",
    r"layer\d\.\d+\.(se|se_module|se_layer)\.": "a squeeze-and-excitation ResNet (seresnet*)",
    r"(patch_embed\.proj|conv_proj)\.weight$": "a vision transformer",
    r"downsample_layers\.0\.0\.weight$|stages\.\d\.blocks\.\d+\.conv_dw\.": "a ConvNeXt",
    r"(conv1|stem)\.0\.weight$": "a deep-stem ResNet (resnet50d of timm, ResNetV1c of mmseg)",
    r"layer\d\.\d+\.downsample\.2\.running_mean$": "a ResNet-D, with pooled shortcuts",
    r"stage\d\.\d+\.branches\.": "an HRNet (hrnet*)",
    r"stem\.conv\.gain$": "an NF-ResNet of timm (nf_resnet*)",
    r"stages\.\d\.conv_exp\.": "a CSPNet of timm (cspresnet*, cspdarknet*)",
    r"stages\.\d\.conv_down\.": "a DarkNet of timm (darknet*)",
    r"s1\.b1\.": "a RegNet of timm (regnet*)",
    r"stages\.\d\.blocks\.\d+\.conv3\.weight$": "a ResNetV2 of timm (resnetv2_*)",
    r"stem\.conv\.weight$|stages\.\d\.blocks\.\d+\.conv1\.": "one of timm's staged networks",
    r"features\.(conv0|denseblock1)\.": "a DenseNet (densenet*)",
    r"features\.\d+\.squeeze\.": "a SqueezeNet (squeezenet*)",
    r"features\.\d+\.conv\.weight$": "mmpretrain's VGG, with its own names",
    r"features\.0\.0\.weight$": "a MobileNet, EfficientNet or ConvNeXt of torchvision",
    r"conv_stem\.weight$": "a MobileNet or EfficientNet of timm",
}
# Blocks of each layer: the depth in the name.
DEPTHS = {(3, 4, 6, 3): "50", (3, 4, 23, 3): "101", (3, 8, 36, 3): "152"}
SHALLOW = {  # with bottlenecks or not
    (False, (1, 1, 1, 1)): "a resnet10 of timm",
    (True, (1, 1, 1, 1)): "a resnet14 of timm",
    (True, (2, 2, 2, 2)): "a resnet26 of timm",
}


def name_stranger(state: dict[str, Tensor]) -> str | None:
    """What `state` is, in words, where it is a known architecture that this package has not."""
    for sign, name in SIGNS.items():
        # The prefix of a network that is no ResNet or VGG at all has not been found and stripped.
        pattern = re.compile(rf"(?:(?:{WORDS})\.)*(?:{sign})")
        if any(pattern.match(key) for key in state):
            return name
    if "layer1.0.conv1.weight" in state:
        return name_strange_resnet(state)
    kernel = state.get("features.0.weight")
    if kernel is not None and kernel.shape[2:] == (11, 11):
        return "an AlexNet"
    return None


def name_strange_resnet(state: dict[str, Tensor]) -> str | None:
    """What kind of ResNet, from the shapes of its weights."""
    stem, middle = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    if stem is not None and stem.dim() == 4 and stem.shape[2:] != (7, 7):
        side = "x".join(str(n) for n in stem.shape[2:])
        return f"a ResNet with a {side} stem, as for small images (CIFAR)"
    if "bn1.weight" in state and "bn1.running_mean" not in state:
        return "a ResNet without statistics of batch normalization (group normalization?)"
    counts = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{n}.")})
        for n in (1, 2, 3, 4)
    )
    if "layer1.0.conv3.weight" in state and middle is not None and middle.dim() == 4:
        width, inputs = middle.shape[:2]
        depth = DEPTHS.get(counts, "")
        if inputs and width != inputs:
            return f"a ResNeXt (resnext{depth}_{width // inputs}x{inputs}d)"
        if width > 64:
            return f"a wide ResNet (wide_resnet{depth}_{width / 64:g})"
    bottleneck = "layer1.0.conv3.weight" in state
    return SHALLOW.get((bottleneck, counts))
