"""Pre-train a backbone on images without labels.

    python train.py --config_file configs/demo_oam_pretrain_resnet18_cfg.py --dry_run
    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.device=auto train_cfg.batch_size=64 \\
        --checkpoints_path runs/mine --log_path runs/mine/log
    torchrun --nproc_per_node=8 train.py \\
        --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.device=auto train_cfg.global_batch_size=256

The same command again goes on where a run was stopped. Results: `backbone.pth` and its card
`backbone.json` in the checkpoints_path, TensorBoard events and `metrics.jsonl` in the log_path.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from SSLRemoteSensing.core.cli import fine_tuning_config, parse, parser, read_config
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.machine import versions
from SSLRemoteSensing.training.run import write_run_card


def flags() -> ArgumentParser:
    flags = parser(__doc__)
    flags.add_argument(
        "--with_imagenet",
        choices=("true", "false"),
        help="begin from ImageNet's weights or not, in place of backbone_cfg.pretrained",
    )
    return flags


def main() -> None:
    args = parse(flags())
    # Only now, as in `run`: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes

    with processes():
        run(args)


def run(args: Namespace) -> None:
    import torch

    from SSLRemoteSensing import build_pretext
    from SSLRemoteSensing.core import checkpoints
    from SSLRemoteSensing.data.prepared import origin_of_tiles, read_card
    from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
    from SSLRemoteSensing.evaluation.linear_probe import open_probe
    from SSLRemoteSensing.training.engine import fit
    from SSLRemoteSensing.training.settings import divide_batch
    from SSLRemoteSensing.workflows.monitor import Watch
    from SSLRemoteSensing.workflows.pretraining import check_pretext

    config = read_config(args)
    if args.with_imagenet is not None and isinstance(config.get("backbone_cfg"), dict):
        config["backbone_cfg"]["pretrained"] = args.with_imagenet == "true"
    check_pretext(config)

    train_cfg = divide_batch(config["train_cfg"])
    for key in ("losses", "joint_pass"):  # the network has them
        train_cfg.pop(key, None)
    seed = train_cfg.get("seed", 0)
    torch.manual_seed(seed)
    model = build_pretext(config)
    backbone, data = model.backbone, train_cfg.pop("train_data")
    probe = train_cfg.pop("probe", None)
    try:
        dataset = PretextDataset(PretextSettings(**data), backbone.in_channels, seed)
        prepared = read_card(data["data_path"])
        origin = origin_of_tiles(prepared, data.get("bands"), backbone.in_channels)
    except UserError as error:
        raise UserError(f"train_cfg.train_data: {error}") from error
    measure = None
    if probe is not None:
        measure = open_probe(probe, backbone, train_cfg, data["img_size"])
    origin["bands"] = origin["bands"] or list(range(1, backbone.in_channels + 1))
    card = backbone.card() | {
        **origin,
        "max_value": dataset.max_value,
        "img_size": data["img_size"],
        "config": config,
        "versions": versions(),
    }
    if args.dry_run:
        fit(model, dataset, collate, **train_cfg, dry_run=True)
        return

    folder = Path(train_cfg["checkpoints"]["checkpoints_path"])

    def export(step: int, epoch: int, images: int) -> None:
        place = {"epoch": epoch, "step": step, "images_seen": images}
        checkpoints.export_backbone(folder, backbone.state_dict(), card | place)

    def start() -> None:
        write_run_card(config)

    transforms = data["agr_transforms_cfg"]["transforms_cfg"]
    watch = Watch(model, dataset, collate, train_cfg["batch_size"], list(transforms))
    fit(
        model,
        dataset,
        collate,
        **train_cfg,
        start=start,
        export=export,
        watch=watch.entry,
        look=watch.look,
        measure=measure,
        card=card,
    )
    log = Path(config["train_cfg"]["log"]["log_path"])
    backbone_file = folder / "backbone.pth"
    target = fine_tuning_config(args.config_file)
    print_summary(
        {
            "backbone": backbone_file,
            "card": folder / "backbone.json",
            "figures": log / "metrics.jsonl",
            "curves": f"tensorboard --logdir {log}",
        },
        [command_line("finetune_seg.py", "--config_file", target, "--backbone", backbone_file)],
    )


if __name__ == "__main__":
    run_command(main)
