"""Fine-tune ResNet-18 for buildings on the oam_buildings tiles, minutes on two CPU cores.

    python finetune_seg.py --config_file configs/demo_oam_finetune_resnet18_cfg.py \
        --backbone runs/demo_oam_pretrain_resnet18/backbone.pth

Train sites zanzibar, nepal, philippines (a tenth of their tiles, by hash, for validation); test
sites nairobi and kampala, never seen before. What came of it:
docs/measurements/history.md.
"""

tiles = dict(image_path="data/oam_buildings/images", label_path="data/oam_buildings/labels")
train_sites = ("zanzibar_*.jpg", "nepal_*.jpg", "philippines_*.jpg")

config = dict(
    name="demo_oam_finetune_resnet18",
    classes=("other", "building"),
    palette=((225, 225, 225), (200, 60, 50)),
    backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
    decoder_cfg=dict(name="Decoder"),
    train_cfg=dict(
        batch_size=16,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        num_step=200,
        num_workers=1,
        train_data=dict(
            **tiles,
            data_format=train_sites,
            hash_range=(0.1, 1.0),
            crop_size=128,
            flips=True,
            turns=True,
            jitter=dict(brightness=0.2, contrast=0.2, saturation=0.2),
        ),
        val_data=dict(**tiles, data_format=train_sites, hash_range=(0.0, 0.1)),
        test_data=dict(**tiles, data_format=("nairobi_*.jpg", "kampala_*.jpg")),
        loss=dict(name="CrossEntropyLoss"),
        backbone_lr_factor=1.0,
        optimizer=dict(name="AdamW", lr=0.001, weight_decay=0.01),
        lr_schedule=dict(name="cosine", warmup_steps=20),
        checkpoints=dict(checkpoints_path="runs/demo_oam_finetune_resnet18", max_keep=1),
        log=dict(log_path="runs/demo_oam_finetune_resnet18/log", log_step=20),
    ),
)
