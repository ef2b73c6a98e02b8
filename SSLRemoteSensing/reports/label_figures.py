"""Tiles with their labels laid over them, and the shares of the classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import count_labels, count_values
from SSLRemoteSensing.data.segmentation import SegmentationDataset
from SSLRemoteSensing.reports.image_grid import (
    LINE,
    MARGIN,
    Grid,
    as_rgb,
    describe_scale,
    panel_scale,
    sized,
    text_width,
    write,
)

TITLES = ("image", "label", "overlay")
OPACITY = 0.4  # of the label over its image
STRIPES = 10  # pixels of the page from one line of the hatching to the next
SWATCH = 14  # side of a colour in the legend


@dataclass(frozen=True)
class Tile:
    """A tile as it is shown.

    Attributes:
        name: of its image file.
        image: uint8 (H, W, C).
        label: uint8 (H, W) of classes, 255 = not scored.
    """

    name: str
    image: np.ndarray
    label: np.ndarray


def count_classes(dataset: SegmentationDataset) -> np.ndarray:
    """Pixels of each class, and not scored at [..., -1], of every tile: int64 (tiles, classes + 1).

    Reads every label.

    Raises:
        UserError: a label that cannot be read, or with a value that is no class.
    """

    labels = [label for _, label in dataset.pairs]
    counts = count_labels(dataset.read_label, labels, "counting labels")
    return counts[:, [*range(dataset.num_classes), IGNORE]]


def choose_tiles(counts: np.ndarray, count: int, seed: int | None, number: int | None) -> list[int]:
    """Indices of at most `count` tiles, in order: evenly spread, or with a seed drawn by it.

    Args:
        counts: see `count_classes`.
        number: only tiles with a pixel of this class; there must be one.
    """
    tiles = np.arange(len(counts)) if number is None else np.flatnonzero(counts[:, number])
    count = min(count, len(tiles))
    if seed is not None:
        return sorted(int(i) for i in np.random.default_rng(seed).permutation(tiles)[:count])
    spread = np.linspace(0, len(tiles) - 1, count) if count > 1 else [(len(tiles) - 1) // 2]
    return [int(tiles[i]) for i in np.rint(spread).astype(int)]


def read_tiles(dataset: SegmentationDataset, indices: Sequence[int], augmented: bool) -> list[Tile]:
    """The tiles at the `indices`, from their files or as epoch 0 of training has them."""
    tiles = []
    for index in indices:
        if augmented:
            sample = dataset[(0, index)]
            image, label = sample["image"], sample["label"]
        else:
            image, label = dataset.read(index)
        tiles.append(Tile(Path(dataset.name(index)).name, image, label))
    return tiles


def overlay(image: np.ndarray, label: np.ndarray, palette: Sequence) -> np.ndarray:
    """R, G, B uint8 (H, W, 3): colours of the classes over the image, borders of a class in full.

    A border is a pixel with one of its four neighbours of another class. Pixels that are not scored
    show the image as it is.

    Args:
        image: R, G, B uint8 (H, W, 3).
        label: uint8 (H, W) of classes, 255 = not scored.
    """
    colours = colour_map(label, palette)
    blend = np.rint((1 - OPACITY) * image + OPACITY * colours).astype(np.uint8)
    border = np.zeros(label.shape, bool)
    for change, first, second in (
        (label[:-1] != label[1:], np.s_[:-1], np.s_[1:]),
        (label[:, :-1] != label[:, 1:], np.s_[:, :-1], np.s_[:, 1:]),
    ):
        border[first] |= change
        border[second] |= change
    blend[border] = colours[border]
    blend[label == IGNORE] = image[label == IGNORE]
    return blend


def hatch(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`picture` (H, W, 3) with white and black diagonal lines where the mask (H, W) is true."""
    y, x = np.ogrid[: where.shape[0], : where.shape[1]]
    phase = (y + x) % STRIPES
    result = picture.copy()
    for number, colour in enumerate((255, 0)):
        result[where & (phase // 2 == number)] = colour
    return result


def draw_tiles(
    tiles: Sequence[Tile],
    counts: np.ndarray,
    classes: Sequence[str],
    palette: Sequence,
    title: str,
) -> tuple[np.ndarray, Grid]:
    """A page with the legend and a row a tile: image, label, overlay; and where its panels stand.

    Args:
        counts: of all tiles of the part, see `count_classes`.
    """
    height, width = (max(tile.label.shape[axis] for tile in tiles) for axis in (0, 1))
    scale = panel_scale(height, width)
    panels, captions = [], []
    for tile in tiles:
        # What is thinned out is thinned out first: borders are then as wide as a pixel is shown.
        image, label = tile.image, tile.label
        if scale < 0:
            image, label = sized(image, scale), sized(label, scale)
        times = max(1, scale)
        image = as_rgb(image)
        mask = sized(label == IGNORE, times)
        pictures = [colour_map(label, palette), overlay(image, label, palette)]
        hatchings = [hatch(sized(picture, times), mask) for picture in pictures]
        panels.append([sized(image, times), *hatchings])
        captions.append([tile.name, contents(tile, classes)])
    legend = class_table(tiles, counts, classes)
    header = [f"{title}; {describe_scale(scale)}", *[""] * (len(legend) + 1)]
    panel = tuple(max(row[0].shape[axis] for row in panels) for axis in (0, 1))
    grid = Grid(*panel, len(tiles), len(TITLES), header=len(header), captions=2)
    page = grid.draw(panels, TITLES, captions, header)
    draw_legend(page, MARGIN + LINE, legend, [*palette, None])
    return page, grid


def contents(tile: Tile, classes: Sequence[str]) -> str:
    """The classes of a tile with their shares of its pixels, the largest first."""
    counts = count_values(tile.label) / tile.label.size
    shares = sorted(zip(counts, [*classes], strict=False), key=lambda pair: -pair[0])
    texts = [f"{name} {share:.1%}" for share, name in shares if share]
    return ", ".join(texts + ([f"not scored {counts[IGNORE]:.1%}"] if counts[IGNORE] else []))


def class_table(
    tiles: Sequence[Tile], counts: np.ndarray, classes: Sequence[str]
) -> list[list[str]]:
    """Rows of text: a heading, the classes, what is not scored.

    Columns: name; share of the labelled pixels of the whole part, and of the tiles shown; in how
    many tiles of the part there is a pixel of it. What is not scored is a share of all pixels.
    """
    tile_counts = sum(count_values(tile.label) for tile in tiles)
    tile_counts = np.append(tile_counts[: len(classes)], tile_counts[IGNORE])
    columns = []
    for total in (counts.sum(0), tile_counts):
        scored_pixels = max(1, total[:-1].sum())
        columns.append([f"{n / scored_pixels:.2%}" for n in total[:-1]])
        columns[-1].append(f"{total[-1] / max(1, total.sum()):.2%}")
    columns.append([f"{n} of {len(counts)}" for n in (counts > 0).sum(0)])
    heading = ["", "share of all", "of those shown", "in tiles"]
    return [heading, *map(list, zip([*classes, "not scored"], *columns, strict=True))]


def table_lines(tiles: Sequence[Tile], counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """`class_table` as lines of text, its columns below one another."""
    table = class_table(tiles, counts, classes)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        name, *figures = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(name)), *figures]))
    return lines


