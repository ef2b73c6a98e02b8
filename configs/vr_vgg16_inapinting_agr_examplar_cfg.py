"""The published run with VGG16-BN: Li, Chen, Shi, IEEE JSTARS 14, 2021.

https://doi.org/10.1109/JSTARS.2021.3090418

    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \
        --set train_cfg.train_data.data_path=FOLDER

13 epochs of batch 4 in fp32, Adam 5e-4; 27,315,529 parameters. Of the keys, `num_classes=None` and
`img_size` of the head did nothing in the published code and are dropped.
"""

img_size = 256
jitter = dict(brightness=0.3, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.3, 0.3))

config = dict(
    name="VRNetsWithInpaintingAGRExamplar",
    backbone_cfg=dict(
        name="vgg16_bn",
        num_classes=None,
        in_channels=3,
        pretrained=False,
        out_keys=("block2", "block3", "block4", "block5", "block6"),
    ),
    inpainting_head_cfg=dict(
        name="InpaintingHead",
        in_channels=512,
        out_channels=3,
        img_size=img_size,
        feat_channels=(512, 256, 128, 64, 32),
    ),
    agr_head_cfg=dict(name="AGPHead", in_channels=512, num_classes=6),
    examplar_head_cfg=dict(name="ExamplarHead", in_channels=512, out_channels=512),
    train_cfg=dict(
        batch_size=4,  # of each process under torchrun
        device="cuda:0",
        num_epoch=13,
        num_workers=4,
        train_data=dict(
            data_path="../dataset/train_data",
            data_format="*.jpg",
            img_size=img_size,
            inpainting_transforms_cfg=dict(min_cover_ratio=0.2, max_cover_ratio=1 / 3, **jitter),
            pre_transforms_cfg=dict(
                RandomHorizontalFlip=dict(name="RandomHorizontalFlip"),
                RandomVerticalFlip=dict(name="RandomVerticalFlip"),
                Rotate=dict(name="Rotate"),
            ),
            agr_transforms_cfg=dict(
                transforms_cfg=dict(
                    RandomHorizontalFlip=dict(name="RandomHorizontalFlip", p=1.0),
                    RandomVerticalFlip=dict(name="RandomVerticalFlip", p=1.0),
                    Rotate_0=dict(name="Rotate", angle=0, p=1),
                    Rotate_90=dict(name="Rotate", angle=90, p=1),
                    Rotate_180=dict(name="Rotate", angle=180, p=1),
                    Rotate_270=dict(name="Rotate", angle=270, p=1),
                ),
                shortcut_cfg=dict(
                    RandomCrop=dict(name="RandomCrop", crop_ratio_min=0.7, crop_ratio_max=0.95),
                    ColorJitter=dict(name="ColorJitter", **jitter),
                    RandomGrayscale=dict(name="RandomGrayscale", p=0.5),
                ),
            ),
            post_transforms_cfg=dict(
                Resize=dict(name="Resize", size=(img_size, img_size)),
                ToTensor=dict(name="ToTensor"),
            ),
        ),
        losses=dict(
            InpaintingLoss=dict(name="InpaintingLoss"),
            AGRLoss=dict(name="CrossEntropyLoss"),
            ExamplarLoss=dict(name="ExamplarLoss"),
            factors=[20, 1, 1],
        ),
        optimizer=dict(name="Adam", lr=0.0005),
        checkpoints=dict(
            checkpoints_path="checkpoints/vr_vgg16_inapinting_agr_examplar", save_step=1
        ),
        lr_schedule=dict(name="stepLR", step_size=2, gamma=0.95),
        log=dict(
            log_path="log/vr_vgg16_inapinting_agr_examplar",
            log_step=50,
            with_vis=False,
            vis_path="",
        ),
    ),
)
