"""How values of files become 0 to 255: alike in training, preparation, maps and export."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from SSLRemoteSensing.core.config import Part, plain_value, require
from SSLRemoteSensing.core.errors import UserError

PERCENTILE = "percentile"  # in a config, in place of numbers: those of the training images


@dataclass(frozen=True)
class Scale:
    """In each band `minimum` becomes 0 and `maximum` 255, what lies between linearly; what lies
    outside is clipped, NaN becomes 0.

    Attributes:
        minimum: the value that becomes 0: one for each band that is taken, in their order, or one
            for all.
        maximum: the value that becomes 255, likewise.

    Raises:
        UserError: numbers that cannot be.
    """

    minimum: float | Sequence[float]
    maximum: float | Sequence[float]

    def __post_init__(self):
        low, high = map(as_numbers, (self.minimum, self.maximum))
        if (1 not in (len(low), len(high)) and len(low) != len(high)) or not (low and high):
            raise UserError(
                f"scale: minimum has {len(low)} numbers, maximum {len(high)}; give one for each "
                "band that is taken, or one for all"
            )
        count = max(len(low), len(high))
        low, high = (
            numbers * count if len(numbers) < count else numbers for numbers in (low, high)
        )
        for a, b in zip(low, high, strict=True):
            if not (math.isfinite(a) and math.isfinite(b) and a < b):
                raise UserError(
                    f"scale: minimum {number(a)}, maximum {number(b)}: the minimum must be below "
                    "the maximum, and both finite"
                )
        object.__setattr__(self, "minimum", low)
        object.__setattr__(self, "maximum", high)

    def __str__(self) -> str:
        """As a config states it."""
        if self.max_value is not None:
            return f"max_value={number(self.max_value)}"
        low, high = (", ".join(map(number, part)) for part in (self.minimum, self.maximum))
        comma = "," if self.count == 1 else ""
        return f"scale=dict(minimum=({low}{comma}), maximum=({high}{comma}))"

    @property
    def count(self) -> int:
        """Of the bands that it has numbers of; 1: it holds for any band."""
        return len(self.minimum)

    @property
    def max_value(self) -> float | None:
        """The value that becomes 255 where it is one for all bands, and 0 becomes 0; else None."""
        return self.maximum[0] if self.minimum == (0,) else None

    @property
    def keeps_0(self) -> bool:
        """Whether 0 becomes 0 in all bands."""
        return min(self.minimum) >= 0

    def of(self, bands: Sequence[int] | None) -> "Scale":
        """That of some of the bands, counted from 1; None: of all."""
        if bands is None or self.count == 1 or max(bands) > self.count:
            return self
        chosen = ([part[band - 1] for band in bands] for part in (self.minimum, self.maximum))
        return Scale(*chosen)

    def flag(self) -> str:
        """As a command line states it."""
        ends = zip(self.minimum, self.maximum, strict=True)
        # Without an exponent: argparse would take -1e-05 for a flag.
        words = (np.format_float_positional(end, trim="-") for pair in ends for end in pair)
        return f"--scale {' '.join(words)}"

    def numbers(self) -> dict[str, list[float]]:
        """Its numbers in JSON's types, from which `Scale(**numbers)` is made again."""
        return {"minimum": list(self.minimum), "maximum": list(self.maximum)}


ScaleKey = Annotated[dict | Literal["percentile"] | None, Part(Scale)]  # of a config


def as_numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return (value,) if isinstance(value, int | float) else tuple(value)


