"""Pre-train ResNet-18 on reduced aerial tiles, as docs/measurements/history.md has it.

    python tools/reduce_tiles.py --images data/oam_buildings/images \
        --labels data/oam_buildings/labels --factor 2 --output runs/oam/half
    python tools/prepare.py folder --source data/naip --output runs/oam/naip --tile 128 \
        --bands rgb --splits val=0
    python train.py --config_file configs/oam_pretrain_resnet18_cfg.py

The published settings but for the size, batches of 16 (published: 4, which is slower on a CPU) and,
where the hardware has it, bf16: ResNet-18, windows of 64 x 64 pixels of tiles that are reduced by
two, as much as a CPU does in half an hour. Images of the training sites and naip, no labels.
"""

img_size = 64
jitter = dict(brightness=0.3, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.3, 0.3))
flips = ("RandomHorizontalFlip", "RandomVerticalFlip")
train_sites = ("zanzibar", "nepal", "philippines")

config = dict(
    name="oam_pretrain_resnet18",
    backbone_cfg=dict(name="resnet18", in_channels=3),
    inpainting_head_cfg=dict(
        name="InpaintingHead", in_channels=512, out_channels=3, feat_channels=(256, 128, 64, 64, 32)
    ),
    agr_head_cfg=dict(name="AGPHead", in_channels=512, num_classes=6),
    examplar_head_cfg=dict(name="ExamplarHead", in_channels=512, out_channels=512),
    train_cfg=dict(
        batch_size=16,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        num_epoch=13,
        num_workers=0,
        train_data=dict(
            data_path="runs/oam",
            data_format=(
                *(f"half/images/{site}_*.png" for site in train_sites),
                "naip/images/train/*.png",
            ),
            img_size=img_size,
            crop_size=img_size,
            inpainting_transforms_cfg=dict(min_cover_ratio=0.2, max_cover_ratio=1 / 3, **jitter),
            pre_transforms_cfg={name: dict(name=name) for name in (*flips, "Rotate")},
            agr_transforms_cfg=dict(
                transforms_cfg={name: dict(name=name, p=1.0) for name in flips}
                | {f"Rotate_{a}": dict(name="Rotate", angle=a) for a in (0, 90, 180, 270)},
                shortcut_cfg=dict(
                    RandomCrop=dict(name="RandomCrop", crop_ratio_min=0.7, crop_ratio_max=0.95),
                    ColorJitter=dict(name="ColorJitter", **jitter),
                    RandomGrayscale=dict(name="RandomGrayscale", p=0.5),
                ),
            ),
        ),
        losses=dict(
            InpaintingLoss=dict(name="InpaintingLoss"),
            AGRLoss=dict(name="CrossEntropyLoss"),
            ExamplarLoss=dict(name="ExamplarLoss"),
            factors=(20, 1, 1),
        ),
        optimizer=dict(name="Adam", lr=0.0005),
        lr_schedule=dict(name="stepLR", step_size=2, gamma=0.95),
        checkpoints=dict(
            checkpoints_path="runs/oam/pretrain", save_step=100, save_minutes=5, max_keep=1
        ),
        log=dict(log_path="runs/oam/pretrain/log", log_step=100, vis_step=100000),
    ),
)
