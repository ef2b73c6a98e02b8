"""tools/export.py --format hub: timm reads the folder and gives our maps."""

import json
import re
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from exports import run_export, tuned_run
from lively import MEAN, STD, lively
from safetensors.torch import load_file
from test_export import card_of, run_examples

from SSLRemoteSensing import load_backbone
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.export import hub
from SSLRemoteSensing.models.backbones import BLOCKS
from SSLRemoteSensing.models.pretrained import BACKBONES

FILES = {"README.md", "config.json", "model.safetensors"}


def timm_run(folder, model: str, **settings):
    """A file of weights of a network of timm with its card; gives the module and the file."""
    torch.manual_seed(0)
    cfg = {"name": "timm", "model": model, "mean": [0.4] * 4, "std": [0.2] * 4, "in_channels": 4}
    net = lively(build(BACKBONES, cfg | settings, "backbone_cfg"))
    torch.save({"model": net.state_dict(), "card": net.card()}, folder / "weights.pth")
    return net, folder / "weights.pth"


def maps_of(folder, images: torch.Tensor, **options) -> list[torch.Tensor]:
    net = timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()
    with torch.no_grad():
        return net(images)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def normal(images: torch.Tensor, net) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (net.mean, net.std))
    return (images - mean) / std


def test_a_resnet_comes_back_from_timm_with_equal_maps_and_its_own_config(
    exports, images, tmp_path
):
    out = tmp_path / "out"
    run_export(exports.checkpoints["backbone"], "hub", out, "--license", "mit")
    assert {path.name for path in out.iterdir()} == FILES
    net = exports.source("backbone").backbone
    with torch.no_grad():
        expected = net(images)
    maps = maps_of(out, normal(images, net), features_only=True)
    for x, (key, target) in zip(maps, expected.items(), strict=True):
        torch.testing.assert_close(x, target, atol=1e-5, rtol=0, msg=key)
    whole = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        (features, pooled) = (f(normal(images, net)) for f in (whole.forward_features, whole))
    torch.testing.assert_close(features, expected["block6"], atol=1e-5, rtol=0)
    assert pooled.shape == (2, 512)
    assert (
        timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=7).fc.out_features == 7
    )
    config = timm.data.resolve_model_data_config(whole)
    assert config["input_size"] == (3, 256, 256)
    assert (list(config["mean"]), list(config["std"])) == (list(MEAN), list(STD))
    assert whole.pretrained_cfg["license"] == "mit"


def test_a_vgg_comes_back_as_the_maps_before_and_after_its_pools(tmp_path):
    net = lively(BACKBONES["vgg11_bn"](in_channels=2))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    run_export(tmp_path / "w.pth", "hub", tmp_path / "out")
    images = torch.rand(1, 2, 64, 32)
    with torch.no_grad():
        expected = net(images)
    maps = maps_of(tmp_path / "out", images)
    for x, (_, after) in zip(maps, pairwise(BLOCKS), strict=False):
        torch.testing.assert_close(F.max_pool2d(x, 2), expected[after], atol=1e-5, rtol=0)
    torch.testing.assert_close(maps[-1], expected["block6"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("convnext_atto", {}),
        ("regnetx_002", {}),
        ("vit_tiny_patch16_224", {}),
        ("maxvit_pico_rw_256", {"img_size": 64}),
    ],
)
def test_a_network_of_timm_comes_back_with_equal_maps(tmp_path, monkeypatch, model, settings):
    net, weights = timm_run(tmp_path, model, **settings)
    run_export(weights, "hub", tmp_path / "out")
    images = torch.rand(2, 4, 64, 64)
    maps = maps_of(tmp_path / "out", normal(images, net), features_only=True)
    with torch.no_grad():
        if net.pyramid:  # is ours, and stays with our own formats
            maps = [net.pyramid[key](x) for key, x in zip(net.channels, maps, strict=True)]
        expected = net(images)
    for x, target in zip(maps[-len(expected) :], expected.values(), strict=True):
        torch.testing.assert_close(x, target, atol=1e-5, rtol=0)
    assert not [key for key in load_file(tmp_path / "out/model.safetensors") if "pyramid" in key]
    assert load_backbone(None, tmp_path / "out/model.safetensors")["model"].mean == net.mean
    assert run_examples(tmp_path / "out", monkeypatch) == 2  # of it as a classifier, too


