"""Houses, cars and containers of a drawn town."""

import cv2
import numpy as np

from demo_scenes.paint import (
    ASPHALT,
    CAR,
    LAWN,
    PAVING,
    ROOF,
    SOIL,
    THING,
    Frame,
    Town,
    box,
    colour,
    facing,
    grain,
    is_free,
    paint,
    patch,
    put,
    rectangle,
)


def roof_height(kind: str, across, along, pitch: float):
    """Height over the eaves, from the distances to the long and the short walls."""
    if kind == "gable":
        return pitch * across
    if kind == "hip":
        return pitch * np.minimum(across, along)
    if kind == "half hip":
        return pitch * np.minimum(across, along + 2.2)
    if kind == "mansard":
        inward = np.minimum(across, along)
        return np.minimum(2.5 * inward, 2.2 + 0.35 * inward)
    return np.where(np.minimum(across, along) < 0.35, np.float32(0.45), np.float32(0))


def house(town: Town, frame: Frame, s, t, a, b, eaves, kind, fill, wings=(), turn=0.0) -> None:
    """A house of half length a and half depth b; `wings` are more (x, y, a, b, kind) on it."""
    rng = town.rng
    spot = patch(town, frame, s, t, a + 4, b + 4, turn)
    if spot is None:
        return
    window, x, y = spot
    a, b = float(a), float(b)
    pitch = rng.uniform(0.6, 0.95)
    z = np.full(x.shape, -9, np.float32)
    inside = np.zeros(x.shape, bool)
    for *numbers, kind0 in [(0, 0, a, b, kind), *wings]:
        x0, y0, a0, b0 = map(float, numbers)
        along, across = a0 - np.abs(x - x0), b0 - np.abs(y - y0)
        if a0 < b0:
            along, across = across, along
        here = np.minimum(along, across) > 0
        top = roof_height(kind0, across, along, pitch)
        z = np.maximum(z, np.where(here | (z < -8), top, z))
        inside |= here
    if not inside.any():
        return
    light = np.minimum(0.36 + 0.64 * facing(town, z), 1.25)
    worn = 1 + 0.05 * grain(town, z.shape, 1.2) + 0.04 * grain(town, z.shape, 0.25)
    colours = np.asarray(fill, np.float32) * (light * worn)[..., None]
    if kind == "flat":
        flat_roof(town, x, y, a, b, z, colours)
    else:
        rows = np.sin(z * (6.283 / (0.34 * pitch)))
        crease = cv2.Laplacian(np.float32(z), cv2.CV_32F) / town.metres
        colours *= (1 + 0.045 * rows + np.clip(-0.12 * crease, -0.15, 0.25))[..., None]
        roof_things(town, x, y, a, b, z, colours)
    put(town, window, inside, colours, ROOF, z + eaves)


def roof_things(town: Town, x, y, a, b, z, colours) -> None:
    """Chimneys, skylights, dormers and solar panels on a pitched roof, in place."""
    rng = town.rng
    sunny = 1 if rng.random() < 0.5 else -1
    if rng.random() < 0.22 and a > 4:  # solar panels, in rows of modules
        wide, high = rng.uniform(0.4, 0.8) * a, b * rng.uniform(0.25, 0.36)
        panel = rectangle(x, y, rng.uniform(-0.15, 0.15) * a, sunny * b * 0.5, wide, high)
        seam = (np.mod(x, 1.0) < 0.07) | (np.mod(y, 1.65) < 0.07)
        colours[panel] = colours[panel] * 0.1 + np.float32((40, 48, 66, 36))
        colours[panel & seam] = (112, 116, 124, 105)
    elif rng.random() < 0.5 and a > 4:
        for x0 in np.arange(-a + 2, a - 1.5, rng.uniform(2.4, 4)):
            pane = rectangle(x, y, x0, sunny * b * 0.55, 0.42, 0.6)
            colours[pane] = rng.choice([(70, 82, 96, 60), (150, 168, 186, 140)])
    if rng.random() < 0.35 and b > 4.5:
        top = z[np.abs(y) < 0.3].max(initial=0) * 0.62
        zinc = colour(town, (130, 132, 134, 128), 0.15)
        for x0 in np.arange(-a + 2.2, a - 1.8, rng.uniform(3, 5)):
            boxed = rectangle(x, y, x0, -sunny * b * 0.6, 0.95, b * 0.28) & (z < top)
            colours[boxed] = 0.4 * colours[boxed] + 0.5 * np.float32(zinc)
            z[boxed] = top
    for _ in range(rng.integers(1, 4)):
        stack = rectangle(x, y, rng.uniform(-0.8, 0.8) * a, rng.uniform(-0.3, 0.3) * b, 0.38, 0.33)
        colours[stack] = rng.choice([(120, 78, 66, 118), (96, 92, 90, 92), (150, 146, 140, 146)])
        z[stack] = z[stack].max(initial=0) + 0.9


