"""Pre-train ResNet-18 on the training images of five open data sets, for weights to take.

    make weights

prepares them under runs/ and runs `python train.py --config_file configs/weights_resnet18_cfg.py`.
The recipe of configs/few_labels_pretrain_cfg.py: the exemplar task alone, of places in three maps,
in windows of 32 x 32 pixels. Scenes that docs/results.md tests on take no part.
"""

img_size = 32
jitter = dict(brightness=0.1, contrast=0.1, saturation=0.1)
flips = ("RandomHorizontalFlip", "RandomVerticalFlip")
sites = ("zanzibar", "nepal", "philippines")  # of oam_buildings, 0.15 to 0.6 m a pixel

config = dict(
    name="weights_resnet18",
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
        num_step=3000,
        num_workers=0,
        train_data=dict(
            data_path="runs",
            data_format=(
                "few_labels/mumbai/images/train/*.png",  # 2 m
                "few_labels/sparcs/images/train/*.png",  # 120 m, bands 6, 5, 4
                "few_labels/dubai/images/train/*.png",
                *(f"oam/half/images/{site}_*.png" for site in sites),
                "oam/naip/images/train/*.png",  # 5 m
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
        checkpoints=dict(checkpoints_path="runs/weights/resnet18", save_minutes=10, max_keep=1),
        log=dict(log_path="runs/weights/resnet18/log", log_step=20),
    ),
)
