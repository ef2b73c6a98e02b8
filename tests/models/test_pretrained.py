"""load_backbone: files that timm and segmentation_models_pytorch make, safetensors, other bands,
and architectures that only look alike.
"""

import json

import cv2
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from lively import MEAN, STD, lively
from safetensors.torch import save_file
from test_backbones import bare, blank, check_loaded, constants, save, weights_of
from torch import nn

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
@pytest.mark.parametrize("source", ["torchvision", "timm", "smp", "lightly", "safetensors"])
def test_a_file_of_another_library_gives_its_features(tmp_path, image, source, name):
    is_resnet, state = name == "resnet18", lively(BACKBONES[name]()).state_dict()
    with torch.device("meta"):  # a VGG's large layers need no memory
        if source == "smp":  # its encoders of timm put a word before the names
            net = smp.encoders.get_encoder("tu-resnet18" if is_resnet else name, weights=None)
        elif source == "timm":
            net = timm.create_model(name, num_classes=0)
        else:
            net = torchvision.models.get_model(name, weights=None)
    prefix = "model." if source == "smp" and is_resnet else ""
    weights = {prefix + key: value for key, value in state.items()}
    net.load_state_dict(weights, strict=False, assign=True)
    contents = {key: weights.get(key, torch.zeros(())) for key in net.state_dict()}
    layers = nn.Sequential(*list(net.children())[:8]) if is_resnet and source != "smp" else None
    path = tmp_path / "w.pth"
    if source == "lightly":
        prefix = "backbone." if is_resnet else "backbone.features."
        named = (layers if is_resnet else net.features).state_dict()
        contents = {"state_dict": {prefix + key: value for key, value in named.items()}}
    if source == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(contents, path)
    else:
        save(path, contents)
    found = load_backbone(None, path)
    assert (found["model"].name, found["missing"]) == (name, [])
    rest = ("fc.", "classifier.", "pre_logits.", "head.")
    assert all(key.startswith(rest) for key in found["left_over"])
    net.eval()
    with torch.no_grad():
        if source == "smp":
            wanted = net(image)[-1]
        else:
            wanted = layers(image) if is_resnet else net.features(image)
    torch.testing.assert_close(features(found["model"], image), wanted, atol=1e-5, rtol=0)


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


# They have names in common with ours; deep stems, gates, widths and norms of their own.
STRANGERS = ["resnet18d", "resnext50_32x4d", "wide_resnet50_2", "seresnet18", "skresnet18"]
STRANGERS += ["resnest14d", "resnet26", "resnet50_gn", "resnetv2_50", "densenet121"]
STRANGERS += ["convnext_atto", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", STRANGERS)
def test_an_architecture_that_looks_alike_is_refused(tmp_path, name):
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    state = {
        f"backbone.{k}": torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()
    }
    path = save(tmp_path / "w.pth", state)
    for model in (None, bare("resnet50"), bare("resnet18")):
        with pytest.raises(UserError, match=r"w\.pth: (fit none of|fill \d+ of \d+ entries)"):
            load_backbone(model, path)


def test_entries_that_the_architecture_does_not_have_are_refused_unless_asked(tmp_path):
    state = weights_of("resnet18") | {"layer1.0.gate.weight": torch.ones(64)}
    path = save(tmp_path / "w.pth", state)
    with pytest.raises(UserError, match=r"resnet18 .* 1 more \(layer1\.0\.gate"):
        load_backbone(blank("resnet18"), path)
    found = load_backbone(blank("resnet18"), path, strict=False)
    assert found["left_over"] == ["layer1.0.gate.weight"]


@pytest.mark.parametrize("counters", [{}, {"bn1.num_batches_tracked": torch.tensor(0)}])
def test_a_file_with_nothing_of_the_backbone_is_refused_even_when_part_is_asked_for(
    tmp_path, counters
):
    path = save(tmp_path / "w.pth", weights_of("vgg11") | counters)
    with pytest.raises(UserError, match=r"w\.pth: fill \d of 120 entries of resnet18"):
        load_backbone(blank("resnet18"), path, strict=False)


@pytest.mark.parametrize(("bands", "wanted", "adapt"), [(3, 4, "widen"), (4, 3, "average")])
def test_bands_are_adapted_only_when_asked(tmp_path, bands, wanted, adapt):
    path = save(tmp_path / "w.pth", constants(bare("resnet18", bands).state_dict()))
    said = rf"w\.pth.* with {wanted} bands.*conv1\.weight is \(64, {bands}, 7, 7\).*adapt="
    with pytest.raises(UserError, match=said):
        load_backbone(blank("resnet18", wanted), path)
    model = load_backbone(None, path, in_channels=wanted, adapt=adapt)["model"]
    assert model.in_channels == wanted


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


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vgg11_bn"])
def test_grey_is_kept_where_mean_and_std_differ_by_band(tmp_path, name):
    """But for what lies near the border: the zeros beyond it stood for another colour."""
    net = lively(BACKBONES[name](mean=(0.62, 0.31, 0.18), std=(0.3, 0.08, 0.17)))
    path = save(tmp_path / "w.pth", {"model": net.state_dict(), "card": net.card()})
    grey = torch.rand(1, 1, 96, 96)
    target = net.eval()(grey.expand(-1, 3, -1, -1))["block2"]
    inside = (..., slice(3, -3), slice(3, -3))
    for bands in (1, 4):
        model = load_backbone(None, path, in_channels=bands, adapt="average")["model"].eval()
        found = model(grey.expand(-1, bands, -1, -1))["block2"]
        torch.testing.assert_close(found[inside], target[inside], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(found, target, atol=1e-4, rtol=1e-4)


def test_deviations_by_band_alone_keep_grey_up_to_the_border(tmp_path):
    net = lively(BACKBONES["resnet18"](mean=(0.4,) * 3, std=(0.3, 0.08, 0.17)))
    path = save(tmp_path / "w.pth", {"model": net.state_dict(), "card": net.card()})
    model = load_backbone(None, path, in_channels=1, adapt="average")["model"]
    grey = torch.rand(1, 1, 64, 64)
    found, target = features(model, grey), features(net, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, target, atol=1e-4, rtol=1e-4)


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


def test_a_first_convolution_of_another_shape_is_no_other_number_of_bands(tmp_path):
    state = weights_of("resnet18") | {"conv1.weight": torch.zeros(64, 3, 5, 5)}
    path = save(tmp_path / "w.pth", state)
    for model, said in (
        (None, "fit none of"),
        (blank("resnet18"), r"conv1.weight is \(64, 3, 5, 5"),
    ):
        with pytest.raises(UserError, match=said) as error:
            load_backbone(model, path)
        assert "in_channels" not in str(error.value)


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


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999, None])
def test_truncated_or_changed_safetensors_are_refused_in_one_line(ours, tmp_path, share):
    data, said = bytearray(ours.read_bytes()), "refused, damaged"
    if share is None:
        data[len(data) // 2] ^= 1
        said = "not what was written"
    size = len(data) if share is None else int(len(data) * share)
    (tmp_path / "w.safetensors").write_bytes(data[:size])
    with pytest.raises(UserError, match=rf"w\.safetensors: .*{said}") as error:
        read(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)


def test_a_pickle_that_calls_itself_safetensors_is_refused(tmp_path):
    with pytest.raises(UserError, match="no safetensors file"):
        read(save(tmp_path / "w.safetensors", weights_of("vgg11")))
