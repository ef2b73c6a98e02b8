"""Pre-train a backbone on images without labels.

    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py
    python train.py --config_file C --set train_cfg.device=auto train_cfg.batch_size=64
    python train.py --config_file C --dry_run
    torchrun --nproc_per_node=8 train.py --config_file C --set train_cfg.global_batch_size=256

The same command again goes on where a run was stopped. Results: `backbone.pth` and its card
`backbone.json` in the checkpoints_path, TensorBoard events and `metrics.jsonl` in the log_path.
"""

from pathlib import Path

import torch

from SSLRemoteSensing import build_pretext, checkpoint
from SSLRemoteSensing.command import parser, settings, versions, write_run_card
from SSLRemoteSensing.datasets.opening import origin_of_tiles, read_card
from SSLRemoteSensing.datasets.pretext import PretextDataset, collate
from SSLRemoteSensing.distributed import divide_batch, processes
from SSLRemoteSensing.engine import fit
from SSLRemoteSensing.errors import UserError, run_command
from SSLRemoteSensing.probe import open_probe
from SSLRemoteSensing.schema import check_pretext


@processes()
def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--with_imagenet", choices=("true", "false"), help="in place of backbone_cfg.pretrained"
    )
    args = flags.parse_args()
    config = settings(args)
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
        dataset = PretextDataset(**data, in_channels=backbone.in_channels, seed=seed)
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
        checkpoint.export_backbone(folder, backbone.state_dict(), card | place)

    def start() -> None:
        write_run_card(config)

    fit(
        model,
        dataset,
        collate,
        **train_cfg,
        start=start,
        export=export,
        watch=model.watch,
        measure=measure,
        card=card,
    )
    print(f"backbone: {folder / 'backbone.pth'}, its card {folder / 'backbone.json'}")
    print(f"next: python finetune_seg.py --config_file CONFIG --backbone {folder / 'backbone.pth'}")


if __name__ == "__main__":
    run_command(main)
