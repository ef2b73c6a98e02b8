"""The networks of timm that tests are run on: the smallest of each family."""

MODELS = [
    "convnext_atto",
    "densenet121",
    "efficientnet_b0",
    "fastvit_t8",
    "hrnet_w18_small",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "pvt_v2_b0",
    "regnetx_002",
    "resnest14d",
    "resnet10t",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "eva02_tiny_patch14_224",
]
