"""Backbones with weights: random, ImageNet's, or from a file, and what architecture that is."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import MissingWeights, UserError, about
from SSLRemoteSensing.models.backbone_search import (
    architecture_of,
    backbone_weights,
    bands_of,
    compare,
    exact_shapes,
    first_convolution,
    is_counter,
    outline,
    without_optional,
)
from SSLRemoteSensing.models.backbones import (
    ARCHITECTURES,
    BLOCKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
)
from SSLRemoteSensing.models.timm_backbones import NAME as TIMM
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

DECODER = re.compile(r"(?:(?:module|_orig_mod|model)\.)*inpainting_head\.(.+)")
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


def build_timm(
    model: str,
    in_channels: int = 3,
    pretrained: bool | str = False,
    out_keys: Sequence[str] = BLOCKS,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    img_size: int | None = None,
) -> TimmBackbone:
    """A network of timm, with weights if asked for.

    Args:
        model: a name of `timm.list_models()`, such as convnext_tiny or vit_small_patch16_224.
        in_channels: bands of the images.
        pretrained: False, random; True, timm's own weights (downloaded, unless they are in its
            cache) with their mean and std, unless others are given, widened to further bands as
            timm does; or a file of that network, in any layout that timm converts, whose card
            brings mean and std, if it has one.
        out_keys: which maps to return, besides `block6`; most networks have no block2.
        mean: taken out of the images, in 0..1, one number a band; None: nothing, or what the
            weights bring.
        std: the images are divided by it, in 0..1, one number a band; given with `mean`.
        img_size: side of the images, for a network that takes one size alone (BEiT, MaxViT).
    """
    backbone = TimmBackbone(model, in_channels, out_keys, img_size, pretrained is True)
    if pretrained is True and mean is None:
        mean, std = (
            adapt_values(values[:in_channels], in_channels, "widen")
            for values in backbone.own_normalization
        )
    backbone.set_normalization(mean, std)
    if pretrained is True:
        print(
            f"timm's weights of {model}; mean {backbone.mean} and std {backbone.std} are taken out"
        )
    elif pretrained:
        print(load_backbone(backbone, pretrained, in_channels=in_channels)["summary"])
    return backbone


BACKBONES = {name: partial(build_backbone, name) for name in ARCHITECTURES} | {TIMM: build_timm}


def imagenet_weights(name: str) -> dict[str, Tensor]:
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or not the file that it should be
        raise MissingWeights(
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

    Takes any file with the tensors of one of our architectures under torchvision's names, ours,
    or of torchvision, timm, segmentation_models_pytorch, lightly, MoCo and the like, as `.pth` or
    safetensors, under any keys and after any prefix: `backbone_weights` says which network is taken
    where a file holds several. The mean and std of the card come along. Names, shapes and numbers
    are looked at before a model is changed.

    Args:
        model: a backbone of `BACKBONES`; None makes the one whose weights the file holds, dilated
            where its card has an `output_stride`, as that of an export has.
        strict: refuse what fits only in part; without, load what has name and shape in common,
            and refuse only a file without any.
        in_channels: the number of bands that you want; if the weights have another, their first
            convolution is adapted. None takes no other than that of the file, or of `model`.
        adapt: how. 'widen': the bands of the file stay, and further ones start from their mean.
            'average': each band gets the same kernel, so that an image whose bands are all the same
            gives what it gave, for fewer bands, or quite other ones. Where the file's bands have
            other means, that holds but for the border, where a convolution sees their means beyond
            it, and of networks of timm without a bias in their first convolution nearly.

    Returns:
        dict(model=Backbone, matched, missing, left_over: lists of names, summary: a line of text).
        `left_over` are the entries of the file that were not loaded, those of other parts of a
        network (a head, a decoder) by the names that they have there.

    Raises:
        UserError: no such file, a pickle that is more than weights, another architecture, or,
            unless `strict=False`, weights that fill the backbone only in part or have entries more;
            weights that are not finite; several networks; mean and std other than the card's.
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
    card = checkpoints.read_card(Path(source), contents)
    if model is None and (cfg := timm_config(card)):
        bands = in_channels or cfg.get("in_channels", 3)
        model = TimmBackbone(cfg["model"], bands, img_size=cfg.get("img_size"))
    state, other_keys, note = backbone_weights(contents, model, source)
    if isinstance(model, TimmBackbone):
        state = model.converted(state)
    first_key, file_bands = first_convolution(state, model), bands_of(state, model)
    has_normalization = all(is_per_band(card.get(key, 0), file_bands) for key in ("mean", "std"))
    bands = in_channels or file_bands if model is None else model.in_channels
    if model is not None and in_channels not in (None, bands):
        raise UserError(f"in_channels={in_channels}: the model given takes {bands} bands")
    if in_channels is not None and file_bands not in (None, bands):
        if adapt == "widen" and bands < file_bands:
            raise UserError(too_many_bands(file_bands, state, source, model, bands))
        if adapt == "average" and has_normalization and card["mean"] and card["std"]:
            state |= seen_alike(state, first_key, card["mean"], card["std"])
        state |= {first_key: adapt_kernel(state[first_key], bands, adapt)}
        verb = "widened" if adapt == "widen" else "averaged"
        note += f", first convolution {verb} from {file_bands} to {bands} bands"
    if model is None:
        name = architecture_of(state)
        if name is None:
            raise UserError(
                f"weights {source}: fit none of {', '.join(ARCHITECTURES)}; {outline(contents)}"
            )
        model = ARCHITECTURES[name](in_channels=bands)
        if card.get("output_stride") in (8, 16):
            model.dilate(card["output_stride"])
    result = match_weights(model, state, str(source), strict, contents)
    state = {key: state[key] for key in result["matched"]}
    checkpoints.check_finite(state, source)
    origin = card_beside(source, contents)
    if origin is not None:
        check_card(card, file_bands, origin)
    # A card inside the file may be another tool's.
    if has_normalization:
        normalization = [adapt_values(card[key], bands, adapt) for key in ("mean", "std")]
        if model.mean is not None and [list(model.mean), list(model.std)] != normalization:
            raise UserError(
                f"mean={model.mean}, std={model.std}: {source} was trained with "
                f"mean={normalization[0]}, std={normalization[1]}; leave them out of the config"
            )
        with about(f"card {origin or f'in {source}'}"):
            model.set_normalization(*normalization)
    model.load_state_dict(state, strict=False)
    result["left_over"] += other_keys
    result["summary"] = (
        f"{source}: {len(result['matched'])} of {len(model.state_dict())} entries of {model.name} "
        f"loaded, {len(result['left_over'])} entries of the file left over{note}"
    )
    if model.mean is not None:
        card_name = f"its card {origin.name}" if origin else "its card"
        whose = card_name if has_normalization else "the config, as no card has any,"
        mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (model.mean, model.std))
        result["summary"] += f"; mean ({mean}) and std ({std}) of {whose} are taken out"
    elif not has_normalization:
        result["summary"] += (
            "; no card says whether mean and std were taken out of its images, none are: "
            "backbone_cfg.mean and std set them"
        )
    return {"model": model} | result


def card_beside(source: str | Path, contents: dict) -> Path | None:
    """The card beside the weights of `source`; None where it is in them, or there is none."""
    path = Path(source).with_suffix(".json")
    return path if not isinstance(contents.get("card"), dict) and path.is_file() else None


def check_card(card: dict, bands: int | None, path: Path) -> None:
    """Raise a `UserError` for a card that stands beside weights of `bands`, and would not count."""
    count = f"{bands} numbers" if bands else "numbers"
    given = {"mean", "std"} & card.keys()
    if given and not all(is_per_band(card.get(key, 0), bands) for key in ("mean", "std")):
        raise UserError(
            f"card {path}: mean and std must be {count} each, one a band, or both null; mend or "
            f"remove it"
        )
    if not is_per_band(card.get("bands"), bands):
        raise UserError(
            f"card {path}: bands must be {count}, which bands of the files the weights take, from "
            f"1; mend or remove it"
        )


def timm_config(card: dict) -> dict | None:
    """Of a card, of a backbone or of a whole network, which network of timm it is."""
    config = card.get("config")
    cfg = config.get("backbone_cfg") if isinstance(config, dict) else card
    return cfg if isinstance(cfg, dict) and cfg.get("name") == TIMM else None


def is_per_band(values, bands: int | None) -> bool:
    """Whether `values` are a number a band, or None."""
    is_list = isinstance(values, list | tuple) and bands in (None, len(values))
    return values is None or (is_list and all(isinstance(x, int | float) for x in values))


def seen_alike(
    state: dict[str, Tensor], first_key: str, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Tensor]:
    """The entries of `state` by which an image whose bands are all the same gives what it gave once
    all bands have the averages of `mean` and of `std`, and not each its own.

    K (x - m) / s, summed over bands, is K' (x - m') / s' and a constant: K' = K s' / s takes the
    deviations up, and the convolution's bias, or the batch normalization behind it, the constant.
    """
    kernel, means, stds = state[first_key], torch.tensor(mean), torch.tensor(std)
    if not (stds > 0).all():
        return {}  # refused as the card's, where they are set
    entries = {first_key: kernel * (stds.mean() / stds).to(kernel)[:, None, None]}
    shift = (kernel.sum((2, 3)) * ((means.mean() - means) / stds).to(kernel)).sum(1)
    bias, norm = first_key.removesuffix("weight") + "bias", "bn1.running_mean"
    if bias in state:
        entries[bias] = state[bias] + shift
    elif first_key == "conv1.weight" and norm in state:  # a ResNet
        entries[norm] = state[norm] - shift
    return entries


def adapt_kernel(kernel: Tensor, bands: int, adapt: Adaptation) -> Tensor:
    """(out, C, h, w) to (out, bands, h, w)."""
    if adapt == "average":  # each band the same, their sum that of the C
        return (kernel.sum(1, keepdim=True) / bands).repeat(1, bands, 1, 1)
    count = kernel.shape[1]
    return torch.cat([kernel, kernel.mean(1, keepdim=True).expand(-1, bands - count, -1, -1)], 1)


def adapt_values(values: list | None, bands: int, adapt: Adaptation) -> list | None:
    """Means or deviations of the bands of a card, as its first convolution is adapted."""
    if not values or len(values) == bands:
        return values
    mean = sum(values) / len(values)
    return [mean] * bands if adapt == "average" else values + [mean] * (bands - len(values))


def too_many_bands(
    file_bands: int, state: dict, source: str | Path, model: Backbone | None, bands: int
) -> str:
    """The message for weights of more bands than the `bands` that are wanted."""
    text = f"in_channels={bands}: {source} is for {file_bands} bands, which cannot be widened "
    if model is None:
        return f"{text}to fewer; pass adapt='average'"
    settings = settings_of(state, model) or "take other weights"
    return (
        f"{text}to fewer; {settings}, or average them in Python: from "
        f"SSLRemoteSensing import load_backbone; import torch; torch.save(load_backbone(None, "
        f"{str(source)!r}, in_channels={bands}, adapt='average')['model'].state_dict(), "
        f"'averaged.pth')"
    )


def settings_of(state: dict[str, Tensor], model: Backbone) -> str | None:
    """What to set in a config for the network that `state` is of; None where that is not known."""
    name, bands = architecture_of(state), bands_of(state)
    if name is None:
        return None
    named = [f"backbone_cfg.name={name!r}"] if name != model.name else []
    named += [f"backbone_cfg.in_channels={bands}"] if bands != model.in_channels else []
    return f"they are of a {name} with {bands} bands, set {' and '.join(named)}" if named else None


def match_weights(
    model: Backbone, state: dict[str, Tensor], source: str, strict: bool, contents: dict
) -> dict:
    """Which entries of `state` fit the model, as `load_backbone` returns them; a `UserError` for
    what it refuses of the `contents` of `source`."""
    expected, shapes = exact_shapes(model.state_dict()), exact_shapes(state)
    matched_keys, missing_keys, surplus_keys = compare(expected, shapes)
    missing_keys = without_optional(missing_keys, model)
    left_over_keys = [key for key in state if key not in matched_keys]
    if all(is_counter(key) for key in matched_keys) or (strict and (missing_keys or surplus_keys)):
        key = (missing_keys + surplus_keys)[0]
        remedy = settings_of(state, model)
        if remedy is None:
            remedy = outline(contents) if not matched_keys else "take weights of that network"
            if "channel_embed" in state:
                remedy = (
                    "they are of a ViT with tokens for each of several groups of bands (SatMAE), "
                    "which no network here is; take those of a plain ViT, of one group"
                )
        if bands_of(state) != model.in_channels and architecture_of(state) == model.name:
            remedy += ", or adapt them in Python: load_backbone(..., in_channels="
            remedy += f"{model.in_channels}, adapt='widen' or 'average')"
        raise UserError(
            f"weights {source}: fill {len(matched_keys)} of {len(expected)} entries of "
            f"{model.name} with {model.in_channels} bands and have {len(surplus_keys)} more ({key} "
            f"is {shapes.get(key, 'missing')}); {remedy}"
        )
    return {"matched": matched_keys, "missing": missing_keys, "left_over": left_over_keys}


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
    weights = {name: contents[key] for name, key in names.items()}
    checkpoints.check_finite(weights, path)
    return weights
