"""What all know of class maps: 255 = not scored, and the colours of classes."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np

from SSLRemoteSensing.core.drawing import plain_figures

IGNORE = 255  # in a label: not scored

NOT_SCORED = (0, 0, 0)


@plain_figures()
def default_palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Distinct colours, R, G, B, the first of them a light grey for the background."""
    from matplotlib import colormaps

    colours = list(colormaps["tab20"].colors)
    for number in range(num_classes - 1 - len(colours)):
        # The golden ratio puts each hue where the largest gap is.
        hue, turn = number * 0.618034 % 1, number // 12 % 3
        colours.append(hsv_to_rgb(hue, (1.0, 0.6, 0.9)[turn], (0.75, 0.95, 0.45)[turn]))
    palette = [tuple(round(255 * part) for part in colour) for colour in colours]
    return [(225, 225, 225), *palette[: num_classes - 1]]


def colour_map(classes: np.ndarray, palette: Sequence) -> np.ndarray:
    """A map of class indices (H, W), 255 = not scored, as R, G, B (H, W, 3)."""
    lookup = np.zeros((256, 3), np.uint8)
    lookup[: len(palette)] = palette
    lookup[IGNORE] = NOT_SCORED
    return lookup[classes]
