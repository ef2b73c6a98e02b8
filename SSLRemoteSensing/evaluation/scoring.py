"""Score a network on scenes or on tiles: one confusion matrix a kind of label, each pixel once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.console import progress, warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.workers import end_workers, one_thread
from SSLRemoteSensing.data.labels import require_one_size
from SSLRemoteSensing.data.scenes import ScoredScene, are_scenes, label_kinds, open_scenes
from SSLRemoteSensing.data.segmentation import SegmentationDataset
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix
from SSLRemoteSensing.evaluation.protocols import SUFFIXES, protocol_names, require_protocols
from SSLRemoteSensing.evaluation.tile_errors import TileErrors
from SSLRemoteSensing.inference.windows import predict_scene


@dataclass
class ScoringSettings:
    """The `scoring_cfg` of a config.

    Attributes:
        on: 'scenes', put together from their tiles and predicted by overlapping windows, or
            'tiles', each on its own: quicker, and pixels of overlapping tiles count twice.
        window: side of a window in pixels.
        overlap: share of its side by which a window overlaps the next, 0 to below 1.
        batch_size: windows predicted at a time.
        tta: take the mean over the 8 turns and flips of each window.
        protocols: names of those to report, see docs/evaluation.md; None: all that apply.
        clutter: the class that some protocols leave out, where there is a class of that name.
        one_against_rest: classes to score on their own too; None: cloud and snow, where there are
            such classes and others besides.
    """

    on: Literal["scenes", "tiles"] = "scenes"
    window: int = 512
    overlap: float = 0.5
    batch_size: int = 8
    tta: bool = False
    protocols: Sequence[str] | None = None
    clutter: str | None = "clutter"
    one_against_rest: Sequence[str] | None = None

    def against_rest(self, classes: Sequence[str]) -> list[str]:
        """The classes to score on their own."""
        if self.one_against_rest is not None:
            return list(self.one_against_rest)
        return [name for name in ("cloud", "snow") if name in classes and len(classes) > 2]

    def check(self, classes: Sequence[str]) -> None:
        """Raise a `UserError` for values that cannot be, or a protocol that is not to be had."""
        for key, minimum in (("window", 32), ("batch_size", 1)):
            if getattr(self, key) < minimum:
                raise UserError(
                    f"scoring_cfg.{key}={getattr(self, key)}: must be at least {minimum}"
                )
        if not 0 <= self.overlap < 1:
            raise UserError(f"scoring_cfg.overlap={self.overlap}: must be in 0 to below 1")
        if self.clutter not in (None, "clutter", *classes):
            raise UserError(f"scoring_cfg.clutter: {self.clutter!r} is none of {list(classes)}")
        unknown_names = [name for name in self.one_against_rest or () if name not in classes]
        if unknown_names:
            raise UserError(
                f"scoring_cfg.one_against_rest: {unknown_names[0]!r} is none of {list(classes)}"
            )
        if self.protocols is not None and not self.protocols:
            raise UserError("scoring_cfg.protocols: names none; leave it out for all that apply")
        self.require_protocols(classes)

    def require_protocols(
        self, classes: Sequence[str], kinds: Sequence[str] = tuple(SUFFIXES)
    ) -> None:
        """Raise a `UserError` where a wanted protocol needs other classes or kinds of labels."""
        if self.protocols is not None:
            rest = self.against_rest(classes)
            require_protocols(self.protocols, classes, self.clutter, rest, kinds)

    def kinds(self, existing: Sequence[str]) -> list[str]:
        """The kinds of labels to read, of the `existing` ones: that of the first protocol first,
        since tile by tile errors are counted by it."""
        if self.protocols is None:
            return list(existing)
        eroded_flags = [name.endswith(SUFFIXES["eroded"]) for name in self.protocols]
        return list(dict.fromkeys("eroded" if is_eroded else "full" for is_eroded in eroded_flags))

    def names(self, classes: Sequence[str]) -> list[str]:
        """The protocols to report, as far as the classes tell."""
        if self.protocols is not None:
            return list(self.protocols)
        return protocol_names(classes, self.clutter, self.against_rest(classes))


@dataclass(frozen=True)
class Scored:
    """What is to be scored, opened, and how.

    Attributes:
        scenes: with the images, and labels by kind.
        kinds: kind of label -> a file for each tile.
        stacked: each scene is one tile, none larger than a window: they are predicted in stacks,
            with the same result.
        number: of scenes; None where tiles are scored, each by itself.
    """

    tiles: SegmentationDataset
    classes: Sequence[str]
    settings: ScoringSettings
    scenes: list[ScoredScene]
    kinds: dict[str, Sequence[str]]
    stacked: bool
    number: int | None

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
    tile_labels = {"full": [label for _, label in tiles.pairs]}
    kinds = tile_labels if own_labels else label_kinds(tiles)
    settings.require_protocols(classes, list(kinds))
    kinds = {kind: kinds[kind] for kind in settings.kinds(list(kinds))}
    scenes = None
    if settings.on == "scenes":
        try:
            if not are_scenes(tiles):
                name = tiles.name(0).name
                raise UserError(f"where {name} and others lie in their scenes is not known")
            scenes = open_scenes(tiles, kinds)
        except UserError as error:
            warn(f"scored tile by tile: {error}")
    number = None if scenes is None else len(scenes)
    if scenes is None:
        scenes = open_scenes(tiles, kinds, together=False)
    is_stacked = all(
        len(scene.image.files) == 1 and max(scene.height, scene.width) <= settings.window
        for scene in scenes
    )
    return Scored(tiles, classes, settings, scenes, kinds, is_stacked, number)


def score(
    predict: Callable[[Tensor], Tensor],
    scored: Scored,
    device: torch.device,
    num_workers: int = 0,
    errors: TileErrors | None = None,
) -> dict[str, Tensor]:
    """Confusion matrices int64 (K, K), on the CPU, by kind of label.

    Several processes share the scenes; all have the sums.

    Args:
        predict: images uint8 (N, C, h, w) to probabilities (N, K, h, w), both on `device`.
        errors: from `scored.tile_errors`; gets those of the first kind of label. Of stacked tiles
            none may be larger than its side.
    """
    num_classes, settings = len(scored.classes), scored.settings
    if scored.stacked:
        tiles = LabelledTiles(scored.tiles, scored.kinds)
        batch_size = settings.batch_size
        matrices = evaluate_tiles(
            predict, tiles, num_classes, device, batch_size, num_workers, errors
        )
    else:
        matrices = evaluate_scenes(predict, scored.scenes, num_classes, device, settings, errors)
    if errors is not None:
        errors.counts = distributed.all_sum(errors.counts.cpu())
    return {kind: distributed.all_sum(matrix.counts.cpu()) for kind, matrix in matrices.items()}


def evaluate_scenes(
    predict: Callable[[Tensor], Tensor],
    scenes: Sequence[ScoredScene],
    num_classes: int,
    device: torch.device,
    settings: ScoringSettings,
    errors: TileErrors | None = None,
) -> dict[str, ConfusionMatrix]:
    """Confusion matrices over this process's scenes, by kind of label. Arguments as of `score`."""
    matrices = {kind: ConfusionMatrix(num_classes, device) for kind in scenes[0].labels}
    # The largest first, so that processes that take turns end at about the same time.
    order = range(len(scenes))
    order = sorted(
        order, key=lambda index: scenes[index].height * scenes[index].width, reverse=True
    )
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
                for place, (kind, label) in enumerate(scene.labels.items()):
                    truth = torch.from_numpy(label.rows(y, len(classes))).to(device)
                    matrices[kind].update(classes, truth)
                    if errors is not None and place == 0:
                        errors.add_rows(number, y, classes, truth)
                bar.update(len(classes))
    return matrices


