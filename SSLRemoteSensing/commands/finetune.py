"""Fine-tune and score a segmentation network on labelled tiles.

    python finetune_seg.py --tiles data/potsdam --backbone runs/mine/backbone.pth \\
        --output runs/potsdam --preset quick
    python finetune_seg.py --images my/images --labels my/labels --classes other road \\
        --backbone runs/mine/backbone.pth --output runs/roads
    python finetune_seg.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --backbone runs/mine/backbone.pth --set train_cfg.train_data.fraction=0.1
    python finetune_seg.py --config_file configs/demo_oam_finetune_resnet18_cfg.py \\
        --backbone random --dry_run
    python finetune_seg.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --evaluate checkpoints/seg_potsdam_vgg16/best.pth --tta
    torchrun --nproc_per_node=2 finetune_seg.py \\
        --config_file configs/seg_potsdam_vgg16_cfg.py --backbone imagenet

With --tiles, a folder that tools/prepare.py made, or --images and --labels no config file is
needed: classes, bands and splits are those of dataset.json, and the config that comes of it is kept
as `config.py` in --output.

The best checkpoint is chosen on the tiles of val_data; test_data is read once, at the end, and
scored by scenes under every protocol that its classes and labels allow. Results in the
checkpoints_path: `best.pth`, `results.json`, `report.html` to open in a browser, `tile_errors.csv`,
`confusion_matrix.png`, `examples.png`, and `train_tiles.txt`, the tiles whose labels were used.
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import (
    Flags,
    choose_source,
    config_words,
    overrides,
    parse,
    read_config,
    starting_weights,
)
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError

if TYPE_CHECKING:
    from SSLRemoteSensing.workflows.own_labels import OwnLabels

# These go with --images.
LABELLED = ("labels", "classes", "class_field", "label_offset", "label_codes", "splits", "tile")
ASKED = ("preset", "frozen", "fraction", "epochs", "unlabelled")  # go with --tiles or --images


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__).config(required=False).paths().dry_run()
    flags.add_argument("--backbone", metavar="random|imagenet|FILE",
        help="weights to begin from, in place of backbone_cfg.pretrained")
    add = flags.add_argument_group("own tiles or images, without a config file").add_argument
    add("--tiles", nargs="?", const=True, metavar="FOLDER",
        help="a set that tools/prepare.py made; without FOLDER and with a config file: score tile "
        "by tile, which is quicker (scoring_cfg.on)")
    add("--images", nargs="+", metavar="DIR", help="images of your own, in place of --tiles; they "
        "are prepared in RUN/tiles")
    add("--labels", metavar="DIR|POLYGONS",
        help="their labels: a folder of images of the same names, or a file of polygons; an image "
        "without a label in the folder is left out")
    add("--classes", nargs="+", metavar="NAME", help="names of the classes, in order")
    add("--class_field", metavar="FIELD", help="of polygons, the field with their class")
    add("--label_offset", type=int, metavar="N", help="added to each value of a label image")
    add("--label_codes", type=int, nargs="+", metavar="VALUE",
        help="in place of it, the value of each class in a label image, such as 0 255")
    add("--splits", nargs="+", metavar="SPLIT=WHICH",
        help="as sslrs prepare takes them; without, folders train, val, test, or blocks of ground")
    add("--tile", type=int, metavar="PIXELS", help="side of a tile; by the images if absent")
    add("--output", metavar="RUN", help="folder of the run, which gets its config.py")
    add("--preset", metavar="NAME",
        help="quick, standard or full, see sslrs presets; standard if absent")
    add("--frozen", action="store_true", default=None,
        help="leave the backbone as it is, and train a linear probe on its features")
    add("--epochs", type=int, metavar="N", help="length of the run, in place of the preset's")
    add("--fraction", type=float, metavar="SHARE", help="of the labels; all if absent")
    add("--unlabelled", metavar="rest|DIR",
        help="tiles to train on too, by labels that a network gives them: rest, those that "
        "--fraction leaves out and those of --images without a label; or a folder of images")
    add = flags.add_argument_group("scoring").add_argument
    add("--evaluate", metavar="CHECKPOINT",
        help="only score this checkpoint; the results are written beside it")
    add("--tta", action="store_true", help="score the mean over 8 turns and flips: scoring_cfg.tta")
    return flags


def main() -> None:
    args = parse(flags())
    if args.evaluate is not None and args.dry_run:
        raise UserError("--evaluate writes results; leave out --dry_run")
    by_tiles, args.tiles = args.tiles is True, None if args.tiles is True else args.tiles
    is_of_images = args.images is not None or (args.tiles is None and args.labels is not None)
    is_own = choose_source(args, "images" if is_of_images else "tiles", (*ASKED, *LABELLED))
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes
    from SSLRemoteSensing.workflows.finetuning import finetune, score_checkpoint
    from SSLRemoteSensing.workflows.kinds import require_kind
    from SSLRemoteSensing.workflows.own_plans import CONFIG
    from SSLRemoteSensing.workflows.own_requests import FinetuningRequest
    from SSLRemoteSensing.workflows.own_runs import requested_config
    from SSLRemoteSensing.workflows.segmentation import SegmentationConfig

    scoring = ({"tta": True} if args.tta else {}) | ({"on": "tiles"} if by_tiles else {})
    with processes(), contextlib.ExitStack() as stack:
        if is_own:
            asked = given(args, ("backbone", *ASKED)) | {"settings": overrides(args)}
            request = FinetuningRequest(tiles_of(args), args.output, **asked)
            config = stack.enter_context(requested_config(request, writes=not args.dry_run))
            args.config_file = Path(args.output) / CONFIG
        else:
            config = read_config(args, Part(SegmentationConfig), pretrained=starting_weights(args))
            require_kind(config, "finetune", args.config_file)
        if scoring:
            config["scoring_cfg"] = (config.get("scoring_cfg") or {}) | scoring
        if args.evaluate is not None:
            score_checkpoint(config, Path(args.evaluate))
            print_summary({}, [mapping(Path(args.evaluate))])
            return
        checkpoint = finetune(config, args.dry_run)
        if checkpoint is not None:
            args.set = [] if is_own else args.set  # which the config holds
            words = (*config_words(args), "--evaluate", checkpoint, "--tta")
            tta = [] if args.tta else [command_line("finetune_seg.py", *words)]
            print_summary({"weights": checkpoint}, [mapping(checkpoint), *tta])


def tiles_of(args: argparse.Namespace) -> "str | OwnLabels":
    """What is trained on without a config file: a prepared set, or images with labels.

    Raises:
        UserError: neither of them, or both.
    """
    from SSLRemoteSensing.workflows.own_labels import OwnLabels

    own = given(args, ("images", *LABELLED))
    if args.tiles is None and {"images", "labels"} <= own.keys():
        return OwnLabels(**own)
    if args.tiles is None or "images" in own:
        raise UserError("--tiles, or --images with --labels: give one of the two")
    if own:
        raise UserError(f"--{next(iter(own))}: is for --images; --tiles has been prepared")
    return args.tiles


def given(args: argparse.Namespace, names: Sequence[str]) -> dict:
    """Those flags of `names` that are given, and their values."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def mapping(checkpoint: Path) -> str:
    """The command that maps scenes with a checkpoint."""
    words = ("--input", "SCENE.tif", "--output", checkpoint.parent / "map.tif")
    return command_line("tools/predict.py", "--checkpoint", checkpoint, *words, "--preview")
