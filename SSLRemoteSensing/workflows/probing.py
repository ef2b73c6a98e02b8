"""The linear probe of any weights, over one or several draws of tiles, and what came of it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.evaluation.linear_probe import SomeMaps, read_probe
from SSLRemoteSensing.models.pretrained import BACKBONES, load_backbone
from SSLRemoteSensing.reports.html import percent
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS, estimate_interval


@dataclass(frozen=True)
class Weights:
    """What is probed.

    Attributes:
        name: 'random', 'imagenet', or a file, which brings its architecture.
        seed: of random weights; each draw takes the next.
        blocks: the maps that are read alone, None for all.
    """

    name: str
    seed: int = 0
    blocks: Sequence[str] | None = None


def score_draws(
    config: dict, weights: Weights, draws: int, device: torch.device, precision: str
) -> Iterator[tuple[dict, str]]:
    """The scores of each draw of `train_cfg.probe`, whose seeds follow its own, and a line of them.

    Raises:
        UserError: weights that cannot be loaded, maps that there are not, tiles that cannot be
            used.
    """
    cfg, img_size = config["train_cfg"]["probe"], config["train_cfg"]["train_data"]["img_size"]
    for draw in range(draws):
        if draw == 0 or weights.name == "random":
            backbone = open_backbone(config["backbone_cfg"], weights, weights.seed + draw)
        probe = read_probe(cfg | {"seed": cfg.get("seed", 0) + draw}, backbone, img_size)
        begun = time.perf_counter()
        scores = probe.score(backbone.to(device), precision)
        summary = f"mIoU {percent(scores['miou'])}, OA {percent(scores['oa'])}, in %"
        yield scores, f"{summary}; {time.perf_counter() - begun:.1f} s"


def open_backbone(backbone_cfg: dict, weights: Weights, seed: int) -> nn.Module:
    """The backbone with its weights; those of a file are said to be loaded."""
    if weights.name in ("random", "imagenet"):
        torch.manual_seed(seed)
        cfg = backbone_cfg | {"pretrained": weights.name == "imagenet"}
        backbone = build(BACKBONES, cfg, "backbone_cfg")
    else:
        loaded = load_backbone(None, weights.name)
        print(loaded["summary"])
        backbone = loaded["model"]
    if not weights.blocks:
        return backbone
    try:
        return SomeMaps(backbone, weights.blocks)
    except UserError as error:
        raise UserError(f"--blocks: {error}") from error


def lines_of_classes(scores: dict) -> list[str]:
    """A table of the classes, a line each."""
    lines = [f"{'class':<24}{'IoU':>8}{'F1':>8}{'pixels':>12}"]
    for name, entry in scores["per_class"].items():
        figures = f"{percent(entry['iou']):>8}{percent(entry['f1']):>8}"
        lines.append(f"{name:<24}{figures}{entry['pixels']:>12,}")
    return lines


def lines_of_draws(draws: Sequence[dict]) -> list[str]:
    """Mean and 95 % interval of each score that all draws have."""
    lines = [f"mean of {len(draws)} draws and half its 95 % interval, in %:"]
    for key, name in METRICS.items():
        values = [scores[key] for scores in draws]
        if None not in values:
            interval = estimate_interval([100 * value for value in values])
            lines.append(f"{name:<24}{interval.mean:>8.2f} ± {interval.half:.2f}")
    return lines
