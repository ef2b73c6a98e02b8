"""Backbone and decoder to class logits."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import build, differences, with_defaults
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import Backbone, unit_range
from SSLRemoteSensing.models.decoders import DECODERS, transfer_decoder
from SSLRemoteSensing.models.losses import WeightedLosses, segmentation_losses
from SSLRemoteSensing.models.pretrained import BACKBONES

STRIDE = 32


class SegmentationNet(nn.Module):
    """`forward(batch)` gives weighted losses by name, `logits(images)` the classes of every pixel.

    Args:
        losses: from `segmentation_losses`.
        freeze_backbone: the backbone's weights and BN statistics stay as they are.
        norm_eval: its BN statistics stay as they are, and are what training normalizes by.
        pseudo_weight: of the losses on tiles that a network labelled.

    Attributes:
        classes: names of the K classes; None where no checkpoint brought them.
    """

    classes: list[str] | None = None

    def __init__(
        self,
        backbone: Backbone,
        decoder: nn.Module,
        losses: WeightedLosses,
        freeze_backbone: bool = False,
        norm_eval: bool = False,
        pseudo_weight: float = 1.0,
    ):
        super().__init__()
        self.backbone, self.decoder, self.pseudo_weight = backbone, decoder, pseudo_weight
        self.weights = {name: weight for name, weight, _ in losses}
        self.losses = nn.ModuleList(loss for _, _, loss in losses)
        self.frozen, self.norm_eval = freeze_backbone, norm_eval
        backbone.learn(() if freeze_backbone else backbone.keep(backbone.channels))

    def train(self, mode: bool = True) -> "SegmentationNet":
        super().train(mode)
        # Nothing in a backbone but batch normalization knows the mode.
        self.backbone.train(mode and not (self.frozen or self.norm_eval))
        return self

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid of `images` (N, C, H, W), uint8 or float in 0..1."""
        return self.backbone(unit_range(images))

    def logits(self, images: Tensor) -> Tensor:
        """(N, C, H, W), uint8 or float in 0..1, of any size, to (N, K, H, W).

        A backbone of one size takes images of up to that, but in training.
        """
        height, width = images.shape[-2:]
        # In training a size that is not meant would be learnt with the rows that fill it.
        least = 0 if self.training else self.backbone.fixed_size or 0
        down, right = (max(-side % STRIDE, least - side) for side in (height, width))
        x = unit_range(images)
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        return self.decoder(self.backbone(x))[:, :, :height, :width]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted losses; image uint8 (N, C, H, W), label uint8 (N, H, W), 255 = not scored.

        A batch may have unlabelled_image and pseudo_label besides, of the same shapes. Both parts
        go through the network as one, and each has its own mean: '..._pseudo' is the second's.
        """
        images, parts = batch["image"], {"": (batch["label"], 1.0)}
        if "pseudo_label" in batch:
            images = torch.cat([images, batch["unlabelled_image"]])
            parts["_pseudo"] = batch["pseudo_label"], self.pseudo_weight
        logits = self.logits(images).split(len(batch["image"]))
        return {
            f"{name}{suffix}": factor * weight * loss(own, label)
            for own, (suffix, (label, factor)) in zip(logits, parts.items(), strict=True)
            for (name, weight), loss in zip(self.weights.items(), self.losses, strict=True)
        }

    def param_groups(self, backbone_lr_factor: float) -> list[dict]:
        """Backbone and decoder as groups of an optimizer; the backbone's rate times the factor."""
        backbone = {"params": list(self.backbone.parameters()), "lr_factor": backbone_lr_factor}
        decoder = {"params": list(self.decoder.parameters()), "lr_factor": 1.0}
        return [decoder] if self.frozen else [backbone, decoder]


