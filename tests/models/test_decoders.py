"""Decoders of segmentation: sizes, gradients, the library's results, the probe, the transfer."""

import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from lively import lively
from torch import Tensor, nn

from SSLRemoteSensing import build_pretext, build_segmentation
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import Part, parameters
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import ARCHITECTURES, BLOCKS
from SSLRemoteSensing.models.decoders import DECODERS

# As narrow as they go: what is tested here does not depend on the width.
NARROW = {
    "Decoder": {},
    "LinearProbe": {},
    "Unet": dict(decoder_channels=(16, 16, 16, 8, 8)),
    "FPN": dict(pyramid_channels=8, segmentation_channels=32),
    "DeepLabV3Plus": dict(decoder_channels=8),
    "UPerNet": dict(decoder_channels=8),
    "PSPNet": dict(decoder_channels=8),
}
DILATED = {"DeepLabV3Plus": 16, "PSPNet": 8}


def network(decoder: str, backbone: str = "resnet18", **changes) -> nn.Module:
    """A network of three classes; `changes` are keys of the config."""
    config = dict(
        classes=("a", "b", "c"),
        backbone_cfg=dict(name=backbone),
        decoder_cfg=dict(name=decoder, **NARROW[decoder]),
    )
    return build_segmentation(config | changes)


def decoder_of(cfg: dict, **backbone_cfg) -> nn.Module:
    with torch.device("meta"):
        backbone = dict(name="resnet18") | backbone_cfg
        return network("Decoder", decoder_cfg=cfg, backbone_cfg=backbone).decoder


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11_bn"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_have_the_images_size_and_every_weight_of_the_decoder_is_trained(decoder, backbone):
    torch.manual_seed(0)
    net = network(decoder, backbone).eval()
    with torch.no_grad():
        for height, width in ((64, 96), (50, 70)):
            assert net.logits(torch.rand(1, 3, height, width)).shape == (1, 3, height, width)
    image = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    label = torch.randint(0, 3, (3, 64, 64), dtype=torch.uint8)
    (loss,) = net.train()({"image": image, "label": label}).values()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name.startswith("decoder.") and parameter.ndim > 1:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_backbones_weights_load_whole_under_torchvisions_names(decoder, name, tmp_path):
    torch.manual_seed(0)
    with torch.device("meta"):  # a VGG's classifier is half a gigabyte
        names = list(getattr(torchvision.models, name)().state_dict())
    theirs = ARCHITECTURES[name]().state_dict()
    torch.save(theirs, tmp_path / "w.pth")
    net = network(decoder, backbone_cfg=dict(name=name, pretrained=str(tmp_path / "w.pth")))
    prefix = "backbone."
    ours = {k.removeprefix(prefix): v for k, v in net.state_dict().items() if prefix in k}
    assert list(ours) == [key for key in names if not key.startswith(("fc.", "classifier."))]
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert net.backbone.output_stride == DILATED.get(decoder, 32)


