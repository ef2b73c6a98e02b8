"""Light, shadows and the camera over a drawn town."""

import cv2
import numpy as np

from demo_scenes.paint import Town

# Of each material: fine, middle and coarse grain, drift of colour (grass going dry), wear.
TEXTURE = np.float32(
    [
        (0.045, 0.02, 0.03, 0, 1),  # asphalt
        (0.06, 0.04, 0.04, 0, 0.7),  # paving
        (0.13, 0.06, 0.05, 0.8, 0),  # lawn
        (0.16, 0.14, 0.04, 0.6, 0),  # bed
        (0.02, 0, 0.02, 0, 0),  # roof
        (0.14, 0, 0.05, 0.2, 0),  # crown
        (0.01, 0, 0, 0, 0),  # car
        (0.03, 0.01, 0.01, 0, 0),  # thing
        (0.10, 0.09, 0.06, 0.2, 0),  # soil
    ]
)
DRY = np.float32((26, 12, 8, -16))  # what drying adds to grass, R, G, B, NIR
SKY = np.float32((0.80, 0.94, 1.16, 0.80))  # colour of the light in shadows
ROWS = 512  # lit at a time, to bound memory


def cast_shadows(town: Town) -> np.ndarray:
    """How high the shadow stands over each pixel: (h / 2, w / 2) float32 metres.

    A height casts its shadow two pixels on, lower by the fall of the sun's ray; of that one pixel
    on, then two, then four: so all distances are reached in a few passes.
    """
    h, w = (n // 2 for n in town.height.shape)
    height = cv2.resize(town.height, (w, h), interpolation=cv2.INTER_AREA)
    top, step = np.zeros_like(height), 2 * town.metres
    passes = int(np.ceil(np.log2(max(float(height.max()) * town.cot / step, 2))))
    for reach in (2, *(2**n for n in range(passes))):
        dx, dy = (round(-float(d) * reach) for d in town.sun)
        if abs(dx) >= w or abs(dy) >= h:
            break
        fall = np.float32(np.hypot(dx, dy) * step / town.cot)
        to = top[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)]
        source = height[max(-dy, 0) : h - max(dy, 0), max(-dx, 0) : w - max(dx, 0)]
        np.maximum(to, source - fall, out=to)
        height = top
    return top


def noise_rows(grid: np.ndarray, cell: float, first: int, rows: int, width: int) -> np.ndarray:
    """Rows of the smooth noise (rows, width) that `grid` spans with a node each `cell` pixels."""
    where = np.float32([(1 / cell, 0, 1), (0, 1 / cell, first / cell + 1)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(grid, where, (width, rows), flags=flags)


def photograph(town: Town) -> np.ndarray:
    """The scene (h, w, 4) uint8 as a camera sees it: shadows, texture, haze, blur, noise."""
    rng = town.rng
    h, w = town.material.shape
    shadow = cv2.GaussianBlur(cast_shadows(town), (0, 0), 0.8)
    shadow = cv2.resize(shadow, (w, h), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(town.height, (w // 8 + 1, h // 8 + 1), interpolation=cv2.INTER_AREA)
    closed = cv2.GaussianBlur(small, (0, 0), 1.2 / town.metres / 8)
    closed = cv2.resize(closed, (w, h), interpolation=cv2.INTER_LINEAR)
    tone = cv2.GaussianBlur(town.tone, (0, 0), 0.08 / town.metres)
    cells = [max(size / town.metres, 1.0) for size in (0.35, 1.6, 9.0, 45.0)]
    grids = [
        rng.standard_normal((int(h / cell) + 5, int(w / cell) + 5), np.float32) for cell in cells
    ]
    ambient = rng.uniform(0.36, 0.46) * SKY
    for first in range(0, h, ROWS):
        rows = slice(first, min(first + ROWS, h))
        count = rows.stop - first
        middle, wide, field, light = (
            noise_rows(grid, cell, first, count, w) for grid, cell in zip(grids, cells, strict=True)
        )
        fine = rng.standard_normal((count, w), np.float32)
        material, height = town.material[rows], town.height[rows]
        weights = [np.take(column, material) for column in TEXTURE.T]
        worn = (tone[rows].astype(np.float32) / 128 - 1) * weights[4]
        texture = 1 + fine * weights[0] + (middle + 0.6 * wide) * weights[1] + worn
        texture += field * weights[2] + 0.02 * light
        dry = np.clip(0.5 * field + 0.5 * wide + 0.35 * middle, -0.6, 1.6) * weights[3]
        dark = np.clip((shadow[rows] - height - 0.12) / 0.3, 0, 1)
        sky = 1 - 0.07 * np.clip(closed[rows] - height, 0, 5)
        for band in range(4):
            lit = (1 - ambient[band]) * (1 - dark) + ambient[band] * sky
            pixels = (town.image[rows, :, band] + dry * DRY[band]) * texture * lit
            town.image[rows, :, band] = np.clip(pixels, 0, 255)
    return camera(town)


def camera(town: Town) -> np.ndarray:
    """Blur, haze, balance of colour and sensor noise, (h, w, 4) uint8."""
    rng = town.rng
    blurred = cv2.GaussianBlur(town.image, (0, 0), rng.uniform(0.6, 0.9))
    gain = rng.uniform(1.05, 1.25) * (1 + rng.normal(0, 0.02) * np.array((1, 0.2, -1, 0)))
    haze = rng.uniform(4, 16) * np.array((0.8, 0.95, 1.2, 0.5))
    noise = rng.uniform(1.2, 2.6)
    for first in range(0, len(blurred), ROWS):
        part = blurred[first : first + ROWS]
        grain = rng.standard_normal(part.shape, np.float32) * np.float32(noise)
        grain += part * np.float32(gain) + np.float32(haze)
        part[:] = np.clip(grain, 0, 255)
    return blurred
