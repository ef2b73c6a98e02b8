"""Blocks of a drawn town other than gardens: courts, slabs of flats, yards, parks, sites."""

import numpy as np

from demo_scenes.gardens import garden_thing, side
from demo_scenes.objects import bins, car, house
from demo_scenes.paint import (
    ASPHALT,
    BED,
    EARTH,
    FLAT,
    LAWN,
    PAVING,
    SOIL,
    STONE,
    STREET,
    THING,
    Frame,
    Town,
    blob,
    box,
    colour,
    is_free,
    paint,
)
from demo_scenes.trees import plant


def court(town: Town, grid: Frame, block, kerb: float) -> None:
    """A closed row of town houses around a court."""
    rng = town.rng
    u0, v0, u1, v1 = block
    ground = colour(town, STONE, 0.1) * 0.92
    paint(town, grid, box(*block), ground, PAVING)
    deep = rng.uniform(11, 14)
    setback = rng.choice([0.0, 0.0, 2.5])
    b = deep / 2
    inner = (u0 + deep + setback, v0 + deep + setback, u1 - deep - setback, v1 - deep - setback)
    yard_things(town, grid, inner)
    tall = rng.uniform(7, 11)
    for number in range(4):
        frame, length, depth = side(grid, block, number)
        if depth < 2 * deep and number in (1, 3):
            continue
        s, end = (setback, length - setback) if number % 2 == 0 else (deep, length - deep)
        while s < end - 4:
            wide = min(rng.uniform(9, 17), end - s)
            wide = end - s if end - s - wide < 7 else wide
            corner = number % 2 == 0 and (s < setback + 0.1 or s + wide > end - 0.1)
            if rng.random() < 0.95 or corner:
                kind = rng.choice(["gable", "mansard", "flat"], p=(0.62, 0.2, 0.18))
                fill = FLAT[rng.integers(4)] if kind == "flat" else town.roofs[rng.integers(5)]
                wings = []
                if rng.random() < 0.3 and depth > 3 * deep:
                    reach = rng.uniform(4, 9)
                    wings = [(wide / 4, b + reach / 2 - 1, 2.8, reach / 2 + 1, "flat")]
                at = (s + wide / 2, setback + b)
                eaves = tall + rng.normal(0, 0.8)
                house(town, frame, *at, wide / 2 + 0.05, b, eaves, kind, colour(town, fill), wings)
            s += wide


def yard_things(town: Town, grid: Frame, area) -> None:
    """Lawns, sheds, cars, bins and trees of a court (u0, v0, u1, v1)."""
    rng = town.rng
    u0, v0, u1, v1 = area
    if u1 - u0 < 6 or v1 - v0 < 6:
        return
    s = u0
    while s < u1 - 3:
        end = min(s + rng.uniform(8, 16), u1)
        if rng.random() < 0.85:
            grass = box(s + 0.4, v0 + rng.uniform(1, 4), end - 0.4, v1 - rng.uniform(1, 4))
            paint(town, grid, grass, colour(town, town.lawn, 0.1), LAWN)
        s = end
    for _ in range(rng.poisson((u1 - u0) * (v1 - v0) / 90)):
        s, t = rng.uniform(u0 + 1, u1 - 1), rng.uniform(v0 + 1, v1 - 1)
        what = rng.random()
        if what < 0.3:
            size = rng.uniform(2, 5), rng.uniform(1.5, 3)
            if is_free(town, grid, s, t, *size, (PAVING, LAWN)):
                house(
                    town, grid, s, t, *size, 2.8, "flat", colour(town, FLAT[rng.integers(4)], 0.1)
                )
        elif what < 0.55:
            car(town, grid, s, t, rng.choice([0, np.pi / 2]))
        elif what < 0.75:
            garden_thing(town, grid, s, t, str(rng.choice(["bed", "sand", "rough", "heap"])))
        else:
            bins(town, grid, s, t)
    for _ in range(rng.poisson((u1 - u0) * (v1 - v0) / 40)):
        s, t = rng.uniform(u0 + 2, u1 - 2), rng.uniform(v0 + 2, v1 - 2)
        if is_free(town, grid, s, t, 0.8, 0.8, (LAWN, PAVING, BED)):
            plant(town, grid, s, t, rng.uniform(2, 4.5))


