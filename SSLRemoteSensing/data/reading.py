"""How the values of files become channels: the same bands and scale in all parts of a config."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.images import read_header
from SSLRemoteSensing.data.prepared import bands_of_scenes, gsd_of_tiles
from SSLRemoteSensing.data.scale import Scale, number, up_to


@dataclass(frozen=True)
class Reading:
    """How a part of a config reads its files.

    Attributes:
        scale, bands: as `read_image` takes them.
        file: the first one, or what else the rest is known of.
        dtype, count: of its values and bands; None: not known.
        prepared: a prepared set states scale and bands of its own.
        gsd: size in metres of the pixels that the network sees, by that of windows or of a prepared
            set; None: not known.
        scene_bands: of a prepared set, the bands of the scenes it was cut from that are read;
            None: not known.
    """

    scale: Scale | None
    bands: Sequence[int] | None
    file: str
    dtype: str | None = None
    count: int | None = None
    prepared: bool = False
    gsd: float | None = None
    scene_bands: Sequence[int] | None = None

    @property
    def max_value(self) -> float | None:
        """The value that becomes 255, where `scale` is stated by it."""
        return self.scale and self.scale.max_value

    @property
    def whole_scale(self) -> Scale | None:
        """`scale`, or that of an unsigned type; None where only the user could tell."""
        is_unsigned = self.dtype is not None and self.dtype.startswith("uint")
        return self.scale or (up_to(int(np.iinfo(self.dtype).max)) if is_unsigned else None)

    @property
    def is_scaled(self) -> bool:
        """Whether values are other than the 8 bits of the files as they are."""
        return self.scale not in (None, up_to(255)) or self.dtype not in (None, "uint8")


def reading_of(
    file: str,
    scale: Scale | None,
    bands: Sequence[int] | None,
    card: dict | None,
    windows: dict | None,
) -> Reading:
    """The reading of files like `file`; of one that cannot be read only what is stated is known.

    Args:
        card: the dataset.json that the files are of, if any.
        windows: the settings of windows, None where files are read whole.
    """
    prepared, gsd = card is not None, (windows or {}).get("gsd") or gsd_of_tiles(card)
    try:
        header = read_header(file)
    except UnreadableImage:  # which is told where it is read
        return Reading(scale, bands, file, prepared=prepared, gsd=gsd)
    of_scenes = bands_of_scenes(card, bands)
    return Reading(scale, bands, file, header.dtype, header.bands, prepared, gsd, of_scenes)


def agreed_reading(own: Reading, train: Reading | None) -> Reading:
    """`own`, with bands and scale of `train` where it states none.

    Raises:
        UserError: it states others for the same kind of files, or none for another kind, so that
            nothing tells what they mean there.
    """
    if train is None:
        return own
    if own.prepared:
        tell_other_numbers(own, train)
    if own.prepared and not train.prepared:
        require_order_of_scenes(own, train)
        return own
    if not own.prepared:
        own = replace(own, scale=common_scale(own, train))
    if own.prepared == train.prepared:
        return replace(own, bands=agreed_bands(own, train))
    return replace(own, bands=bands_of_unprepared(own, train))


def tell_other_numbers(own: Reading, train: Reading) -> None:
    """Warn of a prepared set whose bands have other numbers than those of training, as percentiles
    of its own; each set's max_value is what becomes 1 in its files."""
    scales = own.scale, train.scale
    if None in scales or scales[0] == scales[1] or None not in (own.max_value, train.max_value):
        return
    warn(
        f"{own.file}: was prepared with {own.scale}, the images of train_data are read with "
        f"{train.scale}; unless that is meant, prepare it with {train.scale.flag()}"
    )


def common_scale(own: Reading, train: Reading) -> Scale | None:
    if not (own.dtype and train.dtype) or sort_of(own.dtype) == sort_of(train.dtype):
        trained = train.whole_scale
        if own.whole_scale == trained or trained is None:
            return own.scale
        if own.scale is not None:
            text = str(trained) if trained.max_value is None else number(trained.max_value)
            stated = "" if train.scale else f", the largest of {train.dtype}"
            raise UserError(
                f"{own.scale}: in train_data ({train.file}) it is {text}{stated}; make them "
                "equal, or leave it out here"
            )
        return trained
    if own.scale is None and own.dtype != "uint8":  # which was scaled to 8 bits
        scale = f", {train.scale}" if train.scale else ""
        scale = f" up to {number(train.max_value)}" if train.max_value else scale
        raise UserError(
            f"{own.file}: holds {own.dtype}, the images of train_data {train.dtype}{scale}; set "
            "max_value here, the value that becomes 255"
        )
    return own.scale


def agreed_bands(own: Reading, train: Reading) -> Sequence[int] | None:
    if own.count is None or train.count is None or own.count == train.count:
        stored = range(1, (own.count or 0) + 1)
        if own.bands is not None and not begin_alike(own.bands, train.bands or stored):
            others = tuple(train.bands) if train.bands else "all, as they are stored"
            raise UserError(
                f"bands={tuple(own.bands)}: in train_data ({train.file}) they are {others}; make "
                "them equal, or leave them out here"
            )
        return train.bands if own.bands is None else own.bands
    if own.bands is not None or train.bands is None:
        return own.bands
    if not begin_alike(train.bands, range(1, own.count + 1)):
        raise UserError(
            f"{own.file}: has {own.count} bands, the images of train_data {train.count}, of which "
            f"it takes bands={tuple(train.bands)}; set bands here too"
        )
    return train.bands if len(train.bands) < own.count else None


def bands_of_unprepared(own: Reading, train: Reading) -> Sequence[int] | None:
    """The bands of files beside a prepared set to train on: of scenes as that was cut from those
    that its tiles have, of other tiles all, as they are stored.

    Raises:
        UserError: a band for each channel, which may be those of a scene or of a tile.
    """
    wanted = train.scene_bands
    if own.bands is not None or wanted is None or own.count is None:
        return own.bands
    stored = tuple(range(1, len(wanted) + 1))
    if tuple(wanted) == stored or max(wanted) > own.count:
        return None
    if own.count > len(wanted):
        return wanted
    raise UserError(
        f"{own.file}: has {own.count} bands, and the tiles of train_data were cut from bands "
        f"{tuple(wanted)} of their scenes; set bands={tuple(wanted)} here for such scenes, "
        f"bands={stored} for files in the order of the tiles"
    )


def require_order_of_scenes(own: Reading, train: Reading) -> None:
    """Raise a `UserError` where a prepared set has the bands of its scenes in another order than
    files to train on, which may be such scenes, are read in."""
    stored = range(1, (train.count or 0) + 1)
    taken, shown = tuple(train.bands or stored), own.scene_bands
    if own.bands is not None or shown is None or tuple(shown) == taken:
        return
    if sorted(shown) == sorted(taken):
        order = tuple(list(shown).index(band) + 1 for band in taken)
        raise UserError(
            f"{own.file}: was cut from bands {tuple(shown)} of scenes, and of the images of "
            f"train_data ({train.file}) bands {taken} are taken; set bands={order} here if these "
            f"are such scenes, bands={tuple(range(1, len(taken) + 1))} if their bands are in the "
            "order of the tiles"
        )


def begin_alike(bands: Sequence[int], others: Sequence[int]) -> bool:
    """Of grey one band is stated or three times the same, and an alpha band comes last."""
    return all(band == other for band, other in zip(bands, others, strict=False))


def sort_of(dtype: str) -> str:
    """Types whose values may be scaled alike."""
    return dtype if dtype == "uint8" else "float" if dtype.startswith("float") else "deep"
