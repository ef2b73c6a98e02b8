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

from argparse import ArgumentParser, Namespace
from pathlib import Path

from SSLRemoteSensing.core.cli import config_words, parse, parser, read_config
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError, run_command


def flags() -> ArgumentParser:
    flags = parser(__doc__)
    flags.add_argument(
        "--backbone",
        metavar="random|imagenet|FILE",
        help="weights to begin from, in place of backbone_cfg.pretrained",
    )
    scoring = flags.add_argument_group("scoring")
    scoring.add_argument(
        "--evaluate",
        metavar="CHECKPOINT",
        help="only score this checkpoint; the results are written beside it",
    )
    scoring.add_argument(
        "--tta", action="store_true", help="score the mean over 8 turns and flips: scoring_cfg.tta"
    )
    scoring.add_argument(
        "--tiles", action="store_true", help="score tile by tile, which is quicker: scoring_cfg.on"
    )
    return flags


def main() -> None:
    args = parse(flags())
    if args.evaluate is not None and args.dry_run:
        raise UserError("--evaluate writes results; leave out --dry_run")
    # Only now, as in `run`: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes

    with processes():
        run(args)


def run(args: Namespace) -> None:
    from SSLRemoteSensing.workflows.finetuning import (
        is_scored,
        open_fine_tuning,
        score_checkpoint,
        train,
    )

    config = asked_for(read_config(args), args)
    task = open_fine_tuning(config, trains=args.evaluate is None)
    if args.evaluate is not None:
        score_checkpoint(task, Path(args.evaluate), Path(args.evaluate).parent)
        print_summary({}, [mapping(Path(args.evaluate))])
        return
    folder = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    trained = train(task, folder, args.dry_run)
    if args.dry_run:
        return
    report = folder / "report.html"
    if not trained and report.exists() and is_scored(folder / "results.json", config):
        print_summary({"results": folder / "results.json", "report": report})
    else:
        score_checkpoint(task, folder / "best.pth", folder)
    best = folder / "best.pth"
    tta = command_line("finetune_seg.py", *config_words(args), "--evaluate", str(best), "--tta")
    print_summary({"weights": best}, [mapping(best)] if args.tta else [mapping(best), tta])


def mapping(checkpoint: Path) -> str:
    """The command that maps scenes with a checkpoint."""
    named = ("--input", "SCENE.tif", "--output", checkpoint.parent / "map.tif")
    return command_line("tools/predict.py", "--checkpoint", checkpoint, *named, "--preview")


def asked_for(config: dict, args: Namespace) -> dict:
    """`config` with what the flags ask for."""
    backbone_cfg = config.get("backbone_cfg")
    if args.backbone is not None and isinstance(backbone_cfg, dict):
        named = {"random": False, "imagenet": True}
        backbone_cfg["pretrained"] = named.get(args.backbone, args.backbone)
    if args.evaluate is not None:  # the checkpoint brings all weights
        for key, weights in (("backbone_cfg", "pretrained"), ("decoder_cfg", "transfer")):
            if isinstance(config.get(key), dict) and weights in config[key]:
                config[key][weights] = False
    wanted = {"tta": True} if args.tta else {}
    wanted |= {"on": "tiles"} if args.tiles else {}
    if wanted:
        config["scoring_cfg"] = (config.get("scoring_cfg") or {}) | wanted
    return config


if __name__ == "__main__":
    run_command(main)
