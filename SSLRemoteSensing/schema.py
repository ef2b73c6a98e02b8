"""The two trees of config keys, put together from the signatures of the parts that take them."""

from collections.abc import Sequence
from typing import Annotated, NotRequired, TypedDict

from SSLRemoteSensing.config import OneOf, Part, require
from SSLRemoteSensing.datasets.pretext import PretextDataset
from SSLRemoteSensing.datasets.segmentation import SegmentationDataset
from SSLRemoteSensing.distributed import divide_batch, size
from SSLRemoteSensing.engine import fit
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.models.decoders import DECODERS
from SSLRemoteSensing.models.heads import AGR_HEADS, EXAMPLAR_HEADS, INPAINTING_HEADS, TURNS
from SSLRemoteSensing.models.pretext import pretext_losses
from SSLRemoteSensing.models.weights import BACKBONES
from SSLRemoteSensing.pixel_losses import SEGMENTATION_LOSSES
from SSLRemoteSensing.probe import Probe
from SSLRemoteSensing.scoring import ScoringSettings

# What the scripts hand to fit(), so that no config can.
GIVEN = ("model", "dataset", "collate", "param_groups", "evaluate", "best_by", "export")
GIVEN += ("start", "watch", "look", "measure", "card", "dry_run")


class PretextData(TypedDict):
    """What `train_cfg` holds for train.py besides the loop's own keys.

    Attributes:
        train_data: the images and what is made of them.
        global_batch_size: images a step of all processes together, in place of `batch_size`; a
            multiple of their number.
        losses: the tasks' losses and weights; by default the published ones.
        joint_pass: all images of a step in one pass through the backbone, with the statistics of
            batch normalization over all of them: fewer, larger kernels, and not what was published.
            By default False, a pass a branch.
        probe: a linear classifier fitted on a few labels after each epoch, which tells whether the
            features get better for segmentation; None or absent: none.
    """

    train_data: Annotated[dict, Part(PretextDataset, given=("in_channels", "seed"))]
    global_batch_size: NotRequired[int]
    losses: NotRequired[Annotated[dict, Part(pretext_losses)]]
    joint_pass: NotRequired[bool]
    probe: NotRequired[Annotated[dict | None, Part(Probe, given=("in_channels", "img_size"))]]


class PretextConfig(TypedDict):
    """A config of train.py; a head that is None or absent is not trained.

    Attributes:
        name: of the experiment; kept in the card and run.json.
        backbone_cfg: the network that is pre-trained.
        inpainting_head_cfg: the head that restores the distorted block.
        agr_head_cfg: the head that tells the transform.
        examplar_head_cfg: the head whose embedding tells images apart.
        train_cfg: data, losses and the loop.
    """

    name: str
    backbone_cfg: Annotated[dict, OneOf(BACKBONES)]
    inpainting_head_cfg: NotRequired[
        Annotated[dict | None, OneOf(INPAINTING_HEADS, given=("map_channels",))]
    ]
    agr_head_cfg: NotRequired[Annotated[dict | None, OneOf(AGR_HEADS, given=("map_channels",))]]
    examplar_head_cfg: NotRequired[
        Annotated[dict | None, OneOf(EXAMPLAR_HEADS, given=("map_channels",))]
    ]
    train_cfg: Annotated[dict, Part(fit, GIVEN, PretextData)]


TRAIN_TILES = Part(
    SegmentationDataset,
    given=("num_classes", "in_channels", "seed", "coding", "classes", "checked"),
)
# Scoring takes each tile whole and as it is.
SCORED_TILES = Part(
    SegmentationDataset,
    given=(
        *TRAIN_TILES.given,
        "crop_size",
        "flips",
        "turns",
        "jitter",
        "fraction",
        "fraction_seed",
    ),
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


def check_pretext(config: dict) -> None:
    """Raise a `UserError` naming every wrong key of a pre-training config."""
    require(Part(PretextConfig), config)
    train_cfg = config["train_cfg"]
    agr, data = config.get("agr_head_cfg"), train_cfg["train_data"]
    transforms = data["agr_transforms_cfg"]["transforms_cfg"]
    if agr is not None and agr["num_classes"] != len(transforms):
        raise UserError(
            f"agr_head_cfg.num_classes={agr['num_classes']}: there are {len(transforms)} "
            f"transforms in "
            f"train_data.agr_transforms_cfg.transforms_cfg; make them equal"
        )
    batch_size = divide_batch(train_cfg)["batch_size"]
    if agr is not None and agr["name"] == "MatchingHead":
        check_matching(agr, data, batch_size)
    if config.get("examplar_head_cfg") is None:
        return
    loss = train_cfg.get("losses", {}).get("ExamplarLoss") or {}
    if batch_size * (size() if loss.get("gather", True) else 1) < 2:
        raise UserError(
            f"train_cfg.batch_size={batch_size} (of each process): the contrastive loss compares "
            f"images of a batch; set at least 2, or examplar_head_cfg=None"
        )


def check_matching(head: dict, data: dict, batch_size: int) -> None:
    """Raise a `UserError` where a MatchingHead could not learn from such data."""
    if not are_published(data["agr_transforms_cfg"]["transforms_cfg"]):
        raise UserError(
            "agr_head_cfg: MatchingHead tells the published six transforms apart, in their "
            "order; give train_data.agr_transforms_cfg.transforms_cfg as in "
            "configs/vr_vgg16_inapinting_agr_examplar_cfg.py, or use AGPHead"
        )
    if batch_size < 3:
        raise UserError(
            f"train_cfg.batch_size={batch_size} (of each process): MatchingHead takes the batch's "
            f"mean out of its images; set at least 3, or use AGPHead"
        )
    if data["img_size"] < 64:
        raise UserError(
            f"train_data.img_size={data['img_size']}: block6 is a single cell, which MatchingHead "
            f"cannot turn; set at least 64"
        )


def are_published(transforms: dict[str, dict]) -> bool:
    """Whether `transforms_cfg` has the published six, always applied, in the published order."""
    found = [(cfg["name"], cfg.get("angle")) for cfg in transforms.values()]
    always = {"Rotate": 1.0}  # p where a config leaves it out; a flip's is 0.5
    return found == list(TURNS) and all(
        cfg.get("p", always.get(cfg["name"])) == 1 for cfg in transforms.values()
    )


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
