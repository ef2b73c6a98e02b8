"""The losses of the pretext tasks and of distillation, and those of segmentation."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import Chain, build
from SSLRemoteSensing.core.errors import UserError


class InpaintingLoss(nn.Module):
    """L1 distance to the anchor, weighted by how much each value was distorted.

    sum(|prediction - anchor| M) / (sum(M) + 1e-6) with M = |anchor - occluded|, per pixel and
    channel, so that only the distorted block counts. All tensors (N, C, H, W), in 0..1. The sums
    are over the batches of all processes, and the mean of their losses is that of one large batch.
    """

    def forward(self, prediction: Tensor, anchor: Tensor, occluded: Tensor) -> Tensor:
        weight = (anchor - occluded).abs()
        distance = (prediction.float() - anchor).abs()
        share = (distributed.all_sum(weight.sum()) + 1e-6) / distributed.size()
        return (distance * weight).sum() / share


class ExamplarLoss(nn.Module):
    """Softmax cross-entropy over the cosine similarities of 2N embeddings, N of them a view each.

    Row i's positive is the other view of the same image; all other rows are its negatives. Memory
    grows with N^2, not with N^2 times the embedding's length.

    Args:
        temperature: divides the similarities, above 0; published 1.
        self_similarity: an embedding's similarity with itself is set to 0 ('zero', as published: it
            adds exp(0) to every denominator) or left out ('exclude', NT-Xent of SimCLR).
        gather: take the embeddings of all processes as negatives, with their gradients. Each has
            the rows of its own images, and the mean of their losses is that of one large batch.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        self_similarity: Literal["zero", "exclude"] = "zero",
        gather: bool = True,
    ):
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature={temperature}: must be above 0")
        self.temperature, self.gather = temperature, gather
        self.own = {"zero": 0.0, "exclude": float("-inf")}[self_similarity]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: embeddings (N, D) of the two views; every process has the same N."""
        n = len(first)
        views = torch.stack([F.normalize(view.float(), dim=1) for view in (first, second)], dim=1)
        all_views = distributed.all_gather(views) if self.gather else views  # (all images, 2, D)
        start = 2 * n * distributed.rank() if self.gather else 0
        rows = torch.arange(2 * n, device=views.device)
        with torch.autocast(views.device.type, enabled=False):
            # Dividing before the product spares a pass over the large matrix.
            similarity = views.flatten(0, 1) / self.temperature @ all_views.flatten(0, 1).T
        diagonal, positive = (rows + start)[:, None], (rows ^ 1) + start
        return F.cross_entropy(similarity.scatter_(1, diagonal, self.own), positive)


class CrossEntropyLoss(nn.Module):
    """Cross-entropy of the transform prediction: logits (N, K) or, of L answers each, (N, K, L),
    whose mean it is; label int64 (N,).

    Args:
        label_smoothing: share of the target spread evenly over the classes, 0 to below 1.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = check_smoothing(label_smoothing)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.dim() == 3:
            label = label[:, None].expand(-1, logits.shape[2])
        return F.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)


class CosineLoss(nn.Module):
    """1 - the cosine of prediction and target, both (N, D, h, w), at each of the N h w places; the
    mean over them. 0 where all directions are the same, 2 where they are opposite; lengths do not
    count. Every process has as many places, so the mean of their losses is that of one large batch.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (1 - F.cosine_similarity(prediction.float(), target.float(), dim=1)).mean()


def check_factors(key: str, factors: Sequence[float], count: int) -> None:
    if len(factors) != count or min(factors) < 0:
        raise UserError(f"{key}={factors!r}: expected {count} weights, none negative")


def check_smoothing(label_smoothing: float) -> float:
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing={label_smoothing}: must be in 0 to 1")
    return label_smoothing


# The losses of each task, by name.
INPAINTING_LOSSES = {"InpaintingLoss": InpaintingLoss}
AGR_LOSSES = {"CrossEntropyLoss": CrossEntropyLoss}
EXAMPLAR_LOSSES = {"ExamplarLoss": ExamplarLoss}
DISTILLATION_LOSSES = {"CosineLoss": CosineLoss}

# Those of segmentation take logits (N, K, H, W) and a label (N, H, W), uint8 or int64.


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
        label, options = label.long(), {"label_smoothing": self.label_smoothing}
        total = F.cross_entropy(
            logits.float(), label, self.weight, ignore_index=IGNORE, reduction="sum", **options
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
        label = label.long()
        # -log p, 0 where ignored.
        surprise = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
        # 1 - p without cancellation; the floor keeps the gradient of a power below 1 finite.
        complement = (-torch.expm1(-surprise)).clamp(min=1e-6)
        weights = pixel_weights(label, self.weight)
        return mean((complement**self.gamma * surprise * weights).sum(), weights)


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
        label = label.long().unsqueeze(1)
        classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        truth = label == classes  # 255 is none of them
        probabilities = logits.float().softmax(1) * (label != IGNORE)
        parts = (probabilities * truth, probabilities, truth)
        sums = torch.stack([part.sum((0, 2, 3)) for part in parts])
        overlap, likelihood, pixels = distributed.all_sum(sums)
        size = likelihood + pixels
        dice = (2 * overlap + self.smooth) / (size + self.smooth).clamp(min=1e-6)
        mask = pixels > 0
        return ((1 - dice) * mask).sum() / mask.sum().clamp(min=1)


def mean(total: Tensor, weights: Tensor) -> Tensor:
    """`total` over the sum of the weights; 0, with gradient 0, where that is 0.

    The sum is that of all processes over their number: the mean of what they return is the mean
    over all their pixels.
    """
    share = distributed.all_sum(weights.sum().float()) / distributed.size()
    return torch.where(share > 0, 1 / share.clamp(min=1e-6), 0.0) * total


def pixel_weights(label: Tensor, weight: Tensor | None) -> Tensor:
    """What each pixel counts: its class's weight, or 1; 0 where it is ignored."""
    mask = label != IGNORE
    return mask if weight is None else weight[label.masked_fill(~mask, 0)] * mask


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
WeightedLosses = list[tuple[str, float, nn.Module]]  # name in the log, factor, loss
PIXEL_LOSSES = {"CrossEntropyLoss": SegmentationLoss, "DiceLoss": DiceLoss, "FocalLoss": FocalLoss}


def sum_loss(
    losses: Annotated[dict, Chain(PIXEL_LOSSES)], factors: Sequence[float] | None = None
) -> WeightedLosses:
    """Several losses of segmentation, (key, factor, loss) each; the key stands in the log.

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
    check_factors("factors", factors, len(losses))
    return [
        (key, factor, build(PIXEL_LOSSES, cfg, f"losses.{key}"))
        for factor, (key, cfg) in zip(factors, losses.items(), strict=True)
    ]


SEGMENTATION_LOSSES = PIXEL_LOSSES | {"SumLoss": sum_loss}


def segmentation_losses(cfg: dict | None, num_classes: int) -> WeightedLosses:
    """The `train_cfg.loss` of a config; None is the cross-entropy."""
    cfg = cfg or {"name": "CrossEntropyLoss"}
    losses = build(SEGMENTATION_LOSSES, cfg, "train_cfg.loss")
    losses = losses if "losses" in cfg else [(losses.key, 1.0, losses)]
    for name, _, loss in losses:
        weight = getattr(loss, "weight", None)
        if weight is not None and len(weight) != num_classes:
            path = f"losses.{name}." if "losses" in cfg else ""
            raise UserError(
                f"train_cfg.loss.{path}class_weights: {len(weight)} weights for {num_classes} "
                f"classes"
            )
    return losses
