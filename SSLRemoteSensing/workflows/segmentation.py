"""What fine-tuning needs, opened: its config keys, the network, and the tiles as a `Task`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import torch
from torch.utils.data import Dataset

from SSLRemoteSensing.core.classes import IGNORE, default_palette
from SSLRemoteSensing.core.config import OneOf, Part, require
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import write_bytes
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.class_weights import label_shares, median_frequency
from SSLRemoteSensing.data.images import read_header
from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import scale_card
from SSLRemoteSensing.data.scenes import label_kinds, require_eroded
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings, collate
from SSLRemoteSensing.data.unlabelled import (
    REST,
    UnlabelledSettings,
    WithUnlabelled,
    collate_both,
    find_unlabelled,
)
from SSLRemoteSensing.data.windows import require_gsd
from SSLRemoteSensing.evaluation.metrics import scores
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
from SSLRemoteSensing.evaluation.scoring import open_scored, score
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.decoders import DECODERS
from SSLRemoteSensing.models.losses import SEGMENTATION_LOSSES
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.models.segmentation import (
    SegmentationNet,
    build_segmentation,
)
from SSLRemoteSensing.training.resume import start_digest
from SSLRemoteSensing.training.run_folder import write_run_card
from SSLRemoteSensing.training.settings import LoopSettings, split
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.workflows.pseudo_labels import Unlabelled, read_record
from SSLRemoteSensing.workflows.settled_scale import card_of_weights, settle_scale

PSEUDO_LABELS = "pseudo_labels"  # folder in that of a run
TRAIN_TILES = Part(TileSettings)
# Scoring takes each tile whole and as it is.
OF_TRAINING = ("crop_size", "flips", "turns", "jitter")
OF_TRAINING += ("fraction", "fraction_seed", "windows", "sampling")
SCORED_TILES = Part(TileSettings, given=OF_TRAINING)


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
        unlabelled: tiles that a network labels first, and that train with these labels beside those
            of train_data, as many in each step. None or absent: labelled tiles alone.
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
    unlabelled: NotRequired[Annotated[dict | None, Part(UnlabelledSettings)]]


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
    classes, palette = list(config["classes"]), config.get("palette")
    if len(set(classes)) < len(classes):
        raise UserError(f"classes={classes!r}: a name stands there twice")
    if config["train_cfg"].get("backbone_lr_factor", 1.0) < 0:
        raise UserError("train_cfg.backbone_lr_factor: must not be negative")
    if palette is not None and len(palette) != len(classes):
        raise UserError(f"palette: {len(palette)} colours for {len(classes)} classes")
    for colour in palette or ():
        if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
            raise UserError(f"palette: {tuple(colour)} is no colour (R, G, B), each 0 to 255")
    ScoringSettings(**config.get("scoring_cfg") or {}).check(classes)


@dataclass
class Finetuning:
    """A network to train or to score; its `config` has a palette, and numbers in place of
    'median_frequency'. `loop` is None where nothing is trained; `train` is how the images of
    train_data are read, once they have been opened."""

    config: dict
    classes: list[str]
    model: SegmentationNet
    device: torch.device
    precision: str
    scoring: ScoringSettings
    loop: LoopSettings | None
    train: Reading | None = None

    @property
    def train_cfg(self) -> dict:
        return self.config["train_cfg"]

    @property
    def scored_split(self) -> str:
        return scored_split(self.config)

    def open_split(
        self, split: str, coding: ValueCoding | None = None, checked: bool = False
    ) -> SegmentationDataset:
        """The tiles of `split`, whose labels are in `coding` or, without it, in their own;
        `checked`: they have been looked through in it."""
        classes, channels, key = self.classes, self.model.backbone.in_channels, f"{split}_data"
        train = None if split == "train" else self.train
        with about(f"train_cfg.{key}"):
            settings, seed = TileSettings(**self.train_cfg[key]), self.train_cfg.get("seed", 0)
            options = (seed, coding, classes, checked, train)
            tiles = SegmentationDataset(settings, len(classes), channels, *options)
        self.train = tiles.reading if split == "train" else train
        return tiles


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
    classes, train_cfg = list(config["classes"]), config["train_cfg"]
    loop = split(train_cfg, SegmentationData, processes)[1] if trains else None
    if trains and loop.log.with_vis:
        raise UserError("train_cfg.log.with_vis=True: only pre-training has pictures; leave it out")
    if train_cfg.get("loss"):
        image_path = train_cfg["train_data"]["image_path"] if trains else None
        loss = fill_class_weights(train_cfg["loss"], image_path, classes)
        train_cfg = train_cfg | {"loss": loss}
    palette = config.get("palette") or default_palette(len(classes))
    config = config | {"palette": palette, "train_cfg": train_cfg}
    device = choose_device(train_cfg.get("device", "auto"))
    precision = choose_precision(train_cfg.get("precision", "fp32"), device)
    torch.manual_seed(train_cfg.get("seed", 0))
    model = build_segmentation(config)
    scoring = ScoringSettings(**config.get("scoring_cfg") or {})
    if side := model.backbone.fixed_size:
        scoring = replace(scoring, window=min(scoring.window, side))
    scored = train_cfg[f"{scored_split(config)}_data"]
    require_eroded(scoring.protocols, scored["image_path"], scored["label_path"])
    return Finetuning(config, classes, model, device, precision, scoring, loop)


def scored_split(config: dict) -> str:
    """Which tiles the scores at the end are of."""
    return "val" if config["train_cfg"].get("test_data") is None else "test"


def fill_class_weights(loss: dict, image_path: str | None, classes: list[str]) -> dict:
    """A config's `loss` with numbers in place of 'median_frequency', also in those it is a sum of;
    None without the folder of a prepared set's images."""
    filled = dict(loss)
    if loss.get("class_weights") == "median_frequency":
        filled["class_weights"] = image_path and median_frequency(image_path, classes)
    for name, part in (loss.get("losses") or {}).items():
        filled["losses"] = filled["losses"] | {name: fill_class_weights(part, image_path, classes)}
    return filled


