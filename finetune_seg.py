"""Fine-tune and score a segmentation network on labelled tiles.

    python finetune_seg.py --config_file C --backbone runs/pretrain/backbone.pth
    python finetune_seg.py --config_file C --backbone random
    python finetune_seg.py --config_file C --evaluate runs/finetune/best.pth --tta

The best checkpoint is chosen on the tiles of val_data; test_data is read once, at the end, and
scored by scenes under every protocol that its classes and labels allow. Results in the
checkpoints_path: `best.pth`, `results.json`, `confusion_matrix.png`, `examples.png`, and
`train_tiles.txt`, the tiles whose labels were used.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from SSLRemoteSensing import build_segmentation, checkpoint
from SSLRemoteSensing.command import parser, settings, write_run_card
from SSLRemoteSensing.datasets.labels import ValueCoding
from SSLRemoteSensing.datasets.mosaic import require_eroded
from SSLRemoteSensing.datasets.opening import median_frequency
from SSLRemoteSensing.datasets.segmentation import Repeated, SegmentationDataset, collate
from SSLRemoteSensing.engine import fit
from SSLRemoteSensing.errors import UserError, run_command
from SSLRemoteSensing.figures import default_palette
from SSLRemoteSensing.metrics import scores
from SSLRemoteSensing.models.segmentation import require_same_network
from SSLRemoteSensing.predict import classify, probabilities
from SSLRemoteSensing.results import write_results
from SSLRemoteSensing.schema import check_segmentation
from SSLRemoteSensing.scoring import ScoringSettings, open_scored, score
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
    flags.add_argument(
        "--tta", action="store_true", help="score the mean over 8 turns and flips: scoring_cfg.tta"
    )
    flags.add_argument(
        "--tiles", action="store_true", help="score tile by tile, which is quicker: scoring_cfg.on"
    )
    args = flags.parse_args()
    if args.evaluate is not None and args.dry_run:
        raise UserError("--evaluate writes results; leave out --dry_run")
    config = resolved(settings(args), args)

    train_cfg = dict(config["train_cfg"])
    classes = list(config["classes"])
    device = choose_device(train_cfg.get("device", "auto"))
    precision = choose_precision(train_cfg.get("precision", "fp32"), device)
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build_segmentation(config)
    splits = {split: train_cfg.pop(f"{split}_data", None) for split in ("train", "val", "test")}
    scored = "test" if splits["test"] is not None else "val"
    scoring = ScoringSettings(**config.get("scoring_cfg") or {})
    data = splits[scored]
    require_eroded(scoring.protocols, data["image_path"], data["label_path"])
    workers = train_cfg.get("num_workers", 0)

    def open_split(split: str, coding: ValueCoding | None = None) -> SegmentationDataset:
        given = {"num_classes": len(classes), "in_channels": model.backbone.in_channels}
        given |= {"coding": coding, "classes": classes}
        try:
            return SegmentationDataset(**splits[split], **given, seed=train_cfg.get("seed", 0))
        except UserError as error:
            raise UserError(f"train_cfg.{split}_data: {error}") from error

    folder = Path(train_cfg["checkpoints"]["checkpoints_path"])
    if args.evaluate is not None:
        folder = Path(args.evaluate).parent
    else:
        train_data = open_split("train")
        val_data = open_split("val", train_data.coding)
        used, there = len(train_data), train_data.full_length
        fraction = splits["train"].get("fraction", 1.0)
        least = f" (fraction={fraction} asks for none, one is the least)"
        least = least if round(fraction * there) < 1 else ""
        print(f"labels of {used} of {there} train tiles{least}, {len(val_data)} val tiles")
        card = model.backbone.card() | {"classes": classes, "config": config}
        card |= {"palette": config["palette"], "train_tiles": {"used": used, "of": there}}
        card |= {"label_table": train_data.coding.table.tolist(), "max_value": train_data.max_value}
        quick = replace(
            scoring, on="tiles", tta=False, protocols=None, batch_size=train_cfg["batch_size"]
        )
        whole_tiles = open_scored(val_data, classes, quick, own_labels=True)

        def validate() -> dict:
            predict = partial(probabilities, model, device, precision)
            counts = score(predict, whole_tiles, len(classes), device, quick, workers)
            found = scores(counts["full"], classes)
            return {key: found[key] for key in ("miou", "mf1", "oa", "kappa")}

        def start() -> None:
            write_run_card(config)
            (folder / "results.json").unlink(missing_ok=True)  # of a run that ended earlier
            names = [Path(file).name for file, _ in train_data.pairs]
            write_text(folder / "train_tiles.txt", "\n".join(names) + "\n")

        factor = train_cfg.pop("backbone_lr_factor", 1.0)
        for key in ("loss", "freeze_backbone"):
            train_cfg.pop(key, None)
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
        if not trained and is_scored(folder / "results.json", config):
            print(f"results: {folder / 'results.json'}")
            return

    source = Path(args.evaluate or folder / "best.pth")
    best = checkpoint.load_network(model, source, classes)
    card = best.get("card", {})
    require_same_network(card.get("config", config), config, source)
    model.backbone.set_normalization(card.get("mean"), card.get("std"))
    model.to(device)
    table = card.get("label_table")
    tiles = open_split(scored, table and ValueCoding(np.array(table, np.int16), len(classes)))
    opened = open_scored(tiles, classes, scoring)
    predict = partial(probabilities, model, device, precision, tta=scoring.tta)
    counts = score(predict, opened, len(classes), device, scoring, workers)
    show = partial(classify, model, device, precision, tta=scoring.tta)
    palette = config["palette"]
    write_results(
        folder, counts, opened, scored, scoring, show, classes, palette, source, best, config
    )


def is_scored(path: Path, config: dict) -> bool:
    """Whether the results in `path` were scored in the way that `config` asks for."""
    try:
        known = json.loads(path.read_text())["config"]
    except (OSError, ValueError, KeyError):
        return False
    data = [c["train_cfg"].get("test_data") or c["train_cfg"]["val_data"] for c in (known, config)]
    asked = [known.get("scoring_cfg"), data[0]], [config.get("scoring_cfg"), data[1]]
    return json.dumps(asked[0]) == json.dumps(asked[1])


def resolved(config: dict, args) -> dict:
    """`config` with what the flags ask for, checked; class weights and palette filled in.

    Raises:
        UserError: naming every wrong key.
    """
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
    check_segmentation(config)
    if config.get("palette") is None:
        config["palette"] = default_palette(len(config["classes"]))
    losses = [config["train_cfg"].get("loss") or {}]
    for loss in losses:
        losses.extend(part for part in (loss.get("losses") or {}).values())
        if loss.get("class_weights") == "median_frequency":
            image_path = config["train_cfg"]["train_data"]["image_path"]
            scores_only = args.evaluate is not None  # then they play no part
            weights = None if scores_only else median_frequency(image_path, config["classes"])
            loss["class_weights"] = weights
    return config


if __name__ == "__main__":
    run_command(main)
