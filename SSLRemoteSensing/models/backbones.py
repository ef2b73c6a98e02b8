"""torchvision's VGG and ResNet as pyramids block2..block6, under torchvision's parameter names."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet, vgg

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.tiny_maps import quicken

BLOCKS = ("block2", "block3", "block4", "block5", "block6")  # 1/2, 1/4, 1/8, 1/16, 1/32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """What both families share: the names of the maps, bands, mean and standard deviation.

    `forward(images)` takes float (N, in_channels, H, W) in 0..1, H and W multiples of 32, and
    returns the maps of `out_keys` and always `block6`, each (N, channels[key], H / stride, W /
    stride) with strides 2 to 32. `mean` and `std`, in 0..1, are taken out first; they are no part
    of the state_dict, which stays torchvision's, and travel in the card beside `backbone.pth`.

    `late_stages()` gives the modules, in order, that make the map of 1/16 from that of 1/8, and
    that of 1/32 from it.
    """

    channels: dict[str, int]
    output_stride = 32  # of block6, and the most of any map
    fixed_size: int | None = None  # side of the images, of a network that takes one size alone

    def __init__(self, name: str, in_channels: int, out_keys: Sequence[str]):
        super().__init__()
        if in_channels < 1:
            raise UserError(f"in_channels={in_channels}: must be at least 1 band")
        unknown_keys = [key for key in out_keys if key not in BLOCKS]
        if unknown_keys:
            raise UserError(f"out_keys: unknown {unknown_keys[0]!r}, known: {', '.join(BLOCKS)}")
        self.name, self.in_channels, self.out_keys = name, in_channels, tuple(out_keys)
        self.set_normalization(None, None)

    def set_normalization(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Take out `mean` and `std` (a number a band, in 0..1) from now on, or nothing."""
        if (mean is None) != (std is None):
            raise UserError("mean and std: give both or neither")
        for key, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != self.in_channels:
                raise UserError(f"{key}: {len(values)} numbers for {self.in_channels} bands")
            least = 0 if key == "mean" else 1e-6
            if not all(least <= value <= 1 for value in values or ()):
                expected = "numbers in 0..1, std above 0; divide those of 0..255 by 255, others by "
                expected += "the value that becomes 1"
                raise UserError(f"{key}={tuple(values)}: expected {expected}")
        self.mean, self.std = (
            None if mean is None else tuple(map(float, numbers)) for numbers in (mean, std)
        )
        for key, values in (("shift", self.mean), ("scale", self.std)):
            tensor = None if values is None else torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(key, tensor, persistent=False)

    def card(self) -> dict:
        """What must be known to use the weights, in plain types."""
        return {key: getattr(self, key) for key in ("name", "in_channels", "mean", "std")}

    def normalize(self, images: Tensor) -> Tensor:
        return images if self.mean is None else (images - self.shift) / self.scale

    def dilate(self, output_stride: int) -> None:
        """Let no map have a stride above `output_stride`: 16 (block6), 8 (block5, block6) or 32.

        Names and shapes of the weights stay as they are. A convolution that halved the map keeps
        its spacing, and those after it look twice as far apart: what they see is what they saw
        before, so every second pixel of the finer map, from the first, is the former map (the a
        trous algorithm; Chen et al., DeepLab, TPAMI 2018, section 3.1). For ResNet this is the
        pattern of torchvision's `replace_stride_with_dilation`, here for BasicBlock too (in
        segmentation_models_pytorch the first block is spaced as well). The max-pools of a VGG
        become 3x3 with stride 1 and padding 1, as in DeepLab's VGG-16 (deploy.prototxt of
        DeepLab-LargeFOV); there the former map is not found again.

        Raises:
            UserError: another output_stride, or a backbone already dilated to another.
        """
        if output_stride not in (8, 16, 32):
            raise UserError(f"output_stride={output_stride}: expected 8, 16 or 32")
        if output_stride == self.output_stride:
            return
        if self.output_stride != 32:
            raise UserError(
                f"output_stride={output_stride}: the backbone is dilated to {self.output_stride} "
                f"already; build it anew"
            )
        self.output_stride, rate = output_stride, 1
        for stride, modules in zip((16, 32), self.late_stages(), strict=True):
            if stride > output_stride:
                rate *= 2
                for module in modules:
                    if isinstance(module, nn.MaxPool2d):
                        module.kernel_size, module.stride, module.padding = 3, 1, 1
                    elif isinstance(module, nn.Conv2d):
                        spacing = rate if module.stride == (1, 1) else rate // 2
                        module.stride = (1, 1)
                        if module.kernel_size != (1, 1):
                            module.dilation = module.padding = (spacing, spacing)

    def learn(self, maps: Collection[str]) -> list[str]:
        """Let the weights that `maps` are made with have gradients, and no others: those of maps
        that nothing reads would be in no loss, which DistributedDataParallel cannot have.

        Returns:
            the maps of which weights of their own stay as they are.
        """
        self.requires_grad_(len(maps) > 0)
        return []

    def keep(self, maps: dict) -> dict:
        """Of a dict by map, the maps that this backbone returns."""
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
        out_keys: Sequence[str] = BLOCKS,
    ):
        super().__init__(name, in_channels, out_keys)
        self.features = vgg.make_layers(vgg.cfgs[layout], batch_norm=batch_norm)
        if in_channels != 3:
            self.features[0] = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        quicken(self)

    def late_stages(self) -> tuple[list[nn.Module], list[nn.Module]]:
        modules = list(self.features)
        *_, fourth, fifth = (i for i, m in enumerate(modules) if isinstance(m, nn.MaxPool2d))
        # The pool stands first: the convolutions after it see the map that it no longer halves.
        return modules[fourth:fifth], modules[fifth:]

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
        self, build: Callable, name: str, in_channels: int = 3, out_keys: Sequence[str] = BLOCKS
    ):
        super().__init__(name, in_channels, out_keys)
        net = build(weights=None)
        if in_channels != 3:
            net.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        width = net.fc.in_features // 8
        self.channels = dict(zip(BLOCKS, (64, width, 2 * width, 4 * width, 8 * width), strict=True))
        for part, module in net.named_children():
            if part not in ("avgpool", "fc"):
                self.add_module(part, module)
        quicken(self)

    def late_stages(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return list(self.layer3.modules()), list(self.layer4.modules())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.relu(self.bn1(self.conv1(self.normalize(images))))
        maps = {"block2": x}
        x = self.maxpool(x)
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        for key, layer in zip(BLOCKS[1:], layers, strict=True):
            x = maps[key] = layer(x)
        return self.keep(maps)


ARCHITECTURES = {
    f"{name}{suffix}": partial(VGG, layout, bool(suffix), f"{name}{suffix}")
    for name, layout in (("vgg11", "A"), ("vgg13", "B"), ("vgg16", "D"), ("vgg19", "E"))
    for suffix in ("", "_bn")
} | {
    name: partial(ResNet, getattr(resnet, name), name)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
}


def unit_range(images: Tensor) -> Tensor:
    """uint8 images to float in 0..1; float images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
