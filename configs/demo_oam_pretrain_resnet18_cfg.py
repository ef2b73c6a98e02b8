"""Pre-train ResNet-18 on a folder of aerial tiles, minutes on two CPU cores.

    python train.py --config_file configs/demo_oam_pretrain_resnet18_cfg.py \
        --set train_cfg.train_data.data_path=FOLDER

The published method at 128 x 128 pixels (random windows of the tiles), batch 16. What came of it on
real tiles stands in docs/measurements/history.md.
"""

img_size = 128
jitter = dict(brightness=0.3, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.3, 0.3))
flips = ("RandomHorizontalFlip", "RandomVerticalFlip")

config = dict(
    name="demo_oam_pretrain_resnet18",
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
        num_epoch=6,
        num_workers=1,
        train_data=dict(
            data_path="data/oam_buildings/images",
            # The training sites of the data set; those it is tested on are left out.
            data_format=("zanzibar_*.jpg", "nepal_*.jpg", "philippines_*.jpg"),
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
        # With labels of some tiles, mIoU of a linear classifier on the backbone after each epoch:
        # probe=dict(
        #     image_path="data/oam_buildings/images",
        #     label_path="data/oam_buildings/labels",
        #     classes=("other", "building"),
        #     data_format=("zanzibar_*.jpg", "nepal_*.jpg", "philippines_*.jpg"),
        # ),
        losses=dict(
            InpaintingLoss=dict(name="InpaintingLoss"),
            AGRLoss=dict(name="CrossEntropyLoss"),
            ExamplarLoss=dict(name="ExamplarLoss"),
            factors=(20, 1, 1),
        ),
        optimizer=dict(name="Adam", lr=0.0005),
        lr_schedule=dict(name="stepLR", step_size=2, gamma=0.95),
        checkpoints=dict(
            checkpoints_path="runs/demo_oam_pretrain_resnet18", save_step=1, max_keep=1
        ),
        log=dict(log_path="runs/demo_oam_pretrain_resnet18/log", log_step=20, vis_step=200),
    ),
)
