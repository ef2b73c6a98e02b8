"""Fine-tune ResNet-18 on few labels of Mumbai (Pleiades, 0.5 m): a third of docs/results.md.

    make few_labels    # the tiles, from data/mumbai
    python tools/label_efficiency.py --config_file configs/few_labels_mumbai_cfg.py \
        --init random=random few_labels=runs/few_labels/pretrain/backbone.pth \
        --init_set few_labels train_cfg.backbone_lr_factor=0.1 \
        --fractions 0.02 0.05 0.1 0.2 1 --seeds 0 1 2 3 4 --output runs/few_labels/grid_mumbai

Mumbai: Dabra and Upadhyay, doi:10.17632/xj2v49zt26.1, CC BY 4.0. 77 scenes of about 150 x 150
pixels (598 before) for training, 16 for validation, 17 for test.
"""

data = "runs/few_labels/mumbai"

config = dict(
    name="few_labels_mumbai",
    classes=("informal", "built", "impervious", "vegetation", "barren", "water"),
    palette=(
        (170, 60, 60),
        (230, 150, 60),
        (150, 150, 150),
        (60, 150, 60),
        (220, 200, 150),
        (60, 110, 200),
    ),
    backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
    decoder_cfg=dict(name="Decoder"),
    scoring_cfg=dict(window=64, overlap=0.25, batch_size=32),
    train_cfg=dict(
        batch_size=8,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        num_step=200,
        num_workers=0,
        train_data=dict(
            image_path=f"{data}/images/train",
            label_path=f"{data}/labels/train",
            crop_size=64,
            flips=True,
            turns=True,
            jitter=dict(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05),
        ),
        val_data=dict(image_path=f"{data}/images/val", label_path=f"{data}/labels/val"),
        test_data=dict(image_path=f"{data}/images/test", label_path=f"{data}/labels/test"),
        loss=dict(name="CrossEntropyLoss"),
        backbone_lr_factor=1.0,
        optimizer=dict(name="AdamW", lr=0.001, weight_decay=0.01),
        lr_schedule=dict(name="cosine", warmup_steps=20),
        checkpoints=dict(checkpoints_path="runs/few_labels/finetune_mumbai", max_keep=1),
        log=dict(log_path="runs/few_labels/finetune_mumbai/log", log_step=20),
    ),
)
