"""What other test scenes would say: a difference of two initialisations, drawn anew scene by scene.

Scenes differ by more than draws of the labels do where a set has few of them. Which scenes a set
holds is itself a draw, so they are drawn again with replacement, all cells of both sides on the
same ones (Efron's bootstrap), and the difference of the mean mIoU is taken each time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000
PROTOCOL, METRIC = "all", "miou"  # what the counts of scenes.json give


class Range(NamedTuple):
    """The middle 95 % of the differences, as shares of one; of so many scenes."""

    low: float
    high: float
    scenes: int

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def scene_counts(contents: dict) -> dict[str, np.ndarray] | None:
    """Scene -> confusion matrix (K, K), of a scenes.json; None where it has none for `all`."""
    if contents.get("kind") != "full" or not contents.get("scenes"):
        return None
    return {scene["name"]: np.array(scene["confusion_matrix"]) for scene in contents["scenes"]}


def scene_gap(
    ours: Sequence[dict[str, np.ndarray]], theirs: Sequence[dict[str, np.ndarray]]
) -> Range | None:
    """The 95 % range of the mean over cells of mIoU(ours) - mIoU(theirs) over draws of scenes.

    Args:
        ours, theirs: the counts of each cell, by scene; cell i of both is a pair.

    Returns:
        None where there is no pair, fewer than two scenes, or cells of different scenes.
    """
    names = sorted(ours[0]) if ours else []
    if len(names) < 2 or any(sorted(counts) != names for counts in (*ours, *theirs)):
        return None
    # A fixed seed: the same tables each time, and the same scenes for each comparison.
    picks = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    weights = np.stack([np.bincount(pick, minlength=len(names)) for pick in picks])
    gaps = np.zeros(DRAWS)
    for pair in zip(ours, theirs, strict=True):
        mine, other = (miou(weights, np.stack([cell[name] for name in names])) for cell in pair)
        gaps += (mine - other) / len(ours)
    low, high = np.nanpercentile(gaps, (2.5, 97.5))
    return Range(float(low), float(high), len(names))


def miou(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """mIoU (draws,) of scenes taken so often: weights (draws, S), counts (S, K, K). Its mean is
    over the classes that occur in label or prediction, as in `evaluation.metrics.scores`."""
    totals = np.tensordot(weights, counts, axes=1)
    hits = np.einsum("dkk->dk", totals)
    unions = totals.sum(1) + totals.sum(2) - hits
    shares = np.divide(hits, unions, out=np.full(hits.shape, np.nan), where=unions > 0)
    present = ~np.isnan(shares)
    return np.nansum(shares, axis=1) / np.maximum(present.sum(axis=1), 1)
