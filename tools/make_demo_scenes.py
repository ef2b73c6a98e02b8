"""Draw invented scenes in the files, names and colours of a published data set.

    python tools/make_demo_scenes.py --output runs/demo/scenes
    python tools/make_demo_scenes.py --output scenes --like vaihingen --scenes 9 --zip

Scene k depends on --seed and k only: with more --scenes the first ones stay as they are.
"""

import argparse
import itertools
import shutil
from pathlib import Path

import cv2
import numpy as np
import rasterio
from demo_scenes.clouds import draw_clouds
from demo_scenes.town import draw_town

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.data.subsets import name_hash
from SSLRemoteSensing.preparation.isprs import PALETTE, POTSDAM_SPLITS, VAIHINGEN_SPLITS
from SSLRemoteSensing.preparation.levir_cs import VAL_SHARE

ORDER = ("train", "val", "test", "train", "test", "train")  # splits of the scenes, repeated
DISC = np.uint8(np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) <= 9)
METRES = {"potsdam": 0.05, "vaihingen": 0.09, "levir_cs": 160.0}


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--output", required=True, metavar="FOLDER", help="folder of the scenes")
    add("--seed", type=int, default=0, metavar="N", help="another one draws other scenes")
    add("--scenes", type=int, default=6, metavar="N", help="how many, at least 3")
    add("--size", type=int, default=1500, metavar="PIXELS", help="side of a scene, in pixels")
    add("--like", default="potsdam", metavar="SET", help=f"one of {', '.join(METRES)}")
    add("--zip", action="store_true", help="pack each folder into a zip file")
    return flags


def main() -> None:
    args = parse(flags())
    if args.like not in METRES:
        raise UserError(f"--like {args.like}: choose {', '.join(METRES)}")
    most = len(names_of(args.like)) or 10000
    if not 3 <= args.scenes <= most:
        raise UserError(f"--scenes {args.scenes}: choose 3 (train, val, test) to {most}")
    for flag, low, high in (("size", 64, 20000), ("seed", 0, 2**32)):
        if not low <= (value := vars(args)[flag]) <= high:
            raise UserError(f"--{flag} {value}: choose {low} to {high}")
    output, metres, written = Path(args.output), METRES[args.like], []
    try:
        for k in progress("drawing", range(args.scenes), unit="scene"):
            place = rasterio.Affine(metres, 0, 366000 + 1000 * k, 0, -metres, 5806000)
            rng = np.random.default_rng([args.seed, k])
            for name, bands in draw(args.like, k, rng, args.size).items():
                write(output / name, bands, place)
                written.append(name)
        for folder in sorted({name.partition("/")[0] for name in written} if args.zip else ()):
            shutil.make_archive(str(output / folder), "zip", output, folder)
            shutil.rmtree(output / folder)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error})") from error
    print(f"{args.scenes} drawn scenes, {len(written)} files as those of {args.like}")
    words = (args.like, "--source", output, "--output", f"data/{args.like}")
    print_summary({"scenes": output}, [command_line("tools/prepare.py", *words)])


def names_of(like: str) -> list[str]:
    """The scenes of a data set in the order they are drawn; none for Levir_CS."""
    left = {"potsdam": POTSDAM_SPLITS, "vaihingen": VAIHINGEN_SPLITS}.get(like, {})
    left = {split: list(names) for split, names in left.items()}
    turns = ORDER * max(map(len, left.values()), default=0)
    return [left[split].pop(0) for split in turns if left[split]]


def draw(like: str, k: int, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Scene k: the bands of each file."""
    if like == "levir_cs":
        east, north, month, day = rng.integers((750, 200, 1, 1), (1300, 500, 13, 29))
        start = f"GF1_WFV{rng.integers(1, 5)}_E{east / 10}_N{north / 10}_2017{month:02}{day:02}_L1A"
        # A number that makes the second of each six a scene of val, which goes by the name's hash.
        names = (f"{start}{2000000000 + 7919 * k + n}" for n in itertools.count())
        name = next(n for n in names if (name_hash(n) < VAL_SHARE) == (k % 6 == 1))
        image, label = draw_clouds(rng, *np.rint(size * rng.uniform(0.9, 1.1, 2)).astype(int))
        part, maps = "test" if k % 5 == 2 else "train", f"label_0_1_2/{name}_roiMap.tif"
        return {f"{part}/mss/{name}_mss.tiff": image, f"{part}/{maps}": label}
    image, label = draw_town(rng, size, size, METRES[like])
    # As in the contest, black where another class is within 3 pixels.
    boundary = cv2.erode(label, DISC) != cv2.dilate(label, DISC)
    full = np.uint8(PALETTE)[label]
    eroded = full * ~boundary[..., None]
    irrg = image[..., [3, 0, 1]]
    name = names_of(like)[k]
    if like == "vaihingen":
        area = f"top_mosaic_09cm_area{name}"
        files = {f"top/{area}": irrg, f"gts_for_participants/{area}": full}
        files[f"gts_eroded_for_participants/{area}_noBoundary"] = eroded
    else:
        area = f"top_potsdam_{name}"
        files = {f"2_Ortho_RGB/{area}_RGB": image[..., :3], f"3_Ortho_IRRG/{area}_IRRG": irrg}
        files |= {f"4_Ortho_RGBIR/{area}_RGBIR": image, f"5_Labels_all/{area}_label": full}
        files[f"5_Labels_all_noBoundary/{area}_label_noBoundary"] = eroded
    return {f"{file}.tif": bands for file, bands in files.items()}


def write(path: Path, bands: np.ndarray, place: rasterio.Affine) -> None:
    """A GeoTIFF of `bands` (h, w) or (h, w, n), with a world file if it is an image of Potsdam."""
    bands = np.atleast_3d(bands).transpose(2, 0, 1)
    size = dict(zip(("count", "height", "width"), bands.shape, strict=True))
    size |= {"dtype": bands.dtype, "transform": place, "crs": "EPSG:32633"}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", compress="lzw", **size) as tiff:
            tiff.write(bands)
        content = {path: memory.read()}
    if "Ortho" in path.parent.name:
        lines = (place.a, 0, 0, place.e, place.c + place.a / 2, place.f + place.e / 2)
        content[path.with_suffix(".tfw")] = "".join(f"{n:.10f}\n" for n in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, data in content.items():  # left alone if the same: what was made of it stays valid
        if not file.exists() or file.read_bytes() != data:
            file.write_bytes(data)


if __name__ == "__main__":
    run_command(main)
