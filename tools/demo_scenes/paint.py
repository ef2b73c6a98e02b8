"""The maps a drawn town is painted on, and its ground.

Everything is painted from the ground up into four maps of one size, so that each pixel ends with
the material that is visible from above. Lengths are metres. A `frame` maps (n, 2) points in
metres to (n, 2) pixels x, y: a street's, a parcel's; objects stand at (s, t) of a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

Frame = Callable[[np.ndarray], np.ndarray]

ASPHALT, PAVING, LAWN, BED, ROOF, CROWN, CAR, THING, SOIL = range(9)
LABEL_OF = np.uint8([0, 0, 2, 2, 1, 3, 4, 5, 5])  # ISPRS class of each material

# Reflectance R, G, B, NIR of pavements, of earth, of flat roofs.
STREET, STONE, EARTH = (112, 112, 113, 110), (146, 141, 134, 145), (148, 128, 102, 156)
FLAT = [(150, 148, 143, 148), (98, 98, 99, 96), (176, 175, 171, 172), (122, 120, 116, 120)]


@dataclass
class Town:
    """What is painted so far, and what the whole scene has in common."""

    rng: np.random.Generator
    metres: float  # ground sampling distance
    image: np.ndarray  # (h, w, 4) uint8: R, G, B, NIR as reflected in full, level light
    material: np.ndarray  # (h, w) uint8
    height: np.ndarray  # (h, w) float32, metres above ground
    tone: np.ndarray  # (h, w) uint8: wear and stains of the ground, 128 is none
    sun: np.ndarray  # (2,) unit vector in pixels, towards the sun
    cot: float  # length of a shadow over the height that casts it
    lawn: np.ndarray  # (4,)
    leaf: np.ndarray  # (4,)
    roofs: np.ndarray  # (n, 4)
    crowns: list[np.ndarray]  # shapes to draw trees with, see `crown_shapes`
    twigs: list[np.ndarray]  # see `twig_shapes`
    bare: float  # share of trees without leaves
    trees: list = field(default_factory=list)  # (x, y pixels, radius, height), drawn last


def colour(town: Town, base, spread: float = 0.06) -> np.ndarray:
    """`base` (R, G, B, NIR), lighter or darker, warmer or cooler."""
    light, warm = town.rng.normal(1, spread), town.rng.normal(0, spread / 3)
    return np.clip(np.multiply(base, light) * (1 + warm * np.array((1, 0.1, -1, 0.6))), 5, 245)


def box(s0: float, t0: float, s1: float, t1: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle."""
    return np.array([(s0, t0), (s1, t0), (s1, t1), (s0, t1)], float)


def rounded(s0: float, t0: float, s1: float, t1: float, radius: float) -> np.ndarray:
    """Outline (n, 2) of a rectangle with round corners."""
    angle = np.linspace(0, np.pi / 2, 7)
    middles = box(s0 + radius, t0 + radius, s1 - radius, t1 - radius)
    turns = (np.pi, 1.5 * np.pi, 0, 0.5 * np.pi)
    arcs = [
        middle + radius * np.stack([np.cos(angle + turn), np.sin(angle + turn)], 1)
        for middle, turn in zip(middles, turns, strict=True)
    ]
    return np.concatenate(arcs)


def blob(town: Town, s: float, t: float, radius: float, rough: float = 0.2) -> np.ndarray:
    """Outline (24, 2) of an irregular round patch."""
    angle = np.arange(24) * np.pi / 12
    phase = town.rng.uniform(0, 6.3, 3)
    wave = sum(np.sin(angle * (k + 2) + phase[k]) / (k + 1.5) for k in range(3))
    reach = radius * (1 + rough * wave)
    return np.stack([s + reach * np.cos(angle), t + reach * np.sin(angle)], 1)


def outline(frame: Frame, points: np.ndarray) -> np.ndarray:
    """Pixels x, y * 8 int32 of a closed polygon; long edges follow the bend of the streets."""
    after = np.roll(points, -1, 0)
    parts = np.maximum(1, np.ceil(np.hypot(*(after - points).T) / 4)).astype(int)
    index = np.repeat(np.arange(len(points)), parts)
    share = np.concatenate([np.arange(n) / n for n in parts])[:, None]
    return np.int32(np.round(frame(points[index] * (1 - share) + after[index] * share) * 8))