class LabelledTiles(Dataset):
    """`tiles` whole and as they are, with labels of several kinds, stacked (kinds, h, w).

    Args:
        kinds: kind of label -> a file for each tile.
    """

    def __init__(self, tiles: SegmentationDataset, kinds: dict[str, Sequence[str]]):
        self.tiles, self.kinds = tiles, kinds

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index = key[1]
        image = self.tiles.read_image(self.tiles.pairs[index][0])
        labels = []
        for files in self.kinds.values():
            labels.append(self.tiles.read_label(files[index]))
            pair = self.tiles.pairs[index][0], files[index]
            require_one_size(pair, image.shape[:2], labels[-1].shape)
        return {"image": image, "label": np.stack(labels)}


def evaluate_tiles(
    predict: Callable[[Tensor], Tensor],
    tiles: LabelledTiles,
    num_classes: int,
    device: torch.device,
    batch_size: int,
    num_workers: int = 0,
    errors: TileErrors | None = None,
) -> dict[str, ConfusionMatrix]:
    """Confusion matrices over this process's tiles, whole, by kind of label.

    Arguments as of `score`.
    """
    matrices = {kind: ConfusionMatrix(num_classes, device) for kind in tiles.kinds}
    numbers = distributed.shard(range(len(tiles)))  # in the order of the batches
    start = 0
    for images, labels in equal_batches(tiles, batch_size, num_workers):
        classes = predict(images.to(device)).argmax(1)
        by_kind = labels.to(device).unbind(1)
        for kind, label in zip(tiles.kinds, by_kind, strict=True):
            matrices[kind].update(classes, label)
        if errors is not None:
            errors.add_whole(numbers[start : start + len(images)], classes, by_kind[0])
        start += len(images)
    return matrices


def equal_batches(dataset, batch_size: int, num_workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's tiles in order, stacked as long as they are of one size."""
    keys = distributed.shard([(0, index) for index in range(len(dataset))])
    loader = DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,
        collate_fn=tensors,
        num_workers=num_workers,
        worker_init_fn=one_thread,
        generator=torch.Generator(),
    )
    batch: list[dict] = []
    samples = iter(loader)
    try:
        for sample in progress("scoring", samples, len(keys), "tile"):
            is_full = len(batch) == batch_size
            if batch and (is_full or batch[0]["label"].shape != sample["label"].shape):
                yield stack(batch)
                batch = []
            batch.append(sample)
        if batch:
            yield stack(batch)
    finally:
        end_workers(samples)


def stack(samples: list[dict]) -> tuple[Tensor, Tensor]:
    images = torch.stack([sample["image"] for sample in samples])
    labels = torch.stack([sample["label"] for sample in samples])
    return images.permute(0, 3, 1, 2), labels


def tensors(sample: dict) -> dict[str, Tensor]:
    """Image and label as tensors, which pass from a worker in shared memory."""
    return {key: torch.from_numpy(sample[key]) for key in ("image", "label")}
