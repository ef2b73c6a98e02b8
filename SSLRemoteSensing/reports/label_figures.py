"""Tiles with their labels laid over them, and the shares of the classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import count_labels, count_values
from SSLRemoteSensing.data.segmentation import SegmentationDataset
from SSLRemoteSensing.reports import image_grid
from SSLRemoteSensing.reports.image_grid import LINE, MARGIN, as_rgb, sized

TITLES = ("image", "label", "overlay")
OPACITY = 0.4  # of the label over its image
STRIPES = 10  # pixels of the page from one line of the hatching to the next
SWATCH = 14  # side of a colour in the legend


class Tile(NamedTuple):
    """A tile by its file's name: image uint8 (H, W, C), label uint8 (H, W), 255 = not scored."""

    name: str
    image: np.ndarray
    label: np.ndarray


def count_classes(dataset: SegmentationDataset) -> np.ndarray:
    """Pixels of each class, and not scored at [..., -1], of every tile: int64 (tiles, classes + 1).

    Reads every label.

    Raises:
        UserError: a label that cannot be read, or with a value that is no class.
    """
    counts = count_labels(dataset.read_scored, dataset.pairs, "counting labels")
    return scored_counts(counts, dataset.num_classes)


def scored_counts(counts: np.ndarray, classes: int) -> np.ndarray:
    """Of counts (..., 256) of values those of the classes, and of what is not scored."""
    return counts[..., [*range(classes), IGNORE]]


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


def choose_tiles(counts: np.ndarray, count: int, seed: int | None, number: int | None) -> list[int]:
    """Indices of at most `count` tiles, in order: evenly spread, or with a seed drawn by it.

    Args:
        counts: see `count_classes`.
        number: only tiles with a pixel of this class; there must be one.
    """
    tiles = np.arange(len(counts)) if number is None else np.flatnonzero(counts[:, number])
    count = min(count, len(tiles))
    if seed is not None:
        return sorted(np.random.default_rng(seed).permutation(tiles)[:count].tolist())
    spread = np.linspace(0, len(tiles) - 1, count) if count > 1 else [(len(tiles) - 1) // 2]
    return tiles[np.rint(spread).astype(int)].tolist()


def read_tiles(dataset: SegmentationDataset, indices: Sequence[int], augmented: bool) -> list[Tile]:
    """The tiles at the `indices`, from their files or as epoch 0 of training has them."""
    names = [Path(dataset.pairs[index][0]).name for index in indices]
    if augmented:
        windows = dataset.windows
        keys = indices if windows is None else map(windows.first, indices)
        samples = (dataset[(0, key)] for key in keys)
        pairs = ((sample["image"], sample["label"]) for sample in samples)
    else:
        pairs = map(dataset.read, indices)
    return [Tile(name, *pair) for name, pair in zip(names, pairs, strict=True)]


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
    around = np.pad(label, 1, mode="edge")
    neighbours = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    border = np.any([label != neighbour for neighbour in neighbours], axis=0)
    blend[border] = colours[border]
    blend[label == IGNORE] = image[label == IGNORE]
    return blend


def hatch(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`picture` (H, W, 3) with white and black diagonal lines where the mask (H, W) is true."""
    phase = np.add.outer(*map(np.arange, where.shape)) % STRIPES
    result = picture.copy()
    result[where & (phase < 2)] = 255
    result[where & (phase // 2 == 1)] = 0
    return result


def draw_tiles(
    tiles: Sequence[Tile],
    table: Sequence[Sequence[str]],
    classes: Sequence[str],
    palette: Sequence,
    title: str,
) -> np.ndarray:
    """A page with `class_table` as legend and a row a tile: image, label, overlay."""
    scale = image_grid.panel_scale(*np.max([tile.label.shape for tile in tiles], axis=0))
    panels, captions = [], []
    for tile in tiles:
        # What is thinned out is thinned out first: borders are then as wide as a pixel is shown.
        image, label = (sized(pixels, min(scale, 1)) for pixels in (tile.image, tile.label))
        image = as_rgb(image)
        pictures = image, colour_map(label, palette), overlay(image, label, palette)
        pictures = [sized(picture, max(1, scale)) for picture in pictures]
        mask = sized(label == IGNORE, max(1, scale))
        panels.append([pictures[0], *(hatch(picture, mask) for picture in pictures[1:])])
        captions.append([tile.name, contents(tile, classes)])
    header = [f"{title}; {image_grid.describe_scale(scale)}", *[""] * (len(table) + 1)]
    page = image_grid.draw_page(panels, TITLES, captions, header)
    draw_legend(page, MARGIN + LINE, table, palette)
    return page


def contents(tile: Tile, classes: Sequence[str]) -> str:
    """The classes of a tile with their shares of its pixels, the largest first."""
    *shares, rest = scored_counts(count_values(tile.label), len(classes)) / tile.label.size
    pairs = sorted(zip(shares, classes, strict=True), key=lambda pair: -pair[0])
    return ", ".join(
        f"{name} {share:.1%}" for share, name in [*pairs, (rest, "not scored")] if share
    )


def class_table(
    tiles: Sequence[Tile], counts: np.ndarray, classes: Sequence[str]
) -> list[list[str]]:
    """Rows of text: a heading, the classes, what is not scored.

    Columns: name; share of the labelled pixels of the whole part, and of the tiles shown; in how
    many tiles of the part there is a pixel of it. What is not scored is a share of all pixels.

    Args:
        counts: of all tiles of the part, see `count_classes`.
    """
    shown = scored_counts(sum(count_values(tile.label) for tile in tiles), len(classes))
    columns = []
    for *labelled, rest in (counts.sum(0), shown):
        total = sum(labelled)
        shares = [*(pixels / max(1, total) for pixels in labelled), rest / max(1, total + rest)]
        columns.append([f"{share:.2%}" for share in shares])
    columns.append([f"{n} of {len(counts)}" for n in (counts > 0).sum(0)])
    heading = ["", "share of all", "of those shown", "in tiles"]
    return [heading, *map(list, zip([*classes, "not scored"], *columns, strict=True))]


def table_lines(table: Sequence[Sequence[str]]) -> list[str]:
    """`class_table` as lines of text, its columns below one another."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]


def draw_legend(
    page: np.ndarray, top: int, table: Sequence[Sequence[str]], palette: Sequence
) -> None:
    """Draw `class_table`, beside each class its colour, and the hatching of what is not scored."""
    x = MARGIN + SWATCH + 8
    for column in zip(*table, strict=True):
        for number, text in enumerate(column):
            image_grid.write(page, text, top + number * LINE, x)
        x += max(map(image_grid.text_width, column)) + 24
    swatches = np.zeros((len(palette) + 1, SWATCH, SWATCH, 3), np.uint8)
    swatches[:-1] = np.array(palette)[:, None, None]
    swatches[-1] = hatch(swatches[-1], np.ones((SWATCH, SWATCH), bool))
    swatches[:, [0, -1]] = swatches[:, :, [0, -1]] = 128
    for number, swatch in enumerate(swatches):
        y = top + (number + 1) * LINE + 3
        page[y : y + SWATCH, MARGIN : MARGIN + SWATCH] = swatch
