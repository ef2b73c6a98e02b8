"""Houses with gardens, in a drawn town."""

from functools import partial

import numpy as np

from demo_scenes.objects import car, house
from demo_scenes.paint import (
    BED,
    EARTH,
    FLAT,
    LAWN,
    PAVING,
    SOIL,
    STONE,
    THING,
    Frame,
    Town,
    blob,
    box,
    colour,
    is_free,
    paint,
    patch,
    rounded,
)
from demo_scenes.trees import hedge, plant


def side(grid: Frame, block, number: int) -> tuple[Frame, float, float]:
    """The frame of one side of a block (s along, t inwards), its length and the block's depth."""
    u0, v0, u1, v1 = block
    frames = (
        lambda points: grid(np.add(points, (u0, v0))),
        lambda points: grid(points[:, ::-1] * (-1, 1) + (u1, v0)),
        lambda points: grid(points * (-1, -1) + (u1, v1)),
        lambda points: grid(points[:, ::-1] * (1, -1) + (u0, v1)),
    )
    sizes = (u1 - u0, v1 - v0)
    return frames[number], sizes[number % 2], sizes[1 - number % 2]


def villas(town: Town, grid: Frame, block, kerb: float) -> None:
    """Houses in gardens, along two or all sides of the block."""
    rng = town.rng
    u0, v0, u1, v1 = block
    first = 0 if u1 - u0 > v1 - v0 else 1
    for number in (first, first + 2):
        frame, length, depth = side(grid, block, number)
        depth = depth / 2 if depth > 36 else depth
        if number > 1 and depth == side(grid, block, number)[2]:
            break
        s, wide = 0.0, rng.uniform(13.5, 19)
        while s < length - 4:
            end = s + wide * rng.uniform(0.85, 1.25)
            end = length if length - end < 11 else end
            garden(town, partial(shift, frame, s), end - s, depth, kerb)
            s = end


def shift(frame: Frame, s: float, points: np.ndarray) -> np.ndarray:
    """`frame` with its origin moved by s."""
    return frame(np.add(points, (s, 0)))


def garden(town: Town, frame: Frame, wide: float, deep: float, kerb: float) -> None:
    """One parcel (wide, deep) with its house; the street begins at t = -kerb."""
    rng = town.rng
    grass = colour(town, town.lawn, 0.1)
    paint(town, frame, box(0, 0, wide, deep), grass, LAWN)
    if patch(town, frame, wide / 2, deep / 2, wide / 2, deep / 2) is None:
        return
    stone = colour(town, STONE, 0.1)
    a = np.clip(wide / 2 - rng.uniform(1.2, 3.4), 4, 9)
    b = rng.uniform(4.6, 6.8)
    setback = rng.uniform(2.5, 6)
    s0, t0 = np.clip(wide / 2 + rng.normal(0, 1.5), a + 0.5, wide - a - 0.5), setback + b
    if rng.random() < 0.15:
        paint(town, frame, box(0, 0, wide, setback), stone, PAVING)
    left = rng.random() < 0.5
    d0, d1 = (0.4, 3.4) if left else (wide - 3.4, wide - 0.4)
    paint(town, frame, box(d0, 0.1 - kerb, d1, t0 + rng.uniform(-1, 3)), stone, PAVING)
    paint(town, frame, box(s0 - 0.7, 0.2 - kerb, s0 + 0.7, setback), stone * 0.96, PAVING)
    back = t0 + b
    if rng.random() < 0.85:
        terrace = box(s0 - a * rng.uniform(0.3, 1), back, s0 + a * 0.6, back + rng.uniform(2, 4.5))
        paint(town, frame, terrace, colour(town, STONE, 0.12), PAVING)
    kind = rng.choice(
        ["gable", "hip", "half hip", "mansard", "flat"], p=(0.4, 0.27, 0.1, 0.1, 0.13)
    )
    fill = FLAT[rng.integers(4)] if kind == "flat" else town.roofs[rng.integers(5)]
    wings = []
    if rng.random() < 0.45 and kind != "flat":
        wings = [(rng.uniform(-0.4, 0.4) * a, b * rng.choice([-0.35, 0.4]), 3, b * 0.95, "gable")]
    eaves = rng.uniform(3.2, 6.5)
    turn = rng.normal(0, 0.02)
    house(town, frame, s0, t0, a, b, eaves, kind, colour(town, fill), wings, turn)
    garage = rng.random() < 0.4
    if garage:
        g = (d0 + d1) / 2, t0 + rng.uniform(1, 4)
        if is_free(town, frame, *g, 1.5, 2.8, (LAWN, PAVING)):
            house(town, frame, *g, 1.5, 2.8, 2.6, "flat", colour(town, FLAT[rng.integers(4)]))
    if rng.random() < 0.6:
        car(town, frame, (d0 + d1) / 2, rng.uniform(2.6, 4.2), np.pi / 2)
    if deep > 29 and rng.random() < 0.7:
        behind = rng.uniform(3.5, 5.5), rng.uniform(3.5, 4.5)
        at = wide / 2 + rng.normal(0, 0.6), deep - behind[1] - rng.uniform(1.5, 3)
        fill = colour(town, town.roofs[rng.integers(5)])
        house(town, frame, *at, *behind, eaves, rng.choice(["gable", "hip"]), fill)
    back_yard(town, frame, wide, deep, back + 2)
    edge = rng.choice(["hedge", "fence", "none"], p=(0.5, 0.3, 0.2))
    fence = colour(town, (120, 104, 86, 118))
    for start, end in (((0, 1), (0, deep)), ((0, deep), (wide, deep)), ((0.3, 0.6), (wide, 0.6))):
        if edge == "hedge" and rng.random() < 0.8:
            hedge(town, frame, start, end, rng.uniform(0.4, 0.8), rng.uniform(1, 2.2))
        elif edge == "fence":
            (sa, ta), (sb, tb) = start, end
            paint(town, frame, box(sa, ta, sb + 0.12, tb + 0.12), fence, THING, 1.3)


