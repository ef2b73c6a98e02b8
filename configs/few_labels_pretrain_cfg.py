"""Pre-train ResNet-18 on the training tiles of Mumbai, SPARCS and Dubai, without their labels.

    make few_labels    # the tiles
    python train.py --config_file configs/few_labels_pretrain_cfg.py

The exemplar task alone, of places in three maps instead of whole images: windows of 32 x 32 pixels,
128 a batch, turned and flipped as published, cropped to 0.5 to 0.95, colours nearly as they are.
"""

img_size = 32
jitter = dict(brightness=0.1, contrast=0.1, saturation=0.1)
flips = ("RandomHorizontalFlip", "RandomVerticalFlip")

config = dict(
    name="few_labels_pretrain",
    backbone_cfg=dict(name="resnet18", in_channels=3),
    inpainting_head_cfg=None,
    agr_head_cfg=None,
    examplar_head_cfg=dict(name="DenseExamplarHead", block=("block4", "block5", "block6")),
    train_cfg=dict(
        batch_size=128,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        joint_pass=True,
        num_step=1500,
        num_workers=0,
        train_data=dict(
            data_path="runs/few_labels",
            data_format=tuple(
                f"{name}/images/train/*.png" for name in ("mumbai", "sparcs", "dubai")
            ),
            img_size=img_size,
            crop_size=img_size,
            inpainting_transforms_cfg=dict(min_cover_ratio=0.2, max_cover_ratio=1 / 3, **jitter),
            pre_transforms_cfg={name: dict(name=name) for name in (*flips, "Rotate")},
            agr_transforms_cfg=dict(
                transforms_cfg={name: dict(name=name, p=1.0) for name in flips}
                | {f"Rotate_{a}": dict(name="Rotate", angle=a) for a in (0, 90, 180, 270)},
                shortcut_cfg=dict(
                    RandomCrop=dict(name="RandomCrop", crop_ratio_min=0.5, crop_ratio_max=0.95),
                    ColorJitter=dict(name="ColorJitter", **jitter),
                ),
            ),
        ),
        losses=dict(
            ExamplarLoss=dict(name="ExamplarLoss", temperature=0.1, self_similarity="exclude"),
        ),
        optimizer=dict(name="AdamW", lr=0.001, weight_decay=0.0001),
        lr_schedule=dict(name="cosine", warmup_steps=100),
        checkpoints=dict(checkpoints_path="runs/few_labels/pretrain", save_minutes=10, max_keep=1),
        log=dict(log_path="runs/few_labels/pretrain/log", log_step=20),
    ),
)
