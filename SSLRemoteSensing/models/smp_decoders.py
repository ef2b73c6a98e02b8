"""The decoders of segmentation_models_pytorch on our own backbone, whose weights keep their names.

Parameters and their defaults are the library's. It is imported when one of these is built.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import BLOCKS

SMP = "segmentation_models_pytorch"


class PyramidDecoder(nn.Module):
    """A decoder of segmentation_models_pytorch on our maps.

    `forward(maps)` takes the backbone's maps, block6 with stride `output_stride`, and gives
    (N, num_classes, H, W): body, then a convolution to the classes, then bilinear x `upsampling`
    with align_corners=True, as in the library's `SegmentationHead`.

    Args:
        body: takes the maps from fine to coarse in a list, before them one of the image's size.
        channels: that it gives.
        kernel_size: of the last convolution.
        smallest_batch: 2 where a map is pooled to one pixel before a BN.
        initialize: draw the weights as the library does for all its architectures but DeepLabV3+.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: int,
        num_classes: int,
        kernel_size: int,
        upsampling: int,
        output_stride: int = 32,
        smallest_batch: int = 1,
        initialize: bool = True,
    ):
        super().__init__()
        self.body = body
        self.predict = nn.Conv2d(channels, num_classes, kernel_size, padding=kernel_size // 2)
        self.upsampling, self.output_stride = upsampling, output_stride
        self.smallest_batch = smallest_batch
        if initialize:
            smp("base.initialization").initialize_decoder(self.body)
            smp("base.initialization").initialize_head(self.predict)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        last_map = maps["block6"]
        if self.training and len(last_map) < self.smallest_batch:
            raise UserError("batch_size=1: this decoder normalizes over the images; set 2 or more")
        height, width = (self.output_stride * n for n in last_map.shape[-2:])
        # The bodies ask this one for its size alone; so it has no channel, and no memory.
        image = last_map.new_empty(last_map.shape[0], 0, height, width)
        x = self.predict(self.body([image, *(maps.get(key) for key in BLOCKS)]))
        if self.upsampling == 1:
            return x
        return F.interpolate(x, scale_factor=self.upsampling, mode="bilinear", align_corners=True)


def unet(
    num_classes: int,
    map_channels: dict[str, int],
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    interpolation: Literal["nearest", "bilinear"] = "nearest",
) -> PyramidDecoder:
    """U-Net (Ronneberger et al., MICCAI 2015), as the library builds it on a ResNet: the finest
    skip is 1/2, no centre block; 3x3 convolution to the classes at the image's size.

    Args:
        decoder_channels: after each of the five stages, from 1/16 to 1/1.
        interpolation: how each stage doubles its map.
    """
    check_positive("decoder_channels", decoder_channels, 5)
    body = smp("decoders.unet.decoder").UnetDecoder(
        pyramid("Unet", BLOCKS, map_channels), decoder_channels, interpolation_mode=interpolation
    )
    return PyramidDecoder(body, decoder_channels[-1], num_classes, 3, 1)


def fpn(
    num_classes: int,
    map_channels: dict[str, int],
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    merge_policy: Literal["add", "cat"] = "add",
    dropout: float = 0.2,
) -> PyramidDecoder:
    """FPN for segmentation (Kirillov et al., Panoptic FPN, CVPR 2019) on block3..block6; 1x1
    convolution to the classes at 1/4, bilinear x4.

    Args:
        pyramid_channels: of the feature pyramid.
        segmentation_channels: of each of its four branches, a multiple of 32 (group normalization).
        merge_policy: whether the branches are added or put side by side.
        dropout: of whole channels, before the last convolution.
    """
    check_positive("pyramid_channels", [pyramid_channels])
    check_dropout(dropout)
    if segmentation_channels < 32 or segmentation_channels % 32:
        raise UserError(f"segmentation_channels={segmentation_channels}: must be a multiple of 32")
    body = smp("decoders.fpn.decoder").FPNDecoder(
        pyramid("FPN", BLOCKS[1:], map_channels),
        pyramid_channels=pyramid_channels,
        segmentation_channels=segmentation_channels,
        dropout=dropout,
        merge_policy=merge_policy,
    )
    return PyramidDecoder(body, body.out_channels, num_classes, 1, 4)


def deeplab_v3_plus(
    num_classes: int,
    map_channels: dict[str, int],
    output_stride: Literal[8, 16] = 16,
    decoder_channels: int = 256,
    atrous_rates: Sequence[int] = (12, 24, 36),
    aspp_separable: bool = True,
    dropout: float = 0.5,
) -> PyramidDecoder:
    """DeepLabV3+ (Chen et al., ECCV 2018) on block3 and a dilated block6; 1x1 convolution to the
    classes at 1/4, bilinear x4.

    Args:
        output_stride: of block6; the backbone is dilated to it.
        decoder_channels: of the spatial pyramid pooling (ASPP) and the decoder.
        atrous_rates: the three of the ASPP. The paper has 6, 12, 18 at stride 16 and the double at
            8; the library's are these at either.
        aspp_separable: separable convolutions in the ASPP, as in the paper.
        dropout: after the ASPP.
    """
    check_positive("decoder_channels", [decoder_channels])
    check_positive("atrous_rates", atrous_rates, 3)
    check_dropout(dropout)
    body = smp("decoders.deeplabv3.decoder").DeepLabV3PlusDecoder(
        pyramid("DeepLabV3Plus", ("block3", "block6"), map_channels),
        encoder_depth=5,
        out_channels=decoder_channels,
        atrous_rates=atrous_rates,
        output_stride=output_stride,
        aspp_separable=aspp_separable,
        aspp_dropout=dropout,
    )
    return PyramidDecoder(body, decoder_channels, num_classes, 1, 4, output_stride, 2, False)


def upernet(
    num_classes: int, map_channels: dict[str, int], decoder_channels: int = 256
) -> PyramidDecoder:
    """UPerNet (Xiao et al., ECCV 2018) on block3..block6; 1x1 convolution to the classes at 1/4,
    bilinear x4.

    Args:
        decoder_channels: of the pyramid pooling and of every level.
    """
    check_positive("decoder_channels", [decoder_channels])
    body = smp("decoders.upernet.decoder").UPerNetDecoder(
        pyramid("UPerNet", BLOCKS[1:], map_channels), decoder_channels=decoder_channels
    )
    return PyramidDecoder(body, decoder_channels, num_classes, 1, 4, 32, 2)


def pspnet(
    num_classes: int,
    map_channels: dict[str, int],
    output_stride: Literal[8, 16, 32] = 8,
    decoder_channels: int = 512,
    dropout: float = 0.2,
) -> PyramidDecoder:
    """PSPNet (Zhao et al., CVPR 2017) on a dilated block6, as published (the library's own stops at
    1/8, before the last two stages); 3x3 convolution to the classes, bilinear to the image's size.

    Args:
        output_stride: of block6; the backbone is dilated to it.
        decoder_channels: after the pyramid pooling.
        dropout: of whole channels, before the last convolution.
    """
    check_positive("decoder_channels", [decoder_channels])
    check_dropout(dropout)
    body = smp("decoders.pspnet.decoder").PSPDecoder(
        pyramid("PSPNet", (), map_channels), out_channels=decoder_channels, dropout=dropout
    )
    return PyramidDecoder(body, decoder_channels, num_classes, 3, output_stride, output_stride)


def smp(part: str):
    """A module of segmentation_models_pytorch, which only those who use it need to install."""
    try:
        return import_module(f"{SMP}.{part}")
    except ImportError as error:
        raise UserError(
            f"{SMP} cannot be imported ({error}); pip install {SMP}, or name another decoder"
        ) from error


def pyramid(name: str, keys: Sequence[str], map_channels: dict[str, int]) -> list[int]:
    """Channels as the library lists them: of the image-sized map, unused, then 1/2 to 1/32.

    Raises:
        UserError: the decoder `name` needs maps of `keys` that are not there.
    """
    check_maps(name, keys, map_channels)
    return [0, *(map_channels.get(key, 0) for key in BLOCKS)]


def check_maps(name: str, keys: Sequence[str], map_channels: dict[str, int]) -> None:
    missing_keys = [key for key in keys if key not in map_channels]
    if missing_keys:
        raise UserError(
            f"{name} needs {', '.join(missing_keys)}, which the backbone does not return; add it "
            f"to backbone_cfg.out_keys, or take another decoder where it has none"
        )


def check_positive(name: str, values: Sequence[int], count: int | None = None) -> None:
    if count is not None and len(values) != count:
        raise UserError(f"{name}={tuple(values)}: expected {count} numbers")
    if min(values) < 1:
        raise UserError(f"{name}: must be at least 1, not {min(values)}")


def check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout}: must be in 0 to 1")
