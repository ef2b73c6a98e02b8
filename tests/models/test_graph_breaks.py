"""A training step is one graph: torch.compile leaves it nowhere to go back to Python."""

import pytest
import torch
from conftest import ROOT
from torch import nn

from SSLRemoteSensing import build_pretext, build_segmentation
from SSLRemoteSensing.core.config import load_config

SIDE = 32


def whole(net: nn.Module) -> nn.Module:
    """`net` compiled for training, as it is and by no other compiler; a break is an error."""
    torch.compiler.reset()
    return torch.compile(net.train(), backend="eager", fullgraph=True)


@pytest.mark.parametrize("name", ["demo_oam_pretrain_resnet18", "few_labels_pretrain"])
def test_pre_training_is_one_graph(name):
    """The three published tasks, and the dense one."""
    net = build_pretext(load_config(ROOT / f"configs/{name}_cfg.py"))
    shape = (4, 3, SIDE, SIDE)
    batch = {
        key: torch.randint(256, shape, dtype=torch.uint8)
        for key in ("occluded", "anchor", "transformed")
    }
    crop = torch.tensor([[0.0, 0.0, SIDE, SIDE]]).repeat(4, 1)
    batch |= {"transform_label": torch.arange(4), "crop": crop}
    losses = whole(net)(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(weight.grad is not None for weight in net.backbone.layer1.parameters())


def test_fine_tuning_by_all_losses_is_one_graph():
    config = load_config(ROOT / "configs/demo_oam_finetune_resnet18_cfg.py")
    config["backbone_cfg"]["pretrained"] = False
    names = ("CrossEntropyLoss", "DiceLoss", "FocalLoss")
    config["train_cfg"] = {"loss": {"name": "SumLoss", "losses": {n: {"name": n} for n in names}}}
    net = build_segmentation(config)
    image = torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    label = torch.randint(2, (2, SIDE, SIDE), dtype=torch.uint8)
    label[0, :4] = 255
    losses = whole(net)({"image": image, "label": label})
    sum(losses.values()).backward()
    assert losses.keys() == {*names}
    assert all(weight.grad is not None for weight in net.parameters())


def test_a_step_that_asks_the_device_for_a_number_would_be_found():
    class Asking(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        whole(Asking())(torch.ones(3))
