"""The losses of the three pretext tasks."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.errors import UserError


class InpaintingLoss(nn.Module):
    """L1 distance to the anchor, weighted by how much each value was distorted.

    sum(|prediction - anchor| M) / (sum(M) + 1e-6) with M = |anchor - occluded|, per pixel and
    channel, so that only the distorted block counts. All tensors (N, C, H, W), in 0..1.
    """

    def forward(self, prediction: Tensor, anchor: Tensor, occluded: Tensor) -> Tensor:
        weight = (anchor - occluded).abs()
        distance = (prediction.float() - anchor).abs()
        return (distance * weight).sum() / (weight.sum() + 1e-6)


class ExamplarLoss(nn.Module):
    """Softmax cross-entropy over the cosine similarities of 2N embeddings, N of them a view each.

    Row i's positive is the other view of the same image; all other rows are its negatives. Memory
    grows with N^2, not with N^2 times the embedding's length.

    Args:
        temperature: divides the similarities; published 1.
        self_similarity: an embedding's similarity with itself is set to 0 ('zero', as published: it
            adds exp(0) to every denominator) or left out ('exclude', NT-Xent of SimCLR).
    """

    def __init__(
        self, temperature: float = 1.0, self_similarity: Literal["zero", "exclude"] = "zero"
    ):
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature={temperature}: must be above 0")
        self.temperature = temperature
        self.own = {"zero": 0.0, "exclude": float("-inf")}[self_similarity]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: embeddings (N, D) of the two views."""
        n = len(first)
        z = F.normalize(torch.cat([first, second]).float(), dim=1)
        with torch.autocast(z.device.type, enabled=False):
            similarity = z @ z.T / self.temperature
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        positive = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(similarity.masked_fill(itself, self.own), positive)


class CrossEntropyLoss(nn.Module):
    """Cross-entropy of the transform prediction: logits (N, K), label int64 (N,)."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = check_smoothing(label_smoothing)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)


def check_smoothing(label_smoothing: float) -> float:
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing={label_smoothing}: must be in 0 to 1")
    return label_smoothing


# The losses of each task, by name.
INPAINTING_LOSSES = {"InpaintingLoss": InpaintingLoss}
AGR_LOSSES = {"CrossEntropyLoss": CrossEntropyLoss}
EXAMPLAR_LOSSES = {"ExamplarLoss": ExamplarLoss}
