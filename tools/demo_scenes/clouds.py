"""Draws an invented satellite scene with clouds and snow, with its labels, as of Gaofen-1."""

import cv2
import numpy as np

SCALE = 1023  # 10 bits
# Bands B, G, R, NIR: level and spread of the digital numbers.
FIELD, FOREST = (196, 206, 204, 206), (164, 158, 128, 178)
BARE, WATER, TOWN = (226, 240, 276, 206), (186, 170, 122, 56), (250, 246, 254, 198)
SNOW, CLOUD = (760, 742, 724, 640), (800, 785, 790, 770)


def draw_clouds(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene of `height` x `width` pixels of 160 m.

    Returns the image (height, width, 4) uint16, bands blue, green, red, near infrared, values 0 to
    1023, and the label (height, width) uint8: 0 background, 1 cloud, 2 snow.
    """
    shape = (height, width)
    relief = fractal(rng, shape, 420, 0.52)
    hilly = rng.uniform(0.15, 1)
    relief -= 0.7 * np.float32(hilly) * np.abs(fractal(rng, shape, 130, 0.5))  # ridges
    ground = land(rng, shape, relief, hilly)
    high = relief + 0.2 * fractal(rng, shape, 40, 0.6)
    share = rng.choice([0.0, 0.06, 0.16, 0.3], p=(0.4, 0.2, 0.25, 0.15))
    snow = np.zeros(shape, np.float32)
    if share:
        snow = np.clip((high - quantile(high, 1 - share)) * 12, 0, 1)
    ground += snow[..., None] * (np.float32(SNOW) - ground)
    ground *= shading(relief + 0.1 * high, hilly, rng.uniform(0, 2 * np.pi))[..., None]
    cover, thick = cloud_cover(rng, shape)
    dx, dy = rng.choice((-1, 1), 2) * rng.uniform(6, 28, 2)
    shift = np.float32([(1, 0, dx), (0, 1, dy)])
    shadow = cv2.warpAffine(cover, shift, shape[::-1], borderMode=cv2.BORDER_REFLECT)
    ground *= 1 - 0.42 * cv2.GaussianBlur(shadow, (0, 0), 1.5)[..., None]
    bright = 0.72 + 0.5 * thick[..., None]
    image = ground + cover[..., None] * (np.float32(CLOUD) * bright - ground)
    image *= rng.uniform(0.9, 1.12)
    image += rng.standard_normal(image.shape, np.float32) * 4
    label = np.where(cover > 0.3, 1, np.where(snow > 0.5, 2, 0))
    return np.clip(np.rint(image), 0, SCALE).astype(np.uint16), label.astype(np.uint8)


def fractal(rng: np.random.Generator, shape: tuple[int, int], cell: float, fall: float):
    """Noise (h, w) float32 about -1 to 1: octaves from `cell` pixels down, each `fall` times."""
    octaves = max(1, round(np.log2(cell)))
    total = rng.standard_normal([n // 2**octaves + 3 for n in shape], np.float32)
    weight = 1.0
    for level in range(octaves):
        total = cv2.resize(total, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        weight *= fall
        if level < octaves - 1:  # none of single pixels
            total += np.float32(weight) * rng.standard_normal(total.shape, np.float32)
    top, left = rng.integers(0, 2**octaves, 2)
    part = total[top : top + shape[0], left : left + shape[1]]
    return np.ascontiguousarray(part) * np.float32(0.45 * np.sqrt(1 - fall**2))


def quantile(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values[::8, ::8], share))


def shading(relief: np.ndarray, hilly: float, sun: float) -> np.ndarray:
    """Light (h, w) on slopes."""
    gx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=hilly * 2.2)
    gy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=hilly * 2.2)
    return np.clip(1 + gx * np.float32(np.cos(sun)) + gy * np.float32(np.sin(sun)), 0.45, 1.5)


def land(rng: np.random.Generator, shape, relief: np.ndarray, hilly: float) -> np.ndarray:
    """Fields, forest, a river, lakes and villages (h, w, 4) float32."""
    plots = fields(rng, shape)
    image = np.float32(FIELD) + plots[..., None] * (np.float32(BARE) - np.float32(FIELD))
    patches = fractal(rng, shape, 60, 0.62) + 1.2 * hilly * relief
    forest = np.clip((patches - quantile(patches, rng.uniform(0.4, 0.9))) * 14, 0, 1)
    image += forest[..., None] * (np.float32(FOREST) - image)
    image *= (1 + 0.05 * fractal(rng, shape, 6, 0.8))[..., None]
    villages = np.clip((fractal(rng, shape, 50, 0.7) - 1.05) * 4, 0, 1) * (relief < 0.4)
    image += villages[..., None] * (np.float32(TOWN) - image)
    bed = np.abs(fractal(rng, shape, 300, 0.45) + 0.25 * relief) * 40
    water = np.clip(1.2 - bed, 0, 1) * (rng.random() < 0.8)
    lake = quantile(relief, rng.choice([0.0, 0.02, 0.08]))
    water = np.maximum(water, np.clip((lake - relief) * 25, 0, 1))
    image += water[..., None] * (np.float32(WATER) - image)
    return image


def fields(rng: np.random.Generator, shape) -> np.ndarray:
    """Tone (h, w) of a patchwork of fields, bent as the land."""
    h, w = shape
    turn, long, short = rng.uniform(0, np.pi), rng.uniform(14, 40), rng.uniform(8, 16)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    bend = 30 * fractal(rng, shape, 160, 0.4)
    u = (x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn)) + bend) / np.float32(long)
    v = (y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn)) + bend) / np.float32(short)
    table = rng.uniform(-0.2, 1, (64, 64)).astype(np.float32)
    row = np.floor(v).astype(np.int32)
    column = np.floor(u + 0.37 * row).astype(np.int32)
    return cv2.GaussianBlur(table[row & 63, column & 63], (0, 0), 0.8)


def cloud_cover(rng: np.random.Generator, shape) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (h, w) 0 to 1 of the clouds, and how thick they are, 0 to 1."""
    share = rng.choice([0.03, 0.12, 0.3, 0.5], p=(0.35, 0.35, 0.2, 0.1))
    field = fractal(rng, shape, rng.choice([60, 140, 300]), rng.uniform(0.55, 0.7))
    above = field - quantile(field, 1 - share)
    soft = rng.uniform(1.6, 5)
    return np.clip(above * soft + 0.25, 0, 1) ** 1.3, np.clip(above * 1.5, 0, 1)
