"""Fine-tuning as finetune_seg.py runs it: label what has no labels, train, score."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import without
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import make_folder, read_json, sha256
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.reading import Reading, agreed_reading
from SSLRemoteSensing.data.scale import scale_of_card
from SSLRemoteSensing.data.unlabelled import UnlabelledSettings, require_readable
from SSLRemoteSensing.evaluation.scoring import Scoring, open_scored, score
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.segmentation import (
    load_trained,
    require_same_network,
    trained_network,
)
from SSLRemoteSensing.reports.results import VERSION, write_results
from SSLRemoteSensing.reports.run_report import read_log, write_report
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.rehearsal import rehearse
from SSLRemoteSensing.workflows.pseudo_labels import (
    LABELLER,
    Labeller,
    Unlabelled,
    begin_labels,
    describe,
    digest_of,
    draw_pseudo_labels,
    read_record,
    signatures,
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

BY = {
    "probe": "a linear probe on the frozen backbone",
    "network": "the network as labels alone train it",
}
# Keys that the labels of a network do not depend on, and those whose files are compared instead.
NO_MATTER = ("name", "palette", "scoring_cfg", "train_cfg.device", "train_cfg.num_workers")
NO_MATTER += ("train_cfg.checkpoints", "train_cfg.log")
NO_MATTER += tuple(
    f"train_cfg.{split}_data.{key}"
    for split in ("train", "val", "test")
    for key in ("image_path", "label_path", "exclude")
)
SMALLEST_TILE = 256  # pixels a side of the tiles whose errors are counted, at least


def label_tiles(config: dict) -> None:
    """Write the pseudo labels of a run to its folder, by a network that is trained there first, or
    by the checkpoint that `unlabelled.labelled_by` names. What is there of the same settings,
    weights and images is kept.

    Raises:
        UserError: as of `open_network` and `open_task`; a checkpoint of other classes or bands;
            labels of something else with which the run has begun already.
    """
    check_segmentation(config)
    train_cfg = config["train_cfg"]
    settings = UnlabelledSettings(**train_cfg["unlabelled"])
    is_pretrained = bool(config["backbone_cfg"].get("pretrained"))
    by = settings.labelled_by or ("probe" if is_pretrained else "network")
    folder = Path(train_cfg["checkpoints"]["checkpoints_path"])
    target, trained = folder / PSEUDO_LABELS, None if by in BY else read_labeller(by, config)
    opened = open_network(labeller_config(config, by, target / LABELLER))
    task, loop = open_task(opened)
    train_data = task.dataset
    tiles = unlabelled_tiles(opened, settings, train_data)
    require_readable(tiles.images, train_data)
    print(f"{len(tiles.images)} tiles without labels, to be labelled by {BY.get(by, by)}")
    if trained is None:  # best.pth of its training is chosen on val_data
        val_data = opened.open_split("val", train_data.coding, checked=True)
        labeller = labeller_digest(opened.config, [*train_data.pairs, *val_data.pairs])
    else:
        labeller = checkpoints.checksum(trained["model"])
    origin = {"version": 2, "by": by, "share": settings.share, "tiles": len(tiles.images)}
    origin |= {"labeller": labeller, "images": tiles.digest()}
    with contextlib.ExitStack() as ends:
        if distributed.rank() == 0:
            ends.enter_context(run_folder.locked(make_folder(folder, "checkpoints_path")))
        is_done = begin_labels(target, origin, bool(run_folder.saved(folder)))
        if not is_done:
            scores = {}
            if trained is None:
                fit(task, loop)
                trained = checkpoints.read_network(loop.folder / "best.pth", opened.classes)
                log = read_log(Path(loop.log.log_path) / "metrics.jsonl")
                means = [entry["val_miou"] for entry in log if "val_miou" in entry]
                scores = {"val_miou": max(means, default=None)}
            net = trained_network(trained, by).to(opened.device)
            predict = partial(probabilities, net, opened.device, opened.precision, tta=True)
            record = write_pseudo_labels(
                target, tiles if by in BY else as_trained(tiles, trained, by),
                Labeller(predict, opened.scoring, opened.device),
                opened.classes, settings.share, loop.num_workers, scores,
            )  # fmt: skip
        else:
            record = read_record(target)
    picture = target / "examples.png"
    if distributed.rank() == 0 and not picture.exists():
        dataset = pseudo_labelled(target, train_data, tiles)
        draw_pseudo_labels(picture, dataset, opened.classes, opened.config["palette"])
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


def labeller_digest(config: dict, pairs: Sequence[tuple[str, str]]) -> str:
    """A hash of what the labels depend on that a network gives once it is trained, but for the
    images: the config of its training, the weights it begins with, and the (image, label) `pairs`
    that it learns from and is chosen by. Folders may have been moved."""
    config = without(config, NO_MATTER)
    weights = config["backbone_cfg"].get("pretrained")
    if isinstance(weights, str):
        config["backbone_cfg"]["pretrained"] = sha256(weights)
    return digest_of([config, signatures(list(chain.from_iterable(pairs)))])


def read_labeller(file: str, config: dict) -> dict:
    """The checkpoint that `labelled_by` names, checked before the tiles are opened.

    Raises:
        UserError: no such file, of other classes or bands, or one that the run itself writes.
    """
    key = f"train_cfg.unlabelled.labelled_by={file!r}"
    folder = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    if Path(file).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{key}: lies in the run's own folder, where it changes; copy it elsewhere")
    with about(key):
        contents = checkpoints.read_network(file, config["classes"])
    bands = contents.get("card", {}).get("in_channels")
    expected = config["backbone_cfg"].get("in_channels", 3)
    if bands not in (None, expected):
        raise UserError(f"{key}: takes {bands} bands, this run {expected}; name another checkpoint")
    return contents


def as_trained(tiles: Unlabelled, trained: dict, file: str) -> Unlabelled:
    """`tiles` read as the network of a checkpoint saw its own; a `UserError` where that cannot
    be."""
    with about(f"train_cfg.unlabelled.labelled_by={file!r}"):
        reading = agreed_reading(tiles.reading, trained_reading(trained.get("card", {}), file))
    return replace(tiles, reading=reading)


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
    best = opened.loop.folder / "best.pth"
    is_there = best.exists()  # else what was scored is of lost weights
    trained = fit(*open_task(opened))  # with nothing of it held while the best is scored
    results, report = best.with_name("results.json"), best.with_name("report.html")
    if trained or not is_there or not report.exists() or not is_scored(results, opened.config):
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
    split = opened.scored_split
    data = opened.open_split(split, trained_coding(card, len(classes)))
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
    return Reading(
        scale, data.get("bands"), str(source), dtype, prepared=bool(is_prepared),
        scene_bands=list(dict.fromkeys(card["bands"])) if is_prepared else None,  # grey is repeated
    )  # fmt: skip


def trained_coding(card: dict, num_classes: int) -> ValueCoding | None:
    """The coding of the labels that the network of a checkpoint's `card` was trained on."""
    if card.get("label_table") is None:
        return None
    data = card.get("config", {}).get("train_cfg", {}).get("train_data") or {}
    table = np.array(card["label_table"], np.int16)
    was_found = table[0] == IGNORE and data.get("label_offset") is None
    return ValueCoding(table, num_classes, without_255=bool(was_found))


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
