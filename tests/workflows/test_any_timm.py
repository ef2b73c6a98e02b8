"""Networks of timm on the whole way: pre-training, fine-tuning, a map, ONNX, and back."""

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from timm_models import MODELS

import SSLRemoteSensing as sslrs
from SSLRemoteSensing.core.checkpoints import read
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.export.source import Request
from SSLRemoteSensing.export.write import write_export
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.workflows.pretraining import open_pretraining
from SSLRemoteSensing.workflows.segmentation import open_finetuning

# Those that neither a trace nor torch.export carries in a time that a test may take.
NO_GRAPH = {"mobilevit_xxs", "eva02_tiny_patch14_224"}

# Of those that take long: fewer and narrower blocks of the same kinds, which go the same way.
SMALLER = {
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
    "resnest14d": {"base_width": 16},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)
    },
    "vit_tiny_patch16_224": {"depth": 4},
}  # fmt: skip


@pytest.fixture
def _smaller(monkeypatch):
    create = timm.create_model

    def create_smaller(model: str, **settings):
        return create(model, **SMALLER.get(model, {}), **settings)

    monkeypatch.setattr(timm, "create_model", create_smaller)


@pytest.mark.usefixtures("_smaller")
@pytest.mark.parametrize("model", [model for model in MODELS if model not in NO_GRAPH])
def test_it_is_pre_trained_fine_tuned_mapped_exported_and_loaded(
    pretext_config, seg_config, tiles, tmp_path, model
):
    cfg = {"name": "timm", "model": model}
    channels = build(BACKBONES, cfg, "backbone_cfg").channels
    config, last = pretext_config | {"backbone_cfg": cfg}, channels["block6"]
    widths = [channels.get(f"block{i}", 8) for i in (5, 4, 3, 2)]
    config["inpainting_head_cfg"] |= {"in_channels": last, "feat_channels": (*widths, 8)}
    config["agr_head_cfg"] |= {"in_channels": last}
    config["examplar_head_cfg"] |= {"in_channels": last, "out_channels": 16}
    steps = {"num_epoch": None, "num_step": 4, "batch_size": 2}
    # Batch normalization of a map of one pixel and two images has gradients without bound.
    steps |= {"optimizer": {"name": "SGD", "lr": 0.01}, "clip_grad_norm": 1.0}
    config["train_cfg"] |= steps | {"joint_pass": True}
    config["train_cfg"]["log"] |= {"log_step": 4, "vis_step": 0}
    config["train_cfg"]["checkpoints"]["save_step"] = 20  # epochs; looks at nothing before the end
    fit(*open_pretraining(config))
    weights = tmp_path / "run/backbone.pth"
    start = sslrs.load_backbone(None, weights)["model"].state_dict()
    assert read(tmp_path / "run/latest.pth")["step"] == 4

    config = seg_config | {"backbone_cfg": cfg | {"pretrained": str(weights)}}
    config["decoder_cfg"] = {"name": "FPN", "pyramid_channels": 32, "segmentation_channels": 32}
    config["train_cfg"] |= steps
    config["train_cfg"]["log"]["log_step"] = 4
    config["train_cfg"]["checkpoints"]["save_step"] = 20  # epochs; looks at nothing before the end
    fit(*open_finetuning(config))
    best = tmp_path / "seg/best.pth"
    net = sslrs.load_segmentation(best)
    changed = [not torch.equal(x, start[key]) for key, x in net.backbone.state_dict().items()]
    assert any(changed)

    image = tiles / "images/tile_020.jpg"
    sslrs.predict(best, image, tmp_path / "map.tif")
    classes = np.asarray(Image.open(tmp_path / "map.tif"))
    assert (classes.shape, set(np.unique(classes)) <= {0, 1}) == ((64, 64), True)

    graph = Request(best, "onnx", tmp_path / "out/net.onnx", preprocess=True)
    write_export(graph)
    session = onnxruntime.InferenceSession(graph.output, providers=["CPUExecutionProvider"])
    pixels = torch.from_numpy(np.array(Image.open(image))[None, :40]).permute(0, 3, 1, 2)
    pixels = torch.cat([pixels, pixels.flip(3)])
    with torch.no_grad():
        expected = net.logits(pixels)
    (output,) = session.run(None, {"images": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, atol=1e-4, rtol=1e-4)

    weights = dataclasses.replace(
        graph, form="safetensors", preprocess=False, output=tmp_path / "out/net.safetensors"
    )
    write_export(weights)
    with torch.no_grad():
        assert torch.equal(sslrs.load_segmentation(Path(weights.output)).logits(pixels), expected)
