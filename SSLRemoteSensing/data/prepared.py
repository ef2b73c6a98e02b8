"""Open a folder of tiles: one that was prepared is taken at its word, another is looked through."""

import json
import os
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.places import SAME_SIZE, Place, pixel_on_ground
from SSLRemoteSensing.data.remote import is_remote
from SSLRemoteSensing.data.scale import Scale, checked_scale, up_to
from SSLRemoteSensing.data.subsets import scene_of

OWN = ("folder", "polygons")  # what `prepare` calls sets that have no name of their own
UNLABELLED = "unlabelled"  # the split of images without labels, which no score reads
CARD_KEYS = {"classes", "bands", "scale"}  # of dataset.json, needed to open the tiles


def read_card(folder: str | Path) -> dict | None:
    """The `dataset.json` of the prepared set that `folder` is a part of, None where there is none.

    Raises:
        UserError: its preparation is not finished, or the file is damaged.
    """
    if is_remote(folder):
        return None
    folder = Path(folder).absolute()
    for root in (folder, *folder.parents[:3]):
        card = root / "dataset.json"
        if card.is_file():
            try:
                contents = json.loads(card.read_text())
            except (OSError, ValueError) as error:
                raise UserError(f"{card}: damaged ({error}); prepare the data set again") from error
            if not isinstance(contents, dict):
                raise UserError(f"{card}: damaged (no object); prepare the data set again")
            if CARD_KEYS.isdisjoint(contents) and "version" not in contents:
                continue  # other tools keep a file of this name too
            if contents.get("version") != 1:
                raise UserError(f"{card}: of version {contents.get('version')}, known is 1")
            missing = CARD_KEYS - contents.keys()
            if missing:
                fault = f"damaged (lacks {min(missing)})"
                raise UserError(f"{card}: {fault}; prepare the data set again")
            return contents | {"root": root}
        if (root / "prepare.jsonl").is_file():
            raise UserError(
                f"{root}: its preparation is not finished; run tools/prepare.py again, it goes on"
            )
    return None


def source_sizes(tiles: Sequence[str]) -> dict[str, int]:
    """SHA-256 -> bytes of the files that prepared tiles were cut from, by the audit.json beside
    their dataset.json; empty of images that are no prepared tiles, and where it has no such record.
    """
    scenes_in: dict[str, set[str]] = {}
    for tile in tiles:
        folder, _, name = tile.rpartition("/")
        scenes_in.setdefault(folder, set()).add(scene_of(stem(name), prepared=True))
    sizes: dict[str, int] = {}
    for folder, scenes in scenes_in.items():
        card = read_card(folder)
        for record in read_json(card["root"] / "audit.json").get("scenes", ()) if card else ():
            if record["split"] == os.path.basename(folder) and record["scene"] in scenes:
                stamps = record.get("stamps", {})
                sizes |= {sha: stamps[x][0] for x, sha in record["sources"].items() if x in stamps}
    return sizes


def agreed_scale(
    card: dict | None, stated: Scale | None, bands: Sequence[int] | None
) -> Scale | None:
    """The scale for `read_image`: the prepared set's own, which a config may not contradict.

    Args:
        card: its dataset.json; None: there is none, and what is `stated` holds.
        bands: those of its tiles that are taken, from 1; None: all.
    """
    if card is None:
        return stated
    own = scale_of_tiles(card).of(bands)
    if stated is not None and stated != own:
        text = card["scale"] if own.max_value is not None else own
        raise UserError(f"{stated}: {card['root']} was prepared with {text}; leave it out")
    return None if own == up_to(255) else own


def scale_of_tiles(card: dict) -> Scale:
    """The scale of a dataset.json: the value that becomes 1, or numbers of each band."""
    scale = card["scale"]
    return checked_scale(scale, "dataset.json: scale") if isinstance(scale, dict) else up_to(scale)


