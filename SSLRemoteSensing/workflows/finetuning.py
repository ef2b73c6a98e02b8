"""Fine-tuning as finetune_seg.py runs it: label what has no labels, train, score."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import make_folder, read_json, sha256
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import scale_of_card
from SSLRemoteSensing.data.unlabelled import (
    UnlabelledSettings,
)
from SSLRemoteSensing.evaluation.scoring import Scoring, open_scored, score
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.segmentation import (
    load_trained,
    require_same_network,
    trained_network,
)
from SSLRemoteSensing.reports.results import VERSION, write_results
from SSLRemoteSensing.reports.run_report import write_report
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.rehearsal import rehearse
from SSLRemoteSensing.workflows.pseudo_labels import (
    Labeller,
    describe,
    draw_pseudo_labels,
    warn_of_lost_classes,
    write_pseudo_labels,
)
from SSLRemoteSensing.workflows.segmentation import (
    PSEUDO_LABELS,
    Finetuning,
    check_segmentation,
    open_finetuning,
    open_network,
    open_task,
    pseudo_labelled,
    require_same_gsd,
    scored_split,
    unlabelled_tiles,
)

LABELLER = "labeller"  # folder in that of a run
BY = {
    "probe": "a linear probe on the frozen backbone",
    "network": "the network as labels alone train it",
}
SMALLEST_TILE = 256  # pixels a side of the tiles whose errors are counted, at least


def label_tiles(config: dict) -> None:
    """Write the pseudo labels of a run to its folder, by a network that is trained there first, or
    by the checkpoint that `unlabelled.labelled_by` names; what is there already is kept.

    Raises:
        UserError: as of `open_network` and `open_task`; a checkpoint of other classes or bands.
    """
    check_segmentation(config)
    train_cfg = config["train_cfg"]
    by = UnlabelledSettings(**train_cfg["unlabelled"]).labelled_by
    by = by or ("probe" if config["backbone_cfg"].get("pretrained") else "network")
    opened = open_network(config)
    folder, loop = opened.loop.folder, opened.loop
    task, _ = open_task(opened)
    tiles, train_data = unlabelled_tiles(opened, task.dataset.labelled), task.dataset.labelled
    print(f"{len(tiles.images)} tiles without labels, to be labelled by {BY.get(by, by)}")
    source = Path(by)
    if by in BY:
        source = folder / LABELLER / "best.pth"
        labeller, settings = open_finetuning(labeller_config(config, by, folder / LABELLER))
        fit(labeller, settings)
    contents = checkpoints.read_network(source, opened.classes)
    net = trained_network(contents, source).to(opened.device)
    if net.backbone.in_channels != train_data.in_channels:
        raise UserError(
            f"train_cfg.unlabelled.labelled_by={by!r}: of {net.backbone.in_channels} bands, the "
            f"tiles have {train_data.in_channels}; name another checkpoint"
        )
    predict = partial(probabilities, net, opened.device, opened.precision, tta=True)
    labeller = Labeller(by, sha256(source), predict, opened.scoring, opened.device)
    share = train_cfg["unlabelled"].get("share", UnlabelledSettings.share)
    target = folder / PSEUDO_LABELS
    record = write_pseudo_labels(target, tiles, labeller, opened.classes, share, loop.num_workers)
    if distributed.rank() == 0 and not (target / "examples.png").exists():
        dataset = pseudo_labelled(opened, train_data, tiles)
        draw_pseudo_labels(
            target / "examples.png", dataset, opened.classes, opened.config["palette"]
        )
    print(describe(record))
    warn_of_lost_classes(record, task.card["label_shares"]["shares"], target)


def labeller_config(config: dict, by: str, folder: Path) -> dict:
    """The config of the network that labels: that of the run without unlabelled tiles, as 'probe'
    a linear probe on its frozen backbone."""
    train_cfg = {k: v for k, v in config["train_cfg"].items() if k != "unlabelled"}
    paths = {
        "checkpoints": {"checkpoints_path": str(folder)},
        "log": {"log_path": str(folder / "log")},
    }
    train_cfg |= {key: train_cfg[key] | path for key, path in paths.items()}
    if by == "probe":
        train_cfg |= {"freeze_backbone": True, "norm_eval": False, "backbone_lr_factor": 1.0}
        config = config | {"decoder_cfg": {"name": "LinearProbe"}}
    return config | {"train_cfg": train_cfg}


def finetune(config: dict, dry_run: bool = False) -> Path | None:
    """Fine-tune as `config` says, or go on with it, and score the best checkpoint.

    Args:
        dry_run: run and describe one step, write nothing.

    Returns:
        the best checkpoint; None of a dry run.
    """
    if dry_run:
        rehearse(*open_finetuning(config))
        return None
    if config["train_cfg"].get("unlabelled"):
        label_tiles(config)
    opened = open_network(config)
    trained = fit(*open_task(opened))  # with nothing of it held while the best is scored
    best = opened.loop.folder / "best.pth"
    results, report = best.with_name("results.json"), best.with_name("report.html")
    if trained or not report.exists() or not is_scored(results, opened.config):
        write_scores(opened, best)
    print_summary({"results": results, "report": report})
    return best


def score_checkpoint(config: dict, source: Path) -> None:
    """Score the checkpoint `source` on test_data, or val_data; write what comes of it beside it.

    Several processes share the scenes; the first writes.

    Raises:
        UserError: of another network or other classes; data that cannot be opened; a folder that
            cannot be written to.
    """
    for key, weights in (("backbone_cfg", "pretrained"), ("decoder_cfg", "transfer")):
        if isinstance(config.get(key), dict) and weights in config[key]:
            # The checkpoint brings all weights.
            config = config | {key: config[key] | {weights: False}}
    write_scores(open_network(config, trains=False), source)
    files = {"results": source.with_name("results.json"), "report": source.with_name("report.html")}
    print_summary(files)


def write_scores(opened: Finetuning, source: Path) -> None:
    """Score the weights of `source` in the network `opened`; see `score_checkpoint`."""
    classes, scoring, device = opened.classes, opened.scoring, opened.device
    best = checkpoints.read_network(source, classes)
    card = best.get("card", {})
    require_same_network(card.get("config", opened.config), opened.config, source)
    load_trained(opened.model, best, source)
    if distributed.rank() == 0:  # before hours of scoring
        make_folder(source.parent, "--evaluate, results beside it: folder")
    opened.train = opened.train or trained_reading(card, source)
    table = card.get("label_table")
    coding = table and ValueCoding(np.array(table, np.int16), len(classes))
    split = opened.scored_split
    data = opened.open_split(split, coding)
    if opened.loop is None:  # else it was told before training
        with about(f"train_cfg.{split}_data"):
            data.check_values(f"train_cfg.{split}_data")
            require_same_gsd(opened, data)
    tiles = open_scored(data, classes, scoring)
    model, workers = opened.model.to(device), opened.train_cfg.get("num_workers", 0)
    predict = partial(probabilities, model, device, opened.precision, tta=scoring.tta)
    errors = tiles.tile_errors(max(scoring.window, SMALLEST_TILE), device)
    by_scene = tiles.scene_matrices(device)
    counts = score(predict, tiles, device, workers, errors, by_scene)
    if distributed.rank() == 0:
        # is_scored takes it to be of results.json.
        source.with_name("report.html").unlink(missing_ok=True)
        config = opened.config
        matrices = by_scene and torch.stack([matrix.counts for matrix in by_scene])
        done = Scoring(
            source, best, config, split, tiles, predict, device, counts, errors, matrices
        )
        write_report(done, write_results(done))


def trained_reading(card: dict, source: Path) -> Reading | None:
    """How the images were read that the network of a checkpoint's `card` was trained on."""
    data = card.get("config", {}).get("train_cfg", {}).get("train_data")
    if data is None:
        return None
    stated = {"max_value": data.get("max_value")}  # what an earlier version's card does not have
    scale, dtype, is_prepared = (
        scale_of_card(stated | card),
        card.get("dtype"),
        card.get("prepared"),
    )
    return Reading(scale, data.get("bands"), str(source), dtype, prepared=bool(is_prepared))


def is_scored(path: Path, config: dict) -> bool:
    """Whether the results in `path` were scored in the way that `config` asks for."""
    results = read_json(path)
    # --evaluate may have been asked for another checkpoint of the same folder.
    is_best = Path(results.get("checkpoint", "")).name == "best.pth"
    if results.get("version") != VERSION or not is_best or "config" not in results:
        return False
    ways = [
        [cfg.get("scoring_cfg"), cfg["train_cfg"][f"{scored_split(cfg)}_data"]]
        + [cfg["train_cfg"]["train_data"].get(key) for key in ("bands", "max_value", "scale")]
        for cfg in (results["config"], config)
    ]
    return json.dumps(ways[0]) == json.dumps(ways[1])
