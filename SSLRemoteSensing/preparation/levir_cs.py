"""Levir_CS, clouds and snow in Gaofen-1 WFV scenes: classes, codes, files.

Source: the data set's release. It has train and test; validation is a tenth of train, by a hash of
the scene's name.
"""

from collections.abc import Sequence

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import INVALID, ValueCoding
from SSLRemoteSensing.preparation.catalog import BAND_NAMES, Catalog, pair_scenes
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.splits import assign_splits, files_by_scene, pick_scenes

CLASSES = ("background", "cloud", "snow")
PALETTE = ((90, 130, 80), (255, 255, 255), (0, 190, 255))  # for pictures; the set has no colours
SCALE = 1023  # 10 bits; higher values are clipped
VAL_SHARE = 0.1
# The file's bands are blue, green, red, near infrared. Red comes first in the tiles, as weights
# from colour images expect it.
BANDS = {"rgb": (3, 2, 1), "irrg": (4, 3, 2), "rgbir": (3, 2, 1, 4)}


def coding() -> ValueCoding:
    """0, 1, 2 and, in copies that go round, 0, 128, 255; a label never has both."""
    table = np.full(256, INVALID, np.int16)
    table[[0, 1, 2, 128, 255]] = [0, 1, 2, 1, 2]
    return ValueCoding(table, len(CLASSES), families=((0, 1, 2), (0, 128, 255)))


def levir_cs(
    files: Sequence[SourceFile], bands: str, kinds: Sequence[str], splits: Sequence[str]
) -> Catalog:
    """The scenes of train/ and test/, `mss/NAME_mss.tiff` with `label_0_1_2/NAME_roiMap.tif`.

    Args:
        bands: 'rgb', 'irrg' or 'rgbir'.
        kinds: ('full',); there are no others.
        splits: see `deal`.

    Raises:
        UserError: no scenes found, eroded labels asked for.
    """
    if list(kinds) != ["full"]:
        raise UserError("--labels: Levir_CS has full labels only")
    names_by_split, images, labels, notes = {}, {}, {}, []
    for part in ("train", "test"):
        start = rf"(?:.*/)?{part}/(?:.*/)?"
        matches, new_notes = files_by_scene(files, rf"{start}([^/]+)_mss\.tiff?")
        maps, map_notes = files_by_scene(files, rf"{start}([^/]+)_roiMap\.tiff?")
        doubles = sorted(matches.keys() & images.keys())
        if doubles:
            raise UserError(f"scene {doubles[0]} is in train and in test; remove one")
        names_by_split[part] = list(matches)
        images |= matches
        labels |= maps
        notes += new_notes + map_notes
    if not images:
        raise UserError(f"no train/mss/*_mss.tiff or test/mss/*_mss.tiff among {len(files)} files "
                        "of --source")  # fmt: skip
    val = pick_scenes(names_by_split["train"], str(VAL_SHARE), "val")
    names_by_split["val"] = sorted(val)
    names_by_split["train"] = [name for name in names_by_split["train"] if name not in val]
    split_of = assign_splits(names_by_split, splits)
    scenes, new_notes, problems = pair_scenes(
        split_of, images, {"full": labels}, dict.fromkeys(images, BANDS[bands])
    )
    return Catalog(
        "levir_cs", CLASSES, PALETTE, BAND_NAMES[bands], SCALE, coding(), scenes,
        notes=notes + new_notes, problems=problems,
    )  # fmt: skip
