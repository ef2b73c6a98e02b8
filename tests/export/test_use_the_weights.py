"""The examples of docs/use_the_weights.md, each run as it stands there."""

import pytest
import torch
from conftest import ROOT
from lively import MEAN, STD

PARTS = (ROOT / "docs/use_the_weights.md").read_text().split("```python\n")
EXAMPLES = [part.split("```")[0] for part in PARTS[1:]]
README = (ROOT / "README.md").read_text().split("## The weights in your own model")[1]
EXAMPLES.append(README.split("```python\n")[1].split("```")[0])


@pytest.fixture(scope="module")
def folder(exports, tmp_path_factory):
    """The files that the examples name."""
    here = tmp_path_factory.mktemp("weights")
    run = exports.checkpoints["backbone"]
    (here / "runs/mine").mkdir(parents=True)
    for name in ("backbone.pth", "runs/mine/backbone.pth"):
        (here / name).symlink_to(run)
        (here / name).with_suffix(".json").symlink_to(run.with_suffix(".json"))
    (here / "best.pth").symlink_to(exports.checkpoints["tuned"])
    (here / "weights.safetensors").symlink_to(exports("backbone", "safetensors"))
    (here / "net.onnx").symlink_to(exports("tuned", "onnx", "--preprocess"))
    return here


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.split("\n")[0][:40])
def test_the_example_runs(folder, monkeypatch, code):
    monkeypatch.chdir(folder)
    names = {"images": torch.rand(1, 3, 64, 96)}
    exec(code, names)
    if "pyramid" in names:
        assert names["pyramid"]["block6"].shape == (1, 512, 2, 3)
    if "logits" in names:
        assert names["logits"].shape[-1] in (4, 6, 96, 131)


def test_the_examples_that_were_promised_are_there():
    text = "".join(EXAMPLES)
    libraries = ["torchvision", "timm", "segmentation_models_pytorch", "nn.Module", "onnxruntime"]
    assert [library for library in libraries if library not in text] == []


def test_timm_gives_the_features_that_our_own_module_gives(folder, monkeypatch):
    monkeypatch.chdir(folder)
    images, found = torch.rand(1, 3, 64, 96), []
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for word in ("pyramid = ", "forward_features"):
        names = {"images": images if word == "pyramid = " else (images - mean) / std}
        exec(next(code for code in EXAMPLES if word in code), names)
        found.append(names["pyramid"]["block6"] if "pyramid" in names else names["features"])
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)
