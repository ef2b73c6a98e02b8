"""Fine-tune ResNet-18 for buildings on reduced tiles, as docs/measurements/history.md has it.

    python tools/reduce_tiles.py --images data/oam_buildings/images \
        --labels data/oam_buildings/labels --factor 4 --output runs/oam/quarter
    python tools/label_efficiency.py --config_file configs/oam_finetune_resnet18_cfg.py \
        --init random=random ours=runs/oam/pretrain/backbone.pth --output runs/oam/labels

Whole tiles of 256 x 256 pixels, reduced to 64 x 64: a window of 64 of the tiles that
configs/oam_pretrain_resnet18_cfg.py reads is smaller than many a house. Train sites zanzibar,
nepal, philippines (a tenth of their tiles, by hash, for validation); test sites nairobi and
kampala. 135 steps of 8 are one pass over all labels.
"""

tiles = dict(image_path="runs/oam/quarter/images", label_path="runs/oam/quarter/labels")
train_sites = ("zanzibar_*.png", "nepal_*.png", "philippines_*.png")

config = dict(
    name="oam_finetune_resnet18",
    classes=("other", "building"),
    palette=((225, 225, 225), (200, 60, 50)),
    backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
    decoder_cfg=dict(name="Decoder"),
    scoring_cfg=dict(on="tiles", window=64, batch_size=16),
    train_cfg=dict(
        batch_size=8,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        num_step=135,
        num_workers=0,
        train_data=dict(
            **tiles,
            data_format=train_sites,
            hash_range=(0.1, 1.0),
            crop_size=64,
            flips=True,
            turns=True,
            jitter=dict(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05),
        ),
        val_data=dict(**tiles, data_format=train_sites, hash_range=(0.0, 0.1)),
        test_data=dict(**tiles, data_format=("nairobi_*.png", "kampala_*.png")),
        loss=dict(name="CrossEntropyLoss"),
        backbone_lr_factor=1.0,
        optimizer=dict(name="AdamW", lr=0.001, weight_decay=0.01),
        lr_schedule=dict(name="cosine", warmup_steps=16),
        checkpoints=dict(checkpoints_path="runs/oam/finetune", max_keep=1),
        log=dict(log_path="runs/oam/finetune/log", log_step=20),
    ),
)
