"""With a few labels, while training without: what can a straight line read off the backbone now?

mIoU of a pixel-wise linear classifier on the frozen pyramid, on a fixed few tiles. It tells whether
the features get better for segmentation, which the losses of the pretext tasks do not.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.data.subsets import scene_of
from SSLRemoteSensing.evaluation.linear_classifier import fit_linear, pixel_classes, pixel_features
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix, scores
from SSLRemoteSensing.evaluation.probe_tiles import (
    divide,
    draw_pixels,
    load,
    prepared_part,
    require_no_test,
    thin,
)
from SSLRemoteSensing.models.backbones import Backbone, unit_range

BATCH = 8  # tiles at a time
# Keys that a probe shares with `TileSettings`.
TILE_KEYS = ("data_format", "label_format", "label_offset", "label_codes", "bands", "max_value")
TILE_KEYS += ("exclude",)


@dataclass
class ProbeSettings:
    """The `probe` of a pre-training config.

    Attributes:
        path: a folder that tools/prepare.py made; or else give the next three.
        image_path, label_path: folders of images and labels, as in fine-tuning.
        classes: names of the classes; needed unless `image_path` is of a prepared set.
        data_format, label_format, label_offset, label_codes, bands, max_value, exclude: as in the
            train_data of fine-tuning, see `TileSettings`.
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
    data_format: str | Sequence[str] = ("**/*.png", "**/*.jpg", "**/*.tif", "**/*.tiff")
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

    def __post_init__(self):
        for key in ("every", "train_tiles", "val_tiles", "pixels"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1")


class LinearProbe:
    """The tiles of a probe, and `score(backbone)`. The tiles are read once, here.

    Which tiles and pixels are taken depends on names and `seed` alone: the same in each epoch, and
    when a run goes on. Tiles that are fitted on and tiles that are scored share no scene, where the
    names tell of scenes; those of a prepared set come from its train part.

    Args:
        in_channels: of the backbone.
        img_size: of its training, pixels.

    Raises:
        UserError: what `SegmentationDataset` refuses; the test part of a prepared set; fewer than
            two tiles; no labelled pixels to score, or those to fit on of one class alone.
    """

    def __init__(self, settings: ProbeSettings, in_channels: int = 3, img_size: int = 256):
        side = img_size if settings.crop_size is None else settings.crop_size
        if side < 32 or side % 32:
            raise UserError(f"crop_size={side}: must be a multiple of 32, the backbone's stride")
        tiles, self.classes = open_tiles(settings, side, in_channels)
        self.settings, self.prepared = settings, tiles.card is not None
        seed, limits = settings.seed, (settings.train_tiles, settings.val_tiles)
        parts = divide(tiles, settings.val_format, seed)
        parts = [thin(tiles, part, most, seed) for part, most in zip(parts, limits, strict=True)]
        self.fitted, self.scored = ([tiles.pairs[index][0] for index in part] for part in parts)
        images, labels = load(tiles, parts[0])
        numbers, self.places, self.labels = draw_pixels(labels, settings.pixels, seed)
        if len(self.labels.unique()) < 2:
            raise UserError(
                f"labels of {len(self.fitted)} tiles of {tiles.settings.image_path}: the "
                f"{self.labels.numel()} pixels to fit on are not of two classes; raise "
                f"train_tiles, or set another seed"
            )
        self.images = images[numbers]
        self.scored_images, self.scored_labels = load(tiles, parts[1])
        if (self.scored_labels == IGNORE).all():
            raise UserError(
                f"labels of {len(self.scored)} tiles of {tiles.settings.image_path}: no pixel to "
                f"score has a class; raise val_tiles, or set another seed"
            )

    def describe(self) -> str:
        parts = []
        for files in (self.fitted, self.scored):
            scenes = {scene_of(stem(file), self.prepared) for file in files} - {""}
            parts.append(f"{len(files)} tiles" + (f" of {len(scenes)} scenes" if scenes else ""))
        return (
            f"probe: fitted on {self.labels.numel()} pixels of {parts[0]}, scored on {parts[1]}, "
            f"{self.images.shape[-1]} x {self.images.shape[-1]}"
        )

    @torch.no_grad()
    def score(
        self,
        backbone: Backbone,
        precision: str = "fp32",
        channels_last: bool = False,
        blocks: Sequence[str] | None = None,
    ) -> dict:
        """`metrics.scores` of the classifier fitted on the features of `backbone` as it is now.

        The backbone is in evaluation mode meanwhile; nothing in it is changed and nothing is drawn
        from torch's generators. Batch normalization that has seen no image has no statistics yet;
        a copy gets those of the tiles that are fitted on. Else the score of random weights would
        rise by images running through them alone.

        Args:
            blocks: the maps that are read alone; None for all.

        Raises:
            UserError: a map that the backbone does not return.
        """
        training = backbone.training
        device = next(backbone.parameters()).device
        if has_seen_nothing(backbone):
            backbone = with_statistics(backbone, self.images)
        backbone.eval()
        memory_format = torch.channels_last if channels_last else torch.contiguous_format

        def pyramids(images: Tensor) -> Iterator[tuple[dict[str, Tensor], slice]]:
            for start in range(0, len(images), BATCH):
                part = slice(start, start + BATCH)
                pixels = unit_range(images[part].to(device)).contiguous(memory_format=memory_format)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    maps = backbone(pixels)
                for block in sorted(set(blocks or ()) - set(maps)):
                    raise UserError(f"{block!r} is no map of {backbone.name}: {', '.join(maps)}")
                yield {block: maps[block] for block in blocks or maps}, part

        features = [
            pixel_features(maps, self.places[part].to(device)).flatten(0, 1)
            for maps, part in pyramids(self.images)
        ]
        linear = fit_linear(
            torch.cat(features), self.labels.flatten().to(device), len(self.classes)
        )
        matrix = ConfusionMatrix(len(self.classes), device)
        for maps, part in pyramids(self.scored_images):
            label = self.scored_labels[part].to(device)
            matrix.update(pixel_classes(maps, linear, label.shape[1:]), label)
        backbone.train(training)
        return scores(matrix.counts.cpu(), self.classes)


def open_tiles(
    settings: ProbeSettings, side: int, in_channels: int
) -> tuple[SegmentationDataset, list[str]]:
    """The tiles that `settings` name, in squares of `side` pixels, and their classes."""
    image_path, label_path = settings.image_path, settings.label_path
    if (settings.path is None) == (image_path is None and label_path is None):
        raise UserError("give either path, of a prepared set, or image_path and label_path")
    classes = settings.classes or ()
    if settings.path is not None:
        image_path, label_path, names = prepared_part(settings.path)
        classes = classes or names
    elif image_path is None or label_path is None:
        missing_key = "image_path" if image_path is None else "label_path"
        raise UserError(f"missing key {missing_key!r}, which goes with the other one")
    if len(classes) < 2:
        raise UserError(
            f"classes={settings.classes!r}: name the classes of the labels, at least two"
        )
    shared = {key: getattr(settings, key) for key in TILE_KEYS}
    tile_settings = TileSettings(image_path, label_path, crop_size=side, **shared)
    tiles = SegmentationDataset(
        tile_settings, len(classes), in_channels, settings.seed, classes=list(classes)
    )
    require_no_test(tiles)
    if len(tiles) < 2:
        raise UserError(f"image_path {image_path}: 1 tile, needed are one to fit on and others")
    return tiles, list(classes)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def has_seen_nothing(network: nn.Module) -> bool:
    """Whether its batch normalization has the statistics it was made with."""
    norms = batch_norms(network)
    return bool(norms) and all(
        bool((norm.running_mean == 0).all() and (norm.running_var == 1).all()) for norm in norms
    )


def with_statistics(backbone: Backbone, images: Tensor) -> Backbone:
    """A copy whose batch normalization has the statistics of `images` (N, C, H, W), uint8."""
    backbone, device = deepcopy(backbone), next(backbone.parameters()).device
    for norm in batch_norms(backbone):
        if isinstance(norm, nn.SyncBatchNorm):  # which would wait for the other processes
            norm.__class__ = nn.BatchNorm2d
    # A map of 1 x 1 has no variance in a batch of one tile.
    images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    parts = images.tensor_split(math.ceil(len(images) / BATCH))
    update_bn((unit_range(part.to(device)) for part in parts), backbone)
    return backbone


def read_probe(cfg: dict, backbone: Backbone, img_size: int) -> LinearProbe:
    """The probe of a config's `train_cfg.probe`; prints what it is.

    Raises:
        UserError: as `LinearProbe`, with the key before it.
    """
    with about("train_cfg.probe"):
        probe = LinearProbe(ProbeSettings(**cfg), backbone.in_channels, img_size)
    print(probe.describe())
    return probe
