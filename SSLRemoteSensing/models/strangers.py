"""Architectures that look like a torchvision VGG or ResNet by their names, and are another one.

What leaves no trace in names and shapes cannot be told: the anti-aliased pools of timm's resnetblur
and resnetaa, or a stride in the first 1x1 convolution (caffe's ResNet).
"""

import re

from torch import Tensor

from SSLRemoteSensing.weight_names import WORDS

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


def stranger(state: dict[str, Tensor]) -> str | None:
    """What `state` is, in words, where it is a known architecture that this package has not."""
    for sign, name in SIGNS.items():
        # The prefix of a network that is no ResNet or VGG at all has not been found and stripped.
        pattern = re.compile(rf"(?:(?:{WORDS})\.)*(?:{sign})")
        if any(pattern.match(key) for key in state):
            return name
    if "layer1.0.conv1.weight" in state:
        return strange_resnet(state)
    first = state.get("features.0.weight")
    if first is not None and first.shape[2:] == (11, 11):
        return "an AlexNet"
    return None


def strange_resnet(state: dict[str, Tensor]) -> str | None:
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
