"""A folder as model hubs hold a network of timm: weights, config and, beside them, the card.

`timm.create_model("local-dir:FOLDER", pretrained=True)` reads it where it lies, and with `hf-hub:`
once it was uploaded. Format: `timm.models._hub` (`load_model_config_from_path`) of timm 1.0.
"""

import json
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.export.layouts import TOLERANCE, largest_difference, without_normalization
from SSLRemoteSensing.export.source import HUB_WEIGHTS, Source, plain
from SSLRemoteSensing.models.backbones import BLOCKS, VGG, Backbone
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

CONFIG = "config.json"
SIDE = 224  # of images in the config, where nobody knows which were seen


def write_hub(source: Source, folder: Path, card: dict, licence: str | None) -> str:
    """Write weights and config into `folder`; what they are, in words.

    Raises:
        UserError: timm is not there, has not this network, or computes something else with it.
    """
    config, state = hub_config(source, licence), hub_weights(source.backbone)
    worst = compare_maps(source, config, state)
    checkpoints.write_safetensors(folder / HUB_WEIGHTS, state, card)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return f"the backbone alone, timm's {config['architecture']}, within {worst:.1e} of it there"


def hub_weights(backbone: Backbone) -> dict[str, Tensor]:
    """What timm has a place for: all but the simple pyramid that we add to a plain ViT."""
    state = plain(backbone.state_dict())
    return {key: value for key, value in state.items() if not key.startswith("pyramid.")}


def hub_config(source: Source, licence: str | None) -> dict:
    """`config.json`: timm's architecture, how it is built, and what it is to be fed.

    A network of timm has parts that only a classifier uses and that we do not train (the last norm
    of a ViT, `pre_logits` of a VGG). The config of a network with such parts has `features_only`,
    which leaves them out, and num_classes -1 in `pretrained_cfg`, by which timm's loader accepts
    weights that are not complete.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"--format hub: timm cannot be imported ({error}); pip install timm"
        ) from error
    backbone = source.backbone
    name, arguments = timm_call(backbone)
    theirs = timm.get_pretrained_cfg(name).to_dict()
    with torch.device("meta"):
        expected = timm.create_model(name, num_classes=0, **arguments).state_dict().keys()
    if expected != hub_weights(backbone).keys():
        arguments |= as_maps(places_of(backbone))
    side = arguments.get("img_size") or image_side(source) or SIDE
    channels = backbone.in_channels
    pretrained_cfg = {
        "input_size": [channels, side, side],
        "fixed_input_size": "img_size" in arguments and "dynamic_img_size" not in arguments,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": list(backbone.mean or [0.0] * channels),
        "std": list(backbone.std or [1.0] * channels),
        "num_classes": -1 if "features_only" in arguments else 0,
        "pool_size": None,
        "first_conv": theirs["first_conv"],
        "classifier": theirs["classifier"],
    }
    if licence:
        pretrained_cfg["license"] = licence
    return {
        "architecture": name,
        "num_features": backbone.channels["block6"],
        "model_args": {"num_classes": 0} | arguments,
        "pretrained_cfg": pretrained_cfg,
    }


def timm_call(backbone: Backbone) -> tuple[str, dict]:
    """timm's name of a backbone's architecture, and the arguments that build it without classes.

    Raises:
        UserError: timm has no such network.
    """
    import timm

    arguments: dict = {"in_chans": backbone.in_channels}
    if isinstance(backbone, TimmBackbone):
        arguments |= backbone.options
        theirs = timm.get_pretrained_cfg(backbone.model)
        if theirs.fixed_input_size:
            # By which position embeddings have their size, whatever timm derives from the rest.
            arguments.setdefault("img_size", theirs.input_size[-1])
        return backbone.model, arguments
    if backbone.output_stride != 32:
        if isinstance(backbone, VGG):
            raise UserError(
                f"--format hub: timm has no {backbone.name} whose maps are no coarser than "
                f"1/{backbone.output_stride}; take --format safetensors"
            )
        arguments["output_stride"] = backbone.output_stride
    return backbone.name, arguments


def places_of(backbone: Backbone) -> dict[str, int]:
    """The place of the map of each of our strides among those that timm's network gives.

    Of a VGG timm's stand before the max-pool that ends a stage, ours behind the one before; the
    last is the same.
    """
    if isinstance(backbone, TimmBackbone):
        return dict(zip(backbone.channels, backbone.indices, strict=True))
    return {key: place + isinstance(backbone, VGG) for place, key in enumerate(BLOCKS)}


def as_maps(places: dict[str, int]) -> dict:
    """The arguments with which timm builds a network that gives the maps of `places`."""
    # Of timm's ways to give maps the one that our backbones go by.
    way = {"features_only": True, "feature_cls": "getter"}
    return way | {"out_indices": list(places.values())}


def image_side(source: Source) -> int | None:
    """Of the images in training, in pixels, where the card has it."""
    data = ((source.card.get("config") or {}).get("train_cfg") or {}).get("train_data") or {}
    side = data.get("crop_size") if source.net else source.card.get("img_size")
    return side if isinstance(side, int) else None


def compare_maps(source: Source, config: dict, state: dict[str, Tensor]) -> float:
    """The largest difference between our maps and those that timm makes of `config` and `state`.

    Raises:
        UserError: above 1e-4 (of the largest value, where that is above 1).
    """
    import timm

    backbone = without_normalization(source)
    backbone = getattr(backbone, "backbone", backbone)
    places = places_of(backbone)
    pretrained_cfg = config["pretrained_cfg"] | {"state_dict": state}
    arguments = config["model_args"] | as_maps(places)
    net = timm.create_model(
        config["architecture"], pretrained=True, pretrained_cfg=pretrained_cfg, **arguments
    ).eval()
    side = backbone.fixed_size
    size = (side, side) if side else (64, 96)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, backbone.in_channels, *size, generator=generator)
    with torch.no_grad():
        ours, theirs = backbone(images), dict(zip(places, net(images), strict=True))
        if isinstance(backbone, VGG):
            pooled = {after: F.max_pool2d(theirs[key], 2) for key, after in pairwise(BLOCKS)}
            theirs = pooled | {"block6": theirs["block6"]}
        elif isinstance(backbone, TimmBackbone) and backbone.pyramid:
            theirs = {key: backbone.pyramid[key](x) for key, x in theirs.items()}
    keys = sorted(ours.keys() & theirs.keys())
    worst = largest_difference([ours[key] for key in keys], [theirs[key] for key in keys])
    if worst > TOLERANCE:
        raise UserError(
            f"--format hub: {config['architecture']} of timm {timm.__version__} gives other maps "
            f"(by {worst:.1e}); take --format safetensors"
        )
    return worst
