"""The few labelled tiles of a linear probe: which ones, the same each time, and their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import EVERY_IMAGE, find_images, stem
from SSLRemoteSensing.data.images import read_header
from SSLRemoteSensing.data.places import ground_size
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import ScaleKey
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.data.subsets import choose_fraction, name_hash, scene_of
from SSLRemoteSensing.data.windows import SAME_GSD

SCORED = 1 / 3  # share of the scenes that are scored, the rest is fitted on
# Keys that a probe shares with `TileSettings`.
TILE_KEYS = ("data_format", "label_format", "label_offset", "label_codes", "bands", "max_value")
TILE_KEYS += ("scale", "exclude")


@dataclass
class ProbeSettings:
    """The `probe` of a pre-training config.

    Attributes:
        path: a folder that tools/prepare.py made; or else give the next three.
        image_path, label_path: folders of images and labels, as in fine-tuning.
        classes: names of the classes; needed unless `image_path` is of a prepared set.
        data_format, label_format, label_offset, label_codes, exclude: as in the train_data of
            fine-tuning, see `TileSettings`.
        bands, max_value, scale: as there; None: those of train_data.
        val_format: pattern(s) of the images to be scored, of those that data_format finds, as of
            sites of their own. Default: a third of the scenes, by hash; single tiles where names
            tell of no scenes.
        every: epochs between two scores. The first is before the first step, the last at the end.
        train_tiles, val_tiles: how many tiles to fit on, and to score, at most.
        pixels: how many labelled pixels of each tile to fit on.
        crop_size: side, in pixels, of the square that is taken of each tile, a multiple of 32;
            smaller tiles are padded. Default: the img_size of training.
        seed: of the choice of scenes, tiles, squares and pixels.
    """

    path: str | None = None
    image_path: str | None = None
    label_path: str | None = None
    classes: Sequence[str] | None = None
    data_format: str | Sequence[str] = EVERY_IMAGE
    val_format: str | Sequence[str] | None = None
    label_format: str = "{stem}.png"
    label_offset: int | None = None
    label_codes: Sequence[int] | None = None
    bands: Sequence[int] | None = None
    max_value: float | None = None
    exclude: str | None = None
    every: int = 1
    train_tiles: int = 64
    val_tiles: int = 64
    pixels: int = 256
    crop_size: int | None = None
    seed: int = 0
    scale: ScaleKey = None

    def __post_init__(self):
        least = dict.fromkeys(("every", "train_tiles", "val_tiles", "pixels"), 1) | {"seed": 0}
        for key, bound in least.items():
            if getattr(self, key) < bound:
                raise UserError(f"{key}={getattr(self, key)}: must be at least {bound}")


def open_tiles(
    settings: ProbeSettings, in_channels: int, img_size: int, train: Reading | None
) -> tuple[SegmentationDataset, list[str]]:
    """The tiles that `settings` name, in squares, and their classes; raises as `LinearProbe`."""
    side = img_size if settings.crop_size is None else settings.crop_size
    if side < 32 or side % 32:
        raise UserError(f"crop_size={side}: must be a multiple of 32, the backbone's stride")
    path, image_path, label_path = settings.path, settings.image_path, settings.label_path
    if not (path is None) == (image_path is not None) == (label_path is not None):
        raise UserError("give either path, of a prepared set, or both image_path and label_path")
    classes = list(settings.classes or ())
    if path is not None:
        card = read_card(path) if Path(path).is_dir() else None
        if card is None or Path(path).absolute() != card["root"]:
            raise UserError(
                f"path {path}: no dataset.json in it; name the output folder of tools/prepare.py, "
                f"or give image_path, label_path and classes"
            )
        image_path, label_path = f"{path}/images/train", f"{path}/labels/train"
        classes = classes or list(card["classes"])
    if len(classes) < 2:
        raise UserError(
            f"classes={settings.classes!r}: name the classes of the labels, at least two"
        )
    shared = {key: getattr(settings, key) for key in TILE_KEYS}
    tile_settings = TileSettings(image_path, label_path, crop_size=side, **shared)
    tiles = SegmentationDataset(
        tile_settings, len(classes), in_channels, settings.seed, classes=classes, train=train
    )
    tiles.check_values("train_cfg.probe")
    tell_other_gsd(tiles, train)
    files = [Path(file).absolute() for file, _ in tiles.pairs]
    card = read_card(files[0].parent)
    if card and any(file.is_relative_to(card["root"] / "images/test") for file in files):
        raise UserError(
            f"image_path {image_path}: is the test part of {card['root']}, by which nothing may be "
            f"chosen; name images/train"
        )
    if len(tiles) < 2:
        raise UserError(f"image_path {image_path}: 1 tile, needed are one to fit on and others")
    return tiles, classes


def tell_other_gsd(tiles: SegmentationDataset, train: Reading | None) -> None:
    """Warn where the pixels of `tiles` are known to be of another size than training's. They are
    taken as they are all the same: squares of few tiles cannot be scaled without losing ground, and
    scores of one run compare with each other at any size."""
    gsd, file = train and train.gsd, tiles.pairs[0][0]
    if gsd is None:
        return
    own = tiles.reading.gsd
    if own is None:
        try:
            own = max(ground_size(file, read_header(file).shape))
        except UserError:  # which is most tiles' lot
            return
    if not 1 / SAME_GSD <= own / gsd <= SAME_GSD:
        warn(
            f"{file}: has pixels of {own:.3g} m, training sees {gsd:.3g} m; the probe's scores are "
            "of the network at another distance than it learns at"
        )


def choose(tiles: SegmentationDataset, settings: ProbeSettings) -> tuple[list[int], list[int]]:
    """Indices of the tiles to fit on and of those to score, which share no scene.

    Those that `val_format` names are scored. Without it a third of the scenes is, by a hash of
    (seed, scene); tiles that are all of one scene, or whose names tell of none, are divided one by
    one, likewise. Of more tiles than there may be each scene keeps its share, see
    `choose_fraction`.

    Raises:
        UserError: `val_format` names no tile, or all.
    """
    files, image_path = [file for file, _ in tiles.pairs], tiles.settings.image_path
    stems, prepared = [stem(file) for file in files], tiles.card is not None
    val_format, seed = settings.val_format, settings.seed
    if val_format is not None:
        named = set(find_images(image_path, val_format, keys=("image_path", "val_format")))
        is_scored = np.array([file in named for file in files])
        if is_scored.all() or not is_scored.any():
            raise UserError(
                f"val_format={val_format!r}: names {'all' if is_scored.all() else 'none'} of the "
                f"{len(files)} tiles of {image_path}; some must be scored and others fitted on"
            )
    else:
        scenes = [scene_of(name, prepared) for name in stems]
        if len(set(scenes)) < 2:
            scenes = stems
        order = sorted(set(scenes), key=lambda scene: name_hash(f"{seed} {scene}"))
        count = min(max(1, round(SCORED * len(order))), len(order) - 1)
        chosen = set(order[:count])
        is_scored = np.array([scene in chosen for scene in scenes])
    parts = []
    for mask, most in ((~is_scored, settings.train_tiles), (is_scored, settings.val_tiles)):
        indices = np.flatnonzero(mask).tolist()
        if len(indices) > most:
            names = [stems[index] for index in indices]
            places = choose_fraction(names, most / len(indices), seed, prepared)
            indices = [indices[place] for place in places]
        parts.append(indices)
    return tuple(parts)


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
