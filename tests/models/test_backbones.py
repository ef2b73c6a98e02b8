"""Backbones: torchvision's names and values, and weights from wherever users have them."""

import copy
import json
from functools import cache
from urllib.error import URLError

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from conftest import ROOT
from lively import MEAN, STD, Code, lively
from torch import Tensor, nn

from SSLRemoteSensing import build_pretext, load_backbone, load_config
from SSLRemoteSensing.core.checkpoints import export_backbone, read
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import ARCHITECTURES, BLOCKS, IMAGENET_MEAN, IMAGENET_STD
from SSLRemoteSensing.models.pretrained import BACKBONES


@cache
def bare(name: str, in_channels: int = 3) -> nn.Module:
    """A backbone without memory for its weights, only to be looked at."""
    with torch.device("meta"):
        return BACKBONES[name](in_channels=in_channels)


def theirs(name: str) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None)


def without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier."))}


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in state.items()}


def constants(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of those names and shapes: the n-th tensor holds n everywhere, in one number."""
    return {
        key: torch.tensor(n, dtype=value.dtype, device="cpu").expand(value.shape)
        for n, (key, value) in enumerate(state.items(), start=1)
    }


def weights_of(name: str) -> dict[str, Tensor]:
    return constants(bare(name).state_dict())


def save(path, contents):
    torch.save(contents, path)
    return path


def check_loaded(model: nn.Module, state: dict[str, Tensor]) -> None:
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    for key, value in loaded.items():
        assert (value == state[key]).all(), key


def blank(name: str, in_channels: int = 3) -> nn.Module:
    """A backbone to load into: all zeros, which is quicker than random weights."""
    net = copy.deepcopy(bare(name, in_channels)).to_empty(device="cpu").train()
    for value in net.state_dict().values():
        value.zero_()
    return net


@pytest.fixture
def resnet18():
    return blank("resnet18")


@pytest.fixture(scope="session")
def resnet18_weights() -> dict[str, Tensor]:
    return weights_of("resnet18")


PUBLISHED = {
    "vgg16_bn": (14_723_136, (64, 128, 256, 512, 512)),
    "resnet18": (11_176_512, (64, 64, 128, 256, 512)),
    "resnet50": (23_508_032, (64, 256, 512, 1024, 2048)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_channels_are_the_published_ones(name):
    count, channels = PUBLISHED[name]
    assert sum(p.numel() for p in bare(name).parameters()) == count
    assert bare(name).channels == dict(zip(BLOCKS, channels, strict=True))


@pytest.mark.parametrize(("name", "count"), [("vgg16", 27_315_529), ("resnet50", 172_751_817)])
def test_the_whole_network_has_the_published_number_of_parameters(name, count):
    config = load_config(ROOT / f"configs/vr_{name}_inapinting_agr_examplar_cfg.py")
    config["backbone_cfg"]["pretrained"] = False
    with torch.device("meta"):
        network = build_pretext(config)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_shapes_of_the_weights_are_torchvisions(name):
    assert shapes_of(bare(name).state_dict()) == shapes_of(
        without_classifier(theirs(name).state_dict())
    )


DILATED = [("resnet18", 16), ("resnet50", 8), ("vgg11_bn", 16), ("vgg16", 8)]


@pytest.mark.parametrize(("name", "output_stride"), [*((n, 32) for n in ARCHITECTURES), *DILATED])
def test_maps_have_the_channels_and_strides_stated_and_dilation_leaves_the_weights(
    name, output_stride
):
    with torch.device("meta"):
        net = BACKBONES[name]().eval()
    net.dilate(output_stride)
    maps = net(torch.empty(2, 3, 64, 96, device="meta"))
    strides = {key: min(2**n, output_stride) for n, key in enumerate(BLOCKS, start=1)}
    assert {key: tuple(x.shape) for key, x in maps.items()} == {
        key: (2, net.channels[key], 64 // stride, 96 // stride) for key, stride in strides.items()
    }
    assert shapes_of(net.state_dict()) == shapes_of(bare(name).state_dict())


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_maps_are_those_inside_torchvisions_network(name):
    ours, net, inside = lively(BACKBONES[name]()), theirs(name), []
    # Their layers with our weights in them, without a second set of numbers.
    net.load_state_dict(ours.state_dict(), strict=False, assign=True)
    if name == "resnet18":
        net.avgpool, net.fc = nn.Identity(), nn.Identity()
        net.maxpool.register_forward_pre_hook(lambda _, args: inside.append(args[0]))
        modules = [net.layer1, net.layer2, net.layer3, net.layer4]
    else:
        net = net.features
        modules = [module for module in net if isinstance(module, nn.MaxPool2d)]
    for module in modules:
        module.register_forward_hook(lambda _, __, out: inside.append(out))
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        net.eval()(images)
        maps = ours(images)
    assert list(maps) == list(BLOCKS)
    for key, expected in zip(BLOCKS, inside, strict=True):
        assert torch.equal(maps[key], expected), key


def pair(name: str, output_stride: int) -> tuple[nn.Module, nn.Module]:
    """The same lively backbone twice, the second dilated."""
    plain = lively(BACKBONES[name]()).double()
    dilated = copy.deepcopy(plain)
    dilated.dilate(output_stride)
    return plain, dilated


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_dilated_resnet_sees_what_it_saw_before(name, output_stride):
    plain, dilated = pair(name, output_stride)
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        before, after = plain(images), dilated(images)
    for key, stride in zip(BLOCKS, (2, 4, 8, 16, 32), strict=True):
        step = max(1, stride // output_stride)
        torch.testing.assert_close(after[key][:, :, ::step, ::step], before[key])


@pytest.mark.parametrize(("output_stride", "where"), [(16, (False,) * 2), (8, (False, True))])
def test_a_dilated_resnet50_is_torchvisions(output_stride, where):
    ours = pair("resnet50", output_stride)[1]
    with torch.device("meta"):
        net = torchvision.models.resnet50(replace_stride_with_dilation=[*where, True])
    net.load_state_dict(ours.state_dict(), strict=False, assign=True)
    net.avgpool, net.fc = nn.Identity(), nn.Identity()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images), ours(images)["block6"].flatten(1))


def test_a_dilated_vgg16_has_the_pools_and_spacings_of_deeplabs():
    with torch.device("meta"):
        net = BACKBONES["vgg16"]()
    net.dilate(8)
    pools = [m for m in net.features if isinstance(m, nn.MaxPool2d)]
    spacings = [(m.kernel_size, m.stride, m.padding) for m in pools]
    assert spacings == [(2, 2, 0)] * 3 + [(3, 1, 1)] * 2
    convolutions = [m for m in net.features if isinstance(m, nn.Conv2d)]
    assert [m.dilation for m in convolutions] == [(1, 1)] * 10 + [(2, 2)] * 3


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_a_backbone_is_dilated_once_and_to_a_stride_that_there_is(name):
    with torch.device("meta"):
        net = BACKBONES[name]()
    with pytest.raises(UserError, match="output_stride=4: expected 8, 16 or 32"):
        net.dilate(4)
    for _ in range(2):  # again to the same is nothing new
        net.dilate(16)
    with pytest.raises(UserError, match="output_stride=8: the backbone is dilated to 16 already"):
        net.dilate(8)


@pytest.mark.parametrize("out_keys", [("block3",), ("block2", "block5"), ()])
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_out_keys_choose_the_maps_besides_the_last(name, out_keys):
    with torch.device("meta"):
        net = BACKBONES[name](out_keys=out_keys)
        assert set(net(torch.empty(2, 3, 64, 64))) == {*out_keys, "block6"}
        with pytest.raises(UserError, match=r"out_keys.*'block7'.*block6"):
            BACKBONES[name](out_keys=(*out_keys, "block7"))


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18"])
def test_other_numbers_of_bands_change_the_first_convolution_alone(name, in_channels):
    net, usual = bare(name, in_channels), bare(name)
    shapes, expected = shapes_of(net.state_dict()), shapes_of(usual.state_dict())
    first = "conv1.weight" if name == "resnet18" else "features.0.weight"
    out, _, *kernel = expected[first]
    assert shapes == expected | {first: (out, in_channels, *kernel)}
    maps = net(torch.empty(2, in_channels, 32, 32, device="meta"))
    assert maps["block6"].shape == (2, 512, 1, 1)


def test_mean_and_std_are_taken_out_and_are_no_part_of_the_state_dict(resnet18):
    net = lively(BACKBONES["resnet18"](mean=MEAN, std=STD))
    resnet18.load_state_dict(net.state_dict(), strict=True)
    images = torch.rand(1, 3, 32, 32)
    by_hand = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        ours, expected, raw = net(images), resnet18.eval()(by_hand), resnet18(images)
    assert torch.equal(ours["block6"], expected["block6"])
    assert not torch.allclose(ours["block6"], raw["block6"])
    assert list(net.state_dict()) == list(resnet18.state_dict())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(mean=MEAN), "both or neither"),
        (dict(std=STD), "both or neither"),
        (dict(mean=(0.5,), std=(0.2,)), "mean: 1 numbers for 3 bands"),
        (dict(mean=MEAN, std=STD, in_channels=4), "mean: 3 numbers for 4 bands"),
    ],
)
def test_a_mean_and_std_that_do_not_fit_are_refused(arguments, named):
    with torch.device("meta"), pytest.raises(UserError, match=named):
        BACKBONES["resnet18"](**arguments)


def numbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that nn.Sequential(*resnet.children()) gives."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    parts = ((key.partition("."), value) for key, value in state.items())
    return {f"{names.index(name)}.{rest}": value for (name, _, rest), value in parts}


# The key of the file that has the weights, if one does, and what stands before their names.
PLACES = [
    *((None, prefix) for prefix in ("", "module.", "_orig_mod.", "backbone.", "encoder.")),
    *((None, prefix) for prefix in ("module._orig_mod.", "_orig_mod.backbone.", "model.model.")),
    *(("model", prefix) for prefix in ("", "backbone.", "model.encoder.", "encoder.model.")),
    *(("state_dict", prefix) for prefix in ("", "backbone.", "model.", "model.backbone.")),
    *(("state_dict", prefix) for prefix in ("encoder_q.", "module.encoder_q.")),
    *(("state_dict", prefix) for prefix in ("module.base_encoder.", "student_backbone.")),
    *(("state_dict", prefix) for prefix in ("teacher_backbone.", "momentum_backbone.")),
    (None, "module._orig_mod.backbone."),
]
OTHERS = {"fc.weight": torch.ones(2), "fc.bias": torch.ones(2)}


@pytest.mark.parametrize("kind", ["resnet18", "resnet18 numbered", "vgg11_bn"])
@pytest.mark.parametrize(("key", "prefix"), PLACES)
def test_weights_are_found_wherever_libraries_put_them_and_the_rest_is_named(
    tmp_path, kind, key, prefix
):
    name, _, is_numbered = kind.partition(" ")
    weights, net = weights_of(name), blank(name)
    state = (numbered(weights) if is_numbered else weights) | OTHERS
    state = {prefix + name: value for name, value in state.items()}
    state["projection_head.layers.0.weight"] = torch.ones(2, 2)
    # Entries of a published checkpoint and of a Lightning one.
    contents = {"epoch": 3, "gobal_step": 99, "pytorch-lightning_version": "2.6.6"}
    contents |= state if key is None else {key: state, "optimizer": {"state": {}}}
    result = load_backbone(net, save(tmp_path / "w.ckpt", contents))
    check_loaded(net, weights)
    assert result["model"] is net
    assert (result["matched"], result["missing"]) == (list(weights), [])
    assert set(result["left_over"]) == {*OTHERS, "projection_head.layers.0.weight"}


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("backbone.", "backbone_momentum."),
        ("student_backbone.", "teacher_backbone."),
        ("encoder_q.", "encoder_k."),
        ("base_encoder.", "momentum_encoder."),
        ("backbone.", "momentum_backbone."),
        ("", "teacher_backbone."),
        ("backbone.", "student_backbone."),
    ],
)
def test_of_several_networks_the_trained_one_is_taken_whatever_comes_first(
    tmp_path, resnet18, resnet18_weights, taken, left
):
    wanted = {taken + key: value for key, value in resnet18_weights.items()}
    other = {left + key: torch.zeros(()).expand(v.shape) for key, v in resnet18_weights.items()}
    networks = [{"state_dict": wanted | other}, {"state_dict": other | wanted}]
    for contents in (*networks, {"teacher": other, "student": wanted}):
        load_backbone(resnet18, save(tmp_path / "w.pth", contents))
        check_loaded(resnet18, resnet18_weights)


@pytest.mark.parametrize(("name", "in_channels"), [("resnet18", 4), ("vgg11_bn", 3)])
def test_without_a_model_the_architecture_is_found(tmp_path, name, in_channels):
    state = constants(bare(name, in_channels).state_dict())
    model = load_backbone(None, save(tmp_path / "w.pth", state))["model"]
    assert (model.name, model.in_channels) == (name, in_channels)
    check_loaded(model, state)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("resnet50", "resnet18"),
        ("resnet34", "resnet18"),  # holds every name and shape of a resnet18, and more blocks
        ("resnet101", "resnet50"),  # likewise
        ("vgg11_bn", "resnet18"),
        ("vgg11", "vgg11_bn"),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path, file, wanted):
    path, model = save(tmp_path / "w.pth", weights_of(file)), blank(wanted)
    with pytest.raises(UserError, match=rf"w\.pth.*{wanted}.*{file}"):
        load_backbone(model, path)
    assert not any(value.any() for value in model.state_dict().values())


def test_weights_that_fill_a_part_are_refused_unless_asked_and_what_is_missing_is_told(
    tmp_path, resnet18, resnet18_weights
):
    lacking = [key for key in resnet18_weights if key.startswith("layer4.1")]
    before = {key: torch.zeros(()) for key in lacking}
    state = {key: value for key, value in resnet18_weights.items() if key not in lacking}
    path = save(tmp_path / "w.pth", state)
    with pytest.raises(UserError, match=r"w\.pth.*108 of 120.*layer4\.1\.conv1\.weight"):
        load_backbone(resnet18, path)
    result = load_backbone(resnet18, path, strict=False)
    counters = "num_batches_tracked"
    assert result["missing"] == [key for key in lacking if not key.endswith(counters)]
    assert result["matched"] == list(state)
    check_loaded(resnet18, resnet18_weights | before)


def test_weights_without_counters_of_batches_load(tmp_path, resnet18, resnet18_weights):
    state = {k: v for k, v in resnet18_weights.items() if not k.endswith("num_batches_tracked")}
    result = load_backbone(resnet18, save(tmp_path / "w.pth", state))
    assert result["missing"] == []
    assert (resnet18.layer4[1].bn2.running_var == state["layer4.1.bn2.running_var"]).all()


@pytest.mark.parametrize(("name", "first"), [("resnet18", "conv1"), ("vgg11", "features.0")])
def test_weights_for_three_bands_widen_to_four_by_their_mean(tmp_path, name, first):
    state, model = weights_of(name), blank(name, 4)
    kernel = torch.randn(state[f"{first}.weight"].shape)
    state[f"{first}.weight"] = kernel
    result = load_backbone(model, save(tmp_path / "w.pth", state), in_channels=4)
    wide = model.state_dict()[f"{first}.weight"]
    assert torch.equal(wide[:, :3], kernel)
    torch.testing.assert_close(wide[:, 3], kernel.mean(dim=1))
    assert "widened from 3 to 4 bands" in result["summary"]


@pytest.fixture
def with_card(tmp_path, resnet18_weights):
    """Weights with a card beside them that states a mean and std."""
    card = dict(name="resnet18", in_channels=3, mean=list(MEAN), std=list(STD))
    export_backbone(tmp_path, resnet18_weights, card)
    return tmp_path / "backbone.pth"


@pytest.mark.parametrize("given", [{}, dict(mean=MEAN, std=STD), None])
def test_mean_and_std_of_the_card_are_adopted(with_card, given):
    model = None if given is None else BACKBONES["resnet18"](**given)
    model = load_backbone(model, with_card)["model"]
    assert (model.mean, model.std) == (MEAN, STD)
    normal = model.normalize(torch.ones(1, 3, 1, 1)).ravel()
    torch.testing.assert_close(normal, (1 - torch.tensor(MEAN)) / torch.tensor(STD))


def test_a_mean_other_than_the_cards_is_refused(with_card):
    model = BACKBONES["resnet18"](mean=(0.1, 0.1, 0.1), std=STD)
    with pytest.raises(UserError, match=r"mean=.*0\.1.*backbone\.pth.*0\.4"):
        load_backbone(model, with_card)


def test_a_card_inside_a_checkpoint_counts_like_one_beside_it(tmp_path, resnet18, resnet18_weights):
    contents = {"model": resnet18_weights, "card": {"mean": list(MEAN), "std": list(STD)}}
    load_backbone(resnet18, save(tmp_path / "latest.pth", contents))
    assert (resnet18.mean, resnet18.std) == (MEAN, STD)


def test_a_card_can_be_read_back_and_one_that_is_no_json_is_named(with_card, resnet18):
    card = with_card.with_suffix(".json")
    assert json.loads(card.read_text())["mean"] == list(MEAN)
    card.write_text("{")
    with pytest.raises(UserError, match=r"backbone\.json"):
        load_backbone(resnet18, with_card)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_refused_in_one_line_and_the_code_does_not_run(tmp_path, protocol):
    torch.save({"w": Code(tmp_path / "ran")}, tmp_path / "w.pth", pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"w\.pth.*refused") as error:
        load_backbone(None, tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_truncated_file_is_refused_by_name(tmp_path, is_zip):
    """Of the old format wherever it ends."""
    contents, path = {"w": torch.ones(1000 if is_zip else 100)}, tmp_path / "cut.pth"
    torch.save(contents, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    shares = [int(len(whole) * share) for share in (0, 0.02, 0.5, 0.999)]
    for end in shares if is_zip else range(0, len(whole) - 4, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read(path)


NO_CHECKPOINTS = [b"<!DOCTYPE html>\n", b"version https://git-lfs.github.com/spec/v1\n"]
NO_CHECKPOINTS += [b'{"a": 1}', b"\xff\xd8\xff\xe0\x00\x10JFIF", b"0123456789", b"R", b"h3.", b"2"]


@pytest.mark.parametrize("contents", [*NO_CHECKPOINTS, [1, 2], torch.ones(3)], ids=repr)
def test_a_file_that_is_no_checkpoint_is_refused_as_such(tmp_path, contents):
    said = "no checkpoint"
    if isinstance(contents, bytes):
        (tmp_path / "w.pth").write_bytes(contents)
    else:
        said = "expected a state_dict"
        save(tmp_path / "w.pth", contents)
    with pytest.raises(UserError, match=rf"w\.pth.*{said}"):
        read(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path, resnet18):
    with pytest.raises(UserError, match=r"none\.pth.*no such file"):
        load_backbone(resnet18, tmp_path / "none.pth")


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """torch.hub with an empty cache and no network; returns the folder of the cache."""

    def unreachable(url, *arguments, **options):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_imagenet_weights_without_network_say_what_to_do(imagenet):
    with pytest.raises(UserError, match=r"resnet18.*no network.*pass a file.*pretrained=False"):
        BACKBONES["resnet18"](pretrained=True)


@pytest.fixture
def cached_resnet18(imagenet):
    state = constants(theirs("resnet18").state_dict())
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    torch.save(state, imagenet / url.rsplit("/")[-1])
    return without_classifier(state)


@pytest.mark.parametrize(
    ("given", "mean", "std"),
    [
        ({}, IMAGENET_MEAN, IMAGENET_STD),
        (dict(mean=MEAN, std=STD), MEAN, STD),
        # What is taken out widens likewise: the baseline gets no other images with four bands.
        (dict(in_channels=4), *((*v, sum(v) / 3) for v in (IMAGENET_MEAN, IMAGENET_STD))),
    ],
)
def test_imagenet_weights_in_the_cache_load_with_imagenets_mean_and_std_or_those_given(
    cached_resnet18, given, mean, std
):
    model = BACKBONES["resnet18"](pretrained=True, **given)
    shape = (64, given.get("in_channels", 3), 7, 7)
    check_loaded(model, cached_resnet18 | {"conv1.weight": torch.ones(shape)})
    assert model.conv1.weight.shape == shape
    assert (model.mean, model.std) == (pytest.approx(mean), pytest.approx(std))


def test_weights_without_a_card_are_told_to_have_no_mean_and_std(tmp_path, resnet18_weights):
    file = save(tmp_path / "w.pth", resnet18_weights)
    said = "no card says whether mean and std were taken out"
    assert said in load_backbone(BACKBONES["resnet18"](), file)["summary"]
    given = BACKBONES["resnet18"](mean=MEAN, std=STD)
    assert said not in load_backbone(given, file)["summary"]


def test_pretrained_takes_a_file_and_widens_it_with_the_mean_and_std_of_its_card(
    with_card, resnet18_weights, capsys
):
    model = BACKBONES["resnet18"](pretrained=str(with_card))
    check_loaded(model, resnet18_weights)
    assert "120 of 120 entries of resnet18 loaded" in capsys.readouterr().out
    wide = BACKBONES["resnet18"](in_channels=4, pretrained=str(with_card))
    assert wide.conv1.weight.shape[1] == 4
    assert wide.mean == pytest.approx((*MEAN, 0.4))
    assert wide.std == pytest.approx((*STD, sum(STD) / 3))
    assert "widened from 3 to 4 bands" in capsys.readouterr().out


def test_exported_weights_load_into_torchvision_timm_and_smp(tmp_path):
    resnet18 = lively(BACKBONES["resnet18"]())
    export_backbone(tmp_path, resnet18.state_dict(), {})
    state = torch.load(tmp_path / "backbone.pth", weights_only=True)
    with torch.device("meta"):
        others = [
            timm.create_model("resnet18", num_classes=0),
            smp.encoders.get_encoder("resnet18", weights=None),
            torchvision.models.resnet18(weights=None),
        ]
    del others[2].fc
    for other in others:
        other.load_state_dict(dict(state), strict=True, assign=True)
        check_loaded(other, resnet18.state_dict())
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        ours = resnet18(images)["block6"]
        torch.testing.assert_close(others[0].eval().forward_features(images), ours)
        torch.testing.assert_close(others[1].eval()(images)[-1], ours)


def test_exported_vgg16_bn_fits_torchvisions_features():
    state = {key.removeprefix("features."): v for key, v in weights_of("vgg16_bn").items()}
    features = theirs("vgg16_bn").features
    features.load_state_dict(state, strict=True, assign=True)
    assert (features[0].weight == 1).all()
