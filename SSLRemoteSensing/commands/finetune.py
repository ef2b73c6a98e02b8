"""Fine-tune and score a segmentation network on labelled tiles.

    python finetune_seg.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --backbone runs/mine/backbone.pth --set train_cfg.train_data.fraction=0.1
    python finetune_seg.py --config_file configs/demo_oam_finetune_resnet18_cfg.py \\
        --backbone random --dry_run
    python finetune_seg.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --evaluate checkpoints/seg_potsdam_vgg16/best.pth --tta
    torchrun --nproc_per_node=2 finetune_seg.py \\
        --config_file configs/seg_potsdam_vgg16_cfg.py --backbone imagenet

The best checkpoint is chosen on the tiles of val_data; test_data is read once, at the end, and
scored by scenes under every protocol that its classes and labels allow. Results in the
checkpoints_path: `best.pth`, `results.json`, `report.html` to open in a browser, `tile_errors.csv`,
`confusion_matrix.png`, `examples.png`, and `train_tiles.txt`, the tiles whose labels were used.
"""

from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, config_words, parse, read_config, starting_weights
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__).config().paths().dry_run()
    flags.add_argument("--backbone", metavar="random|imagenet|FILE",
        help="weights to begin from, in place of backbone_cfg.pretrained")
    add = flags.add_argument_group("scoring").add_argument
    add("--evaluate", metavar="CHECKPOINT",
        help="only score this checkpoint; the results are written beside it")
    add("--tta", action="store_true", help="score the mean over 8 turns and flips: scoring_cfg.tta")
    add("--tiles", action="store_true",
        help="score tile by tile, which is quicker: scoring_cfg.on")
    return flags


def main() -> None:
    args = parse(flags())
    if args.evaluate is not None and args.dry_run:
        raise UserError("--evaluate writes results; leave out --dry_run")
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes
    from SSLRemoteSensing.workflows.finetuning import SegmentationConfig, finetune, score_checkpoint

    scoring = ({"tta": True} if args.tta else {}) | ({"on": "tiles"} if args.tiles else {})
    with processes():
        config = read_config(args, Part(SegmentationConfig), pretrained=starting_weights(args))
        if scoring:
            config["scoring_cfg"] = (config.get("scoring_cfg") or {}) | scoring
        if args.evaluate is not None:
            score_checkpoint(config, Path(args.evaluate))
            print_summary({}, [mapping(Path(args.evaluate))])
            return
        checkpoint = finetune(config, args.dry_run)
        if checkpoint is not None:
            words = (*config_words(args), "--evaluate", checkpoint, "--tta")
            tta = [] if args.tta else [command_line("finetune_seg.py", *words)]
            print_summary({"weights": checkpoint}, [mapping(checkpoint), *tta])


def mapping(checkpoint: Path) -> str:
    """The command that maps scenes with a checkpoint."""
    words = ("--input", "SCENE.tif", "--output", checkpoint.parent / "map.tif")
    return command_line("tools/predict.py", "--checkpoint", checkpoint, *words, "--preview")