def open_finetuning(config: dict) -> tuple[Task, LoopSettings]:
    """Check `config`, build its network, open its tiles; a `UserError` as of `open_network`."""
    return open_task(open_network(config))


def open_task(opened: Finetuning) -> tuple[Task, LoopSettings]:
    """The training of `opened`, and its loop's keys; `best.pth` is chosen on val_data.

    Raises:
        UserError: tiles that cannot be used.
    """
    model, loop, channels = opened.model, opened.loop, opened.model.backbone.in_channels
    opened.config = config = settle_scale(opened.config, channels)
    train_data = opened.open_split("train")
    val_data = opened.open_split("val", train_data.coding)
    with about("train_cfg.train_data"):
        train_data.check_values("train_cfg.train_data")
    check_scored(opened, train_data.coding, val_data)
    used, full = len(train_data.pairs), train_data.num_files
    fraction = train_data.settings.fraction
    least = f" (fraction={fraction} asks for none, one is the least)"
    least = "" if round(fraction * full) else least
    print(f"labels of {used} of {full} train tiles{least}, {len(val_data)} val tiles")
    card = model.backbone.card() | {"classes": opened.classes, "config": config}
    card |= {"palette": config["palette"], "train_tiles": {"used": used, "of": full}}
    card |= {"label_table": train_data.coding.table.tolist()}
    card |= scale_card(train_data.reading.scale)
    card |= {"label_shares": label_shares(train_data)} | train_data.origin
    card |= {} if train_data.reading.gsd is None else {"gsd": train_data.reading.gsd}
    card["dtype"] = read_header(train_data.pairs[0][0]).dtype
    card |= start_digest(config)
    weights = config["backbone_cfg"].get("pretrained")
    start = card_of_weights(weights) if isinstance(weights, str) else {}
    card |= {"teacher": start["teacher"]} if "teacher" in start else {}  # its licence may bind
    quick = replace(
        opened.scoring, on="tiles", tta=False, protocols=None, batch_size=loop.batch_size
    )
    tiles = open_scored(val_data, opened.classes, quick, own_labels=True)
    predict = partial(probabilities, model, opened.device, opened.precision)

    def validate() -> dict:
        counts = score(predict, tiles, opened.device, loop.num_workers)["full"]
        means = scores(counts, opened.classes)
        return {key: means[key] for key in ("miou", "mf1", "oa", "kappa")}

    def begin() -> None:
        write_run_card(config)
        for name in ("results.json", "report.html"):  # of a run that ended earlier
            (loop.folder / name).unlink(missing_ok=True)
        names = "".join(f"{Path(file).name}\n" for file, _ in train_data.pairs)
        write_bytes(loop.folder / "train_tiles.txt", names.encode("utf-8", "backslashreplace"))

    groups = model.param_groups(opened.train_cfg.get("backbone_lr_factor", 1.0))
    dataset, batch_of = training_samples(opened, train_data)
    if opened.train_cfg.get("unlabelled"):
        card |= {"pseudo_labels": read_record(loop.folder / PSEUDO_LABELS)}
    return Task(model, dataset, batch_of, card, groups, begin=begin, evaluate=validate), loop


