"""The losses of the three pretext tasks."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing import distributed
from SSLRemoteSensing.errors import UserError


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
        everyone = distributed.all_gather(views) if self.gather else views  # (all images, 2, D)
        start = 2 * n * distributed.rank() if self.gather else 0
        rows = torch.arange(2 * n, device=views.device)
        with torch.autocast(views.device.type, enabled=False):
            # Dividing before the product spares a pass over the large matrix.
            similarity = views.flatten(0, 1) / self.temperature @ everyone.flatten(0, 1).T
        itself, positive = (rows + start)[:, None], (rows ^ 1) + start
        return F.cross_entropy(similarity.scatter_(1, itself, self.own), positive)


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


def check_smoothing(label_smoothing: float) -> float:
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing={label_smoothing}: must be in 0 to 1")
    return label_smoothing


# The losses of each task, by name.
INPAINTING_LOSSES = {"InpaintingLoss": InpaintingLoss}
AGR_LOSSES = {"CrossEntropyLoss": CrossEntropyLoss}
EXAMPLAR_LOSSES = {"ExamplarLoss": ExamplarLoss}
