"""What sits on the backbone: the decoder, the transform prediction, the exemplar projection."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.errors import UserError

SKIPS = ("block5", "block4", "block3", "block2")  # 1/16, 1/8, 1/4, 1/2


class Decoder(nn.Module):
    """A pyramid to a map at the image's size: inpainting with 3 channels, segmentation with K.

    Five times bilinear x2 (align_corners=True), 3x3 convolution, BN, ReLU; after the first four the
    backbone's map of that scale is added, where there is one; then a 3x3 convolution, no
    activation. `forward(maps)` takes `block6` (N, in_channels, H/32, W/32) and skips, gives (N,
    out_channels, H, W).

    Args:
        in_channels: channels of the backbone's last map, block6: 512, from resnet50 on 2048.
        out_channels: channels of the result; for inpainting the bands of the images.
        feat_channels: channels after each of the five stages; the first four must be the channels
            of the maps added there (block5, block4, block3, block2).
        map_channels: the backbone's channels by map, to check the others against.
    """

    output_stride = 32  # of block6

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feat_channels: Sequence[int],
        map_channels: dict[str, int],
    ):
        super().__init__()
        check_in_channels(in_channels, map_channels)
        if len(feat_channels) != 5:
            raise UserError(
                f"feat_channels={tuple(feat_channels)}: expected 5 numbers, one a stage"
            )
        for key, channels in zip(SKIPS, feat_channels, strict=False):
            if map_channels.get(key, channels) != channels:
                raise UserError(
                    f"feat_channels={tuple(feat_channels)}: {channels} where {key} of the "
                    f"backbone, "
                    f"which is added there, has {map_channels[key]} channels"
                )
        widths = [in_channels, *feat_channels]
        self.stages = nn.ModuleList(
            conv_bn_relu(before, after) for before, after in pairwise(widths)
        )
        self.predict = nn.Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        x = maps["block6"]
        for stage, key in zip(self.stages, (*SKIPS, None), strict=True):
            x = stage(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
            if key in maps:
                x = x + maps[key]
        return self.predict(x)


class AGPHead(nn.Module):
    """Which transform lies between two views: logits from their last maps, put side by side.

    `forward(anchor, transformed)`: two maps (N, in_channels, h, w) to logits (N, num_classes).

    Args:
        in_channels: channels of the backbone's last map, block6: 512, from resnet50 on 2048.
        num_classes: the transforms in `train_data.agr_transforms_cfg.transforms_cfg`.
    """

    def __init__(self, in_channels: int, num_classes: int, map_channels: dict[str, int]):
        super().__init__()
        check_in_channels(in_channels, map_channels)
        self.conv = nn.Sequential(
            *conv_bn_relu(2 * in_channels, in_channels), *conv_bn_relu(in_channels, in_channels)
        )
        self.fc = nn.Sequential(
            nn.Linear(in_channels, 2 * in_channels),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(2 * in_channels, num_classes),
        )
        self.num_classes = num_classes

    def forward(self, anchor: Tensor, transformed: Tensor) -> Tensor:
        x = self.conv(torch.cat([anchor, transformed], dim=1))
        return self.fc(x.mean(dim=(2, 3)))


class ExamplarHead(nn.Module):
    """One embedding an image: `forward` takes (N, in_channels, h, w), gives (N, out_channels).

    Args:
        in_channels: channels of the backbone's last map, block6: 512, from resnet50 on 2048.
        out_channels: length of the embedding; the hidden layer is twice as wide.
    """

    def __init__(self, in_channels: int, out_channels: int, map_channels: dict[str, int]):
        super().__init__()
        check_in_channels(in_channels, map_channels)
        if out_channels < 1:
            raise UserError(f"out_channels={out_channels}: must be at least 1")
        self.fc = nn.Sequential(
            nn.Linear(in_channels, 2 * out_channels),
            nn.Sigmoid(),
            nn.Linear(2 * out_channels, out_channels),
        )

    def forward(self, last_map: Tensor) -> Tensor:
        return self.fc(last_map.mean(dim=(2, 3)))


# The head of each branch under the names of the published configs.
INPAINTING_HEADS = {"InpaintingHead": Decoder}
AGR_HEADS = {"AGPHead": AGPHead}
EXAMPLAR_HEADS = {"ExamplarHead": ExamplarHead}


def conv_bn_relu(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def check_in_channels(in_channels: int, map_channels: dict[str, int]) -> None:
    if in_channels != map_channels["block6"]:
        raise UserError(
            f"in_channels={in_channels}: the backbone's last map has {map_channels['block6']} "
            f"channels; set in_channels={map_channels['block6']}"
        )