def back_yard(town: Town, frame: Frame, wide: float, deep: float, front: float) -> None:
    """Beds, sheds, pools, trees ... behind a house, from t = front on."""
    rng = town.rng
    if deep - front < 3:
        return
    for _ in range(rng.integers(1, 6)):
        s, t = rng.uniform(1.5, wide - 1.5), rng.uniform(front, deep - 1.5)
        thing = rng.choice(
            ["bed", "rows", "shed", "pool", "trampoline", "sand", "heap", "path", "rough"],
            p=(0.15, 0.14, 0.15, 0.11, 0.08, 0.1, 0.13, 0.04, 0.1),
        )
        garden_thing(town, frame, s, t, str(thing))
    for _ in range(rng.poisson(wide * (deep - front) / 28)):
        s, t = rng.uniform(0.5, wide - 0.5), rng.uniform(front, deep)
        if is_free(town, frame, s, t, 0.6, 0.6, (LAWN, BED, PAVING, SOIL)):
            plant(town, frame, s, t, np.clip(rng.gamma(5, 0.55), 1, 5))
    for _ in range(rng.poisson(wide / 5)):  # shrubs
        plant(
            town, frame, rng.choice([0.8, wide - 0.8]), rng.uniform(1, deep), rng.uniform(0.6, 1.2)
        )


def garden_thing(town: Town, frame: Frame, s: float, t: float, thing: str) -> None:
    """One thing of a garden around (s, t), if the place is lawn."""
    rng = town.rng
    a, b = {"shed": (1.6, 1.3), "pool": (3.2, 1.8), "rows": (3, 2.2)}.get(thing, (1.7, 1.6))
    a, b = np.array((a, b)) * rng.uniform(0.8, 1.25, 2)
    if not is_free(town, frame, s, t, a, b, (LAWN,)):
        return
    place = box(s - a, t - b, s + a, t + b)
    if thing == "bed":
        paint(town, frame, blob(town, s, t, a), colour(town, (108, 92, 76, 140), 0.1), BED)
    elif thing == "rough":
        paint(town, frame, blob(town, s, t, 2 * a), colour(town, town.leaf * 1.2, 0.1), BED)
    elif thing == "rows":
        paint(town, frame, place, colour(town, (112, 90, 70, 124)), BED)
        for row in np.arange(t - b + 0.4, t + b - 0.3, 0.8):
            green = colour(town, town.lawn * (0.8, 0.95, 0.8, 1), 0.1)
            paint(town, frame, box(s - a + 0.2, row, s + a - 0.2, row + 0.4), green, BED)
    elif thing == "shed":
        kind = rng.choice(["gable", "flat"])
        house(
            town, frame, s, t, a, b, 2.2, kind, colour(town, FLAT[1], 0.2), (), rng.normal(0, 0.1)
        )
    elif thing == "pool":
        paint(town, frame, box(s - a - 0.4, t - b - 0.4, s + a + 0.4, t + b + 0.4), STONE, PAVING)
        paint(town, frame, rounded(s - a, t - b, s + a, t + b, 0.9), (92, 158, 172, 40), THING)
    elif thing == "trampoline":
        paint(town, frame, blob(town, s, t, 1.8, 0.0), (64, 88, 130, 90), THING, 0.9)
        paint(town, frame, blob(town, s, t, 1.5, 0.0), (44, 44, 48, 44), THING, 0.9)
    elif thing == "sand":
        paint(town, frame, place, colour(town, (176, 160, 128, 186)), SOIL)
    elif thing == "heap":
        paint(town, frame, blob(town, s, t, a, 0.4), colour(town, EARTH, 0.15), SOIL, 0.6)
    else:
        paint(town, frame, box(s - 0.5, t - 5, s + 0.5, t + 2), colour(town, STONE, 0.1), PAVING)
