"""Pages that show what pre-training begins with and has learnt, as R, G, B pixels."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import PretextDataset
from SSLRemoteSensing.data.values import fault_of_values, levels, remedy_of_values
from SSLRemoteSensing.reports import image_grid
from SSLRemoteSensing.reports.image_grid import INK, LINE, PAPER, as_rgb, draw_page
from SSLRemoteSensing.training.plan import make_plan, require_images
from SSLRemoteSensing.training.sampler import KeySampler
from SSLRemoteSensing.training.settings import LoopSettings

WHITE = 0.5  # the error that is drawn white, of a range of 1
BLUE = (8, 48, 107)
CELL = 64  # pixels
TITLES = ("occluded", "anchor", "transformed", "M = abs(anchor - occluded)")


def inpainting_page(
    occluded: np.ndarray, prediction: np.ndarray, anchor: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """A row an image: occluded, prediction, anchor, and the error where the image was distorted.

    Args:
        occluded, anchor: uint8 (N, H, W, C), H = W.
        prediction: float (N, H, W, C), 0..1 where it is right; shown clipped to that.
        names: what to call each image.
    """
    rows, captions = [], []
    for image, guess, target, name in zip(occluded, prediction, anchor, names, strict=True):
        weight = np.abs(target.astype(np.float32) - image) / 255
        error = np.abs(guess - target.astype(np.float32) / 255)
        mean = float((error * weight).sum() / (weight.sum() + 1e-6))
        error_map = as_rgb(np.where(weight.any(axis=2), error.mean(axis=2), 0), white=WHITE)
        rows.append([as_rgb(image), as_rgb(guess), as_rgb(target), error_map])
        captions.append([f"{name}: weighted error {mean:.3f}"])
    titles = ["occluded", "prediction", "anchor", f"error, white = {WHITE}"]
    header = ["the loss counts the distorted block alone"]
    scale = image_grid.panel_scale(*anchor.shape[1:3], least=128)
    return draw_page(rows, titles, captions, header, scale)


def transforms_page(counts: np.ndarray, names: Sequence[str], header: str) -> np.ndarray:
    """The confusion matrix `counts` (K, K): rows true, columns predicted transform.

    A cell's blue is its share of the row; the number of images stands in it.
    """
    cells = [[draw_cell(int(count), count / max(1, row.sum())) for count in row] for row in counts]
    right = f"right: {int(np.trace(counts))} of {int(counts.sum())}; rows true, columns predicted"
    captions = [[f"{number} {name}"] for number, name in enumerate(names)]
    return draw_page(
        cells, [str(number) for number in range(len(names))], captions, [header, right]
    )


def draw_cell(count: int, share: float) -> np.ndarray:
    paper, blue = np.array(PAPER, float), np.array(BLUE, float)
    cell = np.full((CELL, CELL, 3), np.rint(paper + share * (blue - paper)), np.uint8)
    x = (CELL - image_grid.text_width(str(count))) // 2
    image_grid.write(cell, str(count), (CELL - LINE) // 2, x, PAPER if share > 0.5 else INK)
    return cell


def neighbours_page(
    images: np.ndarray,
    neighbours: np.ndarray,
    similarity: np.ndarray,
    names: Sequence[str],
    header: str,
) -> np.ndarray:
    """A row a query: the image, then those whose embeddings are the most similar, best first.

    Args:
        images: uint8 (N, H, W, C).
        neighbours: numbers of images (queries, 1 + neighbours), a row's first the query itself.
        similarity: cosines, of the same shape.
    """
    rows = [[as_rgb(images[number]) for number in row] for row in neighbours]
    captions = []
    for row, cosines in zip(neighbours, similarity, strict=True):
        cosine_text = ", ".join(f"{cosine:.4f}" for cosine in cosines[1:])
        captions.append([f"{names[row[0]]}: cosine {cosine_text}"])
    titles = ["query", *(f"neighbour {rank}" for rank in range(1, neighbours.shape[1]))]
    scale = image_grid.panel_scale(*images.shape[1:3], least=128, most=160)
    return draw_page(rows, titles, captions, [header], scale)


@dataclass(frozen=True)
class Sample:
    """What training sees of one image.

    Attributes:
        place: its batch in the epoch and its place there, from 1, in words.
        origin: its file; with on_bad_image='skip' also the one that it stands in for.
        transform: the class of its transform, in words.
        images: see `PretextDataset`.
    """

    place: str
    origin: str
    transform: str
    images: dict

    @cached_property
    def weight(self) -> np.ndarray:
        """The inpainting weight M of each pixel, float32 (H, W) in 0..1, the mean of its bands."""
        anchor, occluded = (self.images[key].astype(np.int16) for key in ("anchor", "occluded"))
        return np.abs(anchor - occluded).mean(axis=2, dtype=np.float32) / 255

    @property
    def covered(self) -> float:
        """Share of the image that the block covers: the rectangle of the changed pixels."""
        mask = self.weight > 0
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        return (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / mask.size if len(rows) else 0.0


def class_names(dataset: PretextDataset) -> list[str]:
    """The classes of the transform prediction, as the config calls them."""
    return list(dataset.settings.agr_transforms_cfg["transforms_cfg"])


def first_samples(
    dataset: PretextDataset, settings: LoopSettings, epoch: int, count: int
) -> list[Sample]:
    """The first `count` samples of an epoch in the order in which training takes them.

    Raises:
        UserError: fewer images than a step takes, an epoch that the run does not have, more samples
            than an epoch has.
    """
    batch_size, parts = settings.batch_size, settings.accumulate_steps
    require_images(len(dataset), batch_size, parts)
    plan = make_plan(len(dataset), batch_size * parts, settings.num_epoch, settings.num_step, None)
    epochs = -(-plan.total // plan.per_epoch)
    if not 0 <= epoch < epochs:
        raise UserError(f"--epoch {epoch}: the run has the epochs 0 to {epochs - 1}")
    batches = plan.per_epoch * parts
    if not 1 <= count <= batches * batch_size:
        raise UserError(f"--samples {count}: an epoch has 1 to {batches * batch_size} samples")
    sampler = KeySampler(
        len(dataset), batch_size, batches, epoch * batches, (epoch + 1) * batches, dataset.seed
    )
    names = class_names(dataset)
    samples = []
    for number, key in enumerate(itertools.islice(itertools.chain.from_iterable(sampler), count)):
        images, place = dataset[key], divmod(number, batch_size)
        origin = Path(dataset.name(images["index"])).name
        if images["skipped"]:
            original = Path(dataset.name(key[1])).name
            origin += f" (in place of {original}, which cannot be read)"
        place = f"batch {place[0] + 1}, {place[1] + 1}"
        samples.append(Sample(place, origin, names[images["transform_label"]], images))
    return samples


def draw_samples(samples: Sequence[Sample], bands: int, title: str) -> np.ndarray:
    """A page with a row a sample: occluded, anchor, transformed, M, which is scaled so that the
    largest value of the row is white."""
    side = len(samples[0].weight)
    scale = image_grid.panel_scale(side, side)
    shown = "s" if bands == 3 else "s (1, 2, 3 are shown)" if bands > 3 else ", in grey"
    subtitle = (
        f"{side} x {side} pixels, {bands} band{shown}, 0 to 255; "
        f"{image_grid.describe_scale(scale)}. M is the mean of the bands, 0 to 1; white is the "
        f"largest of its row"
    )
    panels, captions = [], []
    for sample in samples:
        peak = float(sample.weight.max())
        row = [as_rgb(sample.images[key]) for key in ("occluded", "anchor", "transformed")]
        panels.append([*row, as_rgb(sample.weight, peak or 1.0)])
        white = f"white = {peak:.2f}" if peak else "0 everywhere: nothing to restore"
        transform = f"{sample.transform} (class {sample.images['transform_label']})"
        columns = (f"the block covers {sample.covered:.1%}", "", transform, white)
        captions.append([f"{sample.place}   {sample.origin}", columns])
    return draw_page(panels, TITLES, captions, [title, subtitle], scale)


def describe(samples: Sequence[Sample], dataset: PretextDataset) -> list[str]:
    """Lines of text of samples of `dataset`: the files, the block, values of each band, transforms
    drawn; and warnings of what no training can use."""
    lines = [
        f"{sample.place}: {sample.origin}, {sample.transform}, block {sample.covered:.1%}, "
        f"M at most {sample.weight.max():.2f}"
        for sample in samples
    ]
    for text, shares in (
        ("the block covers", [sample.covered for sample in samples]),
        ("M is above 0 on", [(sample.weight > 0).mean() for sample in samples]),
    ):
        span = f"{min(shares):.1%} to {max(shares):.1%}"
        lines.append(f"{text} {span} of an image, mean {np.mean(shares):.1%}")
    anchors = np.stack([sample.images["anchor"] for sample in samples])
    for band, values in enumerate(np.moveaxis(anchors, 3, 0)):
        summary = f"min {values.min()}, mean {values.mean():.1f}, max {values.max()} of 255"
        lines.append(f"band {band + 1} of the anchors: {summary}")
    counts = Counter(sample.transform for sample in samples)
    lines.append(
        f"transforms: {', '.join(f'{name} {counts[name]}' for name in class_names(dataset))}"
    )
    empty = [sample.place for sample in samples if not sample.covered]
    if empty:
        lines.append(
            f"warning: M is 0 everywhere in {len(empty)} of {len(samples)} samples, first "
            f"{empty[0]}: images of one colour teach the inpainting nothing; exclude them"
        )
    if fault := fault_of_values(list(map(levels, anchors)), dataset.reading.is_scaled):
        files = list(dict.fromkeys(str(dataset.name(x.images["index"])) for x in samples))
        lines.append(f"warning: {fault}; {remedy_of_values(dataset.reading, files)}")
    return lines
