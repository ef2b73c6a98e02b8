"""Tiles with the outlines that their labels were burnt from, for the eye."""

from collections.abc import Sequence

import cv2
import numpy as np

from SSLRemoteSensing.core.classes import IGNORE, default_palette
from SSLRemoteSensing.data.labels import count_values
from SSLRemoteSensing.preparation.outlined_tiles import OutlinedTile
from SSLRemoteSensing.reports import image_grid
from SSLRemoteSensing.reports.image_grid import LINE, MARGIN, as_rgb, panel_scale, sized
from SSLRemoteSensing.reports.label_figures import (
    Tile,
    contents,
    draw_legend,
    hatch,
    overlay,
    scored_counts,
)

TITLES = ("image", "outlines", "burnt label and outlines")
LEAST = 512  # pixels of a panel's side: lines must be thinner than a pixel of the tile
SHIFT = 4  # binary places of a pixel to which lines are drawn


def draw_outlines(tiles: Sequence[OutlinedTile], classes: Sequence[str], title: str) -> np.ndarray:
    """A page with a row a tile and the classes' colours, R, G, B uint8 (H, W, 3)."""
    palette = default_palette(len(classes))
    scale = panel_scale(*np.max([tile.label.shape for tile in tiles], axis=0), LEAST)
    panels, captions = [], []
    for tile in tiles:
        image, label = as_rgb(sized(tile.image, scale)), sized(tile.label, scale)
        burnt = hatch(overlay(image, label, palette), label == IGNORE)
        panels.append([image, draw_rings(image, tile, scale, palette),
                       draw_rings(burnt, tile, scale, palette)])  # fmt: skip
        captions.append([tile.name, contents(Tile(tile.name, tile.image, tile.label), classes)])
    shown = scored_counts(sum(count_values(tile.label) for tile in tiles), len(classes))
    shares = [f"{count / shown.sum():.2%}" for count in shown]
    table = [["", "of these tiles"], *map(list, zip([*classes, "not scored"], shares, strict=True))]
    header = [f"{title}; {image_grid.describe_scale(scale)}", *[""] * (len(table) + 1)]
    page = image_grid.draw_page(panels, TITLES, captions, header)
    draw_legend(page, MARGIN + LINE, table, palette)
    return page


def draw_rings(
    picture: np.ndarray, tile: OutlinedTile, scale: int, palette: Sequence
) -> np.ndarray:
    """`picture` of the tile, `sized` by `scale`, with its outlines in the classes' colours on a
    dark line; what is not scored has white ones."""
    result, factor = picture.copy(), scale if scale > 0 else -1 / scale
    lines = [
        # OpenCV counts from the middle of the first pixel.
        (value, np.rint((points * factor - 0.5) * 2**SHIFT).astype(np.int32))
        for value, points in tile.rings
    ]
    for width, is_dark in ((4, True), (2, False)):
        for value, points in lines:
            colour = (255, 255, 255) if value == IGNORE else tuple(map(int, palette[value]))
            colour = (0, 0, 0) if is_dark else colour
            cv2.polylines(result, [points], False, colour, width, cv2.LINE_AA, SHIFT)
    return result
