"""Fine-tune and score a segmentation network on labelled tiles.

    python finetune_seg.py --config_file C --backbone runs/pretrain/backbone.pth
    python finetune_seg.py --config_file C --backbone random
    python finetune_seg.py --config_file C --evaluate runs/finetune/best.pth --tta
    torchrun --nproc_per_node=2 finetune_seg.py --config_file C --backbone random

The best checkpoint is chosen on the tiles of val_data; test_data is read once, at the end, and
scored by scenes under every protocol that its classes and labels allow. Results in the
checkpoints_path: `best.pth`, `results.json`, `report.html` to open in a browser, `tile_errors.csv`,
`confusion_matrix.png`, `examples.png`, and `train_tiles.txt`, the tiles whose labels were used.
"""

from argparse import Namespace
from pathlib import Path

from SSLRemoteSensing.command import parser, settings
from SSLRemoteSensing.distributed import processes
from SSLRemoteSensing.errors import UserError, run_command
from SSLRemoteSensing.finetuning import is_scored, open_fine_tuning, score_checkpoint, train


@processes()
def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--backbone", metavar="random|imagenet|FILE", help="in place of backbone_cfg.pretrained"
    )
    flags.add_argument(
        "--evaluate",
        metavar="CHECKPOINT",
        help="only score this checkpoint; the results are written beside it",
    )
    flags.add_argument(
        "--tta", action="store_true", help="score the mean over 8 turns and flips: scoring_cfg.tta"
    )
    flags.add_argument(
        "--tiles", action="store_true", help="score tile by tile, which is quicker: scoring_cfg.on"
    )
    args = flags.parse_args()
    if args.evaluate is not None and args.dry_run:
        raise UserError("--evaluate writes results; leave out --dry_run")
    config = asked_for(settings(args), args)
    task = open_fine_tuning(config, trains=args.evaluate is None)
    if args.evaluate is not None:
        score_checkpoint(task, Path(args.evaluate), Path(args.evaluate).parent)
        return
    folder = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    trained = train(task, folder, args.dry_run)
    if args.dry_run:
        return
    report = folder / "report.html"
    if not trained and report.exists() and is_scored(folder / "results.json", config):
        print(f"results: {folder / 'results.json'}, report: {report}")
        return
    score_checkpoint(task, folder / "best.pth", folder)


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
