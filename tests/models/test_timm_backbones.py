"""Networks of timm as backbones: their maps, weights and what they refuse."""

import pytest
import torch
from timm_models import MODELS

from SSLRemoteSensing import load_backbone
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.pretext import build_pretext
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.models.segmentation import build_segmentation

timm = pytest.importorskip("timm")


def backbone(model: str, **settings):
    return build(BACKBONES, {"name": "timm", "model": model} | settings, "backbone_cfg")


@pytest.mark.parametrize("model", MODELS)
def test_maps_have_our_names_and_strides_and_every_weight_a_gradient(model):
    net = backbone(model, in_channels=4).train()
    for side in (64, 96):
        maps = net(torch.rand(2, 4, side, side))
        assert list(maps) == [key for key in maps if key in net.channels]
        for key, x in maps.items():
            stride = 2 ** (int(key[-1]) - 1)
            assert x.shape == (2, net.channels[key], side // stride, side // stride)
    assert {"block3", "block4", "block5", "block6"} <= set(maps)
    sum(x.square().sum() for x in maps.values()).backward()
    assert not [name for name, weight in net.named_parameters() if weight.grad is None]
    # timm's own names, so that its networks take them and give them.
    theirs = timm.create_model(model, num_classes=0, in_chans=4).state_dict()
    own = {key for key in net.state_dict() if not key.startswith("pyramid.")}
    assert own <= theirs.keys()


@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224", "regnetx_002"])
def test_maps_are_those_of_timm_s_own_features(model):
    torch.manual_seed(0)
    net = backbone(model).eval()
    whole = timm.create_model(model, num_classes=0)
    net.load_state_dict(whole.state_dict(), strict=False)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = whole.eval().forward_intermediates(images, indices=[-1], intermediates_only=True)
        (last,) = expected
        if net.pyramid:
            last = net.pyramid["block6"](last)
        assert torch.allclose(net(images)["block6"], last, atol=1e-5)


def test_weights_go_out_and_come_back_under_any_prefix(tmp_path):
    torch.manual_seed(0)
    first = backbone("convnext_atto", in_channels=4, mean=[0.1] * 4, std=[0.2] * 4)
    state = {f"module.encoder.{key}": value for key, value in first.state_dict().items()}
    torch.save({"state_dict": state, "card": first.card()}, tmp_path / "weights.pth")
    second = backbone("convnext_atto", in_channels=4)
    result = load_backbone(second, tmp_path / "weights.pth")
    assert result["matched"] == list(first.state_dict())
    assert second.mean == first.mean
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key])
    third = load_backbone(None, tmp_path / "weights.pth")["model"]
    images = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(third.eval()(images)["block6"], first.eval()(images)["block6"])
    with pytest.raises(UserError, match=r"fill \d+ of \d+ entries of regnetx_002 of timm"):
        load_backbone(backbone("regnetx_002", in_channels=4), tmp_path / "weights.pth")


def test_weights_of_another_size_and_of_a_vit_without_our_pyramid_are_taken(tmp_path, capsys):
    whole = timm.create_model("vit_tiny_patch16_224", img_size=96)
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    net = backbone("vit_tiny_patch16_224", pretrained=str(tmp_path / "vit.pth"), in_channels=5)
    assert "widened from 3 to 5 bands" in capsys.readouterr().out
    kernel, expected = net.net.patch_embed.proj.weight, whole.patch_embed.proj.weight
    assert torch.equal(kernel[:, :3], expected)
    assert torch.allclose(kernel[:, 3], expected.mean(1))
    assert torch.equal(net.net.blocks[3].mlp.fc1.weight, whole.blocks[3].mlp.fc1.weight)


