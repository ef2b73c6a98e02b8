"""How few labels do: fine-tune from several initialisations with several shares of the labels.

    python tools/label_efficiency.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --init random=random ours=runs/mine/backbone.pth imagenet=imagenet \\
        --fractions 0.01 0.05 0.1 0.2 0.5 1 --seeds 0 1 2 --output runs/labels

Each cell of the grid is a run of finetune_seg.py with the same number of steps; with several GPUs
one runs on each. The output has `table.csv`, `table.md` (with the answer in words), `curves.png`,
and `report.html`, all of it for a browser with links to the report of each cell.
The same command goes on where it was stopped and repeats no finished cell; more fractions, seeds or
initialisations extend the grid. Exit status 1: a cell failed; the same command tries it again.
"""

import re
import sys
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, config_words, parse, read_config
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import print_summary, this_command
from SSLRemoteSensing.core.errors import UserError, stoppable
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS

# The command of a cell; a module of the working directory must not take the place of a library's.
FINETUNE = [sys.executable, "-P", "-m", "SSLRemoteSensing", "finetune"]


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--output", required=True, metavar="FOLDER", help="folder of the grid")
    add("--dry_run", action="store_true", help="print cells, steps and time; write nothing")
    flags.config("config, of fine-tuning")
    add = flags.add_argument_group("grid").add_argument
    add("--init", nargs="+", action="extend", required=True, metavar="NAME=random|imagenet|FILE",
        help="initialisations and what to call them; the others are compared with random; "
        "timm:MODEL is a network of timm with its weights, timm:MODEL@FILE and timm:MODEL@random "
        "with others")
    add("--init_set", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"),
        help="keys of the config for one initialisation alone, such as "
        "train_cfg.freeze_backbone=True: how it is trained, not on what or for how long")
    add("--frozen", action="store_true",
        help="also read each with its backbone as it is, by a linear probe on the same tiles")
    add("--unlabelled", metavar="rest|DIR",
        help="also train each with tiles without labels, see finetune_seg.py: those that a "
        "share of the labels leaves out, or a folder of images")
    add("--require_all", action="store_true",
        help="end where the weights of an initialisation cannot be downloaded; else it is left out")
    add("--fractions", nargs="+", type=float, default=(0.01, 0.05, 0.1, 0.2, 0.5, 1.0),
        metavar="SHARE",
        help="shares of the training tiles whose labels are used, above 0 to 1")
    add("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="N",
        help="each draws the tiles and the decoder's start anew")
    add("--lrs", nargs="+", type=float, metavar="LR",
        help="learning rates to choose from on validation, for each initialisation and fraction")
    add("--jobs", type=int, metavar="N", help="cells side by side (default: one a GPU, one on CPU)")
    add("--keep_weights", action="store_true", help="keep best.pth of each cell")
    add = flags.add_argument_group("answer and curves").add_argument
    add("--against", metavar="NAME",
        help="compare with this initialisation (default: the random one)")
    add("--metric", choices=METRICS, default="miou", help="score that they are of")
    add("--protocol", metavar="NAME",
        help="protocol of results.json that they are of (default: all, or else the config's first)")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.workflows.kinds import require_kind
    from SSLRemoteSensing.workflows.label_efficiency import report
    from SSLRemoteSensing.workflows.label_efficiency.grid import plan_grid, require_cells
    from SSLRemoteSensing.workflows.label_efficiency.jobs import slots_for
    from SSLRemoteSensing.workflows.label_efficiency.run import ENOUGH, run_grid
    from SSLRemoteSensing.workflows.segmentation import SegmentationConfig, check_segmentation

    config = read_config(args, Part(SegmentationConfig))
    require_kind(config, "finetune", args.config_file)
    check_segmentation(config)
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: must be at least 1")
    protocol = report.choose_protocol(config, args.protocol)
    axes = (args.init, args.fractions, args.seeds, args.lrs, args.init_set)
    grid = plan_grid(Path(args.output), config, *axes, args.against, args.frozen, args.unlabelled)
    remarks = require_cells(grid, args.require_all)
    slots = slots_for(config["train_cfg"].get("device", "auto"), args.jobs)
    print("\n".join([*report.describe(grid), *remarks]))
    if args.dry_run:
        report.preview(grid, len(slots), FINETUNE, config_words(args))
        return
    with stoppable("stopped; finished cells are kept, the same command goes on"):
        is_whole = run_grid(grid, FINETUNE, slots, args.metric, protocol, args.keep_weights)
    if is_whole and max(args.seeds) == len(args.seeds) - 1 < ENOUGH - 1:
        seeds = " ".join(map(str, range(ENOUGH)))  # narrower intervals
        print_summary({}, [re.sub(r" --seeds( \d+)+", "", this_command()) + f" --seeds {seeds}"])
    sys.exit(0 if is_whole else 1)