def number(value: float) -> str:
    """`value` as short as it can be written."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def checked_scale(value: Mapping | str | None, path: str = "scale") -> Scale | str | None:
    """A `ScaleKey`, as configs, cards and calls have it, its dict as a `Scale`.

    Raises:
        UserError: another word, other keys, numbers that cannot be; `path` names the key.
    """
    value = plain_value(value)
    require(ScaleKey, value, path)
    return Scale(**value) if isinstance(value, dict) else value


def up_to(max_value: float | None) -> Scale | None:
    """The scale by which 0 stays 0 and `max_value` becomes 255; None of None.

    Raises:
        UserError: it is not above 0.
    """
    if max_value is None:
        return None
    if not max_value > 0:
        raise UserError(f"max_value={max_value}: must be above 0")
    return Scale(0, max_value)


def stated_scale(max_value: float | None, scale: dict | str | None) -> Scale | None:
    """What the two keys of a config state; None: neither does, or 'percentile' is to be found.

    Raises:
        UserError: both do; numbers that cannot be.
    """
    if max_value is not None and scale is not None:
        raise UserError(f"max_value={max_value}, scale: both are given; leave one of them out")
    return checked_scale(scale) if isinstance(scale, dict) else up_to(max_value)


def read_scale(words: Sequence[str] | None, takes_percentile: bool = True) -> Scale | str | None:
    """What --scale says: a minimum and a maximum of each band, or of all; or 'percentile', where
    there are images to find it in. None of None.

    Raises:
        UserError: something else.
    """
    if words is None or (takes_percentile and list(words) == [PERCENTILE]):
        return words and PERCENTILE
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) % 2:
        percentile = "percentile, or " if takes_percentile else ""
        raise UserError(
            f"--scale {' '.join(words)}: give {percentile}a minimum and a maximum of each band, "
            "such as --scale -25 0 -32 -5, or of all"
        )
    return Scale(numbers[::2], numbers[1::2])


def scale_card(scale: Scale | None) -> dict:
    """What a card says of a scale, which `scale_of_card` reads: max_value, and where that does not
    tell all of it, the numbers of each band."""
    if scale is None or scale.max_value is not None:
        return {"max_value": scale and scale.max_value}
    return {"max_value": None, "scale": scale.numbers()}


def scale_of_card(card: dict) -> Scale | None:
    """The scale of a card, also of an earlier version, which knew max_value alone."""
    numbers = card.get("scale")
    if isinstance(numbers, dict):
        return checked_scale(numbers, "scale of the card")
    return up_to(card.get("max_value"))


def to_uint8(image: np.ndarray, scale: Scale | None, path: str | Path) -> np.ndarray:
    """Scale `image`, of any shape where `scale` holds for any band, else (H, W, C), to uint8.

    By default the largest value of an unsigned type becomes 255; `path` names it in errors.
    """
    require_real(image.dtype, path)
    if scale is None:
        if image.dtype == np.uint8:
            return image
        if image.dtype.kind != "u":
            raise UserError(
                f"{path}: holds {image.dtype}; set max_value, the value that becomes 255, or "
                "scale='percentile'"
            )
        scale = Scale(0, int(np.iinfo(image.dtype).max))
    if scale.count == 1:
        return stretched(image, scale.minimum[0], scale.maximum[0])
    if image.shape[-1] != scale.count:
        raise UserError(
            f"{path}: {image.shape[-1]} bands are taken of it, scale has numbers of "
            f"{scale.count}; give one for each, or one for all"
        )
    ends = zip(scale.minimum, scale.maximum, strict=True)
    planes = [stretched(image[..., i], low, high) for i, (low, high) in enumerate(ends)]
    return np.stack(planes, axis=-1)


def require_real(dtype: np.dtype, path: str | Path) -> None:
    if dtype.kind == "c":
        raise UserError(f"{path}: holds {dtype}; save real values, such as its magnitude")


def stretched(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """`image` as uint8, with `low` at 0 and `high` at 255."""
    if image.dtype in (np.uint8, np.uint16):
        return _table(image.dtype.name, low, high)[image]
    return _stretch(image, low, high)


@lru_cache(64)
def _table(dtype: str, low: float, high: float) -> np.ndarray:
    """What every value of an integer type becomes."""
    return _stretch(np.arange(np.iinfo(dtype).max + 1, dtype=dtype), low, high)


def _stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # as nodata values do; they are clipped
        # First: of large numbers float32 keeps no units.
        image = image - float(low) if low else image
        image = image.astype(np.float32) if image.dtype.itemsize > 4 else image
        scaled = np.nan_to_num(image * np.float32(255.0 / (high - low)), nan=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
