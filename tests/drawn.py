"""Small scenes in the files, names and colours of the data sets; `prepare` in this process."""

import contextlib
import io
import json
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning

from SSLRemoteSensing.commands.prepare import main
from SSLRemoteSensing.core.errors import run_command
from SSLRemoteSensing.preparation.isprs import PALETTE, POTSDAM_SHARES

COLOURS = np.array([*PALETTE, (0, 0, 0)], np.uint8)  # the last one: eroded
SIZE = (70, 90)
POTSDAM_SCENES = ("2_10", "3_10", "2_11", "2_13")
Scenes = dict[str, tuple[np.ndarray, np.ndarray]]
PLACE = {"crs": "EPSG:32633", "transform": Affine(0.05, 0, 366000, 0, -0.05, 5806000)}
PRODUCTS = {"RGB": ("2_Ortho_RGB", [0, 1, 2]), "IRRG": ("3_Ortho_IRRG", [3, 0, 1])}
PRODUCTS["RGBIR"] = "4_Ortho_RGBIR", [0, 1, 2, 3]


def draw_classes(size=SIZE, seed=0, shares=POTSDAM_SHARES, block=5) -> np.ndarray:
    """Classes uint8 (H, W) in square blocks, in about these shares."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = -(-height // block), -(-width // block)
    shares = np.array(shares) / sum(shares)
    # Each class as often as its share says, in random places.
    ends = np.rint(np.cumsum(shares) * rows * columns).astype(int)
    order = np.searchsorted(ends, np.arange(rows * columns), side="right")
    blocks = rng.permutation(order).reshape(rows, columns).astype(np.uint8)
    return blocks.repeat(block, 0).repeat(block, 1)[:height, :width]


def draw_image(bands=3, size=SIZE, seed=0, top=255, dtype=np.uint8) -> np.ndarray:
    """Noise (bands, H, W), another range in each band."""
    rng, tops = np.random.default_rng([seed, bands]), range(2, bands + 2)
    return np.stack([rng.integers(0, top * b // (bands + 2), size) for b in tops]).astype(dtype)


def write_tiff(path: Path, planes: np.ndarray, **profile) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = planes[None] if planes.ndim == 2 else planes
    count, height, width = planes.shape
    shape = dict(count=count, height=height, width=width, dtype=planes.dtype)
    with rasterio.open(path, "w", driver="GTiff", **PLACE | shape | profile) as file:
        file.write(planes)
    return path


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """Grey (H, W) or R, G, B (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[:, :, ::-1])
    return path


def read_tile(path: Path) -> np.ndarray:
    """Planes (bands, H, W) of a tile, or (H, W) of a label."""
    if path.suffix == ".tif":
        with warnings.catch_warnings():  # a tile of an image without a place has none either
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return file.read()
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[:, :, ::-1].transpose(2, 0, 1)


def coloured(classes: np.ndarray) -> np.ndarray:
    """Label colours (3, H, W) of classes, black where 6."""
    return COLOURS[classes].transpose(2, 0, 1)


