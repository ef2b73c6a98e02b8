"""The names that other libraries give to the weights of a backbone or a network."""

import copy
import math
import re

import torch
from torch import Tensor, nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.templates import render
from SSLRemoteSensing.export.source import Source, plain
from SSLRemoteSensing.models.backbones import VGG
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

TOLERANCE = 1e-4  # of a largest difference to the network itself


def smp_weights(source: Source) -> tuple[dict[str, Tensor], str | None]:
    """A whole network of segmentation_models_pytorch and the Python that builds it, or the weights
    of an encoder and None.

    Whole where the library has the same network: a ResNet, not dilated, with Unet, FPN, UPerNet or
    PSPNet. (Its VGG encoders give other maps, and it dilates in another way.)

    Raises:
        UserError: the library is not there, or its network computes something else.
    """
    call = smp_call(source)
    if call is None:
        return source.weights(), None
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise UserError(
            f"--format smp: segmentation_models_pytorch cannot be imported ({error}); pip install "
            f"segmentation_models_pytorch"
        ) from error
    name, arguments = call
    with torch.device("meta"):
        net = getattr(smp, name)(**arguments)
    beginnings = {"backbone.": "encoder.", "decoder.body.": "decoder."}
    beginnings |= {"decoder.predict.": "segmentation_head.0."}
    state = {}
    for key, value in source.net.state_dict().items():
        for ours, theirs in beginnings.items():
            if key.startswith(ours):
                state[theirs + key.removeprefix(ours)] = value
    net.load_state_dict(dict(state), strict=True, assign=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, source.backbone.in_channels, 64, 96, generator=generator)
    with torch.no_grad():
        their_logits = net.eval()(images)
        our_logits = without_normalization(source).logits(images)
    worst = largest_difference([our_logits], [their_logits])
    if worst > TOLERANCE:
        raise UserError(
            f"--format smp: {name} of this version of segmentation_models_pytorch gives other "
            f"logits (by {worst:.1e}); export with --format timm, onnx or safetensors"
        )
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return plain(state), f"smp.{name}({text})"


def smp_call(source: Source) -> tuple[str, dict] | None:
    """The class of segmentation_models_pytorch and its arguments that are `source.net`, if any."""
    if source.net is None or isinstance(source.backbone, VGG | TimmBackbone):
        return None
    cfg = dict(source.decoder_cfg)
    name = cfg.pop("name")
    if name not in SMP_NAMES or source.backbone.output_stride != 32:
        return None
    arguments = {"encoder_name": source.backbone.name, "encoder_weights": None}
    arguments |= {"in_channels": source.backbone.in_channels, "classes": len(source.classes)}
    for key, value in cfg.items():
        if key in SMP_NAMES[name]:
            arguments[SMP_NAMES[name][key]] = tuple(value) if isinstance(value, list) else value
    if name == "PSPNet":
        arguments |= {"encoder_depth": 5, "upsampling": 32}
    return name, arguments


# Our parameters of a decoder and the library's for the same.
SMP_NAMES = {
    "Unet": {"decoder_channels": "decoder_channels", "interpolation": "decoder_interpolation"},
    "FPN": {
        "pyramid_channels": "decoder_pyramid_channels",
        "segmentation_channels": "decoder_segmentation_channels",
        "merge_policy": "decoder_merge_policy",
        "dropout": "decoder_dropout",
    },
    "UPerNet": {"decoder_channels": "decoder_channels"},
    "PSPNet": {"decoder_channels": "psp_out_channels", "dropout": "psp_dropout"},
}


def lacks_dilation(source: Source, form: str) -> bool:
    """Whether the library of a format cannot dilate the backbone as it is: its last maps are others
    there. segmentation_models_pytorch does it in another way, torchvision and mmsegmentation not so
    with ResNet 18 and 34, and none does it with a VGG."""
    backbone = source.backbone
    if backbone.output_stride == 32:
        return False
    is_basic = backbone.name in ("resnet18", "resnet34")
    return form == "smp" or isinstance(backbone, VGG) or (is_basic and form != "timm")


def mmseg_weights(source: Source) -> dict:
    """A checkpoint as mmsegmentation 1.x reads it with `prefix='backbone.'`; plain values only.

    A ResNet keeps its names: those of `ResNet` (style pytorch, neither V1c nor V1d). mmsegmentation
    has no VGG; it takes that of mmpretrain, whose layers are convolution, normalization and ReLU in
    one and are numbered so.
    """
    if isinstance(source.backbone, TimmBackbone):
        raise UserError("--format mmseg: has no networks of timm; take --format timm")
    weights = source.weights()
    if isinstance(source.backbone, VGG):
        weights = mmpretrain_vgg(source.backbone.features, weights)
    state = {f"backbone.{key}": value for key, value in weights.items()}
    return {"state_dict": state, "meta": {"made_by": "SSLRemoteSensing", **source.public_card()}}


def mmpretrain_vgg(features: nn.Sequential, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    places, number = {}, -1  # index in torchvision's features -> name in mmpretrain's
    for index, module in enumerate(features):
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            number += 1
        kind = "bn" if isinstance(module, nn.BatchNorm2d) else "conv"
        places[str(index)] = f"features.{number}.{kind}"
    return {
        re.sub(r"^features\.(\d+)", lambda match: places[match.group(1)], key): value
        for key, value in weights.items()
    }


def mmseg_config(source: Source, file: str) -> str:
    """The lines of a config of mmsegmentation that use the file; it reads images as BGR."""
    backbone, channels = source.backbone, source.backbone.in_channels
    config = render(
        "export",
        "mmseg.txt",
        file=repr(file),
        is_vgg=isinstance(backbone, VGG),
        lacks_dilation=lacks_dilation(source, "mmseg"),
        has_norm=backbone.name.endswith("_bn"),
        depth=int(re.search(r"\d+", backbone.name).group()),
        stride=backbone.output_stride,
        channels=channels,
        mean=[round(255 * value, 3) for value in backbone.mean or [0] * channels],
        std=[round(255 * value, 3) for value in backbone.std or [1] * channels],
    )
    return config.rstrip("\n")


def without_normalization(source: Source) -> nn.Module:
    """The network, or the backbone, as others run it: mean and std are left to its user."""
    module = copy.deepcopy(source.net or source.backbone)
    getattr(module, "backbone", module).set_normalization(None, None)
    return module


def largest_difference(expected: list[Tensor], outputs: list[Tensor]) -> float:
    """Of any number to the one expected, as a share of the largest where that is above 1; infinite
    for another shape, and where one of the two is no number."""
    worst = 0.0
    for target, output in zip(expected, outputs, strict=True):
        if target.shape != output.shape:
            return math.inf
        difference = (target - output).abs().nan_to_num(nan=math.inf).max()
        worst = max(worst, float(difference) / max(1.0, float(target.abs().max())))
    return worst
