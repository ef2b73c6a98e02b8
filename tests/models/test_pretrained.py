"""load_backbone: files that timm and segmentation_models_pytorch make, safetensors, other bands,
and architectures that only look alike.
"""

import json
import sys

import cv2
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from lively import MEAN, STD, lively
from test_backbones import bare, blank, check_loaded, save, weights_of

from SSLRemoteSensing import load_backbone
from SSLRemoteSensing.core.checkpoints import read, write_safetensors
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.pretrained import BACKBONES


@pytest.fixture(scope="session")
def image(oam) -> torch.Tensor:
    """A real tile, (1, 3, 96, 64) in 0..1."""
    pixels = cv2.imread(str(min((oam / "images").glob("*.jpg"))))[:96, :64, ::-1].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def features(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(images)["block6"]


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_a_file_of_timm_gives_its_features(tmp_path, image, name):
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
    state = lively(BACKBONES[name]()).state_dict()
    net.load_state_dict(state, strict=False, assign=True)  # a VGG's large layers need no memory
    state = {key: state.get(key, torch.zeros(())) for key in net.state_dict()}
    found = load_backbone(None, save(tmp_path / "w.pth", state))
    assert (found["model"].name, found["missing"]) == (name, [])
    assert all(key.startswith("pre_logits.") for key in found["left_over"])
    net.eval()
    with torch.no_grad():
        wanted = net.forward_features(image) if name == "resnet18" else net.features(image)
    torch.testing.assert_close(features(found["model"], image), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vgg11", "tu-resnet18"])
def test_a_file_of_an_smp_encoder_gives_its_features(tmp_path, image, name):
    with torch.device("meta"):
        net = smp.encoders.get_encoder(name, weights=None).eval()
    state = lively(BACKBONES[name.removeprefix("tu-")]()).state_dict()
    prefix = "model." if name.startswith("tu-") else ""
    net.load_state_dict({prefix + key: value for key, value in state.items()}, assign=True)
    found = load_backbone(None, save(tmp_path / "w.pth", net.state_dict()))
    assert (found["model"].name, found["left_over"]) == (name.removeprefix("tu-"), [])
    ours = features(found["model"], image)
    with torch.no_grad():
        wanted = net(image)[-1]
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_the_names_of_timms_features_only_are_read(tmp_path):
    state = weights_of("vgg11")
    with torch.device("meta"):
        names = timm.create_model("vgg11", features_only=True).state_dict()
    theirs = {key.replace("features.", "features_"): value for key, value in state.items()}
    assert set(theirs) == set(names)
    check_loaded(load_backbone(None, save(tmp_path / "w.pth", theirs))["model"], state)


@pytest.mark.parametrize("decoder", ["Unet", "DeepLabV3Plus"])
def test_a_whole_network_of_smp_gives_its_encoder_and_names_the_rest(tmp_path, image, decoder):
    net = lively(getattr(smp, decoder)("resnet18", encoder_weights=None, classes=2))
    found = load_backbone(None, save(tmp_path / "w.pth", {"state_dict": net.state_dict()}))
    assert "segmentation_head.0.weight" in found["left_over"]
    assert len(found["matched"]) + len(found["left_over"]) == len(net.state_dict())
    check_loaded(found["model"], net.encoder.state_dict())


@pytest.mark.parametrize(
    "prefix", ["model.encoder.", "module._orig_mod.backbone.", "encoder.model.", "model.model."]
)
def test_prefixes_are_stripped_in_any_nesting(tmp_path, prefix):
    state = weights_of("resnet18")
    contents = {prefix + key: value for key, value in state.items()} | {"head.w": torch.ones(1)}
    found = load_backbone(None, save(tmp_path / "w.pth", contents))
    check_loaded(found["model"], state)
    assert found["left_over"] == ["head.w"]


STRANGERS = {
    "resnet18d": "deep-stem ResNet",
    "resnet50s": "deep-stem ResNet",
    "resnext50_32x4d": "resnext50_32x4d",
    "wide_resnet50_2": "wide_resnet50_2",
    "seresnet18": "squeeze-and-excitation",
    "ecaresnetlight": "ECA-ResNet",
    "skresnet18": "selective-kernel",
    "res2net50_26w_4s": "Res2Net",
    "resnest14d": "ResNeSt",
    "resnet26": "resnet26",
    "resnet10t": "deep-stem",
    "resnet50_gn": "group normalization",
    "hrnet_w18_small": "HRNet|stem",
    "resnetv2_50": "ResNetV2",
    "regnetx_002": "a RegNet of timm",
    "nf_resnet50": "an NF-ResNet of timm",
    "darknet53": "a DarkNet of timm",
    "cspresnet50": "a CSPNet of timm",
    "cspdarknet53": "a CSPNet of timm",
    "resnetv2_18": "one of timm's staged networks",
    "densenet121": "DenseNet",
    "mobilenetv3_small_050": "MobileNet",
    "efficientnet_b0": "EfficientNet",
    "convnext_atto": "ConvNeXt",
    "vit_tiny_patch16_224": "vision transformer",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_an_architecture_that_looks_alike_is_refused_by_its_name(tmp_path, name):
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    state = {
        f"backbone.{k}": torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()
    }
    path = save(tmp_path / "w.pth", state)
    for model in (None, bare("resnet50")):
        with pytest.raises(UserError, match=rf"w\.pth: are of (an? .*)?({STRANGERS[name]})"):
            load_backbone(model, path)


def test_the_deep_stem_of_mmsegmentation_is_refused_by_its_name(tmp_path):
    state = {f"backbone.{key}": value for key, value in weights_of("resnet50").items()}
    del state["backbone.conv1.weight"]
    state["backbone.stem.0.weight"] = torch.zeros(32, 3, 3, 3)
    with pytest.raises(UserError, match=r"deep-stem ResNet.*ResNetV1c"):
        load_backbone(None, save(tmp_path / "w.pth", {"state_dict": state}))


def test_no_architecture_of_ours_is_taken_for_a_stranger():
    from SSLRemoteSensing.models.pretrained import name_stranger

    for name in BACKBONES:
        assert name_stranger(bare(name).state_dict()) is None, name


def test_entries_that_the_architecture_does_not_have_are_refused_unless_asked(tmp_path):
    state = weights_of("resnet18") | {"layer1.0.gate.weight": torch.ones(64)}
    path = save(tmp_path / "w.pth", state)
    with pytest.raises(UserError, match=r"1 entries more than a resnet18 \(layer1\.0\.gate"):
        load_backbone(blank("resnet18"), path)
    found = load_backbone(blank("resnet18"), path, strict=False)
    assert found["left_over"] == ["layer1.0.gate.weight"]


@pytest.mark.parametrize("counters", [{}, {"bn1.num_batches_tracked": torch.tensor(0)}])
def test_a_file_with_nothing_of_the_backbone_is_refused_even_when_part_is_asked_for(
    tmp_path, counters
):
    path = save(tmp_path / "w.pth", weights_of("vgg11") | counters)
    with pytest.raises(UserError, match=r"w\.pth: none of its .* entries has the name and shape"):
        load_backbone(blank("resnet18"), path, strict=False)


def test_bands_are_adapted_only_when_asked(tmp_path):
    path = save(tmp_path / "w.pth", weights_of("resnet18"))
    with pytest.raises(UserError, match=r"conv1\.weight is \(64, 3, 7, 7\).*takes 4 bands.*adapt="):
        load_backbone(blank("resnet18", 4), path)
    assert load_backbone(None, path, in_channels=4)["model"].in_channels == 4


def test_averaged_bands_give_a_grey_image_what_it_gave_before(tmp_path):
    net = lively(BACKBONES["resnet18"](mean=(0.4,) * 3, std=(0.2,) * 3))
    contents = {"model": net.state_dict(), "card": net.card()}
    path, grey = save(tmp_path / "w.pth", contents), torch.rand(1, 1, 64, 64)
    for bands in (1, 2, 5):
        found = load_backbone(None, path, in_channels=bands, adapt="average")
        assert f"averaged from 3 to {bands} bands" in found["summary"]
        ours = features(found["model"], grey.expand(-1, bands, -1, -1))
        torch.testing.assert_close(
            ours, features(net, grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )


def test_mean_and_std_are_averaged_with_the_bands(tmp_path):
    net = BACKBONES["resnet18"](mean=MEAN, std=STD)
    path = save(tmp_path / "w.pth", {"model": net.state_dict(), "card": net.card()})
    model = load_backbone(None, path, in_channels=2, adapt="average")["model"]
    assert model.mean == pytest.approx((0.4, 0.4))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(in_channels=2), "cannot be widened to fewer; pass adapt='average'"),
        (dict(in_channels=0), "in_channels=0"),
        (dict(in_channels=4, adapt="repeat"), "adapt='repeat': expected one of widen, average"),
    ],
)
def test_an_adaptation_that_there_is_not_is_refused(tmp_path, arguments, said):
    with pytest.raises(UserError, match=said):
        load_backbone(None, save(tmp_path / "w.pth", weights_of("resnet18")), **arguments)


def test_a_config_with_four_bands_widens_a_file_for_three(tmp_path, capsys):
    path = save(tmp_path / "w.pth", weights_of("resnet18"))
    assert BACKBONES["resnet18"](in_channels=4, pretrained=str(path)).conv1.weight.shape[1] == 4
    assert "widened from 3 to 4 bands" in capsys.readouterr().out


def test_a_first_convolution_of_another_shape_is_no_other_number_of_bands(tmp_path):
    state = weights_of("resnet18") | {"conv1.weight": torch.zeros(64, 3, 5, 5)}
    with pytest.raises(UserError, match="a ResNet with a 5x5 stem"):
        load_backbone(None, save(tmp_path / "w.pth", state))


def test_safetensors_of_timm_load(tmp_path, image):
    from safetensors.torch import save_file

    net = lively(timm.create_model("resnet18"))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    found = load_backbone(None, tmp_path / "model.safetensors")
    assert sorted(found["left_over"]) == ["fc.bias", "fc.weight"]
    with torch.no_grad():
        wanted = net.forward_features(image)
    torch.testing.assert_close(features(found["model"], image), wanted, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Our own safetensors, with a card."""
    path = tmp_path_factory.mktemp("ours") / "w.safetensors"
    net = lively(BACKBONES["resnet18"](mean=MEAN, std=STD))
    write_safetensors(path, net.state_dict(), json.loads(json.dumps(net.card())))
    return path


def test_our_safetensors_bring_their_card(ours):
    found = load_backbone(None, ours)
    assert (found["model"].mean, found["missing"], found["left_over"]) == (MEAN, [], [])


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
def test_truncated_safetensors_are_refused_in_one_line(ours, tmp_path, share):
    whole = ours.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"cut\.safetensors: refused, damaged") as error:
        read(tmp_path / "cut.safetensors")
    assert "\n" not in str(error.value)


def test_a_bit_flipped_in_our_safetensors_is_found(ours, tmp_path):
    changed = bytearray(ours.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "w.safetensors").write_bytes(changed)
    with pytest.raises(UserError, match="not what was written"):
        read(tmp_path / "w.safetensors")


def test_a_pickle_that_calls_itself_safetensors_is_refused(tmp_path):
    with pytest.raises(UserError, match="no safetensors file"):
        read(save(tmp_path / "w.safetensors", weights_of("vgg11")))


def test_without_the_library_safetensors_say_what_to_install(ours, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        load_backbone(None, ours)