def slabs(town: Town, grid: Frame, block, kerb: float) -> None:
    """Long blocks of flats on lawns, with a car park and a playground."""
    rng = town.rng
    number = 0 if block[2] - block[0] > block[3] - block[1] else 1
    frame, length, depth = side(grid, block, number)
    paint(town, frame, box(0, 0, length, depth), colour(town, town.lawn), LAWN)
    b, t = rng.uniform(5.8, 8), rng.uniform(3, 6)
    kind = rng.choice(["flat", "hip", "gable"], p=(0.6, 0.25, 0.15))
    fill = FLAT[rng.integers(4)] if kind == "flat" else town.roofs[rng.integers(5)]
    tall = rng.uniform(8, 14)
    while t + 2 * b < depth:
        stone = colour(town, STONE)
        a = length / 2 - rng.uniform(3, 9)
        middle = length / 2 + rng.uniform(-2, 2)
        paint(town, frame, box(0, t - 2.2, length, t - 0.6), stone, PAVING)
        for s in np.arange(middle - a + 5, middle + a, 12):
            paint(town, frame, box(s, t - 2.2, s + 2, t + 1), stone, PAVING)
        house(town, frame, middle, t + b, a, b, tall, kind, colour(town, fill, 0.03))
        gap = rng.uniform(13, 19)
        start, end = t + 2 * b + 2, min(t + 2 * b + gap - 3, depth)
        if end - start > 6 and rng.random() < 0.6:
            car_park(
                town, frame, kerb, rng.uniform(3, 8), start, length * rng.uniform(0.5, 0.9), end
            )
        elif end - start > 8:
            at = rng.uniform(0.3, 0.7) * length, (start + end) / 2
            paint(
                town,
                frame,
                blob(town, *at, rng.uniform(4, 6)),
                colour(town, (172, 156, 126, 180)),
                SOIL,
            )
            for s in np.arange(at[0] - 2, at[0] + 3, 2):
                paint(
                    town, frame, box(s, at[1], s + 0.9, at[1] + 1.4), (150, 70, 60, 140), THING, 1
                )
        for s in rng.uniform(2, length - 2, int(length / 1.8)):
            where = rng.uniform(start, max(end, start + 2))
            if is_free(town, frame, s, where, 1, 1, (LAWN,)):
                plant(town, frame, s, where, rng.uniform(2, 4.2))
        t += 2 * b + gap


def car_park(
    town: Town, frame: Frame, kerb: float, s0: float, t0: float, s1: float, t1: float
) -> None:
    """Asphalt with bays along both long sides, and the way in from the street at s = -kerb."""
    rng = town.rng
    black = colour(town, STREET, 0.1)
    paint(town, frame, box(-kerb, (t0 + t1) / 2 - 2.5, s0 + 1, (t0 + t1) / 2 + 2.5), black, ASPHALT)
    paint(town, frame, box(s0, t0, s1, t1), black, ASPHALT)
    full = rng.uniform(0.3, 0.85)
    rows = [(t0, 1)] if t1 - t0 < 14 else [(t0, 1), (t1, -1)]
    for t, inward in rows:
        for s in np.arange(s0 + 0.6, s1 - 2.4, 2.5):
            line = box(s, min(t, t + 5 * inward), s + 0.1, max(t, t + 5 * inward))
            paint(town, frame, line, (190, 190, 186, 180), ASPHALT)
            if rng.random() < full:
                car(town, frame, s + 1.3, t + inward * rng.uniform(2.5, 2.9), np.pi / 2)


