"""Pre-train VGG16-BN with other settings than the published ones.

    python train.py --config_file configs/vr_vgg16_modern_cfg.py \
        --set train_cfg.train_data.data_path=FOLDER

Against configs/vr_vgg16_inapinting_agr_examplar_cfg.py: MatchingHead for the transform prediction,
the exemplar loss at temperature 0.2, without the own entry and with a weight of 0.1 for 1, batches
of 32 in a joint pass, Adam 1e-3 with a cosine, bf16 where the hardware has it.

Not measured with VGG16-BN, nor at 256 pixels. With frozen ResNet-18 at 64 pixels the same changes
are better than random weights on training sites; on test sites no gain is shown. Figures stand in
configs/oam_pretrain_resnet18_modern_cfg.py.
"""

img_size = 256
jitter = dict(brightness=0.3, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.3, 0.3))
flips = ("RandomHorizontalFlip", "RandomVerticalFlip")

config = dict(
    name="VRNetsWithInpaintingAGRExamplar",
    backbone_cfg=dict(
        name="vgg16_bn", in_channels=3, out_keys=("block2", "block3", "block4", "block5", "block6")
    ),
    inpainting_head_cfg=dict(
        name="InpaintingHead",
        in_channels=512,
        out_channels=3,
        feat_channels=(512, 256, 128, 64, 32),
    ),
    agr_head_cfg=dict(name="MatchingHead", num_classes=6),
    examplar_head_cfg=dict(name="ExamplarHead", in_channels=512, out_channels=512),
    train_cfg=dict(
        batch_size=32,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        joint_pass=True,
        num_epoch=13,
        num_workers=4,
        train_data=dict(
            data_path="../dataset/train_data",
            data_format=("**/*.jpg", "**/*.png", "**/*.tif"),
            img_size=img_size,
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
            ExamplarLoss=dict(name="ExamplarLoss", temperature=0.2, self_similarity="exclude"),
            factors=(20, 1, 0.1),
        ),
        optimizer=dict(name="Adam", lr=0.001),
        checkpoints=dict(checkpoints_path="checkpoints/vr_vgg16_modern", save_step=1, max_keep=1),
        lr_schedule=dict(name="cosine", warmup_steps=200),
        log=dict(log_path="log/vr_vgg16_modern", log_step=50),
    ),
)
