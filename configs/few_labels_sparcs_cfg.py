"""Fine-tune ResNet-18 on few labels of 80 scenes of Landsat 8: a third of docs/results.md.

    make few_labels    # the tiles, from data/sparcs
    python tools/label_efficiency.py --config_file configs/few_labels_sparcs_cfg.py \
        --init random=random few_labels=runs/few_labels/pretrain/backbone.pth \
        --init_set few_labels train_cfg.backbone_lr_factor=0.1 \
        --fractions 0.02 0.05 0.1 0.2 1 --seeds 0 1 2 3 4 --output runs/few_labels/grid_sparcs

SPARCS: USGS, doi:10.5066/F7FB5146, public domain; false colour of the bands 6, 5, 4. 50 scenes of
250 x 250 pixels (1000 before) for training, 10 for validation, 20 for test.
"""

data = "runs/few_labels/sparcs"

config = dict(
    name="few_labels_sparcs",
    classes=("shadow", "shadow_on_water", "water", "snow", "land", "cloud", "flooded"),
    palette=(
        (60, 60, 60),
        (30, 40, 90),
        (60, 110, 200),
        (150, 230, 240),
        (190, 170, 120),
        (250, 250, 250),
        (90, 160, 150),
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
        checkpoints=dict(checkpoints_path="runs/few_labels/finetune_sparcs", max_keep=1),
        log=dict(log_path="runs/few_labels/finetune_sparcs/log", log_step=20),
    ),
)
