"""Score a network on scenes or on tiles: one confusion matrix a kind of label, each pixel once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import enough_memory
from SSLRemoteSensing.core.workers import name_lost_workers, read_in_order
from SSLRemoteSensing.data.scenes import ScoredScene, label_kinds, open_scenes
from SSLRemoteSensing.data.segmentation import SegmentationDataset
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
from SSLRemoteSensing.evaluation.tile_errors import TileErrors
from SSLRemoteSensing.inference.windows import predict_scene


@dataclass(frozen=True)
class Scored:
    """What is to be scored, opened, and how.

    Attributes:
        scenes: with the images, and labels by kind.
        kinds: kind of label -> a file for each tile.
        number: of scenes; None where tiles are scored, each by itself.
    """

    tiles: SegmentationDataset
    classes: Sequence[str]
    settings: ScoringSettings
    scenes: list[ScoredScene]
    kinds: dict[str, Sequence[str]]
    number: int | None

    @property
    def stacked(self) -> bool:
        """Each scene is one tile, none larger than a window: they are predicted in stacks, with
        the same result."""
        return all(
            len(scene.image.files) == 1 and max(scene.height, scene.width) <= self.settings.window
            for scene in self.scenes
        )

    def scene_matrices(self, device: torch.device) -> list[ConfusionMatrix] | None:
        """Where `score` can count scene by scene; None where tiles are scored."""
        if self.number is None:
            return None
        return [ConfusionMatrix(len(self.classes), device) for _ in self.scenes]

    def tile_errors(self, side: int, device: torch.device) -> TileErrors:
        """Where `score` can count errors tile by tile, of at most `side` pixels a side."""
        return TileErrors([(scene.height, scene.width) for scene in self.scenes], side, device)


@dataclass(frozen=True)
class Scoring:
    """A checkpoint that was scored: by what, on what, and what came of it.

    Attributes:
        source: the checkpoint's file.
        checkpoint: what is in it.
        config: of the scoring; that of the training is in the checkpoint's card.
        split: what was scored, 'test' or 'val'.
        predict: as of `score`.
        counts: confusion matrix by kind of label.
        errors: of the first kind of label.
        by_scene: confusion matrices int64 (S, K, K) of the scenes, by the first kind of label;
            None where tiles are scored.
    """

    source: Path
    checkpoint: dict
    config: dict
    split: str
    scored: Scored
    predict: Callable[[Tensor], Tensor]
    device: torch.device
    counts: dict[str, Tensor]
    errors: TileErrors
    by_scene: Tensor | None = None

    @property
    def card(self) -> dict:
        return self.checkpoint.get("card", {})

    def classify(self, images: Tensor) -> Tensor:
        """Images uint8 (N, C, H, W) to classes uint8 (N, H, W)."""
        return self.predict(images).argmax(1).to(torch.uint8)


def open_scored(
    tiles: SegmentationDataset,
    classes: Sequence[str],
    settings: ScoringSettings,
    own_labels: bool = False,
) -> Scored:
    """Open scenes and labels for scoring. What cannot be put together is scored by tiles, and that
    is said on stderr.

    Args:
        own_labels: only the labels of `tiles` themselves, whatever their kind, as 'full'.

    Raises:
        UserError: a protocol of `settings` that the labels do not allow.
    """
    kinds = {"full": [label for _, label in tiles.pairs]} if own_labels else label_kinds(tiles)
    settings.require_protocols(classes, list(kinds))
    kinds = {kind: kinds[kind] for kind in settings.kinds(list(kinds))}
    if settings.on == "scenes":
        try:
            scenes = open_scenes(tiles, kinds)
            return Scored(tiles, classes, settings, scenes, kinds, len(scenes))
        except UserError as error:
            warn(f"scored tile by tile: {error}")
    scenes = open_scenes(tiles, kinds, together=False)
    return Scored(tiles, classes, settings, scenes, kinds, None)


def score(
    predict: Callable[[Tensor], Tensor],
    scored: Scored,
    device: torch.device,
    num_workers: int = 0,
    errors: TileErrors | None = None,
    by_scene: Sequence[ConfusionMatrix] | None = None,
) -> dict[str, Tensor]:
    """Confusion matrices int64 (K, K), on the CPU, by kind of label.

    Several processes share the scenes; all have the sums.

    Args:
        predict: images uint8 (N, C, h, w) to probabilities (N, K, h, w), both on `device`.
        errors: from `scored.tile_errors`; gets those of the first kind of label. Of stacked tiles
            none may be larger than its side.
        by_scene: from `scored.scene_matrices`; the same.
    """
    matrices = {kind: ConfusionMatrix(len(scored.classes), device) for kind in scored.kinds}
    if scored.stacked:
        parts = predict_tiles(predict, scored, device, num_workers)
    else:
        parts = predict_scenes(predict, scored, device)
    of_training = ", in training train_cfg.batch_size"
    remedy = f"set a smaller scoring_cfg.batch_size or scoring_cfg.window{of_training}"
    size = f"scoring {scored.settings.batch_size} at a time"
    with name_lost_workers(), enough_memory(size, remedy):
        for numbers, y, classes, labels in parts:
            for matrix, label in zip(matrices.values(), labels, strict=True):
                matrix.update(classes, label)
            if errors is not None:
                errors.add(numbers, y, classes, labels[0])
            if by_scene is not None:
                for number, *maps in zip(numbers, classes, labels[0], strict=True):
                    by_scene[number].update(*maps)
    if errors is not None:
        errors.counts = distributed.all_sum(errors.counts.cpu())
    for matrix in by_scene or ():
        matrix.counts = distributed.all_sum(matrix.counts.cpu())
    return {kind: distributed.all_sum(matrix.counts.cpu()) for kind, matrix in matrices.items()}


# Numbers of scenes, the first row, classes (N, h, w), labels of each kind (N, h, w).
Predicted = tuple[list[int], int, Tensor, Sequence[Tensor]]


def predict_scenes(
    predict: Callable[[Tensor], Tensor], scored: Scored, device: torch.device
) -> Iterator[Predicted]:
    """This process's scenes, some rows of one at a time."""
    scenes, settings = scored.scenes, scored.settings
    # The largest first, so that processes that take turns end at about the same time.
    order = sorted(range(len(scenes)), key=lambda i: -scenes[i].height * scenes[i].width)
    order = distributed.shard(order)
    rows = sum(scenes[number].height for number in order)
    with progress("scoring scenes", total=rows, unit="row") as bar:
        for number in order:
            scene = scenes[number]
            strips = predict_scene(
                predict, scene.image.rows, scene.height, scene.width,
                settings.window, settings.overlap, settings.batch_size, device,
            )  # fmt: skip
            for y, probabilities in strips:
                classes = probabilities.argmax(0)
                labels = [label.rows(y, len(classes)) for label in scene.labels.values()]
                labels = [torch.from_numpy(rows).to(device)[None] for rows in labels]
                yield [number], y, classes[None], labels
                bar.update(len(classes))


