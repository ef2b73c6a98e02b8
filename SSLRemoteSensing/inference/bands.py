"""Which bands of a scene a network takes, and which of their values becomes 255.

The first of these rules that holds for a file decides. A tile is one with just as many bands as the
network, whose training tiles were cut from scenes with the bands of the card.

| rule | holds for | gives |
|---|---|---|
| absent band | --bands, one of which the file does not have | refused |
| other number | --bands, more or fewer than the network's channels | refused |
| flag | --bands | the bands of the flag |
| palette | a palette, for a network of red, green, blue | its colours |
| indices | a palette, but for a network of one band that training took as it stood | refused |
| CMYK | CMYK, but for a JPEG and a network of red, green, blue | refused |
| photograph | any other file of CMYK | all: decoding converts them |
| training | a file that has the card's bands, and is no tile | the card's bands |
| as stored | a tile, or as many bands as the network where the card names none | all of them |
| without alpha | as many bands not called alpha as the network where the card names none | those |
| grey | one band not called alpha, for a network of red, green, blue | it, repeated |
| other | any file | refused |

A band called alpha masks, unless the network takes it, as near infrared is often called so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import Tiff
from SSLRemoteSensing.data.reading import sort_of
from SSLRemoteSensing.data.scale import Scale, number
from SSLRemoteSensing.inference.network import RGB, MapNetwork

JPEG_ENDINGS = {".jpg", ".jpeg"}


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
    alpha: int | None
    palette: np.ndarray | None = None
    clear: np.ndarray | None = None
    remark: str = ""


class Case:
    """A file, the network that is to take it, and the bands of the flag, as the rules ask of it.

    `is_tile`, `is_plain`: a band a channel, where training had tiles, where no card names bands.
    """

    def __init__(self, file: Tiff, network: MapNetwork, flag: Sequence[int] | None):
        self.flag, self.trained = list(flag or ()), list(network.bands or ())
        self.stored, self.data = [*range(1, file.count + 1)], file.data_bands
        self.channels, self.is_rgb, names = network.in_channels, network.is_rgb, network.band_names
        self.has_palette, self.is_cmyk = file.palette is not None, file.is_cmyk
        self.is_photograph = file.path.suffix.lower() in JPEG_ENDINGS
        self.absent = [band for band in self.flag if band not in self.stored]
        self.has_trained = 0 < max(self.trained, default=0) <= file.count
        self.is_tile = network.prepared and file.count == self.channels
        self.is_plain = not self.trained and file.count == self.channels
        self.is_masked = not self.trained and len(self.data) == self.channels
        self.takes_indices = self.channels == 1 and self.trained == [1] and not network.prepared
        self.wanted = f"{self.channels}: {', '.join(names or ())}"
        if self.trained:
            labels = [f" ({name})" for name in names] if names else [""] * len(self.trained)
            self.wanted = f"bands {', '.join(map('{}{}'.format, self.trained, labels))}"
        elif not names:
            self.wanted = f"{self.channels}, those of training"


class Rule(NamedTuple):
    """Where a rule holds, and the bands that it gives, or why it refuses the file."""

    name: str
    holds: Callable[[Case], bool]
    outcome: Callable[[Case], list[int]] | str


ABSENT = "has {count}, not band {case.absent[0]} of --bands"
NUMBER = "--bands: {flag} where the network takes {case.channels}"
INDICES = "holds colours of a palette where the network takes {case.wanted}; convert it to bands"
CMYK = "holds CMYK; convert it to RGB"
OTHER = "has {count} where the network takes {case.wanted}; {remedy}"
RULES = (
    Rule("absent band", lambda case: case.absent, ABSENT),
    Rule("other number", lambda case: len(case.flag) not in (0, case.channels), NUMBER),
    Rule("flag", lambda case: case.flag, lambda case: case.flag),
    Rule("palette", lambda case: case.has_palette and case.is_rgb, lambda case: [1]),
    Rule("indices", lambda case: case.has_palette and not case.takes_indices, INDICES),
    Rule("CMYK", lambda case: case.is_cmyk and not (case.is_photograph and case.is_rgb), CMYK),
    Rule("photograph", lambda case: case.is_cmyk, lambda case: case.stored),
    Rule("training", lambda case: case.has_trained and not case.is_tile, lambda case: case.trained),
    Rule("as stored", lambda case: case.is_tile or case.is_plain, lambda case: case.stored),
    Rule("without alpha", lambda case: case.is_masked, lambda case: case.data),
    Rule("grey", lambda case: len(case.data) == 1 and case.is_rgb, lambda case: case.data),
    Rule("other", lambda case: True, OTHER),
)


def choose_bands(file: Tiff, network: MapNetwork, flag: Sequence[int] | None) -> ChosenBands:
    """The bands for the network by `RULES`; `flag` has those of --bands, None without it.

    Raises:
        UserError: bands that the scene does not have, or nothing tells which of its own they are.
    """
    case = Case(file, network, flag)
    rule = next(rule for rule in RULES if rule.holds(case))
    if isinstance(rule.outcome, str):
        numbers = {"count": file.count, "flag": len(case.flag)}
        facts = {key: f"{n} band{'s' if n != 1 else ''}" for key, n in numbers.items()}
        order = "choose them in this order with --bands"
        facts["remedy"] = order if file.count >= case.channels else "take another one"
        raise UserError(f"image {file.path}: {rule.outcome.format(case=case, **facts)}")
    bands = rule.outcome(case)
    alpha = file.alpha_beside(bands)
    if rule.name == "palette":
        return ChosenBands(bands, alpha, file.palette, file.clear)
    # Grey and CMYK have not a band for each channel.
    remark = remark_on(case, bands, network.band_names) if len(bands) == case.channels else ""
    return ChosenBands(bands, alpha, remark=remark)


def remark_on(case: Case, bands: list[int], names: tuple[str, ...] | None) -> str:
    """What the user should know of bands that are not plain red, green, blue as they are stored."""
    taken = f"bands {', '.join(map(str, bands))} taken"
    as_stored = bands == case.stored[: len(bands)] and case.trained in ([], bands)
    if names and not (as_stored and names == RGB):
        return f"{taken} as {', '.join(names)}"
    if as_stored or case.flag:
        return ""
    return f"{taken} as in training" if bands == case.trained else taken


def agreed_scale(
    path: Path, kind: np.dtype, network: MapNetwork, stated: Scale | None
) -> Scale | None:
    """The scale of a scene, None for the largest of its type: what is `stated`, or training's.

    Args:
        kind: of the scene's values.

    Raises:
        UserError: values of another kind than those of training, with no word of the user's on it;
            numbers of another count of bands.
    """
    if kind.kind not in "uif":
        raise UserError(f"image {path}: holds {kind}; convert it to uint8 or uint16")
    if stated is not None:
        if stated.count not in (1, network.in_channels):
            raise UserError(
                f"--scale has numbers of {stated.count} bands, the network takes "
                f"{network.in_channels}; give a minimum and a maximum for each, or one pair for all"
            )
        return stated
    scale, trained = network.scale, network.dtype
    if sort_of(kind.name) == sort_of(trained) and (scale or kind.name == trained):
        return scale
    values = "8 bits" if trained == "uint8" else trained
    if scale:
        values += f", {scale}" if scale.max_value is None else f" up to {number(scale.max_value)}"
    hint = "255 if the scene was scaled to 8 bits" if kind == np.uint8 else "what becomes 255"
    raise UserError(
        f"image {path}: holds {kind}, the network was trained on {values}; pass --max_value, "
        f"{hint}, or --scale, what becomes 0 and 255 in each band"
    )