def eroded(classes: np.ndarray) -> np.ndarray:
    """The classes with 6 where a neighbour is of another class."""
    edges = np.zeros(classes.shape, bool)
    edges[1:] |= classes[1:] != classes[:-1]
    edges[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    return np.where(edges, 6, classes).astype(np.uint8)


def draw_potsdam(
    folder: Path,
    scenes=("2_10", "3_10", "2_11", "2_13"),
    products=("RGB",),
    size=SIZE,
    bordered=True,
) -> Scenes:
    """Scenes as published; the bands R, G, B, IR and the classes of each."""
    drawn = {}
    for number, name in enumerate(scenes):
        planes, classes = draw_image(4, size, number), draw_classes(size, number)
        for product in products:
            place, bands = PRODUCTS[product]
            write_tiff(folder / place / f"top_potsdam_{name}_{product}.tif", planes[bands])
        potsdam_label(folder, name, coloured(classes))
        if bordered:
            potsdam_label(folder, name, coloured(eroded(classes)), "_noBoundary")
        drawn[name] = planes, classes
    return drawn


def potsdam_label(folder: Path, name: str, colours: np.ndarray, ending="") -> Path:
    file = f"5_Labels_all{ending}/top_potsdam_{name}_label{ending}.tif"
    return write_tiff(folder / file, colours)


def draw_vaihingen(
    folder: Path, scenes=("1", "3", "11", "2"), labels="gts_for_participants/", size=SIZE
) -> Scenes:
    drawn = {}
    for number, name in enumerate(scenes):
        planes, classes = draw_image(3, size, number), draw_classes(size, number)
        file = f"top_mosaic_09cm_area{name}"
        write_tiff(folder / f"top/{file}.tif", planes)
        write_tiff(folder / f"{labels}{file}.tif", coloured(classes))
        border = folder / f"gts_eroded_for_participants/{file}_noBoundary.tif"
        write_tiff(border, coloured(eroded(classes)))
        drawn[name] = planes, classes
    return drawn


def draw_levir(
    folder: Path, train=8, test=2, codes=(0, 1, 2), label_test=True, size=SIZE
) -> Scenes:
    """Scenes as published; the bands R, G, B, NIR and the classes of each."""
    drawn = {}
    for number in range(train + test):
        part = "train" if number < train else "test"
        name = f"GF1_WFV2_E140.6_N45.9_2017{number:04d}_L1A000271391{number}"
        planes = draw_image(4, size, number, 1300, np.uint16)
        classes = draw_classes(size, number, (0.6, 0.3, 0.1))
        write_tiff(folder / part / f"mss/{name}_mss.tiff", planes[[2, 1, 0, 3]])
        write_tiff(folder / part / f"dem/{name}_dem.tiff", planes[0])
        if label_test or part == "train":
            maps = np.array(codes, np.uint8)[classes]
            write_tiff(folder / part / f"label_0_1_2/{name}_roiMap.tif", maps)
        drawn[name] = planes, classes
    return drawn


def zipped(folder: Path, file: Path, inside="", method=zipfile.ZIP_DEFLATED, **others) -> Path:
    """A zip of the files below `folder`, their paths after `inside`, and of `others`, as bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", method) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, inside + path.relative_to(folder).as_posix())
        for name, data in others.items():
            archive.writestr(name, data)
    return file


# What a command said, and its exit status.
Done = namedtuple("Done", ["returncode", "stdout", "stderr"])


def prepare(*arguments, tile: int | None = 32, workers: int = 2, status: int | None = None) -> Done:
    """`prepare` in this process; `--tile 32` and two workers unless said; ends with `status`."""
    command = ["tools/prepare.py", *map(str, arguments), "--workers", str(workers)]
    command += ["--tile", str(tile)] if tile else []
    out, err, end, threads = io.StringIO(), io.StringIO(), 0, cv2.getNumThreads()
    with (
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_command(main)
        except SystemExit as stop:
            end = stop.code or 0
        finally:
            cv2.setNumThreads(threads)
    assert status in (None, end), out.getvalue() + err.getvalue()
    return Done(end, out.getvalue(), err.getvalue())


def prepared(tmp_path: Path, name: str, *flags, status: int = 0, **options) -> Done:
    """`prepare` of `tmp_path`/source into `tmp_path`/out, which must end with `status`."""
    folders = ["--source", tmp_path / "source", "--output", tmp_path / "out"]
    return prepare(name, *folders, *flags, status=status, **options)


def checked(source: Path, name: str, *flags, status: int = 0, **options) -> str:
    """What `prepare --check` says of `source`, which must end with `status`."""
    done = prepare(name, "--source", source, "--check", *flags, status=status, **options)
    return done.stdout + done.stderr


def card_of(output: Path) -> dict:
    return json.loads((output / "dataset.json").read_text())


def tree(output: Path) -> dict[str, bytes]:
    """Every file below `output`, by its path there."""
    files = sorted(file for file in output.rglob("*") if file.is_file())
    return {file.relative_to(output).as_posix(): file.read_bytes() for file in files}


def tiles_of(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(output).items() if "/" in name}


def assemble(folder: Path, scene: str) -> np.ndarray:
    """A scene put together from its tiles; where tiles overlap they must agree."""
    files = {file: file.stem.removeprefix(f"{scene}_") for file in sorted(folder.iterdir())}
    files = {file: place for file, place in files.items() if re.fullmatch(r"\d+_\d+", place)}
    assert files, f"no tiles of {scene} in {folder}"
    parts = [(*map(int, place.split("_")), read_tile(file)) for file, place in files.items()]
    side = parts[0][2].shape[-1]
    height, width = (max(part[i] for part in parts) + side for i in (0, 1))
    canvas = np.full((*parts[0][2].shape[:-2], height, width), -1, np.int64)
    for y, x, pixels in parts:
        assert pixels.shape[-2:] == (side, side)
        before = canvas[..., y : y + side, x : x + side]
        assert ((before == -1) | (before == pixels)).all()
        canvas[..., y : y + side, x : x + side] = pixels
    assert (canvas >= 0).all(), "not every pixel is covered"
    return canvas


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
