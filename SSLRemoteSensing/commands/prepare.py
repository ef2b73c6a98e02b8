"""Make a data set ready for training: tiles, checked labels, dataset.json.

    python tools/prepare.py potsdam   --source ~/Potsdam   --output data/potsdam --labels both
    python tools/prepare.py vaihingen --source ~/Vaihingen --output data/vaihingen
    python tools/prepare.py levir_cs  --source ~/Levir_CS  --output data/levir_cs
    python tools/prepare.py folder    --source ~/mine      --output data/mine --classes other road
    python tools/prepare.py potsdam   --source ~/Potsdam   --check

SOURCE is the downloaded folder, nested as it may be, or the zip files themselves. The same command
again goes on where it was stopped. Exit status 1: something must not be used, and is named.
"""

import os
import shlex
import sys

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import print_summary, this_command
from SSLRemoteSensing.core.errors import stoppable


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument
    add("set", choices=("potsdam", "vaihingen", "levir_cs", "folder"),
        help="which data set SOURCE is; folder: your own")
    add("--source", required=True, metavar="FOLDER", help="what was downloaded, or a zip file")
    add("--output", metavar="FOLDER", help="folder of the tiles; none with --check")
    add("--tile", type=int, default=256, metavar="PIXELS", help="side of a tile, in pixels")
    add("--stride", type=int, metavar="PIXELS",
        help="pixels from a tile to the next (default: as --tile)")
    add("--bands", choices=("rgb", "irrg", "rgbir"),
        help="of the tiles (default: potsdam rgb, vaihingen irrg, levir_cs rgbir, folder all)")
    add("--labels", choices=("full", "eroded", "both"), default="full",
        help="full labels, those with eroded boundaries, or both kinds")
    add("--splits", nargs="+", default=[], metavar="SPLIT[=WHICH]",
        help="those to prepare, e.g. train val; val=2_10,3_* or val=0.2 chooses the validation "
        "scenes, val=0 leaves all to train; folders also test=0.2, or a CSV file with the columns "
        "scene and split")
    add("--leave_out", nargs="+", default=[], metavar="SCENE", help="scenes not to prepare")
    add("--workers", type=int, metavar="N",
        help="threads, each with a scene (default: one a core)")
    add("--check", action="store_true", help="audit only, write nothing")
    add = flags.add_argument_group("folder only").add_argument
    add("--classes", nargs="+", default=[], metavar="NAME", help="names of the classes, in order")
    add("--palette", nargs="+", metavar="R,G,B", help="labels are these colours, one a class")
    add("--max_value", type=float, metavar="VALUE",
        help="the value that becomes 1; needed for images of more than 8 bits")
    add("--label_offset", type=int, metavar="N",
        help="is added to each value of a label: -1 where labels have 0 = not scored")
    add("--label_codes", nargs="+", type=int, metavar="VALUE",
        help="a label's value of each class, e.g. 0 255")
    return flags


def main() -> None:
    args = parse(flags())
    # GDAL would keep blocks up to a twentieth of all memory; each is read once here.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    # Only now: OpenCV and GDAL take a second, which --help need not wait for.
    from SSLRemoteSensing.preparation.request import next_commands, prepare_request

    with stoppable("stopped; finished scenes are kept, the same command goes on"):
        words = shlex.split(this_command())
        words = words[words[1:2] != ["-m"] :]  # a script without the word python
        is_good = prepare_request(args, made_by=words)
    if is_good and not args.check:
        print_summary({"tiles": args.output}, next_commands(args))
    sys.exit(0 if is_good else 1)
