"""The tiles of a GPU day in one small folder, prepared where GDAL is, read where it is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2

from SSLRemoteSensing import load_config
from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.console import print_summary, shell_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json, write_text

ROOT = Path(__file__).resolve().parents[2]
# What the Makefile's few_labels passes to tools/prepare.py besides the classes; {data} is the set.
SETS = {
    "mumbai": ("--label_offset", "-1", "--splits", "{data}/scenes.csv"),
    "sparcs": ("--splits", "{data}/scenes.csv"),
    "dubai": (
        "--label_offset", "-1", "--splits", "train", "val=area8_*", "test=area3_*,area6_*,area7_*"
    ),
}  # fmt: skip
# Side of a tile -> quality of its JPEG. Of all sides a tile shows the same ground: that of 64
# pixels of a scene that is reduced to a quarter, as docs/results.md has it.
QUALITY = {64: 90, 128: 72, 256: 66}
GROUND = 256
LEFT_OUT = (("dubai", 256),)  # 30 MB by itself
EXTRA, COUNT = "oam_buildings", 100  # tiles without a split, for the measurements of speed
LARGEST = 58 * 2**20  # bytes: with the repository it stays below 64 MiB


def pack(data: Path, output: Path) -> None:
    """Write OUTPUT/SIDE/SET/{images,labels}/{train,val,test} with the sets' dataset.json, and
    OUTPUT/oam_buildings/images. A set that is there is not made again.

    Raises:
        UserError: a set that `data` lacks; more than may travel.
    """
    for name in (*SETS, EXTRA):
        if not (data / name / "images").is_dir():
            raise UserError(f"--data {data}: has no {name}/images; docs/data.md says what it holds")
    make_folder(output, "--pack")
    scratch = output / "making"
    for side in QUALITY:
        for name in SETS:
            card = output / f"{side}/{name}/dataset.json"
            if (name, side) not in LEFT_OUT and not card.exists():
                shutil.rmtree(scratch, ignore_errors=True)
                shutil.rmtree(card.parent, ignore_errors=True)
                encode(prepare(data / name, side, scratch), card.parent, QUALITY[side])
    shutil.rmtree(scratch, ignore_errors=True)
    files = sorted((data / EXTRA / "images").glob("*.jpg"))
    (output / EXTRA / "images").mkdir(parents=True, exist_ok=True)
    for file in files[:: max(1, len(files) // COUNT)][:COUNT]:
        shutil.copyfile(file, output / EXTRA / "images" / file.name)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    if size > LARGEST:
        text = f"{size / 2**20:.1f} MiB, more than {LARGEST / 2**20:.0f}"
        raise UserError(f"--pack {output}: {text}; lower QUALITY in tools/gpu_parts/packing.py")
    print_summary({"folder": output, "size": f"{size / 2**20:.1f} MiB"})


def prepare(data: Path, side: int, scratch: Path) -> Path:
    """The set `data` in PNG tiles of `side` pixels, each of the same ground; its folder."""
    source, factor = data, GROUND // side
    if factor > 1:
        source = scratch / "reduced"
        folders = ("--images", data / "images", "--labels", data / "labels")
        call("tools/reduce_tiles.py", *folders, "--factor", factor, "--output", source)
    classes = load_config(ROOT / f"configs/few_labels_{data.name}_cfg.py")["classes"]
    own = (word.format(data=data) for word in SETS[data.name])
    tiles = scratch / "tiles"
    where = ("--source", source, "--output", tiles, "--tile", side)
    call("tools/prepare.py", "folder", *where, "--classes", *classes, *own)
    return tiles


def encode(tiles: Path, output: Path, quality: int) -> None:
    """A prepared set with its images as JPEG. Its card comes last: a set that has one is whole."""
    images = sorted((tiles / "images").rglob("*.png"))
    for file in progress(f"{output.parent.name} {output.name}", images, len(images), "tile"):
        name = (output / file.relative_to(tiles)).with_suffix(".jpg")
        name.parent.mkdir(parents=True, exist_ok=True)
        # Not by the chroma of every fourth pixel: tiles of 64 have no more than these colours.
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        how = [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling] if quality >= 90 else None
        how = how or [cv2.IMWRITE_JPEG_QUALITY, quality]
        if not cv2.imwrite(str(name), cv2.imread(str(file)), how):
            raise UserError(f"{name}: cannot be written; is the disk full?")
    shutil.copytree(tiles / "labels", output / "labels")
    write_text(output / "dataset.json", (tiles / "dataset.json").read_text())


def call(script: str, *words: object) -> None:
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    print(shell_line("python", script, *words), flush=True)
    if subprocess.run(command).returncode:
        raise UserError(f"{script} failed, see above")


def packed_sets(pack: Path, side: int) -> list[str]:
    """The sets of `side` that `pack` holds."""
    return [name for name in SETS if read_json(pack / f"{side}/{name}/dataset.json")]
