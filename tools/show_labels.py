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

import argparse
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import add_set, overrides, parse, plain_parser
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.console import print_line, print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.reports.image_grid import png_path, write_png

if TYPE_CHECKING:
    from SSLRemoteSensing.workflows.open_tiles import Part

MOST = 100  # tiles; a picture of more cannot be looked at


def flags() -> argparse.ArgumentParser:
    flags = plain_parser(__doc__)
    source = flags.add_argument_group("what to show, one of")
    source.add_argument("--config_file", metavar="FILE", help="a config of finetune_seg.py")
    source.add_argument("--tiles", metavar="FOLDER", help="of tools/prepare.py, with dataset.json")
    source.add_argument("--images", metavar="FOLDER", help="with --labels and --classes")
    flags.add_argument("--output", required=True, metavar="PNG", help="the picture to write")
    flags.add_argument(
        "--part", choices=("train", "val", "test"), default="train", help="whose tiles"
    )
    flags.add_argument("--samples", type=int, default=8, metavar="N", help="rows")
    flags.add_argument(
        "--seed", type=int, metavar="N", help="draw the tiles by it (default: evenly spread ones)"
    )
    flags.add_argument("--with", dest="wanted", metavar="CLASS", help="only tiles that hold CLASS")
    config = flags.add_argument_group("with --config_file")
    config.add_argument(
        "--augmented",
        action="store_true",
        help="as epoch 0 of training has the tiles: cropped, mirrored, turned, jittered",
    )
    add_set(config)
    own = flags.add_argument_group("with --images")
    own.add_argument("--labels", metavar="FOLDER", help="of label maps, one an image")
    own.add_argument("--classes", nargs="+", metavar="NAME", help="in the order of their values")
    own.add_argument(
        "--label_format", metavar="PATTERN", help="a label's file name (default: {stem}.png)"
    )
    own.add_argument(
        "--label_offset", type=int, metavar="N", help="-1 where labels have 0 = not scored"
    )
    own.add_argument(
        "--label_codes", nargs="+", type=int, metavar="VALUE", help="of each class, e.g. 0 255"
    )
    own.add_argument(
        "--max_value", type=float, metavar="VALUE", help="becomes 255; for images of 16 bits"
    )
    return flags


def main() -> None:
    args = parse(flags())
    check_flags(args)
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.reports.label_figures import (
        choose_tiles,
        class_number,
        class_table,
        count_classes,
        draw_tiles,
        read_tiles,
    )

    output = png_path(args.output, "--output")
    part = open_part(args)
    counts = count_classes(part.dataset)
    wanted = None if args.wanted is None else class_number(args.wanted, part.classes, counts)
    chosen = choose_tiles(counts, args.samples, args.seed, wanted)
    tiles = read_tiles(part.dataset, chosen, args.augmented)
    how = ", as epoch 0 of training has them" if args.augmented else ""
    title = f"{part.title}: {len(tiles)} of {len(counts)} tiles{how}"
    page, _ = draw_tiles(tiles, counts, part.classes, part.palette, title)
    write_png(output, page)
    print_line(title)
    table = class_table(tiles, counts, part.classes)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        name, *figures = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        print_line("  ".join([row[0].ljust(len(name)), *figures]))
    print_summary({"picture": output})


def check_flags(args: argparse.Namespace) -> None:
    sources = {"config_file": args.config_file, "tiles": args.tiles, "images": args.images}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise UserError("give one of --config_file, --tiles, --images")
    for source, names in {
        "config_file": ("augmented", "set"),
        "images": ("labels", "classes", "label_format", "label_offset", "label_codes", "max_value"),
    }.items():
        set_here = [name for name in names if getattr(args, name) not in (None, [], False)]
        if set_here and given[0] != source:
            raise UserError(f"--{set_here[0]}: goes with --{source}, not with --{given[0]}")
    if args.images is not None and (args.labels is None or args.classes is None):
        raise UserError(f"--images {args.images}: give --labels and --classes too")
    if args.images is not None and args.part != "train":
        raise UserError(
            f"--part {args.part}: name the folders of that part with --images, --labels"
        )
    if args.augmented and args.part != "train":
        raise UserError(f"--augmented --part {args.part}: only train_data is augmented")
    if not 1 <= args.samples <= MOST:
        raise UserError(f"--samples {args.samples}: must be 1 to {MOST}")
    if args.seed is not None and args.seed < 0:
        raise UserError(f"--seed {args.seed}: must be at least 0")


def open_part(args: argparse.Namespace) -> "Part":
    from SSLRemoteSensing.workflows.doctor.subject import is_fine_tuning
    from SSLRemoteSensing.workflows.finetuning import check_segmentation
    from SSLRemoteSensing.workflows.open_tiles import (
        part_of_config,
        part_of_folders,
        part_of_prepared,
    )

    if args.tiles is not None:
        return part_of_prepared(args.tiles, args.part)
    if args.images is not None:
        return part_of_folders(
            args.images, args.labels, args.classes, args.label_format or "{stem}.png",
            args.label_offset, args.label_codes, args.max_value,
        )  # fmt: skip
    config = load_config(args.config_file, overrides(args))
    if not is_fine_tuning(config):
        raise UserError(
            f"config file {args.config_file}: is for train.py; tools/show_pretext.py shows it"
        )
    check_segmentation(config)
    return part_of_config(config, args.part)


if __name__ == "__main__":
    run_command(main)