def library(name: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    options = dict(encoder_name="resnet18", encoder_weights=None, classes=3)
    if name == "PSPNet":  # theirs stops at 1/8 by itself
        options |= dict(encoder_depth=5, upsampling=32)
    return getattr(smp, name)(**options).eval()


@pytest.mark.parametrize("name", ["Unet", "FPN", "DeepLabV3Plus", "UPerNet", "PSPNet"])
def test_decoders_of_the_library_give_what_its_own_networks_give(name):
    theirs = library(name)
    cfg = dict(name=name) | (dict(output_stride=32) if name == "PSPNet" else {})
    ours = network(name, decoder_cfg=cfg).eval()
    ours.backbone.load_state_dict(theirs.encoder.state_dict(), strict=True)
    ours.decoder.body.load_state_dict(theirs.decoder.state_dict(), strict=True)
    ours.decoder.predict.load_state_dict(theirs.segmentation_head[0].state_dict(), strict=True)
    with torch.no_grad():
        images = torch.rand(1, 3, 64, 96)
        maps = dict(zip(BLOCKS, theirs.encoder(images)[1:], strict=True))
        torch.testing.assert_close(ours.decoder(maps), theirs(images))
        if name != "DeepLabV3Plus":  # whose encoder the library dilates in another way
            torch.testing.assert_close(ours.logits(images), theirs(images))


@pytest.mark.parametrize("name", ["Unet", "PSPNet"])
def test_weights_start_as_in_the_library(name):
    torch.manual_seed(0)
    decoder = network(name).decoder
    bound = (6 / (decoder.predict.weight[0].numel() * (1 + 3 / 8))) ** 0.5  # Xavier's
    assert (decoder.predict.bias == 0).all()
    assert 0.8 * bound < decoder.predict.weight.abs().max() <= bound


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11"])
def test_the_linear_probe_is_a_1x1_convolution_of_the_whole_enlarged_pyramid(backbone):
    net = lively(network("LinearProbe", backbone))
    probe = net.decoder
    nn.init.normal_(probe.predict["block6"].bias)
    maps = net.features(torch.rand(1, 3, 64, 96))
    enlarged = [
        F.interpolate(probe.norms[key](x), size=(64, 96), mode="bilinear")
        for key, x in maps.items()
    ]
    weight = torch.cat([probe.predict[key].weight for key in maps], dim=1)
    expected = F.conv2d(torch.cat(enlarged, dim=1), weight, probe.predict["block6"].bias)
    torch.testing.assert_close(probe(maps), expected, rtol=1e-5, atol=1e-5)


def test_the_linear_probe_trains_its_convolutions_alone():
    net = network("LinearProbe", train_cfg=dict(freeze_backbone=True)).train()
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trained == [f"decoder.predict.{key}.weight" for key in BLOCKS] + [
        "decoder.predict.block6.bias"
    ]
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    sum(net({"image": image, "label": image[:, 0] % 3}).values()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_the_linear_probe_takes_the_maps_that_there_are():
    probe = decoder_of(dict(name="LinearProbe"), out_keys=("block4",))
    assert list(probe.predict) == ["block4", "block6"]


@pytest.mark.parametrize(
    ("decoder", "needed", "out_keys"),
    [
        ("Decoder", "block3, block4", ("block2", "block5")),
        ("Unet", "block2", BLOCKS[1:]),
        ("FPN", "block4", ("block3", "block5")),
        ("DeepLabV3Plus", "block3", ()),
        ("UPerNet", "block5", ("block3", "block4")),
    ],
)
def test_maps_that_a_decoder_lacks_are_named(decoder, needed, out_keys):
    with pytest.raises(UserError, match=f"decoder_cfg: {decoder}.* needs {needed}, .*out_keys"):
        decoder_of(dict(name=decoder), out_keys=out_keys)


@pytest.mark.parametrize(
    ("cfg", "out_keys"),
    [
        (dict(name="PSPNet"), ()),
        (dict(name="DeepLabV3Plus"), ("block3",)),
        (dict(name="FPN"), BLOCKS[1:]),
        (dict(name="UPerNet"), BLOCKS[1:]),
        (dict(name="Decoder", feat_channels=(256, 128, 64, 64, 32)), ("block5",)),
    ],
)
def test_maps_that_a_decoder_does_not_need_can_be_left_out(cfg, out_keys):
    with torch.device("meta"):
        backbone = dict(name="resnet18", out_keys=out_keys)
        net = network("Decoder", decoder_cfg=cfg, backbone_cfg=backbone).eval()
        assert net.logits(torch.empty(2, 3, 50, 70)).shape == (2, 3, 50, 70)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (dict(name="Unet", decoder_channels=(8, 8)), "decoder_channels=.*expected 5 numbers"),
        (dict(name="Unet", decoder_channels=(8, 8, 8, 8, 0)), "decoder_channels: must be at least"),
        (dict(name="Unet", decoder_chanels=(8,)), "'decoder_chanels', did you mean"),
        (dict(name="Unet", interpolation="cubic"), "interpolation: expected one of 'nearest'"),
        (dict(name="FPN", segmentation_channels=48), "segmentation_channels=48: .*multiple of 32"),
        (dict(name="FPN", dropout=1.0), "dropout=1.0"),
        (dict(name="FPN", merge_policy="sum"), "merge_policy: expected one of 'add', 'cat'"),
        (dict(name="DeepLabV3Plus", output_stride=32), "output_stride: expected one of 8, 16"),
        (dict(name="DeepLabV3Plus", atrous_rates=(6, 12)), "atrous_rates=.*expected 3 numbers"),
        (dict(name="UPerNet", decoder_channels=0), "decoder_channels: must be at least 1"),
        (dict(name="PSPNet", output_stride=4), "output_stride: expected one of 8, 16, 32"),
        (dict(name="UperNet"), "unknown name 'UperNet', did you mean 'UPerNet'"),
        (dict(name="Unet", transfer=True), "unknown key 'transfer'"),
    ],
)
def test_values_that_make_no_decoder_are_refused_in_one_line(cfg, said):
    with pytest.raises(UserError, match=said) as error:
        decoder_of(cfg)
    assert str(error.value).startswith("decoder_cfg")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decoder", ["DeepLabV3Plus", "UPerNet"])
def test_a_batch_of_one_is_refused_where_the_decoder_cannot_train_on_it(decoder):
    net = network(decoder).train()
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"batch_size=1: .*set 2 or more"):
        net({"image": image, "label": image[:, 0]})


def test_without_the_library_its_decoders_say_what_to_install(monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == "segmentation_models_pytorch":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match="pip install segmentation_models_pytorch"):
        decoder_of(dict(name="Unet"))
    decoder_of(dict(name="Decoder"))


