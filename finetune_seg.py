"""Fine-tune and score a segmentation network on labelled tiles.

    python finetune_seg.py --config_file C --backbone runs/pretrain/backbone.pth
    python finetune_seg.py --config_file C --backbone random
    python finetune_seg.py --config_file C --evaluate runs/finetune/best.pth

The best checkpoint is chosen on val_data; test_data is read once, at the end. Results in the
checkpoints_path: `best.pth`, `results.json`, `confusion_matrix.png`, `examples.png`, and
`train_tiles.txt`, the tiles whose labels were used.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from SSLRemoteSensing import build_segmentation, checkpoint
from SSLRemoteSensing.command import parser, settings, write_run_card
from SSLRemoteSensing.datasets.labels import ValueCoding
from SSLRemoteSensing.datasets.segmentation import Repeated, SegmentationDataset, collate
from SSLRemoteSensing.engine import fit
from SSLRemoteSensing.errors import UserError, run_command
from SSLRemoteSensing.figures import default_palette
from SSLRemoteSensing.models.segmentation import predict
from SSLRemoteSensing.results import write_results
from SSLRemoteSensing.schema import check_segmentation
from SSLRemoteSensing.scoring import evaluate
from SSLRemoteSensing.step import choose_device, choose_precision
from SSLRemoteSensing.writing import write_text


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
    args = flags.parse_args()
    config = settings(args)
    backbone_cfg = config.get("backbone_cfg")
    if args.backbone is not None and isinstance(backbone_cfg, dict):
        named = {"random": False, "imagenet": True}
        backbone_cfg["pretrained"] = named.get(args.backbone, args.backbone)
    if args.evaluate is not None and isinstance(backbone_cfg, dict):
        backbone_cfg["pretrained"] = False  # the checkpoint brings all weights
    check_segmentation(config)

    train_cfg = dict(config["train_cfg"])
    classes = list(config["classes"])
    palette = config.get("palette") or default_palette(len(classes))
    device = choose_device(train_cfg.get("device", "auto"))
    precision = choose_precision(train_cfg.get("precision", "fp32"), device)
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build_segmentation(config)
    splits = {split: train_cfg.pop(f"{split}_data", None) for split in ("train", "val", "test")}
    factor = train_cfg.pop("backbone_lr_factor", 1.0)
    for key in ("loss", "freeze_backbone"):
        train_cfg.pop(key, None)
    classify = partial(predict, model, device, precision)

    def open_split(split: str, coding: ValueCoding | None = None) -> SegmentationDataset:
        given = {"num_classes": len(classes), "in_channels": model.backbone.in_channels}
        given |= {"coding": coding, "classes": classes}
        try:
            return SegmentationDataset(**splits[split], **given, seed=train_cfg.get("seed", 0))
        except UserError as error:
            raise UserError(f"train_cfg.{split}_data: {error}") from error

    def score(dataset: SegmentationDataset) -> dict:
        workers = train_cfg.get("num_workers", 0)
        batch_size = train_cfg["batch_size"]
        matrix = evaluate(classify, dataset, len(classes), device, batch_size, workers)
        return matrix.scores(classes)

    folder = Path(train_cfg["checkpoints"]["checkpoints_path"])
    if args.evaluate is not None:
        folder = Path(args.evaluate).parent
    else:
        train_data = open_split("train")
        val_data = open_split("val", train_data.coding)
        used, there = len(train_data), train_data.full_length
        print(f"labels of {used} of {there} train tiles, {len(val_data)} val tiles")
        card = model.backbone.card() | {"classes": classes, "palette": palette, "config": config}
        card |= {"label_table": train_data.coding.table.tolist(), "max_value": train_data.max_value}

        def validate() -> dict:
            scores = score(val_data)
            return {key: scores[key] for key in ("miou", "mf1", "oa", "kappa")}

        def start() -> None:
            write_run_card(config)
            (folder / "results.json").unlink(missing_ok=True)  # of a run that ended earlier
            names = [Path(file).name for file, _ in train_data.pairs]
            write_text(folder / "train_tiles.txt", "\n".join(names) + "\n")

        train_cfg |= {"param_groups": model.param_groups(factor), "card": card, "start": start}
        trained = fit(
            model,
            Repeated(train_data, train_data.full_length),
            collate,
            **train_cfg,
            evaluate=validate,
            dry_run=args.dry_run,
        )
        if args.dry_run:
            return
        if not trained and (folder / "results.json").exists():
            print(f"results: {folder / 'results.json'}")
            return

    if args.dry_run:
        raise UserError("--evaluate writes results; leave out --dry_run")
    source = Path(args.evaluate or folder / "best.pth")
    best = checkpoint.load_network(model, source, classes)
    card = best.get("card", {})
    model.backbone.set_normalization(card.get("mean"), card.get("std"))
    model.to(device)
    split = "test" if splits["test"] is not None else "val"
    table = card.get("label_table")
    coding = table and ValueCoding(np.array(table, np.int16), len(classes))
    tiles = open_split(split, coding)
    scores = score(tiles)
    write_results(folder, scores, split, tiles, classify, classes, palette, source, best, config)


if __name__ == "__main__":
    run_command(main)