def training_samples(
    opened: Finetuning, train_data: SegmentationDataset
) -> tuple[Dataset, Callable[[list[dict]], dict]]:
    """What a run trains on, and what makes batches of it: `train_data` round and round and, where
    the config names tiles without labels, those beside."""
    dataset = train_data.repeated()
    if dataset.sampling is not None:
        drawn = zip(opened.classes, dataset.sampling.drawn, strict=True)
        print("tiles drawn by class:", ", ".join(f"{name} {share:.1%}" for name, share in drawn))
    if not opened.train_cfg.get("unlabelled"):
        return dataset, collate
    settings = UnlabelledSettings(**opened.train_cfg["unlabelled"])
    tiles = unlabelled_tiles(opened, settings, train_data)
    folder = opened.loop.folder / PSEUDO_LABELS
    return WithUnlabelled(dataset, pseudo_labelled(folder, train_data, tiles)), collate_both


def check_scored(opened: Finetuning, coding: ValueCoding, val_data: SegmentationDataset) -> None:
    """Raise a `UserError` for what validation, or the scores at the end, would fail on hours later.
    Of test_data, which is read at the end, some images are opened, and no label."""
    scored = val_data
    if opened.scored_split == "test":
        scored = opened.open_split("test", coding, checked=True)
    if opened.scoring.protocols:
        opened.scoring.require_protocols(opened.classes, list(label_kinds(scored)))
    for name, tiles in {"val": val_data, opened.scored_split: scored}.items():
        with about(f"train_cfg.{name}_data"):
            tiles.read_image(tiles.pairs[0][0])
            tiles.check_values(f"train_cfg.{name}_data")
            require_same_gsd(opened, tiles)
    if not any((val_data.read_scored(pair) < IGNORE).any() for pair in val_data.pairs):
        raise UserError("train_cfg.val_data: no pixel of it has a label")


def require_same_gsd(opened: Finetuning, tiles: SegmentationDataset) -> None:
    """Raise a `UserError` where training sees scenes scaled to a ground sampling distance and
    `tiles`, which are scored as they are, have another."""
    gsd = (opened.train_cfg["train_data"].get("windows") or {}).get("gsd")
    if gsd is not None:
        require_gsd([image for image, _ in tiles.pairs], gsd)


def unlabelled_tiles(
    opened: Finetuning, settings: UnlabelledSettings, train_data: SegmentationDataset
) -> Unlabelled:
    """The tiles that `settings` name; a `UserError` as of `find_unlabelled`."""
    is_rest, scored = settings.image_path == REST, {}
    for part in () if is_rest else dict.fromkeys(("val", opened.scored_split)):
        scored[f"{part}_data"] = opened.open_split(part, train_data.coding, checked=True)
    images, reading = find_unlabelled(settings, train_data, scored)
    return Unlabelled(images, reading, train_data.in_channels)


def pseudo_labelled(
    folder: Path, train_data: SegmentationDataset, tiles: Unlabelled
) -> SegmentationDataset:
    """`tiles` with their pseudo labels in `folder`; before there are any, as in a dry run, the
    labelled tiles stand for them."""
    labels, seed = tiles.labels(folder), train_data.seed + 1
    if labels is None:
        return train_data.on(train_data.pairs, train_data.reading, seed, train_data.coding)
    return train_data.on(list(zip(tiles.images, labels, strict=True)), tiles.reading, seed)
