"""The examples of docs/use_the_weights.md, each run as it stands there."""

import sys

import pytest
import torch
from conftest import ROOT
from test_backbones import lively
from test_export import export, tuned_run

from SSLRemoteSensing.checkpoint import export_backbone
from SSLRemoteSensing.models.weights import BACKBONES

PARTS = (ROOT / "docs/use_the_weights.md").read_text().split("```python\n")
EXAMPLES = [part.split("```")[0] for part in PARTS[1:]]
README = (ROOT / "README.md").read_text().split("## The weights in your own model")[1]
EXAMPLES.append(README.split("```python\n")[1].split("```")[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the examples name."""
    here = tmp_path_factory.mktemp("weights")
    export_backbone(here, lively(BACKBONES["resnet18"]()).state_dict(), {"name": "resnet18"})
    export_backbone(make(here / "runs/mine"), BACKBONES["resnet18"]().state_dict(), {})
    best = tuned_run(make(here / "seg"), {"name": "LinearProbe"})
    with pytest.MonkeyPatch.context() as patch:
        for form, source, name, flags in (
            ("safetensors", "backbone.pth", "weights.safetensors", []),
            ("onnx", best, "net.onnx", ["--preprocess"]),
            ("torchscript", "backbone.pth", "net.pt", []),
        ):
            flags += ["--checkpoint", str(here / source), "--output", str(here / name)]
            patch.setattr(sys, "argv", ["export.py", "--format", form, *flags])
            export.main()
    return here


def make(path):
    path.mkdir(parents=True)
    return path


# torch.jit.load is deprecated, and for C++ there is nothing else that reads both.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
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
    for library in (
        "torchvision",
        "timm",
        "segmentation_models_pytorch",
        "nn.Module",
        "onnxruntime",
    ):
        assert any(library in code for code in EXAMPLES), library


def test_torchvision_timm_and_our_own_module_give_the_same(folder, monkeypatch):
    monkeypatch.chdir(folder)
    images, found = torch.rand(1, 3, 64, 96), []
    for word in ("pyramid = ", "forward_features", "class Features"):
        names = {"images": images}
        exec(next(code for code in EXAMPLES if word in code), names)
        found.append(names["pyramid"]["block6"] if "pyramid" in names else names["features"])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)
