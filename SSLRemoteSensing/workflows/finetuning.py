"""Fine-tuning as finetune_seg.py runs it: open what a config names, train, score a checkpoint."""

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
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, write_text
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.class_weights import label_shares, median_frequency
from SSLRemoteSensing.data.images import value_type
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
from SSLRemoteSensing.training import settings
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.run import write_run_card
from SSLRemoteSensing.workflows.pretraining import GIVEN

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
    train_cfg: Annotated[dict, Part(fit, GIVEN, SegmentationData)]


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
class FineTuning:
    """What training and scoring share. `train_cfg` holds fit()'s arguments, `data` the splits."""

    config: dict
    classes: list[str]
    model: SegmentationNet
    device: torch.device
    precision: str
    scoring: ScoringSettings
    train_cfg: dict
    data: dict[str, dict | None]

    @property
    def workers(self) -> int:
        return self.train_cfg.get("num_workers", 0)

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
        given |= {"coding": coding, "classes": self.classes, "seed": self.train_cfg.get("seed", 0)}
        try:
            return SegmentationDataset(TileSettings(**data), **given, checked=checked)
        except UserError as error:
            raise UserError(f"train_cfg.{split}_data: {error}") from error


def open_fine_tuning(config: dict, trains: bool = True, processes: int | None = None) -> FineTuning:
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
    train_cfg = settings.divide_batch(config["train_cfg"], processes)
    losses = [train_cfg.get("loss") or {}]
    for loss in losses:
        losses.extend((loss.get("losses") or {}).values())
        if loss.get("class_weights") == "median_frequency":
            image_path = train_cfg["train_data"]["image_path"]
            loss["class_weights"] = median_frequency(image_path, classes) if trains else None
    device = choose_device(train_cfg.get("device", "auto"))
    precision = choose_precision(train_cfg.get("precision", "fp32"), device)
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build_segmentation(config)
    factor = train_cfg.pop("backbone_lr_factor", 1.0)
    for key in ("loss", "freeze_backbone", "norm_eval"):  # the network has them
        train_cfg.pop(key, None)
    train_cfg["param_groups"] = model.param_groups(factor)
    data = {split: train_cfg.pop(f"{split}_data", None) for split in ("train", "val", "test")}
    scoring = ScoringSettings(**config.get("scoring_cfg") or {})
    task = FineTuning(config, classes, model, device, precision, scoring, train_cfg, data)
    scored = data[task.scored_split]
    require_eroded(scoring.protocols, scored["image_path"], scored["label_path"])
    return task


def train(task: FineTuning, folder: Path, dry_run: bool = False) -> bool:
    """Train, choosing `best.pth` on the tiles of val_data; whether anything was left to do."""
    train_data = task.open_split("train")
    val_data = task.open_split("val", train_data.coding)
    used, there = len(train_data), train_data.full_length
    fraction = task.data["train"].get("fraction", 1.0)
    none = f" (fraction={fraction} asks for none, one is the least)"
    least = none if round(fraction * there) < 1 else ""
    print(f"labels of {used} of {there} train tiles{least}, {len(val_data)} val tiles")
    card = task.model.backbone.card() | {"classes": task.classes, "config": task.config}
    card |= {"palette": task.config["palette"], "train_tiles": {"used": used, "of": there}}
    card |= {"label_table": train_data.coding.table.tolist(), "max_value": train_data.max_value}
    card["label_shares"] = label_shares(train_data)
    card |= train_data.origin | {"dtype": value_type(train_data.pairs[0][0])}
    quick = {"on": "tiles", "tta": False, "protocols": None}
    quick = replace(task.scoring, **quick, batch_size=task.train_cfg["batch_size"])
    whole_tiles = open_scored(val_data, task.classes, quick, own_labels=True)
    predict = partial(probabilities, task.model, task.device, task.precision)

    def validate() -> dict:
        args = (predict, whole_tiles, len(task.classes), task.device, quick, task.workers)
        found = scores(score(*args)["full"], task.classes)
        return {key: found[key] for key in ("miou", "mf1", "oa", "kappa")}

    def start() -> None:
        write_run_card(task.config)
        for name in ("results.json", "report.html"):  # of a run that ended earlier
            (folder / name).unlink(missing_ok=True)
        names = [Path(file).name for file, _ in train_data.pairs]
        names = [name.encode("utf-8", "backslashreplace").decode() for name in names]
        write_text(folder / "train_tiles.txt", "\n".join(names) + "\n")

    return fit(
        task.model,
        Repeated(train_data, there),
        collate,
        **task.train_cfg,
        evaluate=validate,
        start=start,
        card=card,
        dry_run=dry_run,
    )


def score_checkpoint(task: FineTuning, source: Path, folder: Path) -> None:
    """Score the checkpoint `source` on test_data, or val_data; write what comes of it to `folder`.

    Several processes share the scenes; the first writes.

    Raises:
        UserError: of another network or other classes; data that cannot be opened; a folder that
            cannot be written to.
    """
    model, classes, scoring = task.model, task.classes, task.scoring
    best = checkpoints.read_network(source, classes)
    card = best.get("card", {})
    require_same_network(card.get("config", task.config), task.config, source)
    load_trained(model, best, source)
    if distributed.rank() == 0:
        make_folder(folder, "--evaluate, results beside it: folder")  # before hours of scoring
    model.to(task.device)
    table = card.get("label_table")
    coding = table and ValueCoding(np.array(table, np.int16), len(classes))
    opened = open_scored(task.open_split(task.scored_split, coding), classes, scoring)
    predict = partial(probabilities, model, task.device, task.precision, tta=scoring.tta)
    errors = opened.tile_errors(max(scoring.window, SMALLEST_TILE), task.device)
    counts = score(predict, opened, len(classes), task.device, scoring, task.workers, errors)
    if distributed.rank() > 0:
        return
    (folder / "report.html").unlink(missing_ok=True)  # is_scored takes it to be of results.json
    show = partial(classify, model, task.device, task.precision, tta=scoring.tta)
    results = write_results(
        folder, counts, opened, task.scored_split, scoring, show, classes, source, best, task.config
    )
    write_report(folder, results, card, errors, opened, predict, scoring, task.device)
    print_summary({"results": folder / "results.json", "report": folder / "report.html"})


def is_scored(path: Path, config: dict) -> bool:
    """Whether the results in `path` were scored in the way that `config` asks for."""
    try:
        results = json.loads(path.read_text())
        known, _ = results["config"], results["checkpoint"]
    except (OSError, ValueError, KeyError):
        return False
    # --evaluate may have been asked for another checkpoint of the same folder.
    if results.get("version") != VERSION or Path(results["checkpoint"]).name != "best.pth":
        return False
    asked = [
        [one.get("scoring_cfg"), one["train_cfg"].get("test_data") or one["train_cfg"]["val_data"]]
        for one in (known, config)
    ]
    return json.dumps(asked[0]) == json.dumps(asked[1])