def yard(town: Town, grid: Frame, block, kerb: float) -> None:
    """A hall or shop with its car park, and stored goods."""
    rng = town.rng
    number = int(rng.integers(4))
    frame, length, depth = side(grid, block, number)
    paint(town, frame, box(0, 0, length, depth), colour(town, STREET, 0.1) * 1.06, ASPHALT)
    a, b = length * rng.uniform(0.36, 0.46), depth * rng.uniform(0.26, 0.36)
    front = depth - 2 * b - rng.uniform(2, 5)
    house(
        town, frame, length / 2, front + b, a, b, rng.uniform(5, 8), "flat", FLAT[rng.integers(4)]
    )
    car_park(town, frame, kerb, 3, 3, length - 3, min(front - 2, 20))
    for _ in range(int(length * depth / 160)):
        s, t = rng.uniform(3, length - 3), rng.uniform(min(front - 2, 20), depth - 2)
        if rng.random() < 0.5:
            bins(town, frame, s, t)
        elif is_free(town, frame, s, t, 3.1, 1.3, (ASPHALT,)):
            fill = ((140, 70, 56, 140), (70, 96, 124, 80), (176, 176, 172, 170))
            place = box(s - 3, t - 1.2, s + 3, t + 1.2)
            paint(town, frame, place, colour(town, fill[rng.integers(3)], 0.1), THING, 2.6)
    paint(town, frame, box(0, 0, length, 1.8), colour(town, town.lawn), LAWN)
    for s in np.arange(4, length - 3, rng.uniform(6, 9)):
        plant(town, frame, s, 0.9, rng.uniform(1.5, 2.8))


def park(town: Town, grid: Frame, block, kerb: float) -> None:
    """Lawn, a path, a pond now and then, and many trees."""
    rng = town.rng
    frame, length, depth = side(grid, block, 0)
    paint(town, frame, box(0, 0, length, depth), colour(town, town.lawn, 0.05), LAWN)
    s = np.linspace(0, length, 30)
    t = depth * (0.5 + 0.25 * np.sin(s / rng.uniform(8, 16) + rng.uniform(0, 6)))
    path = np.concatenate([np.stack([s, t - 1.1], 1), np.stack([s, t + 1.1], 1)[::-1]])
    paint(town, frame, path, colour(town, (166, 152, 128, 170)), PAVING)
    if rng.random() < 0.75:
        at = rng.uniform(0.3, 0.7) * length, depth * rng.choice([0.22, 0.78])
        pond = blob(town, 0, 0, depth * 0.18, 0.25)
        paint(town, frame, pond * 1.12 + at, colour(town, town.leaf * 1.15), BED)
        paint(town, frame, pond + at, (62, 72, 66, 30), THING)
    for _ in range(int(length * depth / 45)):
        s, t = rng.uniform(1, length - 1), rng.uniform(1, depth - 1)
        if is_free(town, frame, s, t, 0.8, 0.8, (LAWN,)) and np.sin(s / 9) + np.sin(t / 7) > -0.6:
            plant(town, frame, s, t, rng.uniform(2, 4.6))


def building_site(town: Town, grid: Frame, block, kerb: float) -> None:
    """Bare earth, heaps, containers and the shell of a building."""
    rng = town.rng
    frame, length, depth = side(grid, block, 0)
    paint(town, frame, box(0, 0, length, depth), colour(town, town.lawn), LAWN)
    earth = colour(town, EARTH)
    for _ in range(14):
        s, t = rng.uniform(0.2, 0.8) * length, rng.uniform(0.2, 0.8) * depth
        spill = blob(town, s, t, rng.uniform(0.1, 0.22) * min(length, depth), 0.3)
        paint(town, frame, spill, earth * rng.uniform(0.97, 1.03), SOIL)
    track = box(length * 0.4, 0.2 - kerb, length * 0.4 + 4.5, depth * 0.4)
    paint(town, frame, track, earth * 0.95, SOIL)
    for _ in range(int(length * depth / 90)):
        s, t = rng.uniform(3, length - 3), rng.uniform(3, depth - 3)
        if is_free(town, frame, s, t, 2, 2, (SOIL, LAWN)):
            if rng.random() < 0.6:
                heap = blob(town, s, t, rng.uniform(1, 3), 0.3)
                paint(town, frame, heap, colour(town, EARTH, 0.15), SOIL, rng.uniform(0.5, 1.6))
            else:
                bins(town, frame, s, t)
    if rng.random() < 0.6:
        a, b = length * rng.uniform(0.12, 0.22), depth * rng.uniform(0.12, 0.18)
        house(town, frame, length * 0.5, depth / 2, a, b, 5, "flat", colour(town, FLAT[0]))
    for _ in range(int(length / 4)):
        s, t = rng.uniform(1, length - 1), rng.choice([1.5, depth - 1.5])
        plant(town, frame, s, t, rng.uniform(1.6, 3.4))