def build_segmentation(config: dict) -> SegmentationNet:
    """The network of a fine-tuning config, checked key by key.

    The backbone is dilated where the decoder asks for it. With `decoder_cfg.transfer` the decoder
    starts from the checkpoint that `backbone_cfg.pretrained` names.

    Raises:
        UserError: an unknown name or key, weights that do not fit the backbone or the decoder, or
            class weights that are not one a class; norm_eval of random weights.
    """
    classes = config["classes"]
    if not 2 <= len(classes) <= 255:
        raise UserError(f"classes={classes!r}: expected 2 to 255 names")
    decoder_cfg = config.get("decoder_cfg") or {"name": "Decoder"}
    train_cfg = config.get("train_cfg", {})
    pretrained = config["backbone_cfg"].get("pretrained", False)
    backbone = build(BACKBONES, config["backbone_cfg"], "backbone_cfg")
    arguments = {"num_classes": len(classes), "map_channels": backbone.keep(backbone.channels)}
    decoder = build(DECODERS, decoder_cfg, "decoder_cfg", arguments)
    backbone.dilate(decoder.output_stride)
    if decoder_cfg.get("transfer"):
        print(transfer_decoder(decoder, pretrained))
    if train_cfg.get("norm_eval") and not pretrained:
        raise UserError(
            "train_cfg.norm_eval=True: keeps the statistics of batch normalization, and random "
            "weights have none; set backbone_cfg.pretrained (--backbone), or norm_eval=False"
        )
    losses = segmentation_losses(train_cfg.get("loss"), len(classes))
    modes = {key: train_cfg.get(key, False) for key in ("freeze_backbone", "norm_eval")}
    pseudo_weight = (train_cfg.get("unlabelled") or {}).get("weight", 1.0)
    return SegmentationNet(backbone, decoder, losses, **modes, pseudo_weight=pseudo_weight)


# Where the weights of a network come from is no part of what it is.
ORIGINS = {"pretrained", "mean", "std", "transfer"}


def trained_network(contents: dict, source: str | Path) -> SegmentationNet:
    """The network of a fine-tuning's checkpoint, built by its card, as by `load_segmentation`."""
    card = contents["card"]
    net = build_segmentation({"classes": card["classes"]} | parts_of(card["config"]))
    load_trained(net, contents, source)
    net.classes = list(card["classes"])
    return net.eval()


def load_segmentation(path: str | Path) -> SegmentationNet:
    """The network of a fine-tuning, in evaluation mode, on the CPU; `classes` are its card's.

        net = load_segmentation("runs/seg/best.pth")
        logits = net.logits(images)  # (N, C, H, W), uint8 or float in 0..1 -> (N, K, H, W)
        names = [net.classes[index] for index in logits[0].argmax(0).unique()]

    The mean and standard deviation of the card are taken out by the network itself.

    Args:
        path: best.pth, latest.pth or epoch_*.pth of fine-tuning, or its export as safetensors.

    Raises:
        UserError: no such file, a damaged one, or one of something else than a fine-tuning.
    """
    contents = checkpoints.read(path)
    card = contents.get("card")
    is_trained = isinstance(card, dict) and {"classes", "config"} <= card.keys()
    if "model" not in contents or not is_trained:
        raise UserError(
            f"weights {path}: no fine-tuned network with its card; take best.pth of fine-tuning, "
            f"or load_backbone for a backbone alone"
        )
    return trained_network(contents, path)


def load_trained(net: SegmentationNet, contents: dict, source: str | Path) -> None:
    """Load a checkpoint's weights into `net`, and the mean and std of its card."""
    card = contents.get("card", {})
    checkpoints.load_network(net, contents, source)
    net.backbone.set_normalization(card.get("mean"), card.get("std"))


def parts_of(config: dict) -> dict:
    """The configs of backbone and decoder, without where their first weights came from."""
    cfgs = {key: config.get(key) for key in ("backbone_cfg", "decoder_cfg")}
    return {
        key: cfg and {k: v for k, v in cfg.items() if k not in ORIGINS} for key, cfg in cfgs.items()
    }


def require_same_network(trained_config: dict, config: dict, source: str) -> None:
    """Raise a `UserError` where two networks differ, the one of `trained_config` that of `source`.

    Not every difference shows in the weights: dilation and interpolation have none.
    """
    for key, table in (("backbone_cfg", BACKBONES), ("decoder_cfg", DECODERS)):
        sides = []
        for network_config in (trained_config, config):
            cfg = network_config.get(key) or {"name": "Decoder"}
            full_cfg = with_defaults(table, cfg) if cfg.get("name") in table else cfg
            sides.append(json.loads(json.dumps(full_cfg)))
        changes = [change for change in differences(*sides) if change[0] not in ORIGINS]
        if changes:
            name, old, new = min(changes, key=lambda change: change[0] != "name")
            raise UserError(
                f"weights {source}: trained with {key}.{name}={old!r}, the config has {new!r}; "
                "score it with the config that it was trained with"
            )
