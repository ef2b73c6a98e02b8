"""What a straight line reads off a backbone: the linear probe of pre-training, for any weights.

    python tools/probe.py --config_file C --backbone runs/pretrain/backbone.pth
    python tools/probe.py --config_file C --backbone random --draws 5
    python tools/probe.py --config_file C --backbone FILE --set train_cfg.probe.path=data/potsdam

C is a config of train.py with `train_cfg.probe`, which says what is fitted on and what is scored;
docs/evaluation.md explains it. A file brings its architecture, random and imagenet take that of
backbone_cfg. Figures are comparable where tiles, pixels and classes are the same. With few tiles
much is the luck of the draw: `--draws 5` takes the probe's seed and the four after it, for random
weights new weights as well, and gives the mean and its 95 % interval. `--blocks block6` reads one
depth alone.
"""

from SSLRemoteSensing.core.cli import Flags, parse, read_config
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.errors import UserError


def flags() -> Flags:
    flags = Flags(__doc__).config().paths()
    add = flags.add_argument
    add("--backbone", required=True, metavar="random|imagenet|FILE", help="the weights to probe")
    add("--seed", type=int, default=0, metavar="N", help="of random weights")
    add("--draws", type=int, default=1, metavar="N", help="draws of tiles, each scored by itself")
    add("--blocks", nargs="+", metavar="MAP", help="read these maps alone, such as block2 block3")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--precision", default="fp32", choices=("auto", "fp32", "bf16"), help="of the features")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.machine import choose_device, choose_precision
    from SSLRemoteSensing.workflows import probing
    from SSLRemoteSensing.workflows.kinds import require_kind
    from SSLRemoteSensing.workflows.pretraining import PretextConfig, check_pretext

    config = read_config(args, Part(PretextConfig))
    require_kind(config, "pretrain", args.config_file)
    check_pretext(config)
    if config["train_cfg"].get("probe") is None:
        keys = "path=FOLDER, of a prepared set, or image_path, label_path and classes"
        raise UserError(f"train_cfg.probe: is missing in the config; set train_cfg.probe.{keys}")
    if args.draws < 1:
        raise UserError(f"--draws {args.draws}: must be at least 1")
    device = choose_device(args.device, "--device ")
    precision = choose_precision(args.precision, device, "--precision ")
    wanted, draws = (args.backbone, args.seed, args.blocks, args.draws), []
    for scores, summary in probing.score_draws(config, *wanted, device, precision):
        if args.draws == 1:
            print("\n".join(probing.lines_of_classes(scores)))
        print(summary, flush=True)
        draws.append(scores)
    if args.draws > 1:
        print("\n".join(probing.lines_of_draws(draws)))