def test_a_dilated_resnet_comes_back_dilated_and_a_dilated_vgg_is_refused(exports, tmp_path):
    decoder = {"name": "DeepLabV3Plus", "decoder_channels": 16}
    best = tuned_run(tmp_path, decoder)
    run_export(best, "hub", tmp_path / "out")
    (last,) = maps_of(tmp_path / "out", torch.rand(1, 3, 64, 64), features_only=True)[-1:]
    assert last.shape == (1, 512, 4, 4)
    vgg = tuned_run(tmp_path, decoder, "vgg11")
    with pytest.raises(UserError, match=r"timm has no vgg11 .* 1/16; take --format safetensors"):
        run_export(vgg, "hub", tmp_path / "vgg")
    assert not list((tmp_path / "vgg").iterdir())


def test_the_card_has_licence_data_scores_and_lines_that_run(
    exports, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    flags = ["--license", "cc-by-4.0", "--dataset", "me/town"]
    run_export(exports.checkpoints["tuned"], "hub", out, *flags)
    assert f"next: hf upload NAME/REPOSITORY {out}\n" in capsys.readouterr().out
    head, body = card_of(out)
    assert (head["license"], head["datasets"]) == ("cc-by-4.0", ["me/town"])
    assert (head["library_name"], head["pipeline_tag"]) == ("timm", "image-feature-extraction")
    assert "of the network with its decoder, of which this is the backbone:" in body
    assert "| 51.20 | 60.00 | 90.00 | none |" in body
    assert run_examples(out, monkeypatch) == 2
    assert not re.search(
        rb"/home/|jane|secret|/tmp/", b"".join(f.read_bytes() for f in out.iterdir())
    )


def test_the_card_of_a_network_of_timm_builds_it_by_its_name(tmp_path, monkeypatch):
    _, weights = timm_run(tmp_path, "convnext_atto")
    run_export(weights, "timm", tmp_path / "out/w.pth")
    head, body = card_of(tmp_path / "out")
    assert yaml.safe_dump(head).count("convnext_atto\n") == 1
    assert 'timm.create_model("convnext_atto", num_classes=0, in_chans=4)' in body
    assert run_examples(tmp_path / "out", monkeypatch) == 2
    for form in ("torchvision", "smp"):
        with pytest.raises(UserError, match=rf"--format {form}: .* take --format timm or hub"):
            run_export(weights, form, tmp_path / f"{form}/w.pth")


def test_other_maps_are_not_written(exports, tmp_path, monkeypatch):
    def nudged(backbone) -> dict:
        return plain_weights(backbone) | {"conv1.weight": torch.zeros(64, 3, 7, 7)}

    plain_weights = hub.hub_weights
    monkeypatch.setattr(hub, "hub_weights", nudged)
    with pytest.raises(UserError, match=r"resnet18 of timm \S+ gives other maps"):
        run_export(exports.checkpoints["backbone"], "hub", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("model.safetensors", r"model\.safetensors: is there already; pass --overwrite"),
        ("config.json", r"config\.json: is there already; pass --overwrite"),
        ("README.md", r"README\.md beside it was not written by this command"),
    ],
)
def test_a_folder_that_has_such_files_is_left_as_it_is(exports, tmp_path, made, said):
    (tmp_path / made).write_text("mine")
    with pytest.raises(UserError, match=said):
        run_export(exports.checkpoints["backbone"], "hub", tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(made, "mine")]
    run_export(exports.checkpoints["backbone"], "hub", tmp_path, "--overwrite")
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "resnet18"


def test_a_file_is_no_folder(exports, tmp_path):
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(UserError, match=r"name a folder, which holds what --format hub writes"):
            run_export(exports.checkpoints["backbone"], "hub", tmp_path / name)