def test_every_parameter_of_a_decoder_is_a_key_of_the_config():
    for name, make in DECODERS.items():
        known = parameters(Part(make, given=("num_classes", "map_channels")))
        assert set(NARROW[name]) <= set(known)
        assert not any(required for _, required in known.values())


HEAD = dict(name="InpaintingHead", in_channels=512, out_channels=3)
FEATURES = dict(feat_channels=(256, 128, 64, 64, 32))


@pytest.fixture
def pretrained(tmp_path):
    """The `latest.pth` of a pre-training run, and its weights."""
    torch.manual_seed(1)
    head = HEAD | FEATURES
    net = build_pretext(dict(backbone_cfg=dict(name="resnet18"), inpainting_head_cfg=head))
    for value in net.state_dict().values():  # counters and statistics that are no beginner's
        value.add_(1)
    state = net.state_dict()
    checkpoints.write(tmp_path / "latest.pth", {"model": state, "card": {}, "step": 9})
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone." in k}
    checkpoints.export_backbone(tmp_path, backbone, {})
    return tmp_path / "latest.pth", state


def transferred(source, **decoder_cfg) -> nn.Module:
    torch.manual_seed(2)
    cfg = dict(name="Decoder", transfer=True) | decoder_cfg
    backbone = dict(name="resnet18", pretrained=source if source is False else str(source))
    return network("Decoder", decoder_cfg=cfg, backbone_cfg=backbone)


def inpainting(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "inpainting_head."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def test_transfer_copies_all_but_the_last_layer_bit_for_bit(pretrained, capsys):
    path, state = pretrained
    ours, theirs = transferred(path).decoder.state_dict(), inpainting(state)
    assert list(ours) == list(theirs)
    random = transferred(path, transfer=False).decoder.state_dict()
    for key, value in ours.items():
        expected = random if key.startswith("predict.") else theirs
        assert torch.equal(value, expected[key]), key
    assert ours["predict.weight"].shape == (3, 32, 3, 3)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "transferred" in line] == [
        f"{path}: 35 of 37 entries of the decoder transferred"
    ]


@pytest.mark.parametrize("pretrained_cfg", [False, True])
def test_transfer_without_a_file_says_so_and_goes_on(pretrained_cfg, capsys, monkeypatch):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr("SSLRemoteSensing.models.pretrained.imagenet_weights", lambda name: weights)
    backbone = dict(name="resnet18", pretrained=pretrained_cfg)
    network("Decoder", decoder_cfg=dict(name="Decoder", transfer=True), backbone_cfg=backbone)
    (line,) = capsys.readouterr().out.splitlines()
    assert f"nothing to transfer, backbone_cfg.pretrained={pretrained_cfg}" in line


@pytest.mark.parametrize(
    ("file", "width", "said"),
    [
        ("backbone.pth", 32, r"backbone\.pth: .*latest\.pth or an epoch_\*\.pth"),
        ("latest.pth", 16, r"4\.0\.weight is \(32, 64, 3, 3\), .*\(16, 64, 3, 3\).*feat_channels"),
        ("part.pth", 32, r"part\.pth: inpainting_head\.stages\.1\.1\.running_var is missing"),
    ],
)
def test_transfer_from_a_file_that_does_not_fit_names_the_entry(pretrained, file, width, said):
    path, state = pretrained
    part = {key: value for key, value in state.items() if "stages.1.1.running_var" not in key}
    checkpoints.write(path.with_name("part.pth"), {"model": part})
    with pytest.raises(UserError, match=said):
        transferred(path.with_name(file), feat_channels=(256, 128, 64, 64, width))


def test_a_sum_of_losses_is_weighted_and_named_by_the_network():
    torch.manual_seed(0)
    losses = dict(ce=dict(name="CrossEntropyLoss"), dice=dict(name="DiceLoss"))
    cfg = dict(name="SumLoss", losses=losses, factors=(1, 0.5))
    net = network("LinearProbe", train_cfg=dict(loss=cfg)).eval()
    alone = network("LinearProbe", train_cfg=dict(loss=dict(name="DiceLoss"))).eval()
    alone.load_state_dict(net.state_dict(), strict=True)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = {"image": image, "label": image[:, 0] % 3}
    named = net(batch)
    assert list(named) == ["ce", "dice"]
    assert named["dice"].item() == pytest.approx(0.5 * alone(batch)["dice"].item())


def test_an_exported_graph_of_unet_is_for_any_batch():
    channels = dict.fromkeys(BLOCKS, 4)
    net = DECODERS["Unet"](2, channels, decoder_channels=[4] * 5).eval()

    def maps(batch: int) -> dict[str, torch.Tensor]:
        return {key: torch.rand(batch, 4, 32 >> i, 32 >> i) for i, key in enumerate(BLOCKS)}

    axes = {key: {0: torch.export.Dim("batch")} for key in BLOCKS}
    program = torch.export.export(net, (maps(2),), dynamic_shapes=(axes,))
    three = maps(3)
    torch.testing.assert_close(program.module()(three), net(three))
