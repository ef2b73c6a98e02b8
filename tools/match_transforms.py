"""How well the transform can be told without a head: by turning maps of the anchor and comparing.

    python tools/match_transforms.py --config_file C
    python tools/match_transforms.py --config_file C --backbone runs/pretrain/backbone.pth

For samples as training sees them (published transforms, in the published order), each map of the
anchor is turned in the six ways; the turn whose cells look most like those of the transformed image
is the answer. Chance is 17 %. First for the pixels (mean of the bands, without the image's mean,
averaged to at most 16 cells a side), then for every map of the backbone: as it is, and without the
mean over all samples at each place, which is the trace of the zero padding. What MatchingHead
starts from; see docs/pretext_tasks.md.
"""

from argparse import ArgumentParser

from SSLRemoteSensing.command import config_parser, parse, settings
from SSLRemoteSensing.errors import UserError, run_command


def flags() -> ArgumentParser:
    flags = config_parser(__doc__)
    add = flags.add_argument
    add("--backbone", default="random", metavar="random|FILE", help="whose maps")
    add("--samples", type=int, default=600, metavar="N", help="images, each once")
    add("--seed", type=int, default=0, metavar="N", help="of random weights and of the draws")
    return flags


def main() -> None:
    args = parse(flags())
    config = settings(args)
    if args.samples < 2:
        raise UserError(f"--samples {args.samples}: must be at least 2")
    # Only now: torch takes seconds, which --help need not wait for.
    import numpy as np
    import torch

    from SSLRemoteSensing.config import build
    from SSLRemoteSensing.datasets.pretext import PretextDataset
    from SSLRemoteSensing.models.weights import BACKBONES, load_backbone
    from SSLRemoteSensing.probe import has_seen_nothing
    from SSLRemoteSensing.schema import check_pretext

    config["agr_head_cfg"] = {"name": "MatchingHead", "num_classes": 6}  # its transforms
    check_pretext(config)
    dataset = PretextDataset(**config["train_cfg"]["train_data"], seed=args.seed)
    torch.manual_seed(args.seed)
    if args.backbone == "random":
        backbone = build(BACKBONES, config["backbone_cfg"] | {"pretrained": False}, "backbone_cfg")
    else:
        found = load_backbone(None, args.backbone)
        backbone = found["model"]
        print(found["summary"])
    numbers = np.linspace(0, len(dataset) - 1, min(args.samples, len(dataset))).round().astype(int)
    samples = [dataset[(0, int(number))] for number in numbers]
    label = torch.tensor([sample["transform_label"] for sample in samples])
    pairs = [
        torch.stack([torch.from_numpy(one[key]).permute(2, 0, 1) for one in samples]).float() / 255
        for key in ("anchor", "transformed")
    ]
    print(f"{len(samples)} samples, right in %:")
    for cells in (2, 4, 8, 16):
        first, second = (grey_cells(images, cells) for images in pairs)
        print(f"pixels, {cells:2} x {cells:2}: {told(first, second, label):5.1f}")
    # Random weights have met no data: their batch normalization has no statistics but the batch's.
    backbone.train(has_seen_nothing(backbone))
    with torch.no_grad():
        anchor, transformed = (backbone(images) for images in pairs)
    for key in anchor:
        first, second = anchor[key], transformed[key]
        plain = told(first, second, label)
        without = told(first - first.mean(0), second - second.mean(0), label)
        size = " x ".join(map(str, first.shape[1:]))
        print(f"{key}, {size}: {plain:5.1f}, without the mean of the samples {without:5.1f}")


def grey_cells(images, cells: int):
    """(N, C, H, W) to (N, 1, cells, cells), of which each image has the mean 0."""
    from torch.nn.functional import adaptive_avg_pool2d

    grey = adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), cells)
    return grey - grey.mean(dim=(2, 3), keepdim=True)


def told(first, second, label) -> float:
    """How often the turn of `first` (N, C, h, w) that is most like `second` is `label`, in %."""
    import torch
    from torch.nn.functional import normalize

    from SSLRemoteSensing.models.heads import TURNS

    if first.shape[1] > 1:
        first, second = normalize(first, dim=1), normalize(second, dim=1)
    else:  # of one channel a cell has no direction; the image has
        first, second = (normalize(x.flatten(1), dim=1).view_as(x) for x in (first, second))
    alike = torch.stack([(turn(first) * second).sum(dim=(1, 2, 3)) for turn in TURNS.values()], 1)
    return 100 * float((alike.argmax(1) == label).float().mean())


if __name__ == "__main__":
    run_command(main)
