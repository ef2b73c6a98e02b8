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

import argparse
import shlex
import sys
from pathlib import Path

from SSLRemoteSensing.core.cli import add_config_flags, config_words, overrides, parse, plain_parser
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
ENOUGH = 5  # seeds: Student's factor falls from 12.7 of two and 4.3 of three to 2.8
FINETUNE = [sys.executable, str(Path(__file__).resolve().parents[1] / "finetune_seg.py")]


def flags() -> argparse.ArgumentParser:
    flags = plain_parser(__doc__)
    flags.add_argument("--output", required=True, metavar="FOLDER", help="folder of the grid")
    flags.add_argument(
        "--dry_run", action="store_true", help="print cells, steps and time; write nothing"
    )
    add_config_flags(flags.add_argument_group("config, of fine-tuning"), paths=False)
    grid = flags.add_argument_group("grid")
    grid.add_argument(
        "--init",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=random|imagenet|FILE",
        help="initialisations and what to call them; the others are compared with random",
    )
    grid.add_argument(
        "--init_set",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="keys of the config for one initialisation alone, such as "
        "train_cfg.freeze_backbone=True: how it is trained, not on what or for how long",
    )
    grid.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=FRACTIONS,
        metavar="SHARE",
        help="shares of the training tiles whose labels are used, above 0 to 1",
    )
    grid.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=(0, 1, 2),
        metavar="N",
        help="each draws the tiles and the decoder's start anew",
    )
    grid.add_argument(
        "--lrs",
        nargs="+",
        type=float,
        metavar="LR",
        help="learning rates to choose from on validation, for each initialisation and fraction",
    )
    grid.add_argument(
        "--jobs", type=int, metavar="N", help="cells side by side (default: one a GPU, one on CPU)"
    )
    grid.add_argument("--keep_weights", action="store_true", help="keep best.pth of each cell")
    answer = flags.add_argument_group("answer and curves")
    answer.add_argument(
        "--against",
        metavar="NAME",
        help="compare with this initialisation (default: the random one)",
    )
    answer.add_argument("--metric", choices=METRICS, default="miou", help="score that they are of")
    answer.add_argument(
        "--protocol",
        metavar="NAME",
        help="protocol of results.json that they are of (default: all, or else the config's first)",
    )
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.workflows.finetuning import check_segmentation
    from SSLRemoteSensing.workflows.label_efficiency.cells import remaining_jobs
    from SSLRemoteSensing.workflows.label_efficiency.grid import (
        locked,
        plan_grid,
        read_grid,
        write_grid,
    )
    from SSLRemoteSensing.workflows.label_efficiency.rates import choose_rates, warnings_of_rates
    from SSLRemoteSensing.workflows.label_efficiency.report import (
        choose_protocol,
        describe,
        preview,
        report,
    )
    from SSLRemoteSensing.workflows.label_efficiency.runner import run_jobs, slots_for, stop_signals

    config = load_config(args.config_file, overrides(args))
    check_segmentation(config)
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: must be at least 1")
    protocol = choose_protocol(config, args.protocol)
    grid = plan_grid(
        Path(args.output),
        config,
        args.init,
        args.fractions,
        args.seeds,
        args.lrs,
        args.init_set,
        args.against,
    )
    slots = slots_for(config["train_cfg"].get("device", "auto"), args.jobs)
    print("\n".join(describe(grid)))
    if args.dry_run:
        preview(grid, len(slots), FINETUNE, config_words(args))
        return
    with locked(grid), stop_signals() as stop:
        read_grid(grid)  # as it is now that no other command can change it
        write_grid(grid)
        jobs = remaining_jobs(grid)
        print(f"{len(jobs)} of {len(grid.cells())} cells to do, {len(slots)} at a time", flush=True)
        run_jobs(grid, jobs, FINETUNE, slots, stop, args.keep_weights)
        remarks = []
        if grid.lrs is not None and not stop.received:
            remarks = choose_rates(grid, args.keep_weights) + warnings_of_rates(grid)
            scoring = [job for job in remaining_jobs(grid) if job.scoring]
            run_jobs(grid, scoring, FINETUNE, slots, stop, args.keep_weights)
        report(grid, remarks, args.metric, protocol, final=not stop.received)
        failed = bool(remaining_jobs(grid))
    if stop.received:
        print("stopped; finished cells are kept, the same command goes on", file=sys.stderr)
        sys.exit(128 + stop.received[0])
    if not failed and max(args.seeds) == len(args.seeds) - 1 < ENOUGH - 1:
        print_summary(
            {}, [shlex.join(["python", *with_seeds(sys.argv, ENOUGH)])]
        )  # narrower intervals
    sys.exit(1 if failed else 0)


def with_seeds(words: list[str], count: int) -> list[str]:
    """The command with its first `count` seeds in place of those that it names."""
    kept, dropping = [], False
    for word in words:
        dropping = word == "--seeds" or (dropping and not word.startswith("-"))
        if not dropping:
            kept.append(word)
    return [*kept, "--seeds", *map(str, range(count))]


if __name__ == "__main__":
    run_command(main)
