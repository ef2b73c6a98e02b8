"""Fine-tune ResNet-18 on a tenth of the labels of drawn scenes; a part of `make demo`.

    python finetune_seg.py --config_file configs/demo_town_finetune_resnet18_cfg.py \
        --backbone runs/demo/pretrain/backbone.pth

The scenes are those of tools/make_demo_scenes.py, prepared as for
configs/demo_town_pretrain_resnet18_cfg.py.
"""

data = "runs/demo/tiles"

config = dict(
    name="demo_town_finetune_resnet18",
    classes=("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
    palette=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
    decoder_cfg=dict(name="Decoder"),
    scoring_cfg=dict(window=256, overlap=0.25),
    train_cfg=dict(
        batch_size=8,  # of each process under torchrun
        device="auto",
        precision="auto",
        channels_last=True,
        num_step=78,
        num_workers=1,
        train_data=dict(
            image_path=f"{data}/images/train",
            label_path=f"{data}/labels/train",
            fraction=0.1,
            fraction_seed=0,
            crop_size=128,
            flips=True,
            turns=True,
            jitter=dict(brightness=0.2, contrast=0.2, saturation=0.2),
        ),
        val_data=dict(image_path=f"{data}/images/val", label_path=f"{data}/labels/val"),
        test_data=dict(image_path=f"{data}/images/test", label_path=f"{data}/labels/test"),
        loss=dict(name="CrossEntropyLoss"),
        backbone_lr_factor=1.0,
        optimizer=dict(name="AdamW", lr=0.001, weight_decay=0.01),
        lr_schedule=dict(name="cosine", warmup_steps=20),
        checkpoints=dict(checkpoints_path="runs/demo/finetune", save_step=3, max_keep=1),
        log=dict(log_path="runs/demo/finetune/log", log_step=10),
    ),
)
