"""Draws an invented town from above, with its labels: data to run the package on without any.

Streets split the ground into blocks, on a grid that is turned and bent differently in each scene.
A block is a row of villas with gardens, a closed court, slabs of flats, a yard, a park or a
building site. Bare earth of a building site, sand, pools and loose things are clutter; flower and
vegetable beds are low vegetation; hedges are trees.
"""

import numpy as np

from demo_scenes.blocks import (
    building_site,
    court,
    park,
    slabs,
    yard,
)
from demo_scenes.gardens import side, villas
from demo_scenes.light import photograph
from demo_scenes.objects import car
from demo_scenes.paint import (
    ASPHALT,
    LABEL_OF,
    LAWN,
    PAVING,
    STONE,
    STREET,
    Frame,
    Town,
    blob,
    box,
    colour,
    is_free,
    paint,
    rounded,
    stain,
)
from demo_scenes.trees import (
    crown_shapes,
    plant,
    tree,
    twig_shapes,
)

MARGIN = 6.0  # metres drawn around the scene, for what reaches into it
TILES = [(140, 82, 68, 148), (128, 74, 62, 134), (120, 88, 76, 124), (98, 92, 90, 96)]
SLATE = [(88, 90, 96, 88), (108, 108, 110, 106), (74, 74, 78, 74), (146, 92, 74, 156)]


