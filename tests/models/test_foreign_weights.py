"""A backbone is found in a file of any tool: under any key, after any prefix; the right one."""

import argparse

import numpy as np
import pytest
import torch
from foreign import draw_foreign, wrong_names
from test_backbones import bare, blank, check_loaded, constants, save, weights_of
from torch import Tensor

from SSLRemoteSensing import load_backbone
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.pretrained import BACKBONES

OTHER = {key: value + 1 for key, value in weights_of("resnet18").items()}


def prefixed(prefix: str, name: str = "resnet18") -> dict[str, Tensor]:
    state = weights_of(name) if isinstance(name, str) else name
    return {prefix + key: value for key, value in state.items()}


def as_tree(state: dict[str, Tensor]) -> dict:
    """A dict a module."""
    tree = {}
    for name, value in state.items():
        *path, last = name.split(".")
        part = tree
        for word in path:
            part = part.setdefault(word, {})
        part[last] = value
    return tree


FILES = {
    "a key": lambda state: {"epoch": 3, "trained_weights": state},
    "keys within keys": lambda state: {"run": {"nets": {"a": state}}, "step": torch.tensor(3)},
    "a list": lambda state: [state, {"lr": 0.1}],
    "a list within": lambda state: {"nets": [None, state]},
    "a namespace": lambda state: {"best": argparse.Namespace(score=0.5, weights=state)},
    "a prefix": lambda state: {f"seg.enc.trunk.{key}": value for key, value in state.items()},
    "names of ours": lambda state: {f"layer1.0.features.{k}": v for k, v in state.items()},
    "a dict a module": lambda state: {"net": as_tree(state)},
    "two names of a network": lambda state: state | {f"alias.{k}": v for k, v in state.items()},
    "half precision": lambda state: {key: value.half() for key, value in state.items()},
    "a decoder that looks alike": lambda state: (
        {f"up.{k}": torch.zeros(()).expand(v.shape) for k, v in list(state.items())[:40]}
        | {f"down.{k}": v for k, v in state.items()}
    ),
}


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
@pytest.mark.parametrize("what", FILES)
def test_weights_are_found_anywhere(tmp_path, what, name):
    path = save(tmp_path / "w.pth", FILES[what](weights_of(name)))
    for model in (None, blank(name)):
        check_loaded(load_backbone(model, path)["model"], weights_of(name))


@pytest.mark.parametrize("number", range(30))
def test_weights_are_found_under_keys_and_prefixes_at_random(tmp_path, number):
    path = tmp_path / "w.pth"
    weights = draw_foreign(np.random.default_rng([1, number]), path)
    assert wrong_names(path, weights) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"state_dict": prefixed("net.")}, {"state_dict_ema": prefixed("net.", OTHER)}),
        ({"model": prefixed("")}, {"model_ema": OTHER}),
        ({"student": prefixed("module.backbone.")}, {"teacher": prefixed("backbone.", OTHER)}),
        (prefixed("online_encoder.net."), prefixed("target_encoder.net.", OTHER)),
        (prefixed("module.encoder."), prefixed("module.encoder_k.", OTHER)),
        (prefixed("encoder_query."), prefixed("encoder_key.", OTHER)),
        (prefixed("net."), prefixed("netEMA.", OTHER)),
        (prefixed("model."), prefixed("_average_model.module.", OTHER)),
    ],
)
def test_what_was_trained_comes_before_its_running_mean_and_is_told(tmp_path, first, second):
    for contents in (first | second, second | first):
        found = load_backbone(None, save(tmp_path / "w.pth", contents))
        check_loaded(found["model"], weights_of("resnet18"))
        assert "of its networks" in found["summary"]


@pytest.mark.parametrize(
    "contents",
    [
        {"last": prefixed(""), "best": OTHER},
        {"state_dict": prefixed("left.") | prefixed("right.", OTHER)},
        prefixed("") | prefixed("branch.", OTHER),
        [prefixed("net."), prefixed("net.", OTHER)],
    ],
)
def test_of_two_networks_that_differ_none_is_taken_and_the_lines_advised_save_one(
    tmp_path, monkeypatch, contents
):
    path = save(tmp_path / "w.pth", contents)
    with pytest.raises(UserError, match=r"w\.pth: hold two networks, .* and ") as error:
        load_backbone(blank("resnet18"), path)
    monkeypatch.chdir(tmp_path)
    text = str(error.value)
    if "without a prefix" not in text:
        exec(text[text.index("import torch") :], {})
        found = load_backbone(None, tmp_path / "weights.pth")["model"].state_dict()
        assert found["conv1.weight"].unique() in (1, 2)


