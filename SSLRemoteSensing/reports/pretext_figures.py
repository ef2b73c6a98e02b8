"""Pages that show what pre-training begins with and has learnt, as R, G, B pixels."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import PretextDataset
from SSLRemoteSensing.reports.image_grid import (
    INK,
    LINE,
    MARGIN,
    PAPER,
    Grid,
    as_rgb,
    describe_scale,
    fitted,
    panel_scale,
    sized,
    text_width,
    write,
)
from SSLRemoteSensing.training.plan import make_plan, require_images
from SSLRemoteSensing.training.sampler import KeySampler
from SSLRemoteSensing.training.settings import LoopSettings

WHITE = 0.5  # the error that is drawn white, of a range of 1
BLUE = (8, 48, 107)
CELL = 64  # pixels
TITLES = ("occluded", "anchor", "transformed", "M = abs(anchor - occluded)")
DARK = 64  # of 255; below it all that is shown looks black


def inpainting_grid(size: int, rows: int) -> Grid:
    """Where the panels of `inpainting_page` stand, of images of `size` pixels."""
    side = sized(np.empty((size, size)), panel_scale(size, size, least=128)).shape[0]
    return Grid(side, side, rows, columns=4, header=1)


def inpainting_page(
    occluded: np.ndarray, prediction: np.ndarray, anchor: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """A row an image: occluded, prediction, anchor, and the error where the image was distorted.

    Args:
        occluded, anchor: uint8 (N, H, W, C), H = W.
        prediction: float (N, H, W, C), 0..1 where it is right; shown clipped to that.
        names: what to call each image.
    """
    size = anchor.shape[1]
    grid, scale = inpainting_grid(size, len(names)), panel_scale(size, size, least=128)
    rows, captions = [], []
    for image, guess, target, name in zip(occluded, prediction, anchor, names, strict=True):
        weight = np.abs(target.astype(np.float32) - image) / 255
        error = np.abs(guess - target.astype(np.float32) / 255)
        mean = float((error * weight).sum() / (weight.sum() + 1e-6))
        error_map = np.where(weight.any(axis=2), error.mean(axis=2), 0)
        row = as_rgb(image), as_rgb(guess), as_rgb(target), as_rgb(error_map, white=WHITE)
        rows.append([sized(picture, scale) for picture in row])
        captions.append([f"{name}: weighted error {mean:.3f}"])
    titles = ["occluded", "prediction", "anchor", f"error, white = {WHITE}"]
    return grid.draw(rows, titles, captions, ["the loss counts the distorted block alone"])


def transforms_page(counts: np.ndarray, names: Sequence[str], header: str) -> np.ndarray:
    """The confusion matrix `counts` (K, K): rows true, columns predicted transform.

    A cell's blue is its share of the row; the number of images stands in it.
    """
    names = [f"{number} {name}" for number, name in enumerate(names)]
    left = MARGIN + max(text_width(name) for name in names) + MARGIN
    top = MARGIN + 3 * LINE
    side = CELL * len(names)
    width = max(left + side + MARGIN, 2 * MARGIN + text_width(header))
    page = np.full((top + side + MARGIN, width, 3), PAPER, np.uint8)
    right = int(np.trace(counts))
    write(page, fitted(header, width - 2 * MARGIN), MARGIN, MARGIN)
    subtitle = f"right: {right} of {int(counts.sum())}; rows true, columns predicted"
    write(page, fitted(subtitle, width - 2 * MARGIN), MARGIN + LINE, MARGIN)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    paper, blue = np.array(PAPER, float), np.array(BLUE, float)
    for row, column in np.ndindex(counts.shape):
        y, x = top + row * CELL, left + column * CELL
        share = shares[row, column]
        page[y : y + CELL - 1, x : x + CELL - 1] = np.rint(paper + share * (blue - paper))
        text = str(int(counts[row, column]))
        colour = PAPER if share > 0.5 else INK
        write(page, text, y + (CELL - LINE) // 2, x + (CELL - text_width(text)) // 2, colour)
    for number, name in enumerate(names):
        write(page, name, top + number * CELL + (CELL - LINE) // 2, MARGIN)
        short = str(number)
        write(page, short, top - LINE, left + number * CELL + (CELL - text_width(short)) // 2)
    return page


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
    scale = panel_scale(*images.shape[1:3], least=128, most=160)
    side = sized(images[0], scale).shape[:2]
    rows = [[sized(as_rgb(images[number]), scale) for number in row] for row in neighbours]
    captions = []
    for row, cosines in zip(neighbours, similarity, strict=True):
        cosine_text = ", ".join(f"{cosine:.4f}" for cosine in cosines[1:])
        captions.append([f"{names[row[0]]}: cosine {cosine_text}"])
    titles = ["query", *(f"neighbour {rank}" for rank in range(1, neighbours.shape[1]))]
    grid = Grid(*side, rows=len(rows), columns=len(titles), header=1)
    return grid.draw(rows, titles, captions, [header])


@dataclass(frozen=True)
class Sample:
    """What training sees of one image.

    Attributes:
        batch, place: its batch in the epoch and its place there, from 1.
        index: the file that the epoch's order names; with on_bad_image='skip' the sample may be of
            another one, `images['index']`.
        images: see `PretextDataset`.
    """

    batch: int
    place: int
    index: int
    images: dict

    @property
    def weight(self) -> np.ndarray:
        """The inpainting weight M of each pixel, float32 (H, W) in 0..1, the mean of its bands."""
        anchor, occluded = (self.images[key].astype(np.int16) for key in ("anchor", "occluded"))
        return np.abs(anchor - occluded).mean(axis=2, dtype=np.float32) / 255

    @property
    def changed(self) -> float:
        """Share of the pixels where M is above 0."""
        return float((self.weight > 0).mean())

    @property
    def covered(self) -> float:
        """Share of the image that the block covers: the rectangle of the changed pixels."""
        mask = self.weight > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return 0.0
        return float(np.ptp(rows) + 1) * float(np.ptp(columns) + 1) / mask.size


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
    length = settings.num_epoch, settings.num_step
    plan = make_plan(len(dataset), batch_size * parts, *length, None)
    epochs = -(-plan.total // plan.per_epoch)
    if not 0 <= epoch < epochs:
        raise UserError(f"--epoch {epoch}: the run has the epochs 0 to {epochs - 1}")
    batches = plan.per_epoch * parts
    if not 1 <= count <= batches * batch_size:
        raise UserError(f"--samples {count}: an epoch has 1 to {batches * batch_size} samples")
    sampler = KeySampler(
        len(dataset), batch_size, batches, epoch * batches, (epoch + 1) * batches, dataset.seed
    )
    keys = itertools.chain.from_iterable(sampler)
    return [
        Sample(number // batch_size + 1, number % batch_size + 1, key[1], dataset[key])
        for number, key in enumerate(itertools.islice(keys, count))
    ]


def class_names(train_cfg: dict) -> list[str]:
    """The classes of the transform prediction, as the config calls them."""
    return list(train_cfg["train_data"]["agr_transforms_cfg"]["transforms_cfg"])


def draw_samples(
    samples: Sequence[Sample], dataset: PretextDataset, classes: Sequence[str], title: str
) -> tuple[np.ndarray, Grid]:
    """A page with a row a sample: occluded, anchor, transformed, M; and where its panels stand.

    M is scaled so that the largest value of the row is white.
    """
    side = dataset.settings.img_size
    scale = panel_scale(side, side)
    header = [
        title,
        f"{side} x {side} pixels, {describe_bands(dataset.in_channels)}, 0 to 255; "
        f"{describe_scale(scale)}. M is the mean of the bands, 0 to 1; white is the largest of its "
        f"row",
    ]
    panels, captions = [], []
    for sample in samples:
        images, weight = sample.images, sample.weight
        peak = float(weight.max())
        rows = [as_rgb(images[key]) for key in ("occluded", "anchor", "transformed")]
        rows.append(as_rgb(weight, peak or 1.0))
        panels.append([sized(picture, scale) for picture in rows])
        number = images["transform_label"]
        lines = (
            f"the block covers {sample.covered:.1%}",
            "",
            f"{classes[number]} (class {number})",
            f"white = {peak:.2f}" if peak else "0 everywhere: nothing to restore",
        )
        captions.append([f"{where(sample)}   {origin(sample, dataset)}", lines])
    grid = Grid(*panels[0][0].shape[:2], len(panels), len(TITLES), header=len(header), captions=2)
    return grid.draw(panels, TITLES, captions, header), grid


def describe_bands(count: int) -> str:
    """How many bands there are, and which of them `as_rgb` shows."""
    if count == 3:
        return "3 bands"
    return f"{count} bands (1, 2, 3 are shown)" if count > 3 else f"{count} band, in grey"


def where(sample: Sample) -> str:
    return f"batch {sample.batch}, {sample.place}"


def origin(sample: Sample, dataset: PretextDataset) -> str:
    """The file a sample is of, and the one it stands for where that cannot be read."""
    name = Path(dataset.name(sample.images["index"])).name
    if not sample.images["skipped"]:
        return name
    return f"{name} (in place of {Path(dataset.name(sample.index)).name}, which cannot be read)"


def describe(
    samples: Sequence[Sample], dataset: PretextDataset, classes: Sequence[str]
) -> list[str]:
    """Lines of text: the files, the block, values of each band, transforms drawn; and warnings of
    what no training can use."""
    lines = []
    for sample in samples:
        transform = classes[sample.images["transform_label"]]
        lines.append(
            f"{where(sample)}: {origin(sample, dataset)}, {transform}, block {sample.covered:.1%}, "
            f"M at most {sample.weight.max():.2f}"
        )
    for text, shares in (
        ("the block covers", [sample.covered for sample in samples]),
        ("M is above 0 on", [sample.changed for sample in samples]),
    ):
        mean = sum(shares) / len(shares)
        span = f"{min(shares):.1%} to {max(shares):.1%}"
        lines.append(f"{text} {span} of an image, mean {mean:.1%}")
    anchors = np.stack([sample.images["anchor"] for sample in samples])
    for band in range(anchors.shape[3]):
        values = anchors[..., band]
        summary = f"min {values.min()}, mean {values.mean():.1f}, max {values.max()} of 255"
        lines.append(f"band {band + 1} of the anchors: {summary}")
    counts = Counter(sample.images["transform_label"] for sample in samples)
    transforms = ", ".join(f"{name} {counts[number]}" for number, name in enumerate(classes))
    lines.append(f"transforms: {transforms}")
    empty = [where(sample) for sample in samples if not sample.covered]
    if empty:
        lines.append(
            f"warning: M is 0 everywhere in {len(empty)} of {len(samples)} samples, first "
            f"{empty[0]}: images of one colour teach the inpainting nothing; exclude them"
        )
    if anchors.max() < DARK:
        lines.append(
            f"warning: no value is above {anchors.max()} of 255; set max_value of train_data to "
            "the value that is to become 255"
        )
    return lines
