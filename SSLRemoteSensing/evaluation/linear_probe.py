"""With a few labels, while training without: what can a straight line read off the backbone now?

mIoU of a pixel-wise linear classifier on the frozen pyramid, on a fixed few tiles. It tells whether
the features get better for segmentation, which the losses of the pretext tasks do not.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from SSLRemoteSensing.core.batch_norm import separate
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.segmentation import collate
from SSLRemoteSensing.data.subsets import scene_of
from SSLRemoteSensing.evaluation.linear_classifier import fit_linear, pixel_classes, pixel_features
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix, scores
from SSLRemoteSensing.evaluation.probe_tiles import ProbeSettings, choose, draw_pixels, open_tiles
from SSLRemoteSensing.models.backbones import Backbone, unit_range

BATCH = 8  # tiles at a time


class LinearProbe:
    """The tiles of a probe, and `score(backbone)`. The tiles are read once, here.

    Which tiles and pixels are taken depends on names and `seed` alone: the same in each epoch, and
    when a run goes on. Tiles that are fitted on and tiles that are scored share no scene, where the
    names tell of scenes; those of a prepared set come from its train part.

    Args:
        in_channels: of the backbone.
        img_size: of its training, pixels.
        train: how the images of its training are read.

    Raises:
        UserError: what `SegmentationDataset` refuses; the test part of a prepared set; fewer than
            two tiles; no labelled pixels to score, or those to fit on of one class alone.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        in_channels: int = 3,
        img_size: int = 256,
        train: Reading | None = None,
    ):
        tiles, self.classes = open_tiles(settings, in_channels, img_size, train)
        self.settings, self.prepared = settings, tiles.card is not None
        parts = choose(tiles, settings)
        self.fitted, self.scored = ([tiles.pairs[index][0] for index in part] for part in parts)
        fitted, scored = (collate([tiles[(0, index)] for index in part]) for part in parts)
        places = draw_pixels(fitted["label"], settings.pixels, settings.seed)
        numbers, self.places, self.labels = places
        self.images = fitted["image"][numbers]
        self.scored_images, self.scored_labels = scored["image"], scored["label"]
        where, remedy = f"tiles of {tiles.settings.image_path}", "or set another seed"
        if len(self.labels.unique()) < 2:
            raise UserError(
                f"labels of {len(self.fitted)} {where}: the {self.labels.numel()} pixels to fit on "
                f"are not of two classes; raise train_tiles, {remedy}"
            )
        if (self.scored_labels == IGNORE).all():
            raise UserError(
                f"labels of {len(self.scored)} {where}: no pixel to score has a class; raise "
                f"val_tiles, {remedy}"
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


def has_seen_nothing(network: nn.Module) -> bool:
    """Whether its batch normalization has the statistics it was made with."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return bool(norms) and all(
        bool((norm.running_mean == 0).all() and (norm.running_var == 1).all()) for norm in norms
    )


def with_statistics(backbone: Backbone, images: Tensor) -> Backbone:
    """A copy whose batch normalization has the statistics of `images` (N, C, H, W), uint8."""
    backbone, device = deepcopy(backbone), next(backbone.parameters()).device
    separate(backbone)  # else it would wait for the other processes
    # A map of 1 x 1 has no variance in a batch of one tile.
    images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    parts = images.tensor_split(math.ceil(len(images) / BATCH))
    update_bn((unit_range(part.to(device)) for part in parts), backbone)
    return backbone


def read_probe(
    cfg: dict, backbone: Backbone, img_size: int, train: Reading | None = None
) -> LinearProbe:
    """The probe of a config's `train_cfg.probe`; prints what it is.

    Raises:
        UserError: as `LinearProbe`, with the key before it.
    """
    with about("train_cfg.probe"):
        probe = LinearProbe(ProbeSettings(**cfg), backbone.in_channels, img_size, train)
    print(probe.describe())
    return probe