def test_of_two_networks_the_one_that_fits_the_model_is_taken(tmp_path):
    grey = constants(bare("resnet18", 1).state_dict())
    contents = prefixed("a.", "vgg11") | prefixed("b.", grey) | prefixed("c.")
    path = save(tmp_path / "w.pth", contents)
    check_loaded(load_backbone(blank("vgg11"), path)["model"], weights_of("vgg11"))
    for bands, weights in ((1, grey), (3, weights_of("resnet18"))):
        check_loaded(load_backbone(blank("resnet18", bands), path)["model"], weights)


def test_a_network_that_fits_exactly_is_taken_before_a_deeper_one(tmp_path):
    contents = {"model": prefixed("", "resnet34"), "backbone": prefixed("")}
    path = save(tmp_path / "w.pth", contents)
    check_loaded(load_backbone(blank("resnet18"), path)["model"], weights_of("resnet18"))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"mean": 0.71}, None),
        ({"mean": [0.4] * 3}, None),
        ({"mean": ["a"] * 3, "std": ["b"] * 3}, None),
        ({"mean": [0.4] * 2, "std": [0.2] * 2}, None),
        ({"mean": [0.4] * 3, "std": [0.2] * 3}, (0.4, 0.4, 0.4)),
        ({"mean": [123.6, 116.2, 103.5], "std": [58, 57, 57]}, "0..255"),
        ({"mean": [0.4] * 3, "std": [0, 0, 0]}, "std above 0"),
        ({"mean": [float("nan")] * 3, "std": [0.2] * 3}, "numbers in 0..1"),
    ],
)
def test_a_card_s_mean_and_std_are_taken_where_they_can_be(tmp_path, card, expected):
    path = save(tmp_path / "w.pth", {"state_dict": prefixed(""), "card": card})
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            load_backbone(None, path)
    else:
        assert load_backbone(None, path)["model"].mean == expected


@pytest.mark.parametrize("model", [None, "resnet18"])
def test_where_nothing_fits_keys_and_names_are_told(tmp_path, model):
    tensors = {f"net.block{i}.conv.weight": torch.zeros(2) for i in range(9)}
    path = save(tmp_path / "w.pth", {"epoch": 3, "weights": tensors})
    said = r"the keys epoch, weights, .*net\.block0, net\.block1, .*torch\.save\("
    with pytest.raises(UserError, match=said):
        load_backbone(model and blank(model), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["layer3.1.conv2.weight", "bn1.running_var", "layer4.1.bn2.bias"])
def test_weights_that_are_not_finite_are_named_and_not_loaded(tmp_path, key, value):
    state = weights_of("resnet18")
    state |= {"fc.weight": torch.full((2, 2), float("nan")), key: state[key].clone()}
    path, model = save(tmp_path / "w.pth", {"net": prefixed("a.", state)}), blank("resnet18")
    load_backbone(None, path)  # a head that is not taken may be anything
    state[key].view(-1)[-1] = value
    with pytest.raises(UserError, match=rf"w\.pth: {key} holds values that are not finite"):
        load_backbone(model, save(path, {"net": prefixed("a.", state)}))
    assert not any(tensor.any() for tensor in model.state_dict().values())


def test_a_network_that_is_not_finite_is_not_predicted_with(tmp_path):
    net = torch.nn.BatchNorm2d(2)
    net.running_var[1] = float("inf")
    with pytest.raises(UserError, match=r"best\.pth: running_var holds values that are not finite"):
        checkpoints.load_network(net, {"model": net.state_dict()}, "best.pth")


def test_whole_numbers_are_no_weights(tmp_path):
    state = {key: value.to(torch.int8) for key, value in weights_of("resnet18").items()}
    with pytest.raises(UserError, match="fit none of"):
        load_backbone(None, save(tmp_path / "w.pth", state))


@pytest.mark.parametrize(
    ("file", "bands", "settings"),
    [
        ("resnet18", 13, "set backbone_cfg.in_channels=13, or"),
        ("resnet34", 4, "set backbone_cfg.name='resnet34' and backbone_cfg.in_channels=4, or"),
        ("vgg11", 12, "set backbone_cfg.name='vgg11' and backbone_cfg.in_channels=12, or"),
    ],
)
def test_weights_of_more_bands_name_the_keys_to_set_and_a_way_to_fewer(
    tmp_path, monkeypatch, file, bands, settings
):
    path = save(tmp_path / "w.pth", constants(bare(file, bands).state_dict()))
    with pytest.raises(UserError, match=r"in_channels=3: .* cannot be widened to fewer") as error:
        BACKBONES["resnet18"](in_channels=3, pretrained=str(path))
    text = str(error.value)
    assert f"{settings} average them in Python" in text
    monkeypatch.chdir(tmp_path)
    exec(text[text.index("from SSLRemoteSensing") :], {})
    load_backbone(blank(file), tmp_path / "averaged.pth")
    BACKBONES[file](in_channels=bands, pretrained=str(path))
