"""How often each class occurs in labels."""

import numpy as np

from SSLRemoteSensing.datasets.labels import value_counts
from SSLRemoteSensing.datasets.segmentation import SegmentationDataset

MOST_TILES = 200
MOST_PIXELS = 2 * 10**8  # whole scenes as tiles would take minutes


def label_shares(tiles: SegmentationDataset) -> dict:
    """dict(tiles=, shares=): the share of each class in the scored pixels of the labels, 0..1, and
    of how many tiles: all, or at most 200 drawn at random, the same ones in every call."""
    counts = np.zeros(256, np.int64)
    read = 0
    for index in np.random.default_rng(0).permutation(len(tiles))[:MOST_TILES]:
        counts += value_counts(tiles.read_label(tiles.pairs[index][1]))
        read += 1
        if counts.sum() >= MOST_PIXELS:
            break
    of_classes = counts[: tiles.num_classes]
    return {"tiles": read, "shares": (of_classes / max(1, of_classes.sum())).tolist()}
