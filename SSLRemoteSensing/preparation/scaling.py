"""What a scale makes of the values of scenes: what is counted of them, what stands for no data.

Tiles hold the values of their scene; what becomes 0 and 1 stands beside them, in dataset.json.
"""

import numpy as np

from SSLRemoteSensing.data.scale import Scale, to_uint8


def fill_values(scale: Scale | None, count: int, dtype: np.dtype) -> np.ndarray:
    """What stands for no data in each of `count` bands, (count, 1, 1), as far as `dtype` has it."""
    lows = np.resize(scale.minimum if scale else 0, count)
    if dtype.kind in "iu":
        lows = np.clip(np.floor(lows), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return lows.astype(dtype)[:, None, None]


def sees_bytes(dtype: np.dtype | str, scale: Scale | None) -> bool:
    """Whether values of scenes are counted as they become 0 to 255, not as they are stored."""
    is_plain = scale is None or scale.max_value is not None
    return not (is_plain and np.dtype(dtype) in (np.uint8, np.uint16))


def to_bytes(
    planes: np.ndarray, mask: np.ndarray | None, scale: Scale, name: str
) -> tuple[list[np.ndarray], int]:
    """Planes (bands, H, W) of the scene `name` as they become 0 to 255, and how many of the values
    that hold data are clipped."""
    result, outside = [], 0
    for band, plane in enumerate(planes, start=1):
        own = scale.of([band])
        is_outside = (plane < own.minimum[0]) | (plane > own.maximum[0])
        outside += int((is_outside if mask is None else is_outside & (mask > 0)).sum())
        result.append(to_uint8(plane, own, name))
    return result, outside


def band_sums(counts: np.ndarray, scale: float) -> list[int | float]:
    """Pixels, sum and sum of squares of values clipped at `scale`; exact for a whole `scale`."""
    values = np.minimum(np.arange(len(counts)), int(scale) if scale == int(scale) else scale)
    return [int(counts.sum()), (values @ counts).item(), (values**2 @ counts).item()]
