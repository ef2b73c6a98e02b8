"""Fine-tuning as finetune_seg.py runs it: its config keys, open what they name, train, score."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import numpy as np
import torch

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.core.config import OneOf, Part, require
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import make_folder, write_text
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.class_weights import label_shares, median_frequency
from SSLRemoteSensing.data.images import read_header
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.scenes import require_eroded
from SSLRemoteSensing.data.segmentation import Repeated, SegmentationDataset, TileSettings, collate
from SSLRemoteSensing.evaluation.metrics import scores
from SSLRemoteSensing.evaluation.scoring import ScoringSettings, open_scored, score
from SSLRemoteSensing.inference.windows import classify, probabilities
from SSLRemoteSensing.models.decoders import DECODERS
from SSLRemoteSensing.models.losses import SEGMENTATION_LOSSES
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.models.segmentation import (
    SegmentationNet,
    build_segmentation,
    load_trained,
    require_same_network,
)
from SSLRemoteSensing.reports.results import VERSION, write_results
from SSLRemoteSensing.reports.run_report import write_report
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.rehearsal import rehearse
from SSLRemoteSensing.training.run_folder import write_run_card
from SSLRemoteSensing.training.settings import LoopSettings, split
from SSLRemoteSensing.training.task import Task

TRAIN_TILES = Part(TileSettings)
# Scoring takes each tile whole and as it is.
SCORED_TILES = Part(
    TileSettings, given=("crop_size", "flips", "turns", "jitter", "fraction", "fraction_seed")
)


class SegmentationData(TypedDict):
    """What `train_cfg` holds for finetune_seg.py besides the loop's own keys.

    Attributes:
        train_data: tiles to train on.
        val_data: tiles on which the best checkpoint is chosen, each whole and as it is.
        test_data: tiles that are read once, at the end, for the scores. None or absent: `val_data`
            is scored, and that is said.
        global_batch_size: tiles a step of all processes together, in place of `batch_size`; a
            multiple of their number.
        loss: by default the cross-entropy.
        backbone_lr_factor: the backbone's learning rate over the decoder's, from 0; by default 1.
        freeze_backbone: True leaves the backbone's weights and statistics of batch normalization as
            they are, and trains the decoder alone. By default False.
        norm_eval: True normalizes by the backbone's statistics of batch normalization as they are,
            those of pre-training, and leaves them so; the weights are trained. With few labels from
            few places these statistics would else become those of these places. Not for random
            weights, which have none. By default False.
    """

    train_data: Annotated[dict, TRAIN_TILES]
    val_data: Annotated[dict, SCORED_TILES]
    test_data: NotRequired[Annotated[dict | None, SCORED_TILES]]
    global_batch_size: NotRequired[int]
    loss: NotRequired[Annotated[dict | None, OneOf(SEGMENTATION_LOSSES)]]
    backbone_lr_factor: NotRequired[float]
    freeze_backbone: NotRequired[bool]
    norm_eval: NotRequired[bool]


class SegmentationConfig(TypedDict):
    """A config of finetune_seg.py.

    Attributes:
        name: of the experiment; kept in the card and run.json.
        classes: their names, 2 to 255, in the order of the label values.
        palette: a colour (R, G, B) a class, 0 to 255, for pictures and maps; by default well
            distinguishable ones.
        backbone_cfg: the network that is fine-tuned; `pretrained` names its weights.
        decoder_cfg: what makes classes of its maps; by default `Decoder`.
        scoring_cfg: how the scores at the end are taken.
        train_cfg: data, loss and the loop.
    """

    name: str
    classes: Sequence[str]
    palette: NotRequired[Sequence[tuple[int, int, int]] | None]
    backbone_cfg: Annotated[dict, OneOf(BACKBONES)]
    decoder_cfg: NotRequired[
        Annotated[dict | None, OneOf(DECODERS, given=("num_classes", "map_channels"))]
    ]
    scoring_cfg: NotRequired[Annotated[dict | None, Part(ScoringSettings)]]
    train_cfg: Annotated[dict, Part(LoopSettings, (), SegmentationData)]


def check_segmentation(config: dict) -> None:
    """Raise a `UserError` naming every wrong key of a fine-tuning config."""
    require(Part(SegmentationConfig), config)
    if len(set(config["classes"])) < len(config["classes"]):
        raise UserError(f"classes={config['classes']!r}: a name stands there twice")
    if config["train_cfg"].get("backbone_lr_factor", 1.0) < 0:
        raise UserError("train_cfg.backbone_lr_factor: must not be negative")
    palette = config.get("palette")
    if palette is not None and len(palette) != len(config["classes"]):
        raise UserError(f"palette: {len(palette)} colours for {len(config['classes'])} classes")
    ScoringSettings(**config.get("scoring_cfg") or {}).check(list(config["classes"]))


SMALLEST_TILE = 256  # pixels a side of the tiles whose errors are counted, at least


@dataclass
class Finetuning:
    """A network to train or to score, and what both share.

    Attributes:
        loop: the keys of the training loop; None where nothing is trained.
        data: the splits of the config, 'train', 'val', 'test'; test may be None.
    """

    config: dict
    classes: list[str]
    model: SegmentationNet
    device: torch.device
    precision: str
    scoring: ScoringSettings
    loop: LoopSettings | None
    data: dict[str, dict | None]

    @property
    def seed(self) -> int:
        return self.config["train_cfg"].get("seed", 0)

    @property
    def workers(self) -> int:
        return self.config["train_cfg"].get("num_workers", 0)

    def param_groups(self) -> list[dict]:
        return self.model.param_groups(self.config["train_cfg"].get("backbone_lr_factor", 1.0))

    @property
    def scored_split(self) -> str:
        return "val" if self.data["test"] is None else "test"

    def open_split(
        self,
        split: str,
        coding: ValueCoding | None = None,
        checked: bool = False,
        exclude: str | None = None,
    ) -> SegmentationDataset:
        """The tiles of `split`; `exclude` in place of the config's, the others as the data set."""
        data = self.data[split] if exclude is None else self.data[split] | {"exclude": exclude}
        given = {"num_classes": len(self.classes), "in_channels": self.model.backbone.in_channels}
        given |= {"coding": coding, "classes": self.classes, "seed": self.seed}
        with about(f"train_cfg.{split}_data"):
            return SegmentationDataset(TileSettings(**data), **given, checked=checked)


