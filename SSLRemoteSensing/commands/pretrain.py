"""Pre-train a backbone on images without labels.

    python train.py --config_file configs/demo_oam_pretrain_resnet18_cfg.py --dry_run
    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.device=auto train_cfg.batch_size=64 \\
        --checkpoints_path runs/mine --log_path runs/mine/log
    torchrun --nproc_per_node=8 train.py \\
        --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.device=auto train_cfg.global_batch_size=256

The same command again goes on where a run was stopped. Results: `backbone.pth` and its card
`backbone.json` in the checkpoints_path, TensorBoard events and `metrics.jsonl` in the log_path.
"""

from SSLRemoteSensing.core.cli import Flags, parse, read_config, starting_weights
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import command_line, print_summary


def flags() -> Flags:
    flags = Flags(__doc__).config().paths().dry_run()
    # fmt: off
    flags.add_argument("--with_imagenet", choices=("true", "false"),
        help="begin from ImageNet's weights or not, in place of backbone_cfg.pretrained")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes
    from SSLRemoteSensing.workflows.pretraining import PretextConfig, pretrain

    with processes():
        config = read_config(args, Part(PretextConfig), pretrained=starting_weights(args))
        results = pretrain(config, args.dry_run)
        if args.dry_run:
            return
        words = ("--config_file", "CONFIG", "--backbone", results["backbone"])
        print_summary(results, [command_line("finetune_seg.py", *words)])
