"""Levir_CS, clouds and snow in Gaofen-1 WFV scenes: classes, codes, files.

Source: the data set's release. It has train and test; validation is a tenth of train, by a hash of
the scene's name.
"""

from collections.abc import Sequence

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import INVALID, ValueCoding
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.preparation.catalog import BAND_NAMES, Catalog, files_by_scene
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.splits import assign_splits, pick_scenes

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

    Arguments and errors as of `isprs.potsdam`; there are no eroded labels.
    """
    if list(kinds) != ["full"]:
        raise UserError("--labels: Levir_CS has full labels only")
    published, images, labels = {}, {}, {}
    for part in ("train", "test"):
        start = rf"(?:.*/)?{part}/(?:.*/)?"
        matches = files_by_scene(files, rf"{start}([^/]+)_mss\.tiff?")
        for name in sorted(matches.keys() & images.keys()):
            raise UserError(f"scene {name} is in train and in test; remove one")
        published[part] = list(matches)
        images |= matches
        labels |= files_by_scene(files, rf"{start}([^/]+)_roiMap\.tiff?")
    if not images:
        names = "train/mss/*_mss.tiff or test/mss/*_mss.tiff"
        raise UserError(f"no {names} among {len(files)} files of --source")
    val = pick_scenes(published["train"], str(VAL_SHARE), "val")
    published["val"] = sorted(val)
    published["train"] = [name for name in published["train"] if name not in val]
    catalog = Catalog("levir_cs", CLASSES, PALETTE, BAND_NAMES[bands], up_to(SCALE), coding())
    split_of = assign_splits(published, splits)
    catalog.add_scenes(split_of, images, {"full": labels}, dict.fromkeys(images, BANDS[bands]))
    return catalog
