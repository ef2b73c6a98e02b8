"""What all know of class maps: 255 = not scored, and the colours of classes."""

import re
from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np

from SSLRemoteSensing.core.drawing import plain_figures

IGNORE = 255  # in a label: not scored

NOT_SCORED = (0, 0, 0)
ALIKE = 60  # distance of two colours R, G, B that a map does not tell apart


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


# What maps usually show things in, by words in the names of classes.
USUAL = {
    "water": (38, 104, 190), "sea": (38, 104, 190), "river": (38, 104, 190),
    "flood": (90, 160, 215),
    "low vegetation": (150, 200, 90), "grass": (150, 200, 90), "crop": (220, 210, 90),
    "vegetation": (60, 145, 60), "tree": (20, 100, 45), "forest": (20, 100, 45),
    "impervious": (150, 150, 155), "road": (105, 105, 115), "building": (200, 60, 50),
    "built": (200, 60, 50), "roof": (200, 60, 50), "house": (200, 60, 50),
    "settlement": (225, 130, 70), "barren": (205, 175, 125), "bare": (205, 175, 125),
    "sand": (235, 215, 160), "land": (205, 175, 125), "snow": (200, 230, 240),
    "ice": (200, 230, 240),
    "cloud": (245, 245, 245), "shadow": (55, 50, 75), "car": (250, 205, 40),
    "other": (225, 225, 225), "background": (225, 225, 225), "clutter": (160, 60, 160),
}  # fmt: skip


def usual_palette(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """A colour for each class, R, G, B, no two equal: that of a word in its name, the longest that
    is known, or else one of `default_palette`, which is unlike these as long as there is one."""
    palette: list[tuple[int, int, int] | None] = []
    for name in classes:
        text = name.lower().replace("_", " ")
        words = [word for word in USUAL if re.search(rf"\b{word}(?:s|es)?\b", text)]
        words.sort(key=len, reverse=True)
        colours = [USUAL[word] for word in words if USUAL[word] not in palette]
        palette.append(colours[0] if colours else None)
    known = [colour for colour in palette if colour is not None]
    others = [c for c in default_palette(2 * len(classes) + 1)[1:] if c not in known]
    others.sort(key=lambda c: any(np.hypot.reduce(np.subtract(c, x)) < ALIKE for x in known))
    others = iter(others)
    return [next(others) if colour is None else colour for colour in palette]


def colour_map(classes: np.ndarray, palette: Sequence) -> np.ndarray:
    """A map of class indices (H, W), 255 = not scored, as R, G, B (H, W, 3)."""
    lookup = np.zeros((256, 3), np.uint8)
    lookup[: len(palette)] = palette
    lookup[IGNORE] = NOT_SCORED
    return lookup[classes]