def open_network(config: dict, trains: bool = True, processes: int | None = None) -> Finetuning:
    """Check `config`, fill in class weights and palette, build the network. No tile is opened.

    Args:
        trains: without, nothing that only training needs is asked for.
        processes: those of the run; default as many as there are now.

    Raises:
        UserError: naming every wrong key; weights that do not fit; a protocol that the data are
            known not to have.
    """
    check_segmentation(config)
    classes = list(config["classes"])
    if config.get("palette") is None:
        config["palette"] = default_palette(len(classes))
    train_cfg = config["train_cfg"]
    loop = split(train_cfg, SegmentationData, processes)[1] if trains else None
    if trains and loop.log.with_vis:
        raise UserError(
            "train_cfg.log.with_vis=True: there are pictures of pre-training only; leave it out"
        )
    image_path = train_cfg["train_data"]["image_path"] if trains else None
    fill_class_weights(train_cfg.get("loss") or {}, image_path, classes)
    device = choose_device(train_cfg.get("device", "auto"))
    precision = choose_precision(train_cfg.get("precision", "fp32"), device)
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build_segmentation(config)
    data = {name: train_cfg.get(f"{name}_data") for name in ("train", "val", "test")}
    scoring = ScoringSettings(**config.get("scoring_cfg") or {})
    opened = Finetuning(config, classes, model, device, precision, scoring, loop, data)
    scored = data[opened.scored_split]
    require_eroded(scoring.protocols, scored["image_path"], scored["label_path"])
    return opened


def fill_class_weights(loss: dict, image_path: str | None, classes: list[str]) -> None:
    """Put numbers in place of 'median_frequency' in a config's `loss` and in those it is a sum of;
    None without the folder of a prepared set's images."""
    if loss.get("class_weights") == "median_frequency":
        weights = image_path and median_frequency(image_path, classes)
        loss["class_weights"] = weights
    for part in (loss.get("losses") or {}).values():
        fill_class_weights(part, image_path, classes)


def open_finetuning(config: dict, processes: int | None = None) -> tuple[Task, LoopSettings]:
    """Check `config`, build its network, open its tiles for training and validation.

    Raises:
        UserError: as `open_network`; tiles that cannot be used.
    """
    return open_task(open_network(config, processes=processes))


