"""How often each class occurs in labels."""

from collections.abc import Sequence

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.segmentation import SegmentationDataset

MOST_TILES = 200
MOST_PIXELS = 2 * 10**8  # whole scenes as tiles would take minutes


def label_shares(tiles: SegmentationDataset) -> dict:
    """dict(tiles=, shares=): the share of each class in the scored pixels of the labels, 0..1, and
    of how many tiles: all, or at most 200 drawn at random, the same ones in every call."""
    counts = np.zeros(256, np.int64)
    num_tiles = 0
    for index in np.random.default_rng(0).permutation(len(tiles.pairs))[:MOST_TILES]:
        counts += tiles.count_label(tiles.pairs[index])
        num_tiles += 1
        if counts.sum() >= MOST_PIXELS:
            break
    class_counts = counts[: tiles.num_classes]
    return {"tiles": num_tiles, "shares": (class_counts / max(1, class_counts.sum())).tolist()}


def median_frequency(image_path: str, classes: Sequence[str]) -> list[float]:
    """Class weights of the prepared set that `image_path` is of: median share / share of a class.

    After Eigen and Fergus (ICCV 2015), with the shares of all train pixels that `dataset.json` has
    in place of those of the images where a class occurs. A class that never occurs gets 0.

    Raises:
        UserError: not prepared, without train labels, or of other classes.
    """
    card = read_card(image_path)
    shares = card and card.get("class_shares")
    if not shares or list(shares) != list(classes):
        fault = f"has the classes {', '.join(shares)}" if shares else "has no class_shares"
        where = f"{card['root']}/dataset.json" if card else f"{image_path} (not prepared)"
        raise UserError(
            f"class_weights='median_frequency': {where} {fault}; prepare the set, or give numbers"
        )
    median = float(np.median([share for share in shares.values() if share > 0]))
    return [median / share if share > 0 else 0.0 for share in shares.values()]