def test_weights_in_the_layout_of_their_authors_are_converted(tmp_path):
    """Of ConvNeXt's: stages.0.0.dwconv, downsample_layers."""
    whole = timm.create_model("convnext_atto", num_classes=0)
    theirs = {}
    for key, value in whole.state_dict().items():
        name = key.replace("stem.", "downsample_layers.0.").replace(".conv_dw.", ".dwconv.")
        name = name.replace(".mlp.fc1.", ".pwconv1.").replace(".mlp.fc2.", ".pwconv2.")
        name = name.replace(".blocks.", ".").replace("head.norm.", "norm.")
        stage, _, rest = name.partition(".downsample.")
        name = f"downsample_layers.{stage[-1]}.{rest}" if rest else name
        theirs[name] = value
    torch.save({"model": theirs}, tmp_path / "weights.pth")
    net = load_backbone(backbone("convnext_atto"), tmp_path / "weights.pth")["model"]
    assert torch.equal(net.net.stages[2].downsample[1].weight, whole.stages[2].downsample[1].weight)


def pretext(model: str):
    heads = dict(
        agr_head_cfg=dict(name="AGPHead", in_channels=192, num_classes=6),
        examplar_head_cfg=dict(name="ExamplarHead", in_channels=192, out_channels=8),
    )
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    batch = dict(anchor=images, transformed=images.flip(3), transform_label=torch.arange(3))
    return build_pretext(dict(backbone_cfg=dict(name="timm", model=model)) | heads), batch


def segmentation(model: str):
    cfg = dict(name="timm", model=model, out_keys=("block5", "block6"))
    config = dict(classes=("a", "b"), backbone_cfg=cfg, decoder_cfg=dict(name="LinearProbe"))
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    return build_segmentation(config), dict(image=images, label=images[:, 0])


@pytest.mark.parametrize(
    ("build_net", "frozen"),
    [(pretext, ("block3", "block4", "block5")), (segmentation, ("block3", "block4"))],
)
def test_branches_of_a_vit_s_pyramid_that_nothing_reads_are_not_trained(build_net, frozen, capsys):
    """DistributedDataParallel would wait for their gradients."""
    net, batch = build_net("vit_tiny_patch16_224")
    assert (f"no head reads {', '.join(frozen)}," in capsys.readouterr().out) == (
        build_net is pretext
    )
    sum(net(batch).values()).backward()
    without = {name for name, weight in net.named_parameters() if weight.grad is None}
    assert without == {name for name, weight in net.named_parameters() if not weight.requires_grad}
    assert {name.split(".")[2] for name in without} == set(frozen)


def test_what_cannot_be_is_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"model='convnext_attto': timm .* has convnext_"):
        backbone("convnext_attto")
    with pytest.raises(UserError, match=r"out_keys: 'block2' is no map of convnext_atto"):
        backbone("convnext_atto", out_keys=("block2", "block3"))
    config = {"classes": ("a", "b"), "backbone_cfg": {"name": "timm", "model": "convnext_atto"}}
    with pytest.raises(UserError, match=r"Unet needs block2.*take another decoder"):
        build_segmentation(config | {"decoder_cfg": {"name": "Unet"}})
    with pytest.raises(UserError, match=r"no finer than 1/32.*take Decoder, Unet, FPN"):
        build_segmentation(config | {"decoder_cfg": {"name": "DeepLabV3Plus"}})
    fixed = backbone("maxvit_pico_rw_256", img_size=64)
    assert fixed.card()["img_size"] == 64
    assert backbone("convnext_atto", img_size=64).card()["img_size"] is None
    with pytest.raises(UserError, match=r"images of 96 x 96 pixels: .* set backbone_cfg.img_size"):
        fixed(torch.rand(1, 3, 96, 96))
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm; run: pip install timm"):
        backbone("convnext_atto")


@pytest.mark.parametrize("decoder", ["Decoder", "FPN", "UPerNet", "LinearProbe"])
@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224"])
def test_decoders_stand_on_it(model, decoder):
    config = {"classes": ("a", "b"), "backbone_cfg": {"name": "timm", "model": model}}
    net = build_segmentation(config | {"decoder_cfg": {"name": decoder}})
    batch = {"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8)}
    batch["label"] = torch.zeros(2, 64, 64, dtype=torch.uint8)
    sum(net(batch).values()).backward()
    assert net.eval().logits(torch.rand(1, 3, 70, 90)).shape == (1, 2, 70, 90)