def paint(town: Town, frame: Frame, points, fill, material: int, height: float = 0.0) -> None:
    """A polygon (n, 2) of one colour (4,), material and height."""
    pixels = outline(frame, np.asarray(points, float))
    low, high = pixels.min(0) / 8, pixels.max(0) / 8
    if (high < 0).any() or (low > town.material.shape[::-1]).any():
        return
    cv2.fillPoly(town.image, [pixels], [float(c) for c in fill], shift=3)
    cv2.fillPoly(town.material, [pixels], material, shift=3)
    cv2.fillPoly(town.height, [pixels], height, shift=3)


def stain(town: Town, frame: Frame, points, tone: float) -> None:
    """Make a polygon of asphalt or paving `tone` times as bright."""
    cv2.fillPoly(town.tone, [outline(frame, np.asarray(points, float))], 128 * tone, shift=3)


def patch(town: Town, frame: Frame, s: float, t: float, a: float, b: float, turn: float = 0.0):
    """The pixels around a rectangle of half sides a, b centred at (s, t).

    Returns the window (a pair of slices) and each pixel's own x along a, y along b in metres; or
    None when it lies outside.
    """
    (x, y), ahead = frame(np.array([(s, t), (s + 0.5, t)]))
    angle = np.arctan2(ahead[1] - y, ahead[0] - x) + turn
    c, n = float(np.cos(angle)), float(np.sin(angle))  # Python's, to stay in float32
    across = (abs(a * c) + abs(b * n)) / town.metres + 2
    down = (abs(a * n) + abs(b * c)) / town.metres + 2
    h, w = town.material.shape
    x0, x1 = max(0, int(x - across)), min(w, int(x + across) + 1)
    y0, y1 = max(0, int(y - down)), min(h, int(y + down) + 1)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    dx = np.float32((np.arange(x0, x1) - x) * town.metres)[None]
    dy = np.float32((np.arange(y0, y1) - y) * town.metres)[:, None]
    return (slice(y0, y1), slice(x0, x1)), dx * c + dy * n, dy * c - dx * n


def is_free(town: Town, frame: Frame, s, t, a, b, on: tuple[int, ...], turn: float = 0.0) -> bool:
    """Whether the rectangle's visible part lies wholly on materials `on`."""
    spot = patch(town, frame, s, t, a, b, turn)
    if spot is None:
        return False
    window, x, y = spot
    inside = (np.abs(x) < a) & (np.abs(y) < b)
    return bool(np.isin(town.material[window][inside], on).all())


def facing(town: Town, z: np.ndarray) -> np.ndarray:
    """Direct light on a surface of heights z (h, w) metres over that on level ground."""
    z, scale = np.float32(z), 1 / (8 * town.metres)
    gx = cv2.Sobel(z, cv2.CV_32F, 1, 0, scale=scale, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(z, cv2.CV_32F, 0, 1, scale=scale, borderType=cv2.BORDER_REPLICATE)
    sun = np.float32(town.sun * town.cot)
    light = 1 - gx * sun[0] - gy * sun[1]
    return np.clip(light / np.sqrt(1 + gx * gx + gy * gy), 0, 1.6)


def grain(town: Town, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise (h, w) float32, about -1 to 1, with features of `cell` metres."""
    step = max(cell / town.metres, 1)
    coarse = town.rng.standard_normal([int(n / step) + 3 for n in shape], np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR) * 0.7


def put(town: Town, window, mask, colours, material: int, z) -> None:
    """Write colours (h, w, 4) and heights z (h, w) of an object where `mask`."""
    town.image[window][mask] = np.clip(colours[mask], 0, 255)
    town.material[window][mask] = material
    town.height[window][mask] = z[mask] if np.ndim(z) else z


def rectangle(x, y, x0: float, y0: float, a: float, b: float) -> np.ndarray:
    """Mask of a rectangle of half sides a, b in a patch."""
    return (np.abs(x - x0) < a) & (np.abs(y - y0) < b)
