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
import json
import os
import signal
import sys
from pathlib import Path

import cv2

from SSLRemoteSensing.core.cli import parse, plain_parser
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.machine import versions
from SSLRemoteSensing.preparation.folder import read_folder
from SSLRemoteSensing.preparation.isprs import potsdam, vaihingen
from SSLRemoteSensing.preparation.levir_cs import levir_cs
from SSLRemoteSensing.preparation.prepare import CARD, prepare
from SSLRemoteSensing.preparation.sources import list_files

PRETRAINING = "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
PUBLISHED = {"potsdam": potsdam, "vaihingen": vaihingen, "levir_cs": levir_cs}
BANDS = {"potsdam": "rgb", "vaihingen": "irrg", "levir_cs": "rgbir", "folder": None}


def flags() -> argparse.ArgumentParser:
    flags = plain_parser(__doc__)
    flags.add_argument("set", choices=BANDS, help="which data set SOURCE is; folder: your own")
    flags.add_argument(
        "--source", required=True, metavar="FOLDER", help="what was downloaded, or a zip file"
    )
    flags.add_argument("--output", metavar="FOLDER", help="folder of the tiles; none with --check")
    flags.add_argument(
        "--tile", type=int, default=256, metavar="PIXELS", help="side of a tile, in pixels"
    )
    flags.add_argument(
        "--stride",
        type=int,
        metavar="PIXELS",
        help="pixels from a tile to the next (default: as --tile)",
    )
    flags.add_argument(
        "--bands",
        choices=("rgb", "irrg", "rgbir"),
        help="of the tiles (default: potsdam rgb, vaihingen irrg, levir_cs rgbir, folder all)",
    )
    flags.add_argument(
        "--labels",
        choices=("full", "eroded", "both"),
        default="full",
        help="full labels, those with eroded boundaries, or both kinds",
    )
    flags.add_argument(
        "--splits",
        nargs="+",
        default=[],
        metavar="SPLIT[=WHICH]",
        help="those to prepare, e.g. train val; val=2_10,3_10 or val=0.2 chooses the validation "
        "scenes, val=0 leaves all to train; folders also test=0.2",
    )
    flags.add_argument(
        "--leave_out", nargs="+", default=[], metavar="SCENE", help="scenes not to prepare"
    )
    flags.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads, each with a scene (default: one a core)",
    )
    flags.add_argument("--check", action="store_true", help="audit only, write nothing")
    own = flags.add_argument_group("folder only")
    own.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="names of the classes, in order"
    )
    own.add_argument(
        "--palette", nargs="+", metavar="R,G,B", help="labels are these colours, one a class"
    )
    own.add_argument(
        "--max_value",
        type=float,
        metavar="VALUE",
        help="the value that becomes 1; needed for images of more than 8 bits",
    )
    own.add_argument(
        "--label_offset",
        type=int,
        metavar="N",
        help="is added to each value of a label: -1 where labels have 0 = not scored",
    )
    own.add_argument(
        "--label_codes",
        nargs="+",
        type=int,
        metavar="VALUE",
        help="a label's value of each class, e.g. 0 255",
    )
    return flags


def main() -> None:
    args = parse(flags())
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
        collection = read_folder(files, bands, args.splits, **folder_only)
        settings |= folder_only
    else:
        given = [key for key, value in folder_only.items() if value not in (None, [])]
        if given:
            raise UserError(f"--{given[0]}: is for prepare.py folder; {args.set} has its own")
        kinds = ("full", "eroded") if args.labels == "both" else (args.labels,)
        collection = PUBLISHED[args.set](files, bands, kinds, args.splits)
    cv2.setNumThreads(1)  # --workers are the threads
    made_by = {"command": sys.argv, "versions": versions()}
    workers = os.cpu_count() if args.workers is None else args.workers
    try:
        good = prepare(
            collection, Path(args.output or "."), settings, args.tile, stride, workers,
            args.leave_out, args.check, made_by,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--output {args.output}: {error}") from error
    if good and not args.check:
        print_summary({"tiles": args.output}, examine(args.set, Path(args.output)))
    sys.exit(0 if good else 1)


def examine(name: str, output: Path) -> list[str]:
    """The commands that examine the tiles: their labels, for fine-tuning, where a config expects
    them there, and for pre-training."""
    commands, card = [], json.loads((output / CARD).read_text())
    if "train" in card["scenes"] and card["classes"]:
        words = ("--tiles", output, "--output", f"{output}_labels.png")
        commands.append(command_line("tools/show_labels.py", *words))
    if name in PUBLISHED and output == Path("data", name):
        config = f"configs/seg_{name}_vgg16_cfg.py"
        commands.append(command_line("tools/doctor.py", "--config_file", config))
    if "train" not in card["scenes"]:
        return commands
    images = output / "images/train"
    ending = next(images.iterdir()).suffix
    words = {"data_path": images, "data_format": f"*{ending}"}
    words |= {} if card["scale"] == 255 else {"max_value": card["scale"]}
    words = [f"train_cfg.train_data.{key}={value}" for key, value in words.items()]
    if (bands := len(card["bands"])) != 3:
        words += [f"backbone_cfg.in_channels={bands}", f"inpainting_head_cfg.out_channels={bands}"]
    words = ["--config_file", PRETRAINING, "--set", "train_cfg.device=auto", *words]
    return [*commands, command_line("tools/doctor.py", *words)]


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
    run_command(main, "stopped; finished scenes are kept, the same command goes on")