def origin_of_tiles(card: dict | None, bands: Sequence[int] | None, in_channels: int) -> dict:
    """What has to be known of tiles to feed a network the same from other files.

    Args:
        card: the `dataset.json` that they are of, if any.
        bands: those that were read of the tiles, None: all.
        in_channels: of the network; three take grey, repeated.

    Returns:
        bands: the numbers, from 1, of the bands of the source scenes that make the channels; those
            of the tiles where it is not known what they were cut from; None: all in order.
        band_names: those of the channels, None without a dataset.json.
        prepared: whether `bands` are of the scenes that the tiles were cut from.
        dataset: the prepared set's name, None where it has none of its own.

    Raises:
        UserError: a band that the prepared tiles do not have.
    """
    names = card and card["bands"]
    numbers = list(bands) if bands else card and list(range(1, len(names) + 1))
    if card and not 1 <= min(numbers) <= max(numbers) <= len(names):
        raise UserError(
            f"bands={tuple(numbers)}: {card['root']} has the bands 1 to {len(names)} "
            f"({', '.join(names)})"
        )
    if numbers and in_channels == 3 and len(numbers) < 3:
        numbers = numbers[:1] * 3
    of_scenes = bands_of_scenes(card, numbers)
    name = card and card.get("name")
    return {
        "bands": of_scenes or (bands and numbers) or None,
        "band_names": card and [names[band - 1] for band in numbers],
        "prepared": of_scenes is not None,
        "dataset": None if name in OWN else name,
    }


def bands_of_scenes(card: dict | None, bands: Sequence[int] | None) -> list[int] | None:
    """Which bands of the source scenes some `bands` of tiles are, None: all; None where it is not
    known what the tiles were cut from, or they do not have these bands."""
    known = card and card.get("source_bands")
    if not isinstance(known, list) or len(known) != len(card["bands"]):
        return None
    of_scenes = dict(enumerate(known, start=1))
    numbers = bands or of_scenes
    return [of_scenes[band] for band in numbers] if of_scenes.keys() >= {*numbers} else None


def gsd_of_tiles(card: dict | None) -> float | None:
    """The ground sampling distance in metres of a prepared set's training scenes, by their places
    in its dataset.json; None where one has no CRS, or where pixels differ in size by more than
    about 2 %."""
    metres: list[float] = []
    for place in (card or {}).get("places", {}).get("train", {}).values():
        known = place_of_card(place)
        sizes = known and pixel_on_ground(known, (place["height"], place["width"]))
        if sizes is None:
            return None
        metres += sizes
    low, high = min(metres, default=0.0), max(metres, default=0.0)
    # The mean of the two is then within `SAME_SIZE` of both: no scene of the set is resampled.
    return sqrt(low * high) if 0 < high <= low * SAME_SIZE**2 else None


def place_of_card(place: dict) -> Place | None:
    """Where a scene of a dataset.json lies, None where it does not say so."""
    if None in (place.get("crs"), place.get("transform")):
        return None
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.transform import Affine

    try:
        return Place(Affine(*place["transform"]), CRS.from_string(place["crs"]))
    except CRSError:
        return None


def require_fit(
    card: dict,
    num_classes: int,
    classes: Sequence[str] | None,
    numbers: Sequence[int] | None,
    in_channels: int,
) -> None:
    """Raise a `UserError` where a config does not fit the prepared set that it names.

    Args:
        classes: their names in the config, None where it has none.
        numbers: the bands that it chooses, None: all.
    """
    names, bands, root = (card[key] for key in ("classes", "bands", "root"))
    if len(names) != num_classes or list(classes or names) != names:
        text = ", ".join(classes or [str(num_classes)])
        raise UserError(
            f"classes: {text}, but {root} was prepared with {len(names)}: {', '.join(names)}"
        )
    if numbers is None and len(bands) not in (1, in_channels):
        raise UserError(
            f"{root} has the bands {', '.join(bands)}; set backbone_cfg.in_channels={len(bands)}, "
            "or choose with bands=(...)"
        )


LABEL_FOLDERS = {"full": "labels", "eroded": "labels_eroded"}


def positions(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin along an axis; the last one moves inward, so that every pixel is covered.

    >>> positions(600, 256, 256)
    [0, 256, 344]
    """
    return [*range(0, length - tile, stride), length - tile]
