"""Fine-tune VGG16-BN on Levir_CS, clouds and snow in Gaofen-1 WFV scenes.

Expected: not measured yet, and no published figure of this method is known to us. Tiles have red,
green, blue, near infrared in 10 bits: 1023 becomes 1, higher values are clipped.

    python tools/prepare.py levir_cs --source FOLDER_OR_ZIPS --output data/levir_cs
    python finetune_seg.py --config_file configs/seg_levir_cs_vgg16_cfg.py \
        --backbone checkpoints/vr_vgg16_inapinting_agr_examplar/backbone.pth

Such weights of three bands widen to four: near infrared starts from the mean of the three. Or
pre-train on the four bands, and give that backbone.pth:

    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \
        --checkpoints_path checkpoints/vr_vgg16_levir_cs --log_path log/vr_vgg16_levir_cs \
        --set backbone_cfg.in_channels=4 inpainting_head_cfg.out_channels=4 \
              train_cfg.train_data.data_path=data/levir_cs/images/train \
              train_cfg.train_data.data_format='*.tif' train_cfg.train_data.max_value=1023
"""

data = "data/levir_cs"
scale = 1023

config = dict(
    name="seg_levir_cs_vgg16",
    classes=("background", "cloud", "snow"),
    palette=((90, 130, 80), (255, 255, 255), (0, 190, 255)),
    backbone_cfg=dict(name="vgg16_bn", in_channels=4, pretrained=False),
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
            max_value=scale,
            fraction=1.0,  # of the labels; an epoch has as many steps at any fraction
            fraction_seed=0,
            crop_size=256,
            flips=True,
            turns=True,
            jitter=dict(brightness=0.2, contrast=0.2),
        ),
        val_data=dict(
            image_path=f"{data}/images/val", label_path=f"{data}/labels/val", max_value=scale
        ),
        # Scored once, at the end. Where the test scenes came without labels: test_data=None.
        test_data=dict(
            image_path=f"{data}/images/test", label_path=f"{data}/labels/test", max_value=scale
        ),
        loss=dict(name="CrossEntropyLoss"),
        backbone_lr_factor=1.0,
        optimizer=dict(name="AdamW", lr=0.0005, weight_decay=0.01),
        lr_schedule=dict(name="cosine", warmup_steps=500),
        checkpoints=dict(checkpoints_path="checkpoints/seg_levir_cs_vgg16", max_keep=1),
        log=dict(log_path="log/seg_levir_cs_vgg16", log_step=50),
    ),
)