def draw_legend(page: np.ndarray, top: int, table: list[list[str]], colours: Sequence) -> None:
    """Draw `table`, of which each row but the heading has a colour; None is the hatching."""
    x = MARGIN + SWATCH + 8
    for column in zip(*table, strict=True):
        for number, text in enumerate(column):
            write(page, text, top + number * LINE, x)
        x += max(map(text_width, column)) + 24
    for number, colour in enumerate(colours):
        y = top + (number + 1) * LINE + 3
        swatch = np.full((SWATCH, SWATCH, 3), 0 if colour is None else colour, np.uint8)
        if colour is None:
            swatch = hatch(swatch, np.ones(swatch.shape[:2], bool))
        swatch[[0, -1]] = swatch[:, [0, -1]] = 128
        page[y : y + SWATCH, MARGIN : MARGIN + SWATCH] = swatch


def class_number(name: str, classes: Sequence[str], counts: np.ndarray) -> int:
    """The class called `name`.

    Raises:
        UserError: there is none, or no tile has a pixel of it.
    """
    if name not in classes:
        raise UserError(f"--with {name}: the classes are {', '.join(classes)}")
    number = list(classes).index(name)
    if not counts[:, number].any():
        raise UserError(f"--with {name}: none of the {len(counts)} tiles has a pixel of it")
    return number
