"""The linear probe of any weights, over one or several draws of tiles, and what came of it."""

import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from SSLRemoteSensing.core.cli import WEIGHTS
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import about
from SSLRemoteSensing.evaluation.linear_probe import read_probe
from SSLRemoteSensing.models.pretrained import BACKBONES, load_backbone
from SSLRemoteSensing.reports.html import percent
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS, estimate_interval
from SSLRemoteSensing.workflows.pretraining import train_reading
from SSLRemoteSensing.workflows.settled_scale import settle_scale


def score_draws(
    config: dict,
    weights: str,
    weights_seed: int,
    blocks: Sequence[str] | None,
    draws: int,
    device: torch.device,
    precision: str,
) -> Iterator[tuple[dict, str]]:
    """The scores of each draw of `train_cfg.probe`, whose seeds follow its own, and a line of them.

    Args:
        weights: 'random', 'imagenet', or a file, which brings its architecture.
        weights_seed: of random weights; each draw takes the next.
        blocks: the maps that are read alone, None for all.

    Raises:
        UserError: weights that cannot be loaded, maps or tiles that cannot be used.
    """
    cfg, data = config["train_cfg"]["probe"], config["train_cfg"]["train_data"]
    backbone_cfg, is_file = config["backbone_cfg"], weights not in WEIGHTS
    begun = config | {"backbone_cfg": backbone_cfg | {"pretrained": is_file and weights}}
    channels = backbone_cfg.get("in_channels", 3)
    train = train_reading(settle_scale(begun, channels)["train_cfg"]["train_data"], channels)
    for draw in range(draws):
        if draw == 0 or weights == "random":
            seed = weights_seed + draw
            backbone = open_backbone(config["backbone_cfg"], weights, seed).to(device)
        cfg_of_draw = cfg | {"seed": cfg.get("seed", 0) + draw}
        probe = read_probe(cfg_of_draw, backbone, data["img_size"], train)
        start = time.perf_counter()
        with about("--blocks"):
            scores = probe.score(backbone, precision, blocks=blocks)
        summary = f"mIoU {percent(scores['miou'])}, OA {percent(scores['oa'])}, in %"
        yield scores, f"{summary}; {time.perf_counter() - start:.1f} s"


def open_backbone(backbone_cfg: dict, weights: str, seed: int) -> nn.Module:
    """The backbone with 'random' or 'imagenet' weights, or those of a file, which says so."""
    if weights not in WEIGHTS:
        checkpoint = load_backbone(None, weights)
        print(checkpoint["summary"])
        return checkpoint["model"]
    torch.manual_seed(seed)
    cfg = backbone_cfg | {"pretrained": WEIGHTS[weights]}
    return build(BACKBONES, cfg, "backbone_cfg")


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
            lines.append(f"{name:<24}{estimate_interval(values):.2f}")
    return lines
