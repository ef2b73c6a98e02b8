"""Backbone and decoder to class logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.config import build
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.losses import SEGMENTATION_LOSSES
from SSLRemoteSensing.models.backbones import Backbone, unit_range
from SSLRemoteSensing.models.heads import Decoder
from SSLRemoteSensing.models.weights import BACKBONES

STRIDE = 32


def pretraining_decoder(
    num_classes: int, map_channels: dict[str, int], feat_channels: Sequence[int] | None = None
) -> Decoder:
    """The decoder of the inpainting branch with `num_classes` channels.

    Args:
        feat_channels: channels of its five stages, by default those of the backbone's maps, then
        32.
    """
    if feat_channels is None:
        feat_channels = [map_channels[f"block{i}"] for i in (5, 4, 3, 2)] + [32]
    return Decoder(map_channels["block6"], num_classes, feat_channels, map_channels)


DECODERS = {"Decoder": pretraining_decoder}


class SegmentationNet(nn.Module):
    """`forward(batch)` gives the loss by name, `logits(images)` the classes of every pixel.

    Args:
        freeze_backbone: the backbone's weights and BN statistics stay as they are.
    """

    def __init__(
        self, backbone: Backbone, decoder: nn.Module, loss: nn.Module, freeze_backbone: bool = False
    ):
        super().__init__()
        self.backbone, self.decoder, self.loss = backbone, decoder, loss
        self.frozen = freeze_backbone
        backbone.requires_grad_(not freeze_backbone)

    def train(self, mode: bool = True) -> "SegmentationNet":
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid of `images` (N, C, H, W), uint8 or float in 0..1."""
        return self.backbone(unit_range(images))

    def logits(self, images: Tensor) -> Tensor:
        """(N, C, H, W), uint8 or float in 0..1, of any size, to (N, K, H, W)."""
        height, width = images.shape[-2:]
        x = unit_range(images)
        down, right = -height % STRIDE, -width % STRIDE
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        return self.decoder(self.backbone(x))[:, :, :height, :width]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss of a batch: image uint8 (N, C, H, W), label uint8 (N, H, W), 255 = not scored."""
        return {"cross_entropy": self.loss(self.logits(batch["image"]), batch["label"])}

    def param_groups(self, backbone_lr_factor: float) -> list[dict]:
        """Backbone and decoder as groups of an optimizer; the backbone's rate times the factor."""
        groups = [{"params": list(self.decoder.parameters()), "lr_factor": 1.0}]
        if not self.frozen:
            backbone = list(self.backbone.parameters())
            groups.insert(0, {"params": backbone, "lr_factor": backbone_lr_factor})
        return groups


def build_segmentation(config: dict) -> SegmentationNet:
    """The network of a fine-tuning config, checked key by key.

    Raises:
        UserError: an unknown name or key, weights that do not fit the backbone, or class weights
            that are not one a class.
    """
    classes = config["classes"]
    if not 2 <= len(classes) <= 255:
        raise UserError(f"classes={classes!r}: expected 2 to 255 names")
    backbone = build(BACKBONES, config["backbone_cfg"], "backbone_cfg")
    given = {"num_classes": len(classes), "map_channels": backbone.keep(backbone.channels)}
    decoder = build(
        DECODERS, config.get("decoder_cfg") or {"name": "Decoder"}, "decoder_cfg", given
    )
    train_cfg = config.get("train_cfg", {})
    cfg = train_cfg.get("loss") or {"name": "CrossEntropyLoss"}
    loss = build(SEGMENTATION_LOSSES, cfg, "train_cfg.loss")
    if loss.weight is not None and len(loss.weight) != len(classes):
        raise UserError(
            f"train_cfg.loss.class_weights: {len(loss.weight)} weights for {len(classes)} classes"
        )
    return SegmentationNet(backbone, decoder, loss, train_cfg.get("freeze_backbone", False))


@torch.no_grad()
def predict(net: SegmentationNet, device: torch.device, precision: str, images: Tensor) -> Tensor:
    """Class of each pixel: images (N, C, H, W), uint8 or float in 0..1, to uint8 (N, H, W)."""
    net.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return net.logits(images.to(device)).argmax(1).to(torch.uint8)
