"""Fine-tune ResNet-50 on ISPRS Potsdam, 6 classes.

Expected: not measured yet. For orientation, DeepLabV3+ R50 (80k iterations at 512 pixels) has a
published mIoU of 78.33 on the test scenes, 6 classes, full labels.

    python tools/prepare.py potsdam --source FOLDER_OR_ZIPS --output data/potsdam --labels both
    python finetune_seg.py --config_file configs/seg_potsdam_resnet50_cfg.py \
        --backbone checkpoints/vr_resnet50_inapinting_agr_examplar/backbone.pth
"""

data = "data/potsdam"

config = dict(
    name="seg_potsdam_resnet50",
    classes=("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
    palette=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    backbone_cfg=dict(name="resnet50", in_channels=3, pretrained=False),
    decoder_cfg=dict(name="Decoder"),
    scoring_cfg=dict(on="scenes", window=512, overlap=0.5, tta=False),
    train_cfg=dict(
        batch_size=16,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        num_epoch=30,
        num_workers=8,
        train_data=dict(
            image_path=f"{data}/images/train",
            label_path=f"{data}/labels/train",
            fraction=1.0,  # of the labels; an epoch has as many steps at any fraction
            fraction_seed=0,
            crop_size=256,
            flips=True,
            turns=True,
            jitter=dict(brightness=0.2, contrast=0.2, saturation=0.2),
        ),
        val_data=dict(image_path=f"{data}/images/val", label_path=f"{data}/labels/val"),
        # Scored once, at the end. Where the test scenes came without labels: test_data=None.
        test_data=dict(image_path=f"{data}/images/test", label_path=f"{data}/labels/test"),
        loss=dict(name="CrossEntropyLoss"),
        backbone_lr_factor=1.0,
        optimizer=dict(name="AdamW", lr=0.0005, weight_decay=0.01),
        lr_schedule=dict(name="cosine", warmup_steps=500),
        checkpoints=dict(checkpoints_path="checkpoints/seg_potsdam_resnet50", max_keep=1),
        log=dict(log_path="log/seg_potsdam_resnet50", log_step=50),
    ),
)
