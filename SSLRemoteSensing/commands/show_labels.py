"""Before fine-tuning: see tiles with their labels laid over, and how often each class occurs.

    python tools/show_labels.py --config_file C --output labels.png
    python tools/show_labels.py --config_file C --output labels.png --part val --with car
    python tools/show_labels.py --config_file C --output labels.png --augmented
    python tools/show_labels.py --tiles data/potsdam --output labels.png
    python tools/show_labels.py --images DIR --labels DIR --classes other road --output labels.png

A row a tile: image, label, overlay with the borders of the classes; what is not scored is hatched.
The legend has each class's share of the labelled pixels of the whole part and of the tiles shown.
--tiles takes a folder that tools/prepare.py made, --images and --labels any two folders of files
of the same names.
"""

from argparse import Namespace

from SSLRemoteSensing.core.bars import print_line
from SSLRemoteSensing.core.cli import Flags, parse, read_config
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError

MOST = 100  # tiles; a picture of more cannot be looked at
# Which flags go with which source alone.
FLAGS_OF = {
    "config_file": ("augmented", "set"),
    "images": ("labels", "classes", "label_format", "label_offset", "label_codes"),
}
FLAGS_OF["images"] += ("max_value", "scale")


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument_group("what to show, one of").add_argument
    add("--config_file", metavar="FILE", help="a config of finetune_seg.py")
    add("--tiles", metavar="FOLDER", help="of tools/prepare.py, with dataset.json")
    add("--images", metavar="FOLDER", help="with --labels and --classes")
    add = flags.add_argument
    add("--output", required=True, metavar="PNG", help="the picture to write")
    add("--part", choices=("train", "val", "test"), default="train", help="whose tiles")
    add("--samples", type=int, default=8, metavar="N", help="rows")
    add("--seed", type=int, metavar="N",
        help="draw the tiles by it (default: evenly spread ones)")
    add("--with", dest="wanted", metavar="CLASS", help="only tiles that hold CLASS")
    config = flags.add_argument_group("with --config_file")
    config.add_argument("--augmented", action="store_true",
        help="as epoch 0 of training has the tiles: cropped, mirrored, turned, jittered")
    flags.keys(config)
    add = flags.add_argument_group("with --images").add_argument
    add("--labels", metavar="FOLDER", help="of label maps, one an image")
    add("--classes", nargs="+", metavar="NAME", help="in the order of their values")
    add("--label_format", metavar="PATTERN",
        help="a label's file name (default: {stem}.png)")
    add("--label_offset", type=int, metavar="N", help="-1 where labels have 0 = not scored")
    add("--label_codes", nargs="+", type=int, metavar="VALUE", help="of each class, e.g. 0 255")
    add("--max_value", type=float, metavar="VALUE", help="becomes 255; for images of 16 bits")
    add("--scale", nargs="+", metavar="MIN MAX",
        help="in place of it, what becomes 0 and 255: a pair of numbers for each band, or for all; "
        "or percentile, the 2nd and 98th of each band")
    return flags


def check_flags(args: Namespace) -> None:
    """Raise a `UserError` for flags of `show labels` that do not go together."""
    sources = [name for name in ("config_file", "tiles", "images") if vars(args)[name] is not None]
    if len(sources) != 1:
        raise UserError("give one of --config_file, --tiles, --images")
    for source, names in FLAGS_OF.items():
        for name in names:
            if vars(args)[name] not in (None, [], False) and source != sources[0]:
                raise UserError(f"--{name}: goes with --{source}, not with --{sources[0]}")
    of_folders, other_part = args.images is not None, args.part != "train"
    for is_wrong, text in (
        (of_folders and None in (args.labels, args.classes),
         f"--images {args.images}: give --labels and --classes too"),
        (of_folders and other_part,
         f"--part {args.part}: name the folders of that part with --images, --labels"),
        (args.augmented and other_part,
         f"--augmented --part {args.part}: only train_data is augmented"),
        (not 1 <= args.samples <= MOST, f"--samples {args.samples}: must be 1 to {MOST}"),
        (args.seed is not None and args.seed < 0, f"--seed {args.seed}: must be at least 0"),
    ):  # fmt: skip
        if is_wrong:
            raise UserError(text)


def main() -> None:
    args = parse(flags())
    check_flags(args)
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.data.images import write_png
    from SSLRemoteSensing.reports import label_figures as figures
    from SSLRemoteSensing.reports.image_grid import COMPRESSION, png_path
    from SSLRemoteSensing.workflows.open_tiles import open_part
    from SSLRemoteSensing.workflows.segmentation import SegmentationConfig

    output = png_path(args.output, "--output")
    schema = Part(SegmentationConfig)
    config = None if args.config_file is None else read_config(args, schema)
    part = open_part(args, config)
    counts = figures.count_classes(part.dataset)
    class_index = None
    if args.wanted is not None:
        class_index = figures.class_number(args.wanted, part.classes, counts)
    indices = figures.choose_tiles(counts, args.samples, args.seed, class_index)
    tiles = figures.read_tiles(part.dataset, indices, args.augmented)
    suffix = ", as epoch 0 of training has them" if args.augmented else ""
    title = f"{part.title}: {len(tiles)} of {len(counts)} tiles{suffix}"
    table = figures.class_table(tiles, counts, part.classes)
    page = figures.draw_tiles(tiles, table, part.classes, part.palette, title)
    write_png(output, page, COMPRESSION)
    for line in [title, *figures.table_lines(table)]:
        print_line(line)
    print_summary({"picture": output})
