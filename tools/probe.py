"""What a straight line reads off a backbone: the linear probe of pre-training, for any weights.

    python tools/probe.py --config_file C --backbone runs/pretrain/backbone.pth
    python tools/probe.py --config_file C --backbone random --draws 5
    python tools/probe.py --config_file C --backbone FILE --set train_cfg.probe.path=data/potsdam

C is a config of train.py with `train_cfg.probe`, which says what is fitted on and what is scored;
docs/evaluation.md explains it. A file brings its architecture, random and imagenet take that of
backbone_cfg. Figures are comparable where tiles, pixels and classes are the same. With few tiles
much is the luck of the draw: `--draws 5` takes the probe's seed and the four after it, for random
weights new weights as well, and gives the mean and its 95 % interval. `--blocks block6` reads one
depth alone.
"""

import time
from argparse import ArgumentParser

from SSLRemoteSensing.core.cli import config_parser, parse, read_config
from SSLRemoteSensing.core.errors import UserError, run_command


def flags() -> ArgumentParser:
    flags = config_parser(__doc__)
    add = flags.add_argument
    add("--backbone", required=True, metavar="random|imagenet|FILE", help="the weights to probe")
    add("--seed", type=int, default=0, metavar="N", help="of random weights")
    add("--draws", type=int, default=1, metavar="N", help="draws of tiles, each scored by itself")
    add("--blocks", nargs="+", metavar="MAP", help="read these maps alone, such as block2 block3")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--precision", default="fp32", choices=("auto", "fp32", "bf16"), help="of the features")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.machine import choose_device, choose_precision
    from SSLRemoteSensing.evaluation.linear_probe import SomeMaps, read_probe
    from SSLRemoteSensing.reports.html import percent
    from SSLRemoteSensing.workflows.pretraining import check_pretext

    config = read_config(args)
    check_pretext(config)
    cfg = config["train_cfg"].get("probe")
    if cfg is None:
        raise UserError(
            "train_cfg.probe: is missing in the config; set train_cfg.probe.path=FOLDER, of a "
            "prepared set, or image_path, label_path and classes"
        )
    if args.draws < 1:
        raise UserError(f"--draws {args.draws}: must be at least 1")
    device = choose_device(args.device, "--device ")
    precision = choose_precision(args.precision, device, "--precision ")
    img_size = config["train_cfg"]["train_data"]["img_size"]
    draws = []
    for draw in range(args.draws):
        if draw == 0 or args.backbone == "random":
            backbone = open_backbone(config["backbone_cfg"], args.backbone, args.seed + draw)
            if args.blocks:
                try:
                    backbone = SomeMaps(backbone, args.blocks)
                except UserError as error:
                    raise UserError(f"--blocks: {error}") from error
        probe = read_probe(cfg | {"seed": cfg.get("seed", 0) + draw}, backbone, img_size)
        begun = time.perf_counter()
        found = probe.score(backbone.to(device), precision)
        if args.draws == 1:
            print(f"{'class':<24}{'IoU':>8}{'F1':>8}{'pixels':>12}")
            for name, one in found["per_class"].items():
                scores = f"{percent(one['iou']):>8}{percent(one['f1']):>8}"
                print(f"{name:<24}{scores}{one['pixels']:>12,}")
        told = f"mIoU {percent(found['miou'])}, OA {percent(found['oa'])}, in %"
        print(f"{told}; {time.perf_counter() - begun:.1f} s", flush=True)
        draws.append(found)
    if args.draws > 1:
        print("\n".join(over_draws(draws)))


def over_draws(draws: list[dict]) -> list[str]:
    """Mean and 95 % interval of each score that all draws have."""
    from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS, estimate_interval

    lines = [f"mean of {len(draws)} draws and half its 95 % interval, in %:"]
    for key, name in METRICS.items():
        values = [found[key] for found in draws]
        if None not in values:
            found = estimate_interval([100 * value for value in values])
            lines.append(f"{name:<24}{found.mean:>8.2f} ± {found.half:.2f}")
    return lines


def open_backbone(backbone_cfg: dict, weights: str, seed: int):
    import torch

    from SSLRemoteSensing.core.config import build
    from SSLRemoteSensing.models.pretrained import BACKBONES, load_backbone

    if weights not in ("random", "imagenet"):
        found = load_backbone(None, weights)
        print(found["summary"])
        return found["model"]
    torch.manual_seed(seed)
    cfg = backbone_cfg | {"pretrained": weights == "imagenet"}
    return build(BACKBONES, cfg, "backbone_cfg")


if __name__ == "__main__":
    run_command(main)
