"""Make images and their labels smaller by a whole factor: the same ground in fewer pixels.

    python tools/reduce_tiles.py --images data/mine/images --labels data/mine/labels \\
        --factor 2 --output runs/mine_half

Each pixel of a reduced image is the mean of FACTOR x FACTOR pixels, each pixel of a reduced label
the value that most of them have, of equally many the smallest. OUTPUT gets `images` and `labels`
with the names of the sources, as PNG, images as R, G, B; rows and columns that do not fill a pixel
fall away. Without --labels the images alone. What is trained on reduced tiles expects scenes that
are reduced likewise.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import make_folder
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.images import read_image, read_label, require_one_orientation, write_png

PATTERNS = ("**/*.png", "**/*.jpg", "**/*.jpeg")


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--images", required=True, metavar="FOLDER", help="PNG and JPEG in it")
    add("--labels", metavar="FOLDER", help="of PNG label maps of the same names")
    add("--factor", type=int, default=2, metavar="N", help="pixels to one, a side")
    add("--output", required=True, metavar="FOLDER", help="gets images and labels")
    return flags


def main() -> None:
    args = parse(flags())
    if args.factor < 2:
        raise UserError(f"--factor {args.factor}: must be at least 2")
    root, output = Path(args.images), Path(args.output)
    if not root.is_dir():
        raise UserError(f"--images {root}: no such folder")
    for flag, source in (("--images", root), ("--labels", args.labels)):
        for folder in (output, output / "images", output / "labels") if source else ():
            if folder.resolve().is_relative_to(Path(source).resolve()):
                raise UserError(f"--output {output}: {folder} is or lies in {flag} {source}")
    files = find_images(root, PATTERNS, keys=("--images", None))
    sources: dict[Path, str] = {}
    for file in files:
        name = Path(file).relative_to(root).with_suffix(".png")
        if sources.setdefault(name, file) != file:
            raise UserError(f"{sources[name]} and {file}: would both become {name}; rename one")
    make_folder(output, "--output")
    for name, file in progress("reducing", sources.items(), len(sources), "image"):
        image = read_image(file)
        reduced = {"images": mean_of_blocks(image, args.factor, file)}
        if args.labels is not None:
            label = read_label(path := Path(args.labels) / name)
            require_one_orientation(file, path)  # tiles are written without a tag
            if label.shape != image.shape[:2]:
                raise UserError(f"label {path}: is of another size than its image {file}")
            reduced["labels"] = most_of_blocks(label, args.factor)
        for kind, pixels in reduced.items():
            (output / kind / name).parent.mkdir(parents=True, exist_ok=True)
            write_png(output / kind / name, pixels)
    print_summary({"images": len(files), "folder": output})


def mean_of_blocks(image: np.ndarray, factor: int, file: str) -> np.ndarray:
    """(H, W, 3) uint8 to (H // factor, W // factor, 3)."""
    height, width = (n // factor for n in image.shape[:2])
    if min(height, width) < 1:
        raise UserError(f"image {file}: has a side smaller than --factor {factor}")
    whole = image[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def most_of_blocks(label: np.ndarray, factor: int) -> np.ndarray:
    """(H, W) uint8 to (H // factor, W // factor): the value that most pixels of a block have."""
    height, width = (n // factor for n in label.shape)
    whole = label[: height * factor, : width * factor]
    blocks = whole.reshape(height, factor, width, factor)
    values = np.unique(whole)
    counts = np.stack([(blocks == value).sum(axis=(1, 3)) for value in values])
    return values[counts.argmax(axis=0)]


if __name__ == "__main__":
    run_command(main)
