"""Make a data set ready for training: tiles, checked labels, dataset.json.

    python tools/prepare.py potsdam   --source ~/Potsdam   --output data/potsdam --labels both
    python tools/prepare.py vaihingen --source ~/Vaihingen --output data/vaihingen
    python tools/prepare.py levir_cs  --source ~/Levir_CS  --output data/levir_cs
    python tools/prepare.py folder    --source ~/mine      --output data/mine --classes other road
    python tools/prepare.py polygons  --source ~/scenes    --output data/roofs \\
        --labels roofs.gpkg --class_field kind --inside mapped.gpkg
    python tools/prepare.py potsdam   --source ~/Potsdam   --check

SOURCE is the downloaded folder, nested as it may be, or the zip files themselves. The same command
again goes on where it was stopped. Exit status 1: something must not be used, and is named.

shards: images as tar shards, for pre-training; `tools/prepare.py shards --help` has its own flags.

polygons: images with GeoPackage, GeoJSON, shapefile, FlatGeobuf or COCO JSON for labels. Polygons
are brought into the CRS of each image; where some overlap, the later one in the file wins.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.config import nearest
from SSLRemoteSensing.core.console import print_summary, this_command
from SSLRemoteSensing.core.errors import UserError, stoppable

if TYPE_CHECKING:
    from SSLRemoteSensing.preparation.catalog import Catalog

SETS = ("potsdam", "vaihingen", "levir_cs", "folder", "polygons")
PICTURES = 6  # tiles in polygons.png


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument
    add("set", choices=SETS,
        help="which data set SOURCE is; folder: your own; polygons: your own images and polygons")
    add("--source", required=True, nargs="+", metavar="FOLDER",
        help="what was downloaded, or a zip file; polygons also single images")
    add("--output", metavar="FOLDER", help="folder of the tiles; none with --check")
    add("--tile", type=int, default=256, metavar="PIXELS", help="side of a tile, in pixels")
    add("--stride", type=int, metavar="PIXELS",
        help="pixels from a tile to the next (default: as --tile)")
    add("--bands", choices=("rgb", "irrg", "rgbir"),
        help="of the tiles (default: potsdam rgb, vaihingen irrg, levir_cs rgbir, others all)")
    add("--labels", default="full", metavar="{full,eroded,both,FILE[:LAYER]}",
        help="full labels, those with eroded boundaries, or both kinds; of polygons their file")
    add("--splits", nargs="+", default=[], metavar="SPLIT[=WHICH]",
        help="those to prepare, e.g. train val; val=2_10,3_* or val=0.2 chooses the validation "
        "scenes, val=0 leaves all to train; folders also test=0.2, a CSV file with the columns "
        "scene and split, or blocks: val and test are blocks of ground")
    add("--leave_out", nargs="+", default=[], metavar="SCENE", help="scenes not to prepare")
    add("--workers", type=int, metavar="N",
        help="threads, each with a scene (default: one a core)")
    add("--check", action="store_true", help="audit only, write nothing")
    add = flags.add_argument_group("folder and polygons only").add_argument
    add("--classes", nargs="+", default=[], metavar="NAME",
        help="names of the classes, in order; of polygons those to take (default: all)")
    add("--max_value", type=float, metavar="VALUE",
        help="the value that becomes 1; needed for images of more than 8 bits")
    add("--scale", nargs="+", metavar="MIN MAX",
        help="in place of it, what becomes 0 and 1: a pair of numbers for each band, or for all; "
        "or percentile, the 2nd and 98th of each band, found in the training scenes")
    add = flags.add_argument_group("folder only").add_argument
    add("--palette", nargs="+", metavar="R,G,B", help="labels are these colours, one a class")
    add("--label_offset", type=int, metavar="N",
        help="is added to each value of a label: -1 where labels have 0 = not scored")
    add("--label_codes", nargs="+", type=int, metavar="VALUE",
        help="a label's value of each class, e.g. 0 255")
    add("--unlabelled", choices=("leave_out", "keep"),
        help="images without a label beside others with one: leave them out, or keep their tiles "
        "in images/unlabelled for finetune --unlabelled rest (default: in train or val refused)")
    add = flags.add_argument_group("polygons only").add_argument
    add("--class_field", metavar="FIELD",
        help="has the class of a polygon; without it all are of one, called as the layer is")
    add("--background", metavar="NAME",
        help="class 0, what no polygon covers; none: that is not scored (default: background)")
    add("--inside", metavar="FILE[:LAYER]",
        help="polygons of what was mapped; outside of them nothing is scored")
    add("--order", metavar="FIELD",
        help="where polygons overlap, the one with the highest FIELD wins, not the later one")
    add("--touched", action="store_true",
        help="a polygon has all pixels that it touches, not those whose centres it covers")
    return flags


def draw_picture(catalog: "Catalog", output: Path) -> Path | None:
    """Write OUTPUT/polygons.png, tiles with their polygons over them; its path, None where no tile
    has a polygon."""
    from SSLRemoteSensing.data.images import write_png
    from SSLRemoteSensing.data.prepared import read_card
    from SSLRemoteSensing.preparation.outlined_tiles import outlined_tiles
    from SSLRemoteSensing.reports.image_grid import COMPRESSION
    from SSLRemoteSensing.reports.outline_figures import draw_outlines

    picture, card = output / "polygons.png", read_card(output)
    tiles = outlined_tiles(catalog, card, output, PICTURES)
    if not tiles:
        return None
    title = f"{catalog.polygons['file']}: {len(tiles)} of {sum(card['tiles'].values())} tiles"
    write_png(picture, draw_outlines(tiles, card["classes"], title), COMPRESSION)
    return picture


def main() -> None:
    name = "".join(sys.argv[1:2])
    if name == "shards":
        from SSLRemoteSensing.commands import shards

        shards.main()
        return
    if name and name not in SETS and not name.startswith("-"):
        raise UserError(f"{name}: no such set, {nearest(name, (*SETS, 'shards'))}")
    args = parse(flags())
    # GDAL would keep blocks up to a twentieth of all memory; each is read once here.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    # Only now: OpenCV and GDAL take a second, which --help need not wait for.
    from SSLRemoteSensing.preparation.request import next_commands, prepare_request

    with stoppable("stopped; finished scenes are kept, the same command goes on"):
        words = shlex.split(this_command())
        words = words[words[1:2] != ["-m"] :]  # a script without the word python
        is_good, catalog = prepare_request(args, made_by=words)
    if not is_good and not args.check:
        print(
            f"{args.output} is not ready: mend the scenes named above, or --leave_out them, and "
            "run the command again; what is done is kept"
        )
    if is_good and not args.check:
        facts = {"tiles": args.output}
        if catalog.polygons and (picture := draw_picture(catalog, Path(args.output))):
            facts |= {"picture": picture}
        print_summary(facts, next_commands(args))
    sys.exit(0 if is_good else 1)