def open_task(opened: Finetuning) -> tuple[Task, LoopSettings]:
    """The training of `opened`, and its loop's keys; `best.pth` is chosen on val_data."""
    model, config, loop = opened.model, opened.config, opened.loop
    train_data = opened.open_split("train")
    val_data = opened.open_split("val", train_data.coding)
    used, full = len(train_data), train_data.full_length
    fraction = opened.data["train"].get("fraction", 1.0)
    none = f" (fraction={fraction} asks for none, one is the least)"
    least = none if round(fraction * full) < 1 else ""
    print(f"labels of {used} of {full} train tiles{least}, {len(val_data)} val tiles")
    card = model.backbone.card() | {"classes": opened.classes, "config": config}
    card |= {"palette": config["palette"], "train_tiles": {"used": used, "of": full}}
    card |= {"label_table": train_data.coding.table.tolist(), "max_value": train_data.max_value}
    card["label_shares"] = label_shares(train_data)
    card |= train_data.origin | {"dtype": read_header(train_data.pairs[0][0]).dtype}
    quick = {"on": "tiles", "tta": False, "protocols": None}
    quick = replace(opened.scoring, **quick, batch_size=loop.batch_size)
    tiles = open_scored(val_data, opened.classes, quick, own_labels=True)
    predict = partial(probabilities, model, opened.device, opened.precision)

    def validate() -> dict:
        args = (predict, tiles, len(opened.classes), opened.device, quick, loop.num_workers)
        means = scores(score(*args)["full"], opened.classes)
        return {key: means[key] for key in ("miou", "mf1", "oa", "kappa")}

    def begin() -> None:
        write_run_card(config)
        for name in ("results.json", "report.html"):  # of a run that ended earlier
            (loop.folder / name).unlink(missing_ok=True)
        names = [Path(file).name for file, _ in train_data.pairs]
        names = [name.encode("utf-8", "backslashreplace").decode() for name in names]
        write_text(loop.folder / "train_tiles.txt", "\n".join(names) + "\n")

    groups, dataset = opened.param_groups(), Repeated(train_data, full)
    return Task(model, dataset, collate, card, groups, begin=begin, evaluate=validate), loop


def finetune(config: dict, dry_run: bool = False) -> Path | None:
    """Fine-tune as `config` says, or go on with it, and score the best checkpoint.

    Args:
        dry_run: run and describe one step, write nothing.

    Returns:
        the best checkpoint; None of a dry run.
    """
    opened = open_network(config)
    if dry_run:
        rehearse(*open_task(opened))
        return None
    trained = fit(*open_task(opened))  # with nothing of it held while the best is scored
    best = opened.loop.folder / "best.pth"
    results, report = best.with_name("results.json"), best.with_name("report.html")
    if not trained and report.exists() and is_scored(results, config):
        print_summary({"results": results, "report": report})
    else:
        write_scores(opened, best)
    return best


def score_checkpoint(config: dict, source: Path) -> None:
    """Score the checkpoint `source` on test_data, or val_data; write what comes of it beside it.

    Several processes share the scenes; the first writes.

    Raises:
        UserError: of another network or other classes; data that cannot be opened; a folder that
            cannot be written to.
    """
    # The checkpoint brings all weights.
    for key, weights in (("backbone_cfg", "pretrained"), ("decoder_cfg", "transfer")):
        if isinstance(config.get(key), dict) and weights in config[key]:
            config[key][weights] = False
    write_scores(open_network(config, trains=False), source)


def write_scores(opened: Finetuning, source: Path) -> None:
    """Score the weights of `source` in the network `opened`; see `score_checkpoint`."""
    model, classes, scoring, folder = opened.model, opened.classes, opened.scoring, source.parent
    best = checkpoints.read_network(source, classes)
    card = best.get("card", {})
    require_same_network(card.get("config", opened.config), opened.config, source)
    load_trained(model, best, source)
    if distributed.rank() == 0:
        make_folder(folder, "--evaluate, results beside it: folder")  # before hours of scoring
    device, precision, workers = opened.device, opened.precision, opened.workers
    model.to(device)
    table = card.get("label_table")
    coding = table and ValueCoding(np.array(table, np.int16), len(classes))
    tiles = open_scored(opened.open_split(opened.scored_split, coding), classes, scoring)
    predict = partial(probabilities, model, device, precision, tta=scoring.tta)
    errors = tiles.tile_errors(max(scoring.window, SMALLEST_TILE), device)
    counts = score(predict, tiles, len(classes), device, scoring, workers, errors)
    if distributed.rank() > 0:
        return
    (folder / "report.html").unlink(missing_ok=True)  # is_scored takes it to be of results.json
    show = partial(classify, model, device, precision, tta=scoring.tta)
    results = write_results(
        folder, counts, tiles, opened.scored_split, scoring, show, classes, source, best,
        opened.config,
    )  # fmt: skip
    write_report(folder, results, card, errors, tiles, predict, scoring, device)
    print_summary({"results": folder / "results.json", "report": folder / "report.html"})


def is_scored(path: Path, config: dict) -> bool:
    """Whether the results in `path` were scored in the way that `config` asks for."""
    try:
        results = json.loads(path.read_text())
        scored_config, _ = results["config"], results["checkpoint"]
    except (OSError, ValueError, KeyError):
        return False
    # --evaluate may have been asked for another checkpoint of the same folder.
    if results.get("version") != VERSION or Path(results["checkpoint"]).name != "best.pth":
        return False
    scorings = [
        [cfg.get("scoring_cfg"), cfg["train_cfg"].get("test_data") or cfg["train_cfg"]["val_data"]]
        for cfg in (scored_config, config)
    ]
    return json.dumps(scorings[0]) == json.dumps(scorings[1])