def draw_town(
    rng: np.random.Generator, height: int, width: int, metres: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """A scene of `height` x `width` pixels of `metres` each.

    Returns the image (height, width, 4) uint8, R, G, B, near infrared, and the label
    (height, width) uint8, indices of `isprs.CLASSES`.
    """
    margin = round(MARGIN / metres)
    shape = (height + 2 * margin, width + 2 * margin)
    town = new_town(rng, shape, metres)
    lay_streets(town)
    for x, y, radius, tall in sorted(town.trees, key=lambda one: one[3]):
        tree(town, x, y, radius, tall)
    inner = (slice(margin, margin + height), slice(margin, margin + width))
    image = photograph(town)[inner]
    return np.ascontiguousarray(image), LABEL_OF[town.material[inner]]


def new_town(rng: np.random.Generator, shape: tuple[int, int], metres: float) -> Town:
    """Empty ground, and what the scene will have in common: sun, season, roofs."""
    bearing = rng.uniform(0, 2 * np.pi)
    spring, dry = abs(rng.normal(0, 5)), rng.uniform(-8, 8)
    lawn = np.array((96 + dry, 112 + spring, 76 + dry / 2, 188 - dry))
    leaf = np.array((80 + dry / 2, 100 + spring, 60, 170 - dry))
    palette = np.array([*TILES, *SLATE], float)
    image = np.empty((*shape, 4), np.uint8)
    image[:] = np.uint8(np.array(STREET) * rng.normal(1, 0.08))
    return Town(
        rng=rng,
        metres=metres,
        image=image,
        material=np.full(shape, ASPHALT, np.uint8),
        height=np.zeros(shape, np.float32),
        tone=np.full(shape, 128, np.uint8),
        sun=np.array((np.cos(bearing), np.sin(bearing))),
        cot=rng.uniform(0.55, 1.1),
        lawn=lawn,
        leaf=leaf,
        roofs=palette[rng.choice(8, 5, p=np.array((5, 4, 3, 2, 2, 2, 1, 3)) / 22)],
        crowns=crown_shapes(rng),
        twigs=twig_shapes(rng),
        bare=rng.choice([0.0, 0.06, 0.18]),
    )


def street_grid(town: Town) -> Frame:
    """The frame of the whole town: origin in the middle, turned and bent."""
    rng = town.rng
    turn = rng.uniform(0, np.pi)
    turn = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    wave = rng.uniform(45, 110, 2)
    bend = wave * rng.uniform(0, 0.18, 2)
    phase = rng.uniform(0, 6.3, 2)
    middle = np.array(town.material.shape[::-1]) / 2

    def grid(points: np.ndarray) -> np.ndarray:
        u, v = points[:, 0], points[:, 1]
        v = v + bend[0] * np.sin(u / wave[0] + phase[0])
        u = u + bend[1] * np.sin(v / wave[1] + phase[1])
        return np.stack([u, v], 1) @ turn / town.metres + middle

    return grid


def split(rng: np.random.Generator, area, size: float, width: float):
    """Cut the area (u0, v0, u1, v1) by streets: lists of blocks and of streets.

    A street is (u0, v0, u1, v1, width), along its middle.
    """
    u0, v0, u1, v1 = area
    along_u = u1 - u0 < v1 - v0
    length, depth = max(u1 - u0, v1 - v0), min(u1 - u0, v1 - v0)
    if length < size * rng.uniform(0.9, 1.5) or depth < 0.4 * size:
        return [area], []
    cut = (v0 if along_u else u0) + length * rng.uniform(0.38, 0.62)
    half = width / 2
    if along_u:
        parts = (u0, v0, u1, cut - half), (u0, cut + half, u1, v1)
        street = (u0, cut, u1, cut, width)
    else:
        parts = (u0, v0, cut - half, v1), (cut + half, v0, u1, v1)
        street = (cut, v0, cut, v1, width)
    blocks, streets = [], [street]
    for part in parts:
        more = split(rng, part, size, max(6.2, width - rng.uniform(0, 1.2)))
        blocks += more[0]
        streets += more[1]
    return blocks, streets


def lay_streets(town: Town) -> None:
    """Streets, then the blocks between them, then what stands or moves on the streets."""
    rng = town.rng
    grid = street_grid(town)
    reach = np.hypot(*town.material.shape) / 2 * town.metres + 30
    area = np.array((-1, -1, 1, 1)) * reach + rng.uniform(-25, 25, 4)
    blocks, streets = split(rng, area, rng.uniform(72, 104), rng.uniform(6.4, 8.4))
    share = rng.dirichlet((2.0, 1.7, 0.9, 0.45, 0.5, 0.9))
    kinds = (villas, court, slabs, yard, park, building_site)
    streets = [(along(grid, street), *measures(street)) for street in streets]
    for street in streets:
        wear_street(town, *street)
    for block in blocks:
        if not in_sight(town, grid, block):
            continue
        inner = kerbs(town, grid, block)
        kind = rng.choice(len(kinds), p=share / share.sum())
        kinds[kind](town, grid, inner, inner[0] - block[0])
        share[4:] *= 0.2 if kind > 3 else 1  # of parks and building sites a town has few
    for street in streets:
        mark_street(town, *street)
        park_cars(town, *street)


def measures(street) -> tuple[float, float]:
    """Length and width of a street."""
    u0, v0, u1, v1, width = street
    return max(u1 - u0, v1 - v0), width


def along(grid: Frame, street) -> Frame:
    """The frame of a street: s along it, t across from its middle."""
    u0, v0, u1, _, _ = street
    if u1 > u0:
        return lambda points: grid(np.add(points, (u0, v0)))
    return lambda points: grid(np.add(points[:, ::-1] * (-1, 1), (u0, v0)))


def in_sight(town: Town, grid: Frame, block) -> bool:
    """Whether any of the block may be in the scene."""
    corners = grid(box(*block))
    low, high = corners.min(0) - 20 / town.metres, corners.max(0) + 20 / town.metres
    return bool((high > 0).all() and (low < town.material.shape[::-1]).all())


def kerbs(town: Town, grid: Frame, block) -> tuple[float, float, float, float]:
    """Kerb, verge and pavement around a block; returns what is left of it inside."""
    rng = town.rng
    radius = rng.uniform(2.5, 5)
    verge = rng.choice([0.0, 1.4, 2.0])
    stone = colour(town, STONE)

    def ring(inset: float, fill, material: int) -> None:
        u0, v0, u1, v1 = block
        bend = max(radius - inset, 0.3)
        inner = rounded(u0 + inset, v0 + inset, u1 - inset, v1 - inset, bend)
        paint(town, grid, inner, fill, material)

    ring(0, stone * 1.1, PAVING)
    if verge:
        ring(0.15, colour(town, town.lawn), LAWN)
    ring(0.15 + verge, stone, PAVING)
    inset = 0.15 + verge + rng.uniform(1.3, 2.0)
    if rng.random() < 0.8:  # street trees
        for number in range(4):
            frame, length, _ = side(grid, block, number)
            gap, size = rng.uniform(7, 14), rng.uniform(1.6, 4)
            for s in np.arange(rng.uniform(4, 9), length - 4, gap):
                if rng.random() < 0.75:
                    plant(town, frame, s, max(0.8, verge / 2), size * rng.uniform(0.7, 1.2))
    u0, v0, u1, v1 = block
    return u0 + inset, v0 + inset, u1 - inset, v1 - inset


def wear_street(town: Town, frame: Frame, length: float, width: float) -> None:
    """Wheel tracks, repairs and stains on the asphalt."""
    rng = town.rng
    stain(town, frame, box(-8, -width / 2, length + 8, width / 2), rng.uniform(0.93, 1.07))
    for t in (-width * 0.32, -width * 0.14, width * 0.14, width * 0.32):
        stain(town, frame, box(0, t - 0.3, length, t + 0.3), rng.uniform(1.01, 1.07))
    for _ in range(int(length / 9)):
        s, t = rng.uniform(0, length), rng.uniform(-0.45, 0.35) * width
        end = (s + rng.choice([1.2, 3, 12]) * rng.uniform(0.6, 1.3), t + rng.uniform(0.5, 2))
        stain(town, frame, box(s, t, *end), rng.choice([0.8, 0.88, 1.1]))
    for s in rng.uniform(0, length, int(length / 12)):
        stain(town, frame, blob(town, s, rng.uniform(-0.4, 0.4) * width, 0.36, 0.0), 0.6)
    for s in rng.uniform(0, length, int(length / 10)):
        stain(town, frame, blob(town, s, rng.uniform(-0.5, 0.5) * width, 0.9, 0.4), 0.9)


def mark_street(town: Town, frame: Frame, length: float, width: float) -> None:
    """Centre line and crossings."""
    rng = town.rng
    white = colour(town, (196, 196, 192, 186), 0.03)
    if width > 7.4 and rng.random() < 0.8:
        for s in np.arange(3, length - 4, 6):
            if is_free(town, frame, s + 1.5, 0, 1.5, 0.1, (ASPHALT,)):
                paint(town, frame, box(s, -0.07, s + 3, 0.07), white, ASPHALT)
    for s in (3.5, length - 6.5):
        if rng.random() < 0.3:
            for t in np.arange(-width / 2 + 0.5, width / 2 - 0.5, 1.0):
                paint(town, frame, box(s, t, s + 3, t + 0.5), white, ASPHALT)


def park_cars(town: Town, frame: Frame, length: float, width: float) -> None:
    """Cars at the kerbs, and some that drive."""
    rng = town.rng
    for across in (-1, 1):
        full = rng.uniform(0.05, 0.55)
        for s in np.arange(rng.uniform(4, 8), length - 6, 5.8):
            kerb = is_free(town, frame, s, across * (width / 2 + 0.4), 3.4, 0.1, (PAVING, LAWN))
            if kerb and rng.random() < full:
                car(town, frame, s + rng.normal(0, 0.3), across * (width / 2 - 1.15))
        for s in np.arange(rng.uniform(5, 80), length - 5, 80):
            car(town, frame, s + rng.uniform(0, 40), across * max(0.7, width / 2 - 3.2))
