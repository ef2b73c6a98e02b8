"""ISPRS Potsdam and Vaihingen: classes, colours, splits, sizes, file names, known faults.

Source: the data sheets of the ISPRS 2D semantic labelling contest; the splits are those of the
released test labels. The validation scenes are our choice, taken from train, none with a known
fault. The sizes of Vaihingen give the published numbers of tiles, as
`tests/preparation/test_tiles.py` counts them.
"""

from collections.abc import Sequence

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import ColourCoding
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.preparation.catalog import BAND_NAMES, Catalog, files_by_scene
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.splits import assign_splits

CLASSES = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
# R, G, B; black, in eroded labels, is the boundary that is not scored.
PALETTE = (
    (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0),
)  # fmt: skip

POTSDAM_VAL = ["2_11", "4_10", "5_12", "7_8"]
POTSDAM_SPLITS = {
    "train": [
        "2_10", "2_12", "3_10", "3_11", "3_12", "4_11", "4_12", "5_10", "5_11", "6_7", "6_8",
        "6_9", "6_10", "6_11", "6_12", "7_7", "7_9", "7_10", "7_11", "7_12",
    ],
    "val": POTSDAM_VAL,
    "test": [
        "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13",
        "6_14", "6_15", "7_13",
    ],
}  # fmt: skip
POTSDAM_SIZE = (6000, 6000)
POTSDAM_SHARES = (0.296, 0.257, 0.226, 0.155, 0.018, 0.048)
POTSDAM_FAULTS = {
    "4_12": "the published label is a lossy re-encode of 24,850 colours; decoded by threshold",
    "6_7": "the published label codes most cars as 252,255,0; decoded by threshold",
    "7_10": "some leave it out for errors of annotation (--leave_out 7_10 does)",
}

VAIHINGEN_VAL = ["11", "21", "30"]
VAIHINGEN_SPLITS = {
    "train": ["1", "3", "5", "7", "13", "15", "17", "23", "26", "28", "32", "34", "37"],
    "val": VAIHINGEN_VAL,
    "test": [
        "2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35",
        "38",
    ],
}  # fmt: skip
VAIHINGEN_SHARES = (0.278, 0.260, 0.213, 0.229, 0.012, 0.008)
VAIHINGEN_SIZES = {  # height, width
    "1": (2569, 1919), "2": (2767, 2428), "3": (3007, 2006), "4": (2557, 1887), "5": (2557, 1887),
    "6": (2557, 1887), "7": (2557, 1887), "8": (2557, 1887), "10": (2557, 1887), "11": (2566, 1893),
    "12": (2575, 1922), "13": (2558, 2818), "14": (2565, 1919), "15": (2565, 1919),
    "16": (2565, 1919), "17": (1281, 2336), "20": (2315, 1866), "21": (2546, 1903),
    "22": (2546, 1903), "23": (2546, 1903), "24": (2546, 1903), "26": (1783, 2995),
    "27": (3313, 1917), "28": (2567, 1917), "29": (2563, 1917), "30": (2563, 1934),
    "31": (2555, 1980), "32": (2555, 1980), "33": (2555, 1581), "34": (2555, 1388),
    "35": (1884, 2805), "37": (1995, 1996), "38": (2550, 3816),
}  # fmt: skip
SHARES = {"Potsdam": POTSDAM_SHARES, "Vaihingen": VAIHINGEN_SHARES}

# Which product has the bands asked for, and where; the product made for it comes first.
POTSDAM_BANDS = {
    "rgb": (("RGB", (1, 2, 3)), ("RGBIR", (1, 2, 3))),
    "irrg": (("IRRG", (1, 2, 3)), ("RGBIR", (4, 1, 2))),
    "rgbir": (("RGBIR", (1, 2, 3, 4)),),
}
TIFF = r"\.tiff?"


def potsdam(
    files: Sequence[SourceFile], bands: str, kinds: Sequence[str], splits: Sequence[str]
) -> Catalog:
    """Potsdam, 38 scenes of 6000 x 6000 pixels at 5 cm, in any folders or zip files.

    Args:
        bands: 'rgb', 'irrg' or 'rgbir'.
        kinds: of labels, 'full' and 'eroded'.
        splits: see `assign_splits`.

    Raises:
        UserError: no scenes found.
    """
    pattern = rf"(?:.*/)?top_potsdam_0?(\d+)_0?(\d+)_{{}}{TIFF}"
    images, bands_of = {}, {}
    for product, numbers in POTSDAM_BANDS[bands]:
        matches = files_by_scene(files, pattern.format(product), r"\1_\2")
        images = matches | images
        bands_of = dict.fromkeys(matches, numbers) | bands_of
    if not images:
        names = " or ".join(f"top_potsdam_*_{name}.tif" for name, _ in POTSDAM_BANDS[bands])
        text = f"no {names} among {len(files)} files of --source; --bands {bands} needs it"
        raise UserError(text)
    endings = {"full": "label", "eroded": "label_noBoundary"}
    labels = {
        kind: files_by_scene(files, pattern.format(endings[kind]), r"\1_\2") for kind in kinds
    }
    catalog = isprs_catalog("Potsdam", bands, POTSDAM_SHARES)
    catalog.faults, catalog.sizes = POTSDAM_FAULTS, dict.fromkeys(images, POTSDAM_SIZE)
    catalog.add_scenes(assign_splits(POTSDAM_SPLITS, splits), images, labels, bands_of)
    return catalog


def vaihingen(
    files: Sequence[SourceFile], bands: str, kinds: Sequence[str], splits: Sequence[str]
) -> Catalog:
    """Vaihingen, 33 scenes at 9 cm; images in `top/`, labels under the same name elsewhere.

    Arguments and errors as of `potsdam`; the bands are near infrared, red, green.
    """
    if bands != "irrg":
        raise UserError(f"--bands {bands}: Vaihingen has near infrared, red, green (irrg) only")
    area = r"top_mosaic_09cm_area(\d+)"
    images = files_by_scene(files, rf"(?:.*/)?top/{area}{TIFF}")
    if not images:
        raise UserError(
            f"no top/top_mosaic_09cm_area*.tif among {len(files)} files of --source; images must "
            "lie in a folder named top"
        )
    endings = {"full": TIFF, "eroded": f"_noBoundary{TIFF}"}
    start = rf"(?!(?:.*/)?top/)(?:.*/)?{area}"
    labels = {kind: files_by_scene(files, start + endings[kind]) for kind in kinds}
    catalog = isprs_catalog("Vaihingen", bands, VAIHINGEN_SHARES)
    catalog.sizes = VAIHINGEN_SIZES
    split_of = assign_splits(VAIHINGEN_SPLITS, splits)
    catalog.add_scenes(split_of, images, labels, dict.fromkeys(images, (1, 2, 3)))
    return catalog


def isprs_catalog(name: str, bands: str, shares: Sequence[float]) -> Catalog:
    coding = ColourCoding(PALETTE)
    catalog = Catalog(name.lower(), CLASSES, PALETTE, BAND_NAMES[bands], up_to(255), coding)
    catalog.shares, catalog.one_value_is_wrong = {name: shares}, True
    return catalog
