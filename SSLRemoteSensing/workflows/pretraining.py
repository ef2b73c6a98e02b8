"""The two trees of config keys, put together from the signatures of the parts that take them."""

from typing import Annotated, NotRequired, TypedDict

from SSLRemoteSensing.core.config import OneOf, Part, require
from SSLRemoteSensing.core.distributed import size
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import PretextSettings
from SSLRemoteSensing.evaluation.linear_probe import LinearProbe
from SSLRemoteSensing.models.heads import AGR_HEADS, EXAMPLAR_HEADS, INPAINTING_HEADS, TURNS
from SSLRemoteSensing.models.pretext import pretext_losses
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.settings import divide_batch

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

    train_data: Annotated[dict, Part(PretextSettings)]
    global_batch_size: NotRequired[int]
    losses: NotRequired[Annotated[dict, Part(pretext_losses)]]
    joint_pass: NotRequired[bool]
    probe: NotRequired[Annotated[dict | None, Part(LinearProbe, given=("in_channels", "img_size"))]]


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
