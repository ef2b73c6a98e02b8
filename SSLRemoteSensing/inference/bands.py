"""Which bands of a scene a network takes, and which of their values becomes 255."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import Tiff
from SSLRemoteSensing.inference.network import RGB, MapNetwork


@dataclass(frozen=True)
class ChosenBands:
    """What is read of a scene.

    Attributes:
        bands: from 1, in the order of the network's channels; a single one may stand for all.
        alpha: the band that tells which pixels hold data.
        palette: colours uint8 (N, 3) that the values of the band stand for.
        clear: bool (N,), the colours that stand for no data.
        remark: what the user should know of it.
    """

    bands: list[int]
    alpha: int | None = None
    palette: np.ndarray | None = None
    clear: np.ndarray | None = None
    remark: str = ""


def choose_bands(
    path: Path, source: Tiff, network: MapNetwork, requested: Sequence[int] | None, photograph: bool
) -> ChosenBands:
    """The bands for the network: those asked for, those of training, or all as they are stored.

    A file that has as many bands as the tiles that were cut for training is taken for such a tile.
    A band called alpha masks, unless the network takes it, as near infrared is often called so.

    Args:
        photograph: the file is a JPEG, whose CMYK is converted when it is decoded.

    Raises:
        UserError: bands that the scene does not have, or nothing tells which of its own they are.
    """
    channels, count, trained_bands = network.in_channels, source.count, list(network.bands or ())
    all_bands, data_bands = list(range(1, count + 1)), source.data_bands
    if requested is not None:
        absent = [band for band in requested if not 1 <= band <= count]
        if absent:
            raise UserError(f"image {path}: has {bands_of(count)}, not band {absent[0]} of --bands")
        if len(requested) != channels:
            raise UserError(
                f"--bands: {bands_of(len(requested))} where the network takes {channels}"
            )
        bands = list(requested)
    elif source.palette is not None and network.is_rgb:
        clear = source.colour_table[:, 3] == 0
        return ChosenBands(
            [1], alpha_of(source, [1]), source.palette, clear if clear.any() else None
        )
    elif source.palette is not None and (network.prepared or trained_bands != [1] or channels != 1):
        raise UserError(
            f"image {path}: holds colours of a palette where the network takes "
            f"{describe_bands(network)}; convert it to bands"
        )
    elif source.is_cmyk and photograph and network.is_rgb:
        return ChosenBands(all_bands)
    elif source.is_cmyk:
        raise UserError(f"image {path}: holds CMYK; convert it to RGB")
    elif (
        trained_bands
        and max(trained_bands) <= count
        and not (network.prepared and count == channels)
    ):
        bands = trained_bands
    elif count == channels and (network.prepared or not trained_bands):
        bands = all_bands
    elif len(data_bands) == channels and not trained_bands:
        bands = data_bands
    elif len(data_bands) == 1 and network.is_rgb:
        return ChosenBands(data_bands, alpha_of(source, data_bands))  # grey, repeated
    else:
        remedy = (
            "choose them in this order with --bands" if count >= channels else "take another one"
        )
        raise UserError(
            f"image {path}: has {bands_of(count)} where the network takes "
            f"{describe_bands(network)}; {remedy}"
        )
    remark, numbers = "", ", ".join(map(str, bands))
    as_stored = bands == all_bands[: len(bands)] and trained_bands in ([], bands)
    if network.band_names and not (as_stored and network.band_names == RGB):
        remark = f"bands {numbers} taken as {', '.join(network.band_names)}"
    elif requested is None and not as_stored:
        remark = f"bands {numbers} taken" + (" as in training" if bands == trained_bands else "")
    return ChosenBands(bands, alpha_of(source, bands), remark=remark)


def alpha_of(source: Tiff, bands: Sequence[int]) -> int | None:
    others = set(range(1, source.count + 1)) - set(source.data_bands) - set(bands)
    return min(others, default=None)


def bands_of(count: int) -> str:
    return f"{count} band{'s' if count != 1 else ''}"


def describe_bands(network: MapNetwork) -> str:
    """The bands of training by number and name, as far as they are known."""
    bands, names = network.bands, network.band_names
    if bands and names:
        named_bands = [f"{band} ({name})" for band, name in zip(bands, names, strict=True)]
        return f"bands {', '.join(named_bands)}"
    if bands:
        return f"bands {', '.join(map(str, bands))}"
    if names:
        return f"{network.in_channels}: {', '.join(names)}"
    return f"{network.in_channels}, those of training"


def agreed_scale(
    path: Path, kind: np.dtype, network: MapNetwork, max_value: float | None
) -> float | None:
    """The value that becomes 255, None for the largest of the type.

    Args:
        kind: of the scene's values.
        max_value: what the user says of it.

    Raises:
        UserError: values of another kind than those of training, with no word of the user's on it.
    """
    if kind.kind not in "uif":
        raise UserError(f"image {path}: holds {kind}; convert it to uint8 or uint16")
    if max_value is not None:
        return max_value
    trained_max = network.max_value
    if sort_of(kind.name) == sort_of(network.dtype) and (trained_max or kind.name == network.dtype):
        return trained_max
    dtype = "8 bits" if network.dtype == "uint8" else network.dtype
    top = f" up to {trained_max:g}" if trained_max else ""
    hint = "255 if the scene was scaled to 8 bits" if kind == np.uint8 else "what becomes 255"
    raise UserError(
        f"image {path}: holds {kind}, the network was trained on {dtype}{top}; pass --max_value, "
        f"{hint}"
    )


def sort_of(dtype: str) -> str:
    """Types whose values may be scaled alike."""
    return dtype if dtype == "uint8" else "float" if dtype.startswith("float") else "deep"
