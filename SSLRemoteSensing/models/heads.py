"""What sits on the backbone: the decoder, the transform prediction, the exemplar projection.

Each says in `reads` which maps of the backbone it reads.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models import tiny_maps

SKIPS = ("block5", "block4", "block3", "block2")  # 1/16, 1/8, 1/4, 1/2


class Decoder(nn.Module):
    """A pyramid to a map at the image's size: inpainting with 3 channels, segmentation with K.

    Five times bilinear x2 (align_corners=True), 3x3 convolution, BN, ReLU; after the first four the
    backbone's map of that scale is added, where there is one; then a 3x3 convolution, no
    activation. `forward(maps)` takes `block6` (N, in_channels, H/32, W/32) and skips, gives (N,
    out_channels, H, W).

    Args:
        in_channels: channels of the backbone's last map, block6: 512, from resnet50 on 2048.
        out_channels: channels of the result; for inpainting the bands of the images.
        feat_channels: channels after each of the five stages; the first four must be the channels
            of the maps added there (block5, block4, block3, block2).
        map_channels: the backbone's channels by map, to check the others against.
    """

    output_stride = 32  # of block6

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feat_channels: Sequence[int],
        map_channels: dict[str, int],
    ):
        super().__init__()
        check_in_channels(in_channels, map_channels)
        self.reads = ("block6", *(key for key in SKIPS if key in map_channels))
        where = f"feat_channels={tuple(feat_channels)}:"
        if len(feat_channels) != 5:
            raise UserError(f"{where} expected 5 numbers, one a stage")
        for key, channels in zip(SKIPS, feat_channels, strict=False):
            if map_channels.get(key, channels) != channels:
                raise UserError(
                    f"{where} {channels} where {key} of the backbone, which is added there, has "
                    f"{map_channels[key]} channels"
                )
        self.stages = nn.ModuleList(
            conv_bn_relu(before, after) for before, after in pairwise([in_channels, *feat_channels])
        )
        self.predict = nn.Conv2d(feat_channels[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        x = maps["block6"]
        for stage, key in zip(self.stages, (*SKIPS, None), strict=True):
            x = stage(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
            if key in maps:
                x = x + maps[key]
        return self.predict(x)


class AGPHead(nn.Module):
    """Which transform lies between two views: logits from their last maps, put side by side.

    `forward(anchor, transformed)`: two pyramids, of which it takes `block6` (N, in_channels, h, w),
    to logits (N, num_classes).

    Args:
        in_channels: channels of the backbone's last map, block6: 512, from resnet50 on 2048.
        num_classes: the transforms in `train_data.agr_transforms_cfg.transforms_cfg`.
    """

    reads = ("block6",)

    def __init__(self, in_channels: int, num_classes: int, map_channels: dict[str, int]):
        super().__init__()
        check_in_channels(in_channels, map_channels)
        self.conv = nn.Sequential(
            *conv_bn_relu(2 * in_channels, in_channels), *conv_bn_relu(in_channels, in_channels)
        )
        self.fc = nn.Sequential(
            nn.Linear(in_channels, 2 * in_channels),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(2 * in_channels, num_classes),
        )
        self.num_classes = num_classes

    def forward(self, anchor: dict[str, Tensor], transformed: dict[str, Tensor]) -> Tensor:
        x = self.conv(torch.cat([anchor["block6"], transformed["block6"]], dim=1))
        return self.fc(x.mean(dim=(2, 3)))


# What MatchingHead does with a map of the anchor for each class, and what the class is called in
# `transforms_cfg`: (name, angle).
TURNS = {
    ("RandomHorizontalFlip", None): lambda x: x.flip(3),
    ("RandomVerticalFlip", None): lambda x: x.flip(2),
    ("Rotate", 0): lambda x: x,
    ("Rotate", 90): lambda x: x.rot90(1, (2, 3)),
    ("Rotate", 180): lambda x: x.rot90(2, (2, 3)),
    ("Rotate", 270): lambda x: x.rot90(3, (2, 3)),
}


class MatchingHead(nn.Module):
    """Which transform lies between two views: where the anchor's map, so turned, matches best.

    Each of `blocks` answers by itself, so that deep maps have a gradient of their own when shallow
    ones have long solved the task. A map is averaged to at most `cells` x `cells` cells, each cell
    is projected to `embed_channels`, loses the batch's mean at its place and then the image's mean,
    and becomes a unit vector. A class's logit is the mean cosine of all cells of the transformed
    image with those of the anchor turned as the class says, times a learned scale. Not in the
    published method, whose head has to find out by itself that two maps are to be compared; see
    docs/measurements/history.md for what either learns.

    The batch's mean is what tells where a cell lies: of a deep map at random weights nearly all is
    the trace of the zero padding, which no turn of the image turns. Of two images it would leave
    one the negative of the other, so a batch has at least 3; under torchrun it is that of the
    process, as of batch normalization.

    `forward(anchor, transformed)`: two pyramids of square images, to logits (N, num_classes,
    len(blocks)).

    Args:
        num_classes: the transforms in `train_data.agr_transforms_cfg.transforms_cfg`, which must be
            the published six in the published order.
        blocks: the maps that answer, block6 among them, so that all of the backbone learns.
        embed_channels: length of a cell's vector.
        cells: most cells a side, at least 2; what a crop shifts by less than a cell still matches.
    """

    def __init__(
        self,
        num_classes: int,
        map_channels: dict[str, int],
        blocks: Sequence[str] = ("block3", "block4", "block5", "block6"),
        embed_channels: int = 128,
        cells: int = 8,
    ):
        super().__init__()
        if num_classes != len(TURNS):
            raise UserError(f"num_classes={num_classes}: MatchingHead tells {len(TURNS)} apart")
        is_known = {"block6"} <= set(blocks) <= map_channels.keys()
        if not is_known or len(set(blocks)) < len(blocks):
            raise UserError(
                f"blocks={tuple(blocks)}: name block6 and others of the backbone's "
                f"{', '.join(map_channels)}, each once"
            )
        if cells < 2:
            raise UserError(f"cells={cells}: must be at least 2, there is no turning one cell")
        if embed_channels < 1:
            raise UserError(f"embed_channels={embed_channels}: must be at least 1")
        self.num_classes, self.cells, self.reads = num_classes, cells, tuple(blocks)
        self.projections = nn.ModuleDict()
        for key in blocks:
            self.projections[key] = projection(map_channels[key], embed_channels)
        # At first 12: the mean cosines of untrained maps differ by some hundredths.
        self.log_scale = nn.Parameter(torch.full((len(blocks),), 2.5))

    def forward(self, anchor: dict[str, Tensor], transformed: dict[str, Tensor]) -> Tensor:
        similarity = []
        for key in self.projections:
            first, second = (self.unit_cells(maps[key], key) for maps in (anchor, transformed))
            cosines = [(turn(first) * second).sum(dim=1) for turn in TURNS.values()]
            similarity.append(torch.stack(cosines, dim=1).mean(dim=(2, 3)))
        scale = self.log_scale.clamp(max=math.log(100)).exp()  # as in CLIP, which else diverged
        return torch.stack(similarity, dim=2) * scale

    def unit_cells(self, x: Tensor, key: str) -> Tensor:
        if x.shape[2] != x.shape[3]:
            raise ValueError(f"{key} is {x.shape[2]} x {x.shape[3]} cells; only squares turn")
        x = F.adaptive_avg_pool2d(x, min(self.cells, x.shape[2]))
        x = self.projections[key](x).float()
        x = x - x.mean(dim=0)
        # The eps is for flat images, whose rounding errors would match.
        return F.normalize(x - x.mean(dim=(2, 3), keepdim=True), dim=1, eps=1e-3)


class ExamplarHead(nn.Module):
    """One embedding an image: `forward(maps)` takes `block6` (N, in_channels, h, w) and gives
    (N, out_channels), in a list of one.

    Args:
        in_channels: channels of the backbone's last map, block6: 512, from resnet50 on 2048.
        out_channels: length of the embedding; the hidden layer is twice as wide.
    """

    reads = ("block6",)

    def __init__(self, in_channels: int, out_channels: int, map_channels: dict[str, int]):
        super().__init__()
        check_in_channels(in_channels, map_channels)
        if out_channels < 1:
            raise UserError(f"out_channels={out_channels}: must be at least 1")
        self.fc = nn.Sequential(
            nn.Linear(in_channels, 2 * out_channels),
            nn.Sigmoid(),
            nn.Linear(2 * out_channels, out_channels),
        )

    def forward(self, maps: dict[str, Tensor]) -> list[Tensor]:
        return [self.fc(maps["block6"].mean(dim=(2, 3)))]


class DenseExamplarHead(nn.Module):
    """An embedding of each cell of maps, so that the network must know what lies where.

    The positive of a cell is the place of the other view that shows the same ground, which the
    known transform and crop tell; negatives are all other cells, of this image and of the others.
    Not in the published method, whose embedding is the mean over the image. Contrast of places as
    in DenseCL (Wang et al., CVPR 2021), their correspondence by geometry as in VICRegL (Bardes et
    al., NeurIPS 2022). Each of several maps answers by itself, so that shallow ones do not wait
    for what deep ones have learnt; the loss is their mean.

    `forward(maps)` gives for each block embeddings (N, out_channels, k, k), k at most `cells`. The
    loss compares all 2 N k^2 cells of a batch with each other: its memory grows with the square.

    Args:
        out_channels: length of a cell's embedding.
        block: the map that is read, or several, of the backbone's.
        cells: most cells a side; larger maps are averaged to it.
    """

    def __init__(
        self,
        map_channels: dict[str, int],
        out_channels: int = 128,
        block: str | Sequence[str] = "block5",
        cells: int = 8,
    ):
        super().__init__()
        blocks = (block,) if isinstance(block, str) else tuple(block)
        if not blocks or not map_channels.keys() >= set(blocks):
            raise UserError(f"block={block!r}: the backbone has {', '.join(map_channels)}")
        if min(out_channels, cells) < 1:
            raise UserError(f"out_channels={out_channels}, cells={cells}: must be at least 1")
        self.cells, self.reads = cells, blocks
        self.projections = nn.ModuleDict(
            {key: projection(map_channels[key], out_channels) for key in blocks}
        )

    def forward(self, maps: dict[str, Tensor]) -> list[Tensor]:
        return [
            project(F.adaptive_avg_pool2d(maps[key], min(self.cells, maps[key].shape[2])))
            for key, project in self.projections.items()
        ]


def matched_cells(
    anchor: Tensor, transformed: Tensor, label: Tensor, crop: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows (N k^2, D) of the cells (N, D, k, k) of two views, row by row of the same ground.

    The anchor's are read between its cells (bilinear) where the crop has moved them.

    Args:
        label: int64 (N,), which of `TURNS` made the transformed image of its anchor.
        crop: float (N, 4), what was then left of it: top, left, height, width as shares of its
            sides, and enlarged to the whole again.
    """
    turned = torch.stack([turn(anchor) for turn in TURNS.values()])
    turned = turned[label, torch.arange(len(label), device=label.device)]
    views = cropped(turned.float(), crop), transformed
    first, second = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in views)
    return first, second


def cropped(x: Tensor, crop: Tensor) -> Tensor:
    """Maps (N, D, k, k), float32, cut to `crop` as in `matched_cells`, and enlarged again."""
    top, left, height, width = crop.unbind(1)
    none = torch.zeros_like(top)
    rows = [width, none, 2 * left + width - 1, none, height, 2 * top + height - 1]
    with torch.autocast(x.device.type, enabled=False):  # bf16 has 8 bits for a place
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), x.shape, align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


# The head of each branch; the published configs know the first of each.
INPAINTING_HEADS = {"InpaintingHead": Decoder}
AGR_HEADS = {"AGPHead": AGPHead, "MatchingHead": MatchingHead}
EXAMPLAR_HEADS = {"ExamplarHead": ExamplarHead, "DenseExamplarHead": DenseExamplarHead}


def projection(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, kernel_size=1),
    )


def conv_bn_relu(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        tiny_maps.Conv2d(before, after, kernel_size=3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def check_in_channels(in_channels: int, map_channels: dict[str, int]) -> None:
    if in_channels != map_channels["block6"]:
        raise UserError(
            f"in_channels={in_channels}: the backbone's last map has {map_channels['block6']} "
            f"channels; set in_channels={map_channels['block6']}"
        )
