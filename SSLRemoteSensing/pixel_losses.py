"""Losses of segmentation over the labelled pixels: cross-entropy, focal, Dice, and sums of them."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing import distributed
from SSLRemoteSensing.config import Chain, build
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.losses import check_smoothing
from SSLRemoteSensing.raster import IGNORE


class SegmentationLoss(nn.Module):
    """Cross-entropy over the labelled pixels; 255 is ignored. A batch without a label gives 0.

    Args:
        class_weights: one weight a class, as in `torch.nn.CrossEntropyLoss`; 'median_frequency'
            takes the median of the classes' shares over the share of the class, from the
            dataset.json of prepared tiles.
        label_smoothing: share of the target spread evenly over the classes, 0 to below 1.
    """

    key = "cross_entropy"

    def __init__(
        self,
        class_weights: Sequence[float] | Literal["median_frequency"] | None = None,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.register_buffer("weight", weight_tensor(class_weights), persistent=False)
        self.label_smoothing = check_smoothing(label_smoothing)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """logits (N, K, H, W), label (N, H, W) uint8 or int64."""
        label = label.long()
        total = F.cross_entropy(
            logits.float(),
            label,
            self.weight,
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return mean(total, pixel_weights(label, self.weight))


class FocalLoss(nn.Module):
    """Cross-entropy that turns away from pixels already right: -(1 - p)^gamma log p.

    p is the softmax of the pixel's class. The mean is taken over the labelled pixels, weighted as
    in the cross-entropy, which gamma=0 gives; 255 is ignored, and a batch without a label gives 0.
    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4; with class_weights
    eq. 5. They divide by the number of boxes; here it is pixels.

    Args:
        gamma: from 0; the paper's best is 2.
        class_weights: one weight a class, the paper's alpha; or 'median_frequency', as above.
    """

    key = "focal"

    def __init__(
        self,
        gamma: float = 2.0,
        class_weights: Sequence[float] | Literal["median_frequency"] | None = None,
    ):
        super().__init__()
        if not gamma >= 0:
            raise UserError(f"gamma={gamma}: must not be negative")
        self.gamma = gamma
        self.register_buffer("weight", weight_tensor(class_weights), persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """logits (N, K, H, W), label (N, H, W) uint8 or int64."""
        label = label.long()
        surprise = F.cross_entropy(
            logits.float(), label, ignore_index=IGNORE, reduction="none"
        )  # -log p, 0 where ignored
        # 1 - p without cancellation; the floor keeps the gradient of a power below 1 finite.
        wrong = (-torch.expm1(-surprise)).clamp(min=1e-6)
        weights = pixel_weights(label, self.weight)
        return mean((wrong**self.gamma * surprise * weights).sum(), weights)


class DiceLoss(nn.Module):
    """1 - the mean soft Dice coefficient of the classes that stand in the batch's labels.

    dice_c = (2 sum(p_c g_c) + smooth) / (sum(p_c) + sum(g_c) + smooth), with p the softmax over the
    classes, g the label as 0 and 1, and the sums over all labelled pixels of the batch; 255 is
    ignored. A class without a pixel in the labels has no term, so a batch without a label gives 0.
    Source: Milletari et al., V-Net, 3DV 2016, with p and g unsquared in the denominator as in
    Drozdzal et al., The Importance of Skip Connections, DLMIA 2016.

    Args:
        smooth: in pixels; keeps a class of few pixels from jumping between 0 and 1. (That of
            segmentation_models_pytorch is half as large for the same value.)
    """

    key = "dice"

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        if not smooth >= 0:
            raise UserError(f"smooth={smooth}: must not be negative")
        self.smooth = smooth

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """logits (N, K, H, W), label (N, H, W) uint8 or int64."""
        label = label.long().unsqueeze(1)
        classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        true = label == classes  # 255 is none of them
        likely = logits.float().softmax(1) * (label != IGNORE)
        sums = torch.stack([part.sum((0, 2, 3)) for part in (likely * true, likely, true)])
        overlap, likelihood, pixels = distributed.all_sum(sums)
        size = likelihood + pixels
        dice = (2 * overlap + self.smooth) / (size + self.smooth).clamp(min=1e-6)
        present = pixels > 0
        return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def mean(total: Tensor, weights: Tensor) -> Tensor:
    """`total` over the sum of the weights; 0, with gradient 0, where that is 0.

    The sum is that of all processes over their number: the mean of what they return is the mean
    over all their pixels.
    """
    share = distributed.all_sum(weights.sum().float()) / distributed.size()
    return torch.where(share > 0, 1 / share.clamp(min=1e-6), 0.0) * total


def pixel_weights(label: Tensor, weight: Tensor | None) -> Tensor:
    """What each pixel counts: its class's weight, or 1; 0 where it is ignored."""
    scored = label != IGNORE
    return scored if weight is None else weight[label.masked_fill(~scored, 0)] * scored


def weight_tensor(class_weights: Sequence[float] | str | None) -> Tensor | None:
    if class_weights is None:
        return None
    if isinstance(class_weights, str):
        raise UserError(
            f"class_weights={class_weights!r}: finetune_seg.py fills it in from the data's "
            f"dataset.json; give numbers here, one a class"
        )
    if not class_weights or not (min(class_weights) >= 0 and sum(class_weights) > 0):
        raise UserError(f"class_weights={class_weights!r}: none may be negative, nor all 0")
    return torch.tensor(class_weights, dtype=torch.float32)


# What the log has under the same roof as the losses' names.
LOGGED = ("loss", "step", "epoch", "lr", "images_per_second", "data_wait")
PIXEL_LOSSES = {"CrossEntropyLoss": SegmentationLoss, "DiceLoss": DiceLoss, "FocalLoss": FocalLoss}


def sum_loss(
    losses: Annotated[dict, Chain(PIXEL_LOSSES)], factors: Sequence[float] | None = None
) -> dict[str, tuple[float, nn.Module]]:
    """Several losses of segmentation, each in the log under its key: key -> (factor, loss).

    Args:
        losses: dict(cross_entropy=dict(name='CrossEntropyLoss'), dice=dict(name='DiceLoss')), say.
        factors: a weight a loss, in their order; 1 each by default.
    """
    if not losses:
        raise UserError(f"losses={losses!r}: expected at least one")
    for key in losses:
        if key in LOGGED or not key.isidentifier():
            raise UserError(f"losses: {key!r} cannot stand in the log; give it another name")
    factors = [1.0] * len(losses) if factors is None else factors
    if len(factors) != len(losses) or min(factors) < 0:
        raise UserError(f"factors={factors!r}: expected {len(losses)} weights, none negative")
    return {
        key: (factor, build(PIXEL_LOSSES, cfg, f"losses.{key}"))
        for factor, (key, cfg) in zip(factors, losses.items(), strict=True)
    }


SEGMENTATION_LOSSES = PIXEL_LOSSES | {"SumLoss": sum_loss}
