"""Backbone and heads to the losses of the pretext tasks."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from SSLRemoteSensing.core.config import OneOf, build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import Backbone, unit_range
from SSLRemoteSensing.models.distillation import DISTILLATION_HEADS, DistillationHead
from SSLRemoteSensing.models.heads import AGR_HEADS, EXAMPLAR_HEADS, INPAINTING_HEADS, matched_cells
from SSLRemoteSensing.models.losses import (
    AGR_LOSSES,
    DISTILLATION_LOSSES,
    EXAMPLAR_LOSSES,
    INPAINTING_LOSSES,
    WeightedLosses,
    check_factors,
)
from SSLRemoteSensing.models.pretrained import BACKBONES

HEADS = {
    "inpainting_head_cfg": INPAINTING_HEADS,
    "agr_head_cfg": AGR_HEADS,
    "examplar_head_cfg": EXAMPLAR_HEADS,
    "distillation_head_cfg": DISTILLATION_HEADS,
}


def pretext_losses(
    InpaintingLoss: Annotated[dict | None, OneOf(INPAINTING_LOSSES)] = None,
    AGRLoss: Annotated[dict | None, OneOf(AGR_LOSSES)] = None,
    ExamplarLoss: Annotated[dict | None, OneOf(EXAMPLAR_LOSSES)] = None,
    factors: Sequence[float] = (20, 1, 1),
    DistillationLoss: Annotated[dict | None, OneOf(DISTILLATION_LOSSES)] = None,
) -> WeightedLosses:
    """The `losses` of a config: (task, weight, loss) each. A loss left out is the published one.

    Args:
        InpaintingLoss: of the restored block.
        AGRLoss: of the transform prediction.
        ExamplarLoss: contrastive, of the embeddings.
        factors: weights of the three, in this order, none negative; a fourth is that of the
            distillation, else 1. What the log shows is weighted.
        DistillationLoss: of the teacher's features; None: CosineLoss.
    """
    tasks = (
        ("inpainting", INPAINTING_LOSSES, InpaintingLoss or {"name": "InpaintingLoss"}),
        ("agr", AGR_LOSSES, AGRLoss or {"name": "CrossEntropyLoss"}),
        ("exemplar", EXAMPLAR_LOSSES, ExamplarLoss or {"name": "ExamplarLoss"}),
        ("distillation", DISTILLATION_LOSSES, DistillationLoss or {"name": "CosineLoss"}),
    )
    if len(factors) < len(tasks):  # the published three
        check_factors("losses.factors", factors, len(tasks) - 1)
        factors = (*factors, 1)
    check_factors("losses.factors", factors, len(tasks))
    return [
        (task, factor, build(table, cfg, f"losses: {task}"))
        for factor, (task, table, cfg) in zip(factors, tasks, strict=True)
    ]


class PretextNet(nn.Module):
    """One backbone, up to four heads; `forward(batch)` gives the weighted losses by task.

    The heads `.inpainting_head`, `.agr_head`, `.exemplar_head`, `.distillation_head` are None where
    a task is not trained. Each branch is a pass of its own through the backbone, so that the
    statistics of batch normalization are each branch's own, as published.

    What a pass saw besides its losses is left in `.counted`, on the device: `agr_confusion`, int64
    (K, K), how often a transform (row) was taken for another (column).

    Args:
        losses: from `pretext_losses`.
        joint_pass: all images in one pass, with the statistics of batch normalization over all of
            them: fewer, larger kernels, and not what was published.
    """

    def __init__(
        self,
        backbone: Backbone,
        inpainting_head: nn.Module | None,
        agr_head: nn.Module | None,
        exemplar_head: nn.Module | None,
        losses: WeightedLosses,
        joint_pass: bool = False,
        distillation_head: DistillationHead | None = None,
    ):
        super().__init__()
        heads = (inpainting_head, agr_head, exemplar_head, distillation_head)
        if all(head is None for head in heads):
            raise UserError(f"no head: give at least one of {', '.join(HEADS)}")
        self.backbone = backbone
        self.inpainting_head, self.agr_head = inpainting_head, agr_head
        self.exemplar_head, self.joint_pass = exemplar_head, joint_pass
        self.distillation_head = distillation_head
        self.weights = {task: weight for task, weight, _ in losses}
        self.losses = nn.ModuleDict({task: loss for task, _, loss in losses})
        self.counted: dict[str, Tensor] = {}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid of `images` (N, C, H, W), uint8 or float in 0..1."""
        return self.backbone(unit_range(images))

    def embed(self, maps: dict[str, Tensor]) -> Tensor:
        """An embedding (N, D) of each image whose pyramid `maps` is: of the exemplar head, the mean
        of its deepest cells where it is dense, or where that task is not trained the pooled last
        map."""
        x = maps["block6"] if self.exemplar_head is None else self.exemplar_head(maps)[-1]
        return x.mean(dim=(2, 3)) if x.dim() == 4 else x

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted losses of the trained tasks.

        Args:
            batch: occluded, anchor, transformed uint8 (N, C, H, W), transform_label int64 (N,),
                crop float32 (N, 4): as `PretextDataset` has them.
        """
        anchor, images = unit_range(batch["anchor"]), {}
        if self.inpainting_head is not None:
            images["occluded"] = unit_range(batch["occluded"])
        if self.agr_head is not None or self.exemplar_head is not None:
            images |= {"anchor": anchor, "transformed": unit_range(batch["transformed"])}
        elif self.distillation_head is not None:
            images["anchor"] = anchor
        if self.joint_pass:
            all_maps = self.backbone(torch.cat(list(images.values())))
            parts = {key: x.chunk(len(images)) for key, x in all_maps.items()}
            maps = {name: {key: x[i] for key, x in parts.items()} for i, name in enumerate(images)}
        else:
            maps = {name: self.backbone(image) for name, image in images.items()}
        losses = {}
        if self.inpainting_head is not None:
            prediction = self.inpainting_head(maps["occluded"])
            losses["inpainting"] = self.losses["inpainting"](prediction, anchor, images["occluded"])
        if self.agr_head is not None:
            logits = self.agr_head(maps["anchor"], maps["transformed"]).float()
            losses["agr"] = self.losses["agr"](logits, batch["transform_label"])
            self.counted = {"agr_confusion": count_pairs(batch["transform_label"], logits.detach())}
        if self.exemplar_head is not None:
            views = [self.exemplar_head(maps[key]) for key in ("anchor", "transformed")]
            pairs = zip(*views, strict=True)  # one for each map that the head reads
            if views[0][0].dim() == 4:
                geometry = batch["transform_label"], batch["crop"]
                pairs = (matched_cells(*pair, *geometry) for pair in pairs)
            values = [self.losses["exemplar"](*pair) for pair in pairs]
            losses["exemplar"] = sum(values) / len(values)
        if self.distillation_head is not None:
            pairs = self.distillation_head(maps["anchor"], anchor)
            values = [self.losses["distillation"](*pair) for pair in pairs]
            losses["distillation"] = sum(values) / len(values)
        return {task: self.weights[task] * loss for task, loss in losses.items()}


def count_pairs(label: Tensor, logits: Tensor) -> Tensor:
    """The confusion matrix of labels (N,) and logits (N, K) or, of L answers each, (N, K, L), whose
    mean decides; int64 (K, K): rows label.

    Of comparisons, as torch.bincount would wait for the device.
    """
    logits = logits.mean(2) if logits.dim() == 3 else logits
    classes = torch.arange(logits.shape[1], device=logits.device)
    truth, prediction = label[:, None] == classes, logits.argmax(1)[:, None] == classes
    return (truth[:, :, None] & prediction[:, None, :]).sum(0)


def build_pretext(config: dict) -> PretextNet:
    """The network of a pre-training config, checked key by key.

    Raises:
        UserError: an unknown name or key, no head at all, heads that do not fit the backbone, or
            that do not read its last map.
    """
    backbone = build(BACKBONES, config.get("backbone_cfg") or {}, "backbone_cfg")
    channels = {"map_channels": backbone.keep(backbone.channels)}
    of_teacher = channels | {"bands": backbone.in_channels}
    *heads, distillation_head = [
        None if config.get(key) is None else build(table, config[key], key, given)
        for (key, table), given in zip(HEADS.items(), [channels] * 3 + [of_teacher], strict=True)
    ]
    read = {key for head in (*heads, distillation_head) if head is not None for key in head.reads}
    if read and "block6" not in read:
        raise UserError(
            f"heads: they read {', '.join(sorted(read))} and not block6, so the last stage of the "
            f"backbone would learn nothing; name block6 in examplar_head_cfg.block too, or give "
            f"another head"
        )
    if unread := backbone.learn(read):
        names = ", ".join(unread)
        print(f"{backbone.name}: no head reads {names}, whose own weights stay as they are")
    out_channels = heads[0].predict.out_channels if heads[0] is not None else backbone.in_channels
    if out_channels != backbone.in_channels:
        raise UserError(
            f"inpainting_head_cfg.out_channels={out_channels}: the images have "
            f"{backbone.in_channels} bands (backbone_cfg.in_channels)"
        )
    train_cfg = config.get("train_cfg", {})
    losses = pretext_losses(**train_cfg.get("losses", {}))
    joint_pass = train_cfg.get("joint_pass", False)
    return PretextNet(backbone, *heads, losses, joint_pass, distillation_head)
