"""Segmentation scores, all of them from one confusion matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from SSLRemoteSensing.core.classes import IGNORE


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, int64 (K, K): rows label, columns prediction."""

    def __init__(self, num_classes: int, device: str | torch.device = "cpu"):
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add the pixels of two integer maps of equal shape; those with label 255 do not count."""
        mask = label != IGNORE
        k = len(self.counts)
        pairs = label[mask].long() * k + prediction[mask].long()
        self.counts += torch.bincount(pairs, minlength=k * k).view(k, k)


def scores(counts: Tensor, classes: Sequence[str], mean_over: Sequence[str] | None = None) -> dict:
    """Scores of a confusion matrix (K, K), as shares of one.

    IoU = TP / (TP + FP + FN), F1 = 2 TP / (2 TP + FP + FN); `miou` and `mf1` are their means over
    the classes of `mean_over` (default all) that occur in label or prediction; those that do not
    have None and are listed in `absent`. `oa` is the share of right pixels, `kappa` Cohen's kappa,
    both over all pixels of the matrix. All are None where no pixel was scored.
    """
    mean_over = list(classes if mean_over is None else mean_over)
    counts = counts.double()
    total = counts.sum()
    hit, label, prediction = counts.diag(), counts.sum(1), counts.sum(0)
    per_class = {}
    for index, name in enumerate(classes):
        per_class[name] = {
            "iou": share(hit[index], label[index] + prediction[index] - hit[index]),
            "f1": share(2 * hit[index], label[index] + prediction[index]),
            "precision": share(hit[index], prediction[index]),
            "recall": share(hit[index], label[index]),
            "pixels": int(label[index]),
        }
    chance = share((label * prediction).sum(), total**2)
    oa = share(hit.sum(), total)
    kappa = None if oa is None or chance == 1 else (oa - chance) / (1 - chance)
    return {
        "miou": mean([per_class[name]["iou"] for name in mean_over]),
        "mf1": mean([per_class[name]["f1"] for name in mean_over]),
        "oa": oa,
        "kappa": kappa,
        "per_class": per_class,
        "mean_over": mean_over,
        "absent": [name for name in mean_over if per_class[name]["iou"] is None],
        "pixels": int(total),
        "confusion_matrix": counts.long().tolist(),
    }


def share(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if whole > 0 else None


def mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
