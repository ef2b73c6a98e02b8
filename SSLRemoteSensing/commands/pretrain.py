"""Pre-train a backbone on images without labels.

    python train.py --images data/mine --output runs/mine --preset small --minutes 30
    python train.py --config_file configs/demo_oam_pretrain_resnet18_cfg.py --dry_run
    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.device=auto train_cfg.batch_size=64 \\
        --checkpoints_path runs/mine --log_path runs/mine/log
    torchrun --nproc_per_node=8 train.py \\
        --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.device=auto train_cfg.global_batch_size=256

With --images no config file is needed: what the images are is looked up and said, and the config
that comes of it is kept as `config.py` in --output. The same command again goes on where a run was
stopped. Results: `backbone.pth` and its card `backbone.json` in the checkpoints_path, TensorBoard
events and `metrics.jsonl` in the log_path.
"""

import argparse
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import (
    Flags,
    choose_source,
    overrides,
    parse,
    read_config,
    starting_weights,
)
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import command_line, print_summary

if TYPE_CHECKING:
    from SSLRemoteSensing.workflows.own_requests import PretrainingRequest

OWN = ("preset", "epochs", "minutes", "size", "bands", "max_value", "scale")  # go with --images


def flags() -> Flags:
    flags = Flags(__doc__).config(required=False).paths().dry_run()
    # fmt: off
    flags.add_argument("--with_imagenet", choices=("true", "false"),
        help="begin from ImageNet's weights or not, in place of backbone_cfg.pretrained")
    add = flags.add_argument_group("own images, without a config file").add_argument
    add("--images", nargs="+", metavar="DIR|LIST|PATTERN|FILE", help="the images, any of these")
    add("--output", metavar="RUN", help="folder of the run, which gets its config.py")
    planning_flags(add)
    return flags


def planning_flags(add: Callable) -> None:
    """Add `OWN`, which go with --images."""
    # fmt: off
    add("--preset", metavar="NAME", help="network and recipe, see sslrs presets; modern if absent")
    add("--epochs", type=int, metavar="N", help="length of the run")
    add("--minutes", type=float, metavar="M",
        help="length of the run, by the speed measured at its begin")
    add("--size", type=int, metavar="PIXELS", help="side of what the network sees")
    add("--bands", type=int, nargs="+", metavar="N", help="which to take, from 1; all if absent")
    add("--max_value", type=float, metavar="VALUE", help="the value that becomes white")
    add("--scale", nargs="+", metavar="MIN MAX",
        help="in place of it, what becomes black and white: a pair of numbers for each band, or "
        "for all; or percentile, the 2nd and 98th of each band")


def request_of(args: argparse.Namespace, output: str) -> "PretrainingRequest":
    """What --images and the flags that go with it ask for, in the folder `output`."""
    from SSLRemoteSensing.data.scale import read_scale
    from SSLRemoteSensing.workflows.own_requests import PretrainingRequest

    given = {key: value for key in OWN if (value := getattr(args, key)) is not None}
    given |= {"scale": read_scale(args.scale), "settings": overrides(args)}
    return PretrainingRequest(args.images, output, **given)


def main() -> None:
    args = parse(flags())
    is_own = choose_source(args, "images", OWN)
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes
    from SSLRemoteSensing.workflows.kinds import require_kind
    from SSLRemoteSensing.workflows.own_runs import requested_config
    from SSLRemoteSensing.workflows.pretraining import PretextConfig, pretrain

    with processes(), contextlib.ExitStack() as stack:
        if is_own:
            request = request_of(args, args.output)
            config = stack.enter_context(requested_config(request, writes=not args.dry_run))
        else:
            config = read_config(args, Part(PretextConfig), pretrained=starting_weights(args))
            require_kind(config, "pretrain", args.config_file)
        results = pretrain(config, args.dry_run)
        if args.dry_run:
            return
        words = ("--config_file", "CONFIG", "--backbone", results["backbone"])
        if is_own:
            output = f"{str(args.output).rstrip('/')}_finetuned"
            words = ("--tiles", "TILES", "--backbone", results["backbone"], "--output", output)
        print_summary(results, [command_line("finetune_seg.py", *words)])