class LabelledTiles(Dataset):
    """The tiles of `scored` whole and as they are, with labels of several kinds, (kinds, h, w)."""

    def __init__(self, scored: Scored):
        self.tiles, self.kinds = scored.tiles, scored.kinds

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        labels = [files[index] for files in self.kinds.values()]
        image, parts = self.tiles.read_with(self.tiles.pairs[index][0], *labels)
        return image, np.stack(parts)


def predict_tiles(
    predict: Callable[[Tensor], Tensor], scored: Scored, device: torch.device, num_workers: int
) -> Iterator[Predicted]:
    """This process's tiles in order, whole, stacked as long as they are of one size."""
    numbers = distributed.shard(range(len(scored.tiles)))
    tiles = LabelledTiles(scored)
    with closing(read_in_order(tiles, numbers, num_workers, "scoring", "tile")) as samples:
        for _, same in groupby(samples, lambda item: item[1][1].shape):
            while stack := list(islice(same, scored.settings.batch_size)):
                images, labels = zip(*(sample for _, sample in stack), strict=True)
                images = torch.stack(images).permute(0, 3, 1, 2)
                classes = predict(images.to(device)).argmax(1)
                labels = torch.stack(labels).to(device).unbind(1)
                yield [number for number, _ in stack], 0, classes, labels
