"""How well the transform can be told without a head: by turning maps of the anchor and comparing.

    python tools/match_transforms.py --config_file C
    python tools/match_transforms.py --config_file C --backbone runs/pretrain/backbone.pth

For samples as training sees them (published transforms, in the published order), each map of the
anchor is turned in the six ways; the turn whose cells look most like those of the transformed image
is the answer. Chance is 17 %. First for the pixels (mean of the bands, without the image's mean),
then for every map of the backbone, averaged to at most 8 x 8 cells: as it is, and without the mean
over all samples at each place, which is the trace of the zero padding. What MatchingHead starts
from; see docs/pretext_tasks.md.
"""

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import Flags, parse, read_config
from SSLRemoteSensing.core.errors import UserError, run_command

if TYPE_CHECKING:
    from torch import Tensor

CELLS, BATCH = 8, 32


def flags() -> ArgumentParser:
    flags = Flags(__doc__).config().paths()
    add = flags.add_argument
    add("--backbone", default="random", metavar="random|imagenet|FILE", help="whose maps")
    add("--samples", type=int, default=600, metavar="N", help="images, each once")
    add("--seed", type=int, default=0, metavar="N", help="of random weights and of the draws")
    return flags


def main() -> None:
    args = parse(flags())
    config = read_config(args)
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.training.settings import check_least
    from SSLRemoteSensing.workflows.pretraining import are_published, check_pretext, open_images

    check_pretext(config)
    if not are_published(config["train_cfg"]["train_data"]["agr_transforms_cfg"]["transforms_cfg"]):
        raise UserError(
            "train_data.agr_transforms_cfg.transforms_cfg: this tells the published six apart, as "
            "in configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
        )
    check_least(args, {"seed": 0})
    channels = config["backbone_cfg"].get("in_channels", 3)
    dataset = open_images(config["train_cfg"]["train_data"], channels, args.seed)
    count = min(args.samples, len(dataset))
    if count < 2:
        raise UserError(f"--samples {args.samples}, of {len(dataset)} images: needed are 2")
    from SSLRemoteSensing.workflows.probing import open_backbone

    backbone = open_backbone(config["backbone_cfg"], args.backbone, args.seed)
    wanted = config["backbone_cfg"].get("in_channels", 3)
    if backbone.in_channels != wanted:
        raise UserError(
            f"--backbone {args.backbone}: takes {backbone.in_channels} bands, the config's images "
            f"have {wanted} (backbone_cfg.in_channels)"
        )
    anchor, transformed, label = read_samples(dataset, count)
    print(f"{count} samples, right in %:")
    for cells in (2, 4, 8, 16):
        first, second = (grey_cells(images, cells) for images in (anchor, transformed))
        print(f"pixels, {cells:2} x {cells:2}: {accuracy(first, second, label):5.1f}")
    maps = [pooled_maps(backbone, images) for images in (anchor, transformed)]
    for key, first in maps[0].items():
        second = maps[1][key]
        plain = accuracy(first, second, label)
        without = accuracy(first - first.mean(0), second - second.mean(0), label)
        size = " x ".join(map(str, first.shape[2:]))
        print(f"{key}, {size}: {plain:5.1f}, without the mean of the samples {without:5.1f}")


def read_samples(dataset, count: int) -> "tuple[Tensor, Tensor, Tensor]":
    """Anchors and transformed images, uint8 (count, C, H, W), and labels, of the first epoch."""
    import numpy as np
    import torch

    from SSLRemoteSensing.core.console import progress

    numbers = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    samples = [dataset[(0, int(number))] for number in progress("reading", numbers, unit="image")]
    anchor, transformed = (
        torch.stack([torch.from_numpy(one[key]).permute(2, 0, 1) for one in samples])
        for key in ("anchor", "transformed")
    )
    return anchor, transformed, torch.tensor([one["transform_label"] for one in samples])


def pooled_maps(backbone, images: "Tensor") -> "dict[str, Tensor]":
    """The pyramid of all images, each map averaged to at most CELLS x CELLS."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from SSLRemoteSensing.evaluation.linear_probe import has_seen_nothing, with_statistics
    from SSLRemoteSensing.models.backbones import unit_range

    if has_seen_nothing(backbone):
        backbone = with_statistics(backbone, images)
    parts = []
    with torch.no_grad():
        for part in images.split(BATCH):
            maps = backbone.eval()(unit_range(part))
            parts.append(
                {key: adaptive_avg_pool2d(x, min(CELLS, x.shape[2])) for key, x in maps.items()}
            )
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def grey_cells(images: "Tensor", cells: int) -> "Tensor":
    """uint8 (N, C, H, W) to (N, 1, cells, cells), of which each image has the mean 0."""
    from torch.nn.functional import adaptive_avg_pool2d

    grey = adaptive_avg_pool2d(images.float().mean(dim=1, keepdim=True), cells)
    return grey - grey.mean(dim=(2, 3), keepdim=True)


def accuracy(first: "Tensor", second: "Tensor", label: "Tensor") -> float:
    """How often the turn of `first` (N, C, h, w) that is most like `second` is `label`, in %."""
    import torch
    from torch.nn.functional import normalize

    from SSLRemoteSensing.models.heads import TURNS

    if first.shape[1] > 1:
        first, second = normalize(first, dim=1), normalize(second, dim=1)
    else:  # of one channel a cell has no direction; the image has
        first, second = (normalize(x.flatten(1), dim=1).view_as(x) for x in (first, second))
    cosines = [(turn(first) * second).sum(dim=(1, 2, 3)) for turn in TURNS.values()]
    return 100 * float((torch.stack(cosines, dim=1).argmax(1) == label).float().mean())


if __name__ == "__main__":
    run_command(main)
