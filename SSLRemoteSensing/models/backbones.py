"""torchvision's VGG and ResNet as pyramids block2..block6, under torchvision's parameter names."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet, vgg

from SSLRemoteSensing import checkpoint
from SSLRemoteSensing.errors import UserError

BLOCKS = ("block2", "block3", "block4", "block5", "block6")  # 1/2, 1/4, 1/8, 1/16, 1/32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """What both families share: the names of the maps, bands, mean and standard deviation.

    `forward(images)` takes float (N, in_channels, H, W) in 0..1, H and W multiples of 32, and
    returns the maps of `out_keys` and always `block6`, each (N, channels[key], H / stride, W /
    stride) with strides 2 to 32. `mean` and `std`, in 0..1, are taken out first; they are no part
    of the state_dict, which stays torchvision's, and travel in the card beside `backbone.pth`.
    """

    channels: dict[str, int]

    def __init__(self, name: str, in_channels: int, out_keys, mean, std):
        super().__init__()
        unknown = [key for key in out_keys if key not in BLOCKS]
        if unknown:
            raise UserError(f"out_keys: unknown {unknown[0]!r}, known: {', '.join(BLOCKS)}")
        self.name, self.in_channels = name, in_channels
        self.out_keys = tuple(out_keys)
        self.set_normalization(mean, std)

    def set_normalization(self, mean: Sequence | None, std: Sequence | None) -> None:
        """Take out `mean` and `std` (a number a band, in 0..1) from now on, or nothing."""
        if (mean is None) != (std is None):
            raise UserError("mean and std: give both or neither")
        for key, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != self.in_channels:
                raise UserError(f"{key}: {len(values)} numbers for {self.in_channels} bands")
        self.mean, self.std = (None if mean is None else tuple(map(float, v)) for v in (mean, std))
        for key, values in (("shift", self.mean), ("scale", self.std)):
            tensor = None if values is None else torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(key, tensor, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        return images if self.mean is None else (images - self.shift) / self.scale

    def keep(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: x for key, x in maps.items() if key in self.out_keys or key == "block6"}


class VGG(Backbone):
    """VGG 11 to 19, the convolutions alone; block2..block6 = after max-pool 1..5."""

    channels = dict(zip(BLOCKS, (64, 128, 256, 512, 512), strict=True))

    def __init__(
        self,
        layout: str,
        batch_norm: bool,
        name: str,
        in_channels: int = 3,
        out_keys: Sequence = BLOCKS,
        mean: Sequence | None = None,
        std: Sequence | None = None,
    ):
        super().__init__(name, in_channels, out_keys, mean, std)
        self.features = vgg.make_layers(vgg.cfgs[layout], batch_norm=batch_norm)
        if in_channels != 3:
            self.features[0] = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.normalize(images)
        maps, names = {}, iter(BLOCKS)
        for module in self.features:
            x = module(x)
            if isinstance(module, nn.MaxPool2d):
                maps[next(names)] = x
        return self.keep(maps)


class ResNet(Backbone):
    """ResNet 18 to 152 without the classifier; block2 = stem after ReLU, block3..6 = layer1..4."""

    def __init__(
        self,
        build: Callable,
        name: str,
        in_channels: int = 3,
        out_keys: Sequence = BLOCKS,
        mean: Sequence | None = None,
        std: Sequence | None = None,
    ):
        super().__init__(name, in_channels, out_keys, mean, std)
        net = build(weights=None)
        if in_channels != 3:
            net.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        width = net.fc.in_features // 8
        self.channels = dict(zip(BLOCKS, (64, width, 2 * width, 4 * width, 8 * width), strict=True))
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            net.layer1, net.layer2, net.layer3, net.layer4,
        )  # fmt: skip

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.relu(self.bn1(self.conv1(self.normalize(images))))
        maps = {"block2": x}
        x = self.maxpool(x)
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        for key, layer in zip(BLOCKS[1:], layers, strict=True):
            x = layer(x)
            maps[key] = x
        return self.keep(maps)


VGG_LAYOUTS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
ARCHITECTURES = {
    f"{name}{'_bn' if norm else ''}": partial(VGG, layout, norm, f"{name}{'_bn' if norm else ''}")
    for name, layout in VGG_LAYOUTS.items()
    for norm in (False, True)
} | {
    name: partial(ResNet, getattr(resnet, name), name)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
}


def build_backbone(
    name: str,
    in_channels: int = 3,
    pretrained: bool | str = False,
    out_keys: Sequence = BLOCKS,
    mean: Sequence | None = None,
    std: Sequence | None = None,
) -> Backbone:
    """A backbone by name, with weights if asked for.

    Args:
        in_channels: bands of the images.
        pretrained: False, random; True, torchvision's ImageNet weights (downloaded, unless they are
            in its cache) with ImageNet's mean and std unless others are given; or a file.
        out_keys: which maps to return, besides `block6`.
        mean, std: taken out of the images, in 0..1, one number a band.
    """
    backbone = ARCHITECTURES[name](in_channels=in_channels, out_keys=out_keys, mean=mean, std=std)
    if pretrained is True:
        if mean is None and in_channels == 3:
            backbone.set_normalization(IMAGENET_MEAN, IMAGENET_STD)
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
            f"backbone_cfg.pretrained: the ImageNet weights of {name} cannot be downloaded "
            f"({error}); pass a file, or pretrained=False for random weights"
        ) from error


def load_backbone(model: Backbone | None, path: str | Path, strict: bool = True) -> dict:
    """Load backbone weights from `path` into `model`, or into the architecture they fit.

    Takes `backbone.pth`, any checkpoint of a run, the published repository's checkpoints and
    torchvision's state dicts, also with `module.`, `_orig_mod.`, `backbone.` or `encoder.` before
    the names. Weights for three bands widen to more: the new bands start from the mean of the
    three. The mean and std of the file's card come along.

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
                f"backbone_cfg.mean={model.mean}, std={model.std}: {path} was trained with "
                f"mean={own[0]}, std={own[1]}; leave them out of the config"
            )
        model.set_normalization(*own)
    return {"model": model} | _load(model, state, str(path), strict)


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
