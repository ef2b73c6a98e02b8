"""Make a data set ready for training: tiles, checked labels, dataset.json.

    python tools/prepare.py potsdam   --source ~/Potsdam   --output data/potsdam --labels both
    python tools/prepare.py vaihingen --source ~/Vaihingen --output data/vaihingen
    python tools/prepare.py levir_cs  --source ~/Levir_CS  --output data/levir_cs
    python tools/prepare.py folder    --source ~/mine      --output data/mine --classes other road
    python tools/prepare.py potsdam   --source ~/Potsdam   --check

SOURCE is the downloaded folder, nested as it may be, or the zip files themselves. The same command
again goes on where it was stopped. Exit status 1: something must not be used, and is named.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import cv2

from SSLRemoteSensing.command import versions
from SSLRemoteSensing.datasets.folder import folder
from SSLRemoteSensing.datasets.isprs import potsdam, vaihingen
from SSLRemoteSensing.datasets.levir_cs import levir_cs
from SSLRemoteSensing.datasets.prepare import prepare
from SSLRemoteSensing.datasets.sources import list_files
from SSLRemoteSensing.errors import UserError, run_command

PUBLISHED = {"potsdam": potsdam, "vaihingen": vaihingen, "levir_cs": levir_cs}
BANDS = {"potsdam": "rgb", "vaihingen": "irrg", "levir_cs": "rgbir", "folder": None}


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("set", choices=BANDS)
    flags.add_argument("--source", required=True, help="folder or zip file")
    flags.add_argument("--output", help="folder of the tiles")
    flags.add_argument("--tile", type=int, default=256, help="side of a tile (256)")
    flags.add_argument("--stride", type=int, help="from tile to tile (as --tile)")
    flags.add_argument(
        "--bands",
        choices=("rgb", "irrg", "rgbir"),
        help="(potsdam rgb, vaihingen irrg, levir_cs rgbir, folder all)",
    )
    flags.add_argument("--labels", choices=("full", "eroded", "both"), default="full")
    flags.add_argument(
        "--splits",
        nargs="+",
        default=[],
        metavar="SPLIT[=WHICH]",
        help="those to prepare, e.g. train val; val=2_10,3_10 or val=0.2 chooses the validation "
        "scenes, val=0 leaves all to train; folders also test=0.2",
    )
    flags.add_argument("--leave_out", nargs="+", default=[], metavar="SCENE")
    flags.add_argument("--workers", type=int, default=os.cpu_count(), help="threads (all cores)")
    flags.add_argument("--check", action="store_true", help="audit only, write nothing")
    own = flags.add_argument_group("folder only")
    own.add_argument("--classes", nargs="+", default=[], metavar="NAME")
    own.add_argument("--palette", nargs="+", metavar="R,G,B", help="labels are these colours")
    own.add_argument("--max_value", type=float, help="the value that becomes 1, for 16-bit images")
    own.add_argument("--label_offset", type=int, help="-1 where labels have 0 = not scored")
    own.add_argument("--label_codes", nargs="+", type=int, help="value of each class, e.g. 0 255")
    args = flags.parse_args()
    if args.output is None and not args.check:
        raise UserError("--output: name the folder of the tiles, or --check to write nothing")
    stride = args.tile if args.stride is None else args.stride
    bands = args.bands or BANDS[args.set]
    if args.max_value is not None and not 0 < args.max_value < float("inf"):
        raise UserError(f"--max_value {args.max_value}: must be above 0")
    if args.tile < 1:
        raise UserError(f"--tile {args.tile}: must be at least 1")
    if args.set == "folder" and args.output and not args.check:
        source, output = Path(args.source).resolve(), Path(args.output).resolve()
        if output.is_relative_to(source):
            raise UserError(f"--output {args.output}: lies in --source, whose images are scenes")
    files = list_files(args.source)
    settings = {"set": args.set, "tile": args.tile, "stride": stride, "bands": bands}
    settings |= {"labels": args.labels, "splits": args.splits}
    folder_only = {
        "classes": args.classes,
        "palette": args.palette and [colour(text) for text in args.palette],
        "max_value": args.max_value,
        "label_offset": args.label_offset,
        "label_codes": args.label_codes,
    }
    if args.set == "folder":
        if args.labels != "full":
            raise UserError("--labels: a folder of your own has one kind of labels")
        collection = folder(files, bands, args.splits, **folder_only)
        settings |= folder_only
    else:
        given = [key for key, value in folder_only.items() if value not in (None, [])]
        if given:
            raise UserError(f"--{given[0]}: is for prepare.py folder; {args.set} has its own")
        kinds = ("full", "eroded") if args.labels == "both" else (args.labels,)
        collection = PUBLISHED[args.set](files, bands, kinds, args.splits)
    cv2.setNumThreads(1)  # --workers are the threads
    made_by = {"command": sys.argv, "versions": versions()}
    try:
        good = prepare(
            collection, Path(args.output or "."), settings, args.tile, stride, args.workers,
            args.leave_out, args.check, made_by,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--output {args.output}: {error}") from error
    sys.exit(0 if good else 1)


def colour(text: str) -> list[int]:
    try:
        r, g, b = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--palette {text}: write each colour as R,G,B") from None
    return [r, g, b]


if __name__ == "__main__":
    # GDAL would keep blocks up to a twentieth of all memory; each is read once here.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unpacked files are then removed
    try:
        run_command(main)
    except KeyboardInterrupt:
        print("stopped; finished scenes are kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
