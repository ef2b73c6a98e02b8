"""Checkpoints drawn for tools/export.py, and what it makes of them, each made once a session."""

import importlib.util
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from lively import MEAN, STD, lively

from SSLRemoteSensing import build_segmentation
from SSLRemoteSensing.core.checkpoints import export_backbone, write
from SSLRemoteSensing.export.source import Source, open_source
from SSLRemoteSensing.models.pretrained import BACKBONES

SPEC = importlib.util.spec_from_file_location("export", ROOT / "tools/export.py")
export = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(export)

CLASSES = ["ground", "building", "car"]
FORMS = {"safetensors": "w.safetensors", "onnx": "net.onnx"}


@contextmanager
def undrawn():
    """Modules made in here keep what memory holds: every weight comes from a file, sooner."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield


def run_export(checkpoint: Path, form: str, output: Path, *flags: str) -> Path:
    """Run the command here, in this process; gives the file."""
    argv = ["--checkpoint", str(checkpoint), "--format", form, "--output", str(output), *flags]
    with pytest.MonkeyPatch.context() as patch, undrawn():
        patch.setattr(sys, "argv", ["export.py", *argv])
        export.main()
    return output


def backbone_run(folder: Path, name: str, **card) -> Path:
    """A pre-training's backbone.pth and its card."""
    net = lively(BACKBONES[name](mean=MEAN, std=STD))
    data = {"data_path": "/home/jane/images", "img_size": 256}
    config = {"backbone_cfg": {"name": name, "pretrained": False}}
    config |= {"train_cfg": {"train_data": data}, "agr_head_cfg": {"name": "AGPHead"}}
    facts = net.card() | {"bands": [1, 2, 3], "max_value": 1023.0, "img_size": 256, "step": 77}
    facts |= {"epoch": 2, "images_seen": 99, "config": config}
    export_backbone(folder, net.state_dict(), facts | card)
    return folder / "backbone.pth"


def tuned_run(folder: Path, decoder: dict, name: str | dict = "resnet18", **more) -> Path:
    """A fine-tuned network's best.pth, and the results beside it; `name` may be a backbone_cfg."""
    torch.manual_seed(0)
    backbone = {"pretrained": False} | (name if isinstance(name, dict) else {"name": name})
    config = {"classes": CLASSES, "backbone_cfg": backbone, "decoder_cfg": decoder}
    net = build_segmentation(config)
    net.backbone.set_normalization(MEAN, STD)
    lively(net)
    data = {"train_data": {"image_path": "/home/jane/images", "crop_size": 128}}
    config |= {"train_cfg": data}
    config["backbone_cfg"] |= {"pretrained": "/home/jane/secret/backbone.pth"}
    card = net.backbone.card() | {"classes": CLASSES, "config": config, "palette": [[0] * 3] * 3}
    card |= {"train_tiles": {"used": 3, "of": 30}, "max_value": None} | more
    contents = {"model": net.state_dict(), "step": 40, "card": json.loads(json.dumps(card))}
    write(folder / "best.pth", contents)
    entry = {"iou": 0.5, "f1": 0.6}
    scores = {"miou": 0.512, "mf1": 0.6, "oa": 0.9, "kappa": None}
    scores |= {"per_class": dict.fromkeys(CLASSES, entry)}
    results = {"checkpoint": "runs/x/best.pth", "step": 40, "split": "test"}
    results |= {"protocols": {"full": scores}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "best.pth"


class Exports:
    """`exports("backbone" or "tuned", form, *flags)`: that export; read it, but leave it as it is.

    Attributes:
        checkpoints: what is exported, by kind.
    """

    def __init__(self, factory):
        self.factory, self.made, self.sources = factory, {}, {}
        tuned = {"bands": [4, 1, 2], "band_names": ["near infrared", "red", "green"]}
        tuned |= {"prepared": True, "dataset": "town", "dtype": "uint8"}
        self.checkpoints = {
            "backbone": backbone_run(factory.mktemp("backbone"), "resnet18"),
            "tuned": tuned_run(factory.mktemp("tuned"), {"name": "Decoder"}, **tuned),
        }

    def __call__(self, kind: str, form: str, *flags: str) -> Path:
        key = kind, form, flags
        if key not in self.made:
            output = self.factory.mktemp("export") / FORMS.get(form, "w.pth")
            self.made[key] = run_export(self.checkpoints[kind], form, output, *flags)
        return self.made[key]

    def source(self, checkpoint: str | Path) -> Source:
        """The module of a kind, or of any file."""
        path = self.checkpoints.get(checkpoint, checkpoint)
        if path not in self.sources:
            with undrawn():
                self.sources[path] = open_source(path)
        return self.sources[path]

    def ours(self, checkpoint: str | Path, pixels: torch.Tensor) -> torch.Tensor:
        """Logits, or the last map, of the network in a checkpoint, for uint8 images."""
        source = self.source(checkpoint)
        unit = pixels.float() / 255
        with torch.no_grad():
            return source.net.logits(unit) if source.net else source.backbone(unit)["block6"]
