"""Trees and hedges of a drawn town."""

import cv2
import numpy as np

from demo_scenes.paint import (
    BED,
    CROWN,
    LAWN,
    SOIL,
    Frame,
    Town,
    colour,
    facing,
    grain,
    patch,
    put,
)


def crown_shapes(rng: np.random.Generator, size: int = 160) -> list[np.ndarray]:
    """Tree crowns (size, size) float32: height 0 to 1 over the crown's base, 0 outside."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    shapes = []
    for lobes in range(6):
        crown = np.zeros((size, size), np.float32)
        lean, turn = rng.normal(0, 0.12, 2), rng.uniform(0, 6.3)
        for _ in range(170):
            far, angle = np.sqrt(rng.random()) * 0.78, rng.uniform(0, 6.283)
            far *= 1 + 0.16 * np.sin((2 + lobes % 4) * angle + turn)
            radius = rng.gamma(9, 0.013)
            cx, cy = far * np.cos(angle), far * np.sin(angle)
            inward = (cx - lean[0]) ** 2 + (cy - lean[1]) ** 2
            base = 1 - np.sqrt(inward) if lobes == 5 else 0.9 - 0.85 * inward  # the last is a fir
            base *= rng.uniform(0.7, 1)
            i0, i1 = (int((cy + d + 1) / 2 * size) for d in (-radius, radius))
            j0, j1 = (int((cx + d + 1) / 2 * size) for d in (-radius, radius))
            part = (slice(max(i0, 0), i1 + 2), slice(max(j0, 0), j1 + 2))
            ball = np.float32(radius**2) - (x[part] - cx) ** 2 - (y[part] - cy) ** 2
            ball = np.where(ball > 0, base - radius + np.sqrt(np.maximum(ball, 0)), 0)
            crown[part] = np.maximum(crown[part], ball)
        shapes.append(crown)
    return shapes


def twig_shapes(rng: np.random.Generator, size: int = 240) -> list[np.ndarray]:
    """Crowns without leaves (size, size) float32: 1 on twigs, else 0."""
    shapes = []
    for _ in range(3):
        twigs = np.zeros((size, size), np.uint8)
        angle = np.arange(13) * 0.483 + rng.normal(0, 0.2, 13)
        start, length = np.full((13, 2), size / 2), size * rng.uniform(0.16, 0.32, 13)
        for level in range(4):  # branches, and on each four of the next level
            points = [start]
            for _ in range(4):
                angle = angle + rng.normal(0, 0.22, len(angle))
                step = np.stack([np.cos(angle), np.sin(angle)], 1)
                points.append(points[-1] + step * length[:, None] / 4)
            lines = list(np.int32(np.stack(points, 1)))
            cv2.polylines(twigs, lines, False, 1, 2 if level == 0 else 1)
            start = np.concatenate(points[1:])
            fork = rng.choice((-1, 1), len(start)) * rng.uniform(0.4, 0.9, len(start))
            angle = np.tile(angle, 4) + fork
            length = np.tile(length, 4) * rng.uniform(0.35, 0.65, len(start))
        shapes.append(twigs.astype(np.float32))
    return shapes


def plant(town: Town, frame: Frame, s: float, t: float, radius: float) -> None:
    """A tree to be drawn at the end, unless it lies outside the picture."""
    if patch(town, frame, s, t, radius, radius) is None:
        return
    (x, y) = np.int32(frame(np.array([(s, t)]))[0])
    tall = np.clip(radius * town.rng.uniform(1.7, 2.6), 2.2, 15)
    town.trees.append((int(x), int(y), radius, tall))


def tree(town: Town, x: float, y: float, radius: float, tall: float) -> None:
    """A tree of `radius` and height `tall` metres at pixel x, y."""
    rng = town.rng
    reach = int(radius / town.metres) + 1
    h, w = town.material.shape
    x0, x1, y0, y1 = max(0, x - reach), min(w, x + reach), max(0, y - reach), min(h, y + reach)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return
    window = (slice(y0, y1), slice(x0, x1))
    leafless = radius > 1.4 and rng.random() < town.bare
    shapes = town.twigs if leafless else town.crowns
    shape = shapes[rng.integers(len(shapes))]
    middle = len(shape) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), rng.uniform(0, 360), reach / middle)
    turn[:, 2] += np.array((x - x0, y - y0)) - middle
    crown = cv2.warpAffine(shape, turn, (x1 - x0, y1 - y0))
    if leafless:  # the ground shows through between the twigs
        around = cv2.GaussianBlur(crown, (0, 0), 0.22 / town.metres)
        dense = np.clip(0.75 * crown + around, 0, 0.95)[..., None]
        bark = np.float32((112, 102, 92, 124)) * np.float32(rng.normal(1, 0.08))
        colours = town.image[window] * (1 - dense) + bark * dense
        z = np.where(crown > 0.3, np.float32(tall), town.height[window])
        put(town, window, around > 0.06, colours, CROWN, z)
        return
    rough = 0.6 * grain(town, crown.shape, 0.1) + 0.5 * grain(town, crown.shape, 0.3)
    push = 0.22 / town.metres * grain(town, crown.shape, 0.22)  # frays the round clumps
    down, across = np.indices(crown.shape, np.float32)
    crown = cv2.remap(crown, across + push, down + push[::-1], cv2.INTER_LINEAR)
    z = tall - 1.1 * radius * (1 - crown)
    mask = crown + 0.06 * rough > 0.08
    mask &= (town.material[window] != CROWN) | (z > town.height[window])
    base = town.leaf * (1.6, 0.92, 0.95, 0.95) if rng.random() < 0.05 else town.leaf
    base = base * rng.normal(1, 0.12) * (rng.normal(1, 0.08), 1, rng.normal(0.96, 0.06), 1)
    light = 0.5 + 0.5 * facing(town, z + 0.06 * rough)
    light *= (0.5 + 0.62 * crown) * (1 + 0.2 * rough)
    put(town, window, mask, np.float32(base) * light[..., None], CROWN, z)


def hedge(town: Town, frame: Frame, start, end, width: float, tall: float) -> None:
    """A clipped hedge from `start` to `end` (s, t); to the contest it is tree."""
    (s0, t0), (s1, t1) = start, end
    a, turn = np.hypot(s1 - s0, t1 - t0) / 2, np.arctan2(t1 - t0, s1 - s0)
    spot = patch(town, frame, (s0 + s1) / 2, (t0 + t1) / 2, a, width, turn)
    if spot is None:
        return
    window, x, y = spot
    rough = grain(town, x.shape, 0.5)
    side = width * (0.8 + 0.25 * rough) - np.abs(y)
    z = (tall * (np.clip(side * 4, 0, 1) + 0.12 * rough)).astype(np.float32)
    mask = (side > 0) & (np.abs(x) < a) & np.isin(town.material[window], (LAWN, BED, SOIL))
    light = (0.5 + 0.5 * facing(town, z)) * (1 + 0.12 * grain(town, x.shape, 0.15))
    put(town, window, mask, colour(town, town.leaf) * light[..., None], CROWN, z)