def flat_roof(town: Town, x, y, a, b, z, colours) -> None:
    """Parapet, sheets, vents and a lift hut on a flat roof, in place."""
    rng = town.rng
    colours *= (1 + 0.07 * grain(town, z.shape, 3.5))[..., None]
    colours[z > 0.3] *= rng.uniform(1.08, 1.3)
    bitumen = np.mod(x + rng.uniform(0, 9), rng.uniform(4, 7)) < 0.12
    colours[bitumen] *= 0.9
    for _ in range(int(a * b / 14)):
        size = rng.uniform(0.2, 0.7, 2)
        vent = rectangle(x, y, *(rng.uniform(-0.8, 0.8, 2) * (a, b)), *size)
        colours[vent] = colour(town, (150, 150, 150, 148), 0.25)
        z[vent] = rng.uniform(0.4, 1.0)
    if a * b > 70:
        hut = rectangle(x, y, *(rng.uniform(-0.6, 0.6, 2) * (a, b)), 1.8, 1.5)
        colours[hut] *= rng.uniform(0.8, 1.25)
        z[hut] = 2.4
    if 40 < a * b < 160 and rng.random() < 0.3:
        for y0 in np.arange(-b + 1.5, b - 1, 2.4):
            row = rectangle(x, y, 0, y0, a * 0.75, 0.55) & (z < 0.3)
            colours[row] = (48, 56, 74, 42)
            colours[row & (np.mod(x, 1.1) < 0.08)] = (120, 124, 130, 115)
            z[row] = 0.35


PAINTS = np.array(
    [(212, 213, 212), (46, 47, 50), (158, 161, 164), (102, 105, 110), (136, 30, 32), (48, 66, 106)]
)


def car(town: Town, frame: Frame, s: float, t: float, turn: float = 0.0, van: float = 0.07) -> None:
    """A car along s (nose towards +s), or now and then a van, if there is room on the ground."""
    rng = town.rng
    is_van = rng.random() < van
    a, b = (2.6, 1.0) if is_van else (2.2 * rng.uniform(0.88, 1.06), 0.9 * rng.uniform(0.96, 1.04))
    turn += rng.normal(0, 0.025) + np.pi * rng.integers(2)
    if not is_free(town, frame, s, t, a + 0.2, b + 0.2, (ASPHALT, PAVING), turn):
        return
    window, x, y = patch(town, frame, s, t, a + 0.2, b + 0.2, turn)
    edge = np.abs(x / a) ** 7 + np.abs(y / b) ** 5
    shade = 1.06 - 0.3 * edge
    body = PAINTS[rng.choice(6, p=(0.24, 0.22, 0.22, 0.14, 0.09, 0.09))] * rng.uniform(0.9, 1.1)
    body = np.append(body, body.mean()).astype(np.float32)
    colours = body * shade[..., None]
    if is_van:
        glass = rectangle(x, y, 0.68 * a, 0, 0.1 * a, 0.8 * b)
        z = np.where(x > 0.75 * a, 1.2, 2.1)
    else:
        taper = 1 - 0.12 * np.abs(x) / a
        glass = rectangle(x, y, 0.3 * a, 0, 0.14 * a, 0.82 * b)
        glass |= rectangle(x, y, -0.62 * a, 0, 0.1 * a, 0.78 * b)
        glass |= rectangle(x, y, -0.12 * a, 0, 0.42 * a, 0.88 * b) & (np.abs(y) > 0.74 * b * taper)
        cabin = rectangle(x, y, -0.16 * a, 0, 0.32 * a, 0.74 * b)
        colours[cabin] *= 1.1
        z = np.where(rectangle(x, y, -0.15 * a, 0, 0.55 * a, b), 1.45, 0.95)
    colours[glass] = colours[glass] * 0.12 + np.float32((38, 42, 48, 36))
    put(town, window, edge < 1, colours, CAR, z.astype(np.float32))


def bins(town: Town, frame: Frame, s: float, t: float) -> None:
    """A few containers in a row."""
    rng = town.rng
    for k in range(rng.integers(2, 6)):
        place = box(s + 1.5 * k, t, s + 1.5 * k + 1.3, t + 1.1)
        fill = ((60, 84, 62, 80), (70, 78, 100, 70), (150, 130, 50, 140), (90, 90, 92, 90))
        if is_free(
            town, frame, s + 1.5 * k + 0.6, t + 0.5, 0.8, 0.7, (PAVING, ASPHALT, LAWN, SOIL)
        ):
            paint(town, frame, place, colour(town, fill[rng.integers(4)], 0.1), THING, 1.3)
