"""The few labelled tiles of a linear probe: the same ones each time, held in memory."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import find_images, stem
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.segmentation import SegmentationDataset, collate
from SSLRemoteSensing.data.subsets import choose_fraction, name_hash, scene_of

SCORED = 1 / 3  # share of the scenes that are scored, the rest is fitted on


def prepared_part(path: str) -> tuple[str, str, list[str]]:
    """Images, labels and classes of the train part of a set that tools/prepare.py made.

    Raises:
        UserError: no such set, or one without that part.
    """
    card = read_card(path) if Path(path).is_dir() else None
    if card is None or Path(path).absolute() != card["root"]:
        raise UserError(
            f"path {path}: no dataset.json in it; name the output folder of tools/prepare.py, or "
            f"give image_path, label_path and classes"
        )
    return f"{path}/images/train", f"{path}/labels/train", list(card["classes"])


def require_no_test(tiles: SegmentationDataset) -> None:
    """Raise a `UserError` for tiles of the test part of a prepared set."""
    card = read_card(Path(tiles.pairs[0][0]).parent)
    test = card and card["root"] / "images/test"
    if test and any(Path(file).absolute().is_relative_to(test) for file, _ in tiles.pairs):
        raise UserError(
            f"image_path {tiles.settings.image_path}: is the test part of {card['root']}, by which "
            f"nothing may be chosen; name images/train"
        )


def divide(
    tiles: SegmentationDataset, val_format: str | Sequence[str] | None, seed: int
) -> tuple[list[int], list[int]]:
    """Indices of the tiles to fit on and of those to score, which share no scene.

    Those that `val_format` names are scored. Without it a third of the scenes is, by a hash of
    (seed, scene); tiles that are all of one scene, or whose names tell of none, are divided one by
    one, likewise.

    Raises:
        UserError: `val_format` names no tile, or all.
    """
    files, image_path = [file for file, _ in tiles.pairs], tiles.settings.image_path
    if val_format is not None:
        named = set(find_images(image_path, val_format, keys=("image_path", "val_format")))
        by_part = group(file in named for file in files)
        if len(by_part) < 2:
            raise UserError(
                f"val_format={val_format!r}: names {'all' if True in by_part else 'none'} of the "
                f"{len(files)} tiles of {image_path}; some must be scored and others fitted on"
            )
        return by_part[False], by_part[True]
    stems = [stem(file) for file in files]
    scenes = group(scene_of(name, tiles.card is not None) for name in stems)
    if len(scenes) < 2:
        scenes = group(stems)
    order = sorted(scenes, key=lambda scene: name_hash(f"{seed} {scene}"))
    count = min(max(1, round(SCORED * len(order))), len(order) - 1)
    parts = order[count:], order[:count]
    return tuple(sorted(index for scene in part for index in scenes[scene]) for part in parts)


def group(keys: Iterable) -> dict[object, list[int]]:
    """Key -> the places where it stands."""
    groups = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return groups


def thin(tiles: SegmentationDataset, indices: list[int], most: int, seed: int) -> list[int]:
    """At most `most` of the tiles, from each scene its share; see `choose_fraction`."""
    if len(indices) <= most:
        return indices
    stems = [stem(tiles.pairs[index][0]) for index in indices]
    places = choose_fraction(stems, most / len(indices), seed, prepared=tiles.card is not None)
    return [indices[place] for place in places]


def load(tiles: SegmentationDataset, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, C, H, W), channels_last, and labels uint8 (N, H, W) of tiles of one size."""
    batch = collate([tiles[(0, index)] for index in indices])
    return batch["image"], batch["label"]


def draw_pixels(labels: Tensor, pixels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """`pixels` labelled pixels of each tile that has any, all with the same chance.

    Args:
        labels: uint8 (N, H, W).

    Returns:
        which tiles have labels, int64 (M,); the places (M, pixels, 2) as `pixel_features` takes
        them; their classes int64 (M, pixels). A tile with fewer labelled pixels gives some twice.
    """
    rng = np.random.default_rng([seed, labels.shape[0]])
    height, width = labels.shape[1:]
    tiles, places, classes = [], [], []
    for number, label in enumerate(labels.numpy()):
        candidates = np.flatnonzero(label != IGNORE)
        if len(candidates):
            sample = rng.choice(candidates, pixels, replace=len(candidates) < pixels)
            y, x = np.divmod(sample, width)
            tiles.append(number)
            places.append(np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1))
            classes.append(label.ravel()[sample])
    numbers = torch.tensor(tiles, dtype=torch.int64)
    return numbers, torch.tensor(np.array(places)).float(), torch.tensor(np.array(classes)).long()
