"""Write the reports of a finished run or grid again, after an update of this package, say.

    sslrs report runs/seg
    sslrs report runs/labels --metric mf1 --against imagenet

FOLDER is that of a fine-tuning: its best.pth is scored again, with the config of its card and in
the way that it was scored, and `results.json` and `report.html` are written anew. Or it is that of
a label-efficiency grid: its tables, curves and pages are written from the cells that have run.
"""

from argparse import Namespace
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    flags.add_argument("folder", metavar="FOLDER", type=Path, help="of a fine-tuning or a grid")
    add = flags.add_argument_group("of a grid").add_argument
    add("--against", metavar="NAME",
        help="compare with this initialisation (default: the random one)")
    add("--metric", choices=METRICS, default="miou", help="score of the answer and the curves")
    add("--protocol", metavar="NAME",
        help="protocol that they are of (default: all, or else the config's first)")
    return flags


def main() -> None:
    args = parse(flags())
    if (args.folder / "grid.json").is_file():
        from SSLRemoteSensing.workflows.label_efficiency.run import report_grid

        report_grid(args.folder, args.metric, args.protocol, args.against)
    elif (args.folder / "best.pth").is_file():
        report_run(args)
    else:
        need = "best.pth of a fine-tuning nor grid.json of a label-efficiency grid"
        raise UserError(f"{args.folder}: has neither {need}; name the folder of one")


def report_run(args: Namespace) -> None:
    if args.against is not None or args.protocol is not None or args.metric != "miou":
        raise UserError(f"{args.folder}: is of a fine-tuning; leave out the flags of a grid")
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core import checkpoints
    from SSLRemoteSensing.core.distributed import processes
    from SSLRemoteSensing.core.files import read_json
    from SSLRemoteSensing.workflows import finetuning
    from SSLRemoteSensing.workflows.kinds import KINDS, kind_of

    source = args.folder / "best.pth"
    with processes():
        config = checkpoints.read(source).get("card", {}).get("config")
        if not isinstance(config, dict) or kind_of(config) is not KINDS["finetune"]:
            raise UserError(f"{source}: has no card of a fine-tuning, which says what to score")
        results = read_json(args.folder / "results.json")
        scoring = results.get("config", {}).get("scoring_cfg")
        if scoring is not None:  # as --tta or --tiles had it
            config["scoring_cfg"] = scoring
        finetuning.score_checkpoint(config, source)
