"""Decoders: the pyramid of a backbone to class logits at the image's size.

`Decoder` is the one that pre-training trains; `LinearProbe` asks what a frozen backbone knows; the
rest stand in `smp_decoders`. `decoder_cfg` names one of `DECODERS`; `num_classes` and
`map_channels`, the channels of the maps that the backbone returns, come from elsewhere.
"""

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models import pretrained
from SSLRemoteSensing.models.backbones import BLOCKS
from SSLRemoteSensing.models.heads import Decoder
from SSLRemoteSensing.models.smp_decoders import (
    check_maps,
    deeplab_v3_plus,
    fpn,
    pspnet,
    unet,
    upernet,
)


def pretraining_decoder(
    num_classes: int,
    map_channels: dict[str, int],
    feat_channels: Sequence[int] | None = None,
    transfer: bool = False,
) -> Decoder:
    """The decoder of the inpainting branch with `num_classes` channels.

    Args:
        feat_channels: channels of its five stages, by default those of the backbone's maps, then
            32.
        transfer: start from the inpainting decoder in the checkpoint that `backbone_cfg.pretrained`
            names, all but the last layer (`transfer_decoder`); where that is False or True there is
            none, which one line says, so that a baseline can share the config.
    """
    if feat_channels is None:
        # Most networks of timm have no map of 1/2.
        check_maps("Decoder without feat_channels", BLOCKS[1:], map_channels)
        feat_channels = [map_channels.get(f"block{i}", 64) for i in (5, 4, 3, 2)] + [32]
    return Decoder(map_channels["block6"], num_classes, feat_channels, map_channels)


def transfer_decoder(decoder: Decoder, source: bool | str | Path) -> str:
    """Copy the inpainting decoder of the checkpoint `source`, all but `predict`; say so."""
    if isinstance(source, bool):
        return f"decoder_cfg.transfer: nothing to transfer, backbone_cfg.pretrained={source}"
    state, expected = pretrained.decoder_weights(source), decoder.state_dict()
    keys = [key for key in expected if not key.startswith("predict.")]
    for key in keys:
        if key not in state or state[key].shape != expected[key].shape:
            problem = tuple(state[key].shape) if key in state else "missing"
            raise UserError(
                f"weights {source}: inpainting_head.{key} is {problem}, the config's decoder has "
                f"{tuple(expected[key].shape)}; set decoder_cfg.feat_channels as in that run"
            )
    decoder.load_state_dict({key: state[key] for key in keys}, strict=False)
    return f"{source}: {len(keys)} of {len(expected)} entries of the decoder transferred"


class LinearProbe(nn.Module):
    """A 1x1 convolution on the whole pyramid: what can be read off the maps with a straight line.

    Each map is normalized by a BN without weights, and the convolution runs on the map itself;
    the results are made as large as the image (bilinear) and added. Both being linear, this is the
    1x1 convolution of all maps enlarged and put side by side, without the memory for it. Meant
    for `train_cfg.freeze_backbone=True`. Source: the linear probing of He et al., MAE, CVPR 2022,
    appendix A.1 (BN without affine before the classifier; weights start with deviation 0.01).

    `forward(maps)` takes the maps (N, channels, H/stride, W/stride), gives (N, num_classes, H, W).
    """

    output_stride = 32

    def __init__(self, num_classes: int, map_channels: dict[str, int]):
        super().__init__()
        self.norms, self.predict = nn.ModuleDict(), nn.ModuleDict()
        for key, n in map_channels.items():
            self.norms[key] = nn.BatchNorm2d(n, affine=False, eps=1e-6)
            self.predict[key] = nn.Conv2d(n, num_classes, kernel_size=1, bias=key == "block6")
        for conv in self.predict.values():
            nn.init.trunc_normal_(conv.weight, std=0.01)
        nn.init.zeros_(self.predict["block6"].bias)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        size = [self.output_stride * n for n in maps["block6"].shape[-2:]]
        parts = (self.predict[key](norm(maps[key])) for key, norm in self.norms.items())
        return sum(F.interpolate(x, size=size, mode="bilinear") for x in parts)


DECODERS = {
    "Decoder": pretraining_decoder,
    "LinearProbe": LinearProbe,
    "Unet": unet,
    "FPN": fpn,
    "DeepLabV3Plus": deeplab_v3_plus,
    "UPerNet": upernet,
    "PSPNet": pspnet,
}
