"""tools/export.py: every format is read back by the library that it is for, with equal features."""

import importlib.util
import json
import sys
import warnings

import cv2
import numpy as np
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from test_backbones import MEAN, STD, Code, lively

from SSLRemoteSensing import build_segmentation, load_backbone
from SSLRemoteSensing.checkpoint import export_backbone, read, write
from SSLRemoteSensing.errors import UserError, run_command
from SSLRemoteSensing.exporting.layouts import mmpretrain_vgg, mmseg_config
from SSLRemoteSensing.exporting.model_card import MARK
from SSLRemoteSensing.exporting.source import open_source
from SSLRemoteSensing.models.weights import BACKBONES

SPEC = importlib.util.spec_from_file_location("export", ROOT / "tools/export.py")
export = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(export)

CLASSES = ["ground", "building", "car"]
CLOSE = dict(atol=1e-5, rtol=0)
SIZES = [(1, 64, 96), (3, 32, 32), (2, 45, 131)]


@pytest.fixture(scope="session")
def pixels(oam) -> torch.Tensor:
    """A real tile, uint8 (1, 3, 96, 64)."""
    tile = cv2.imread(str(min((oam / "images").glob("*.jpg"))))[:96, :64, ::-1].copy()
    return torch.from_numpy(tile).permute(2, 0, 1)[None]


def backbone_run(folder, name: str, **card):
    net = lively(BACKBONES[name](mean=MEAN, std=STD))
    data = {"data_path": "/home/someone/secret/tiles", "img_size": 256}
    config = {
        "backbone_cfg": {"name": name, "pretrained": False},
        "train_cfg": {"train_data": data},
    }
    known = net.card() | {"bands": [1, 2, 3], "max_value": 1023.0, "img_size": 256, "step": 77}
    known |= {
        "epoch": 2,
        "images_seen": 99,
        "config": config | {"agr_head_cfg": {"name": "AGPHead"}},
    }
    export_backbone(folder, net.state_dict(), known | card)
    return folder / "backbone.pth"


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory):
    return backbone_run(tmp_path_factory.mktemp("resnet18"), "resnet18")


def tuned_run(folder, decoder: dict, name: str = "resnet18"):
    """A fine-tuned network's best.pth, and the results beside it."""
    torch.manual_seed(0)
    backbone = {"name": name, "pretrained": False}
    config = {"classes": CLASSES, "backbone_cfg": backbone, "decoder_cfg": decoder}
    net = build_segmentation(config)
    net.backbone.set_normalization(MEAN, STD)
    lively(net)
    data = {"train_data": {"image_path": "/home/someone/secret/town", "crop_size": 128}}
    config |= {"train_cfg": data}
    config["backbone_cfg"] |= {"pretrained": "/home/someone/secret/backbone.pth"}
    card = net.backbone.card() | {"classes": CLASSES, "config": config, "palette": [[0] * 3] * 3}
    card |= {"train_tiles": {"used": 3, "of": 30}, "max_value": None}
    contents = {"model": net.state_dict(), "step": 40, "card": json.loads(json.dumps(card))}
    write(folder / "best.pth", contents)
    entry = {"iou": 0.5, "f1": 0.6}
    scores = {"miou": 0.512, "mf1": 0.6, "oa": 0.9, "kappa": None}
    scores |= {"per_class": dict.fromkeys(CLASSES, entry)}
    results = {
        "checkpoint": "runs/x/best.pth",
        "step": 40,
        "split": "test",
        "protocols": {"full": scores},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "best.pth"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    return tuned_run(tmp_path_factory.mktemp("tuned"), {"name": "LinearProbe"})


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Run the command here, in this process; gives the file."""

    def call(checkpoint, form: str, name: str, *flags: str):
        output = tmp_path / name
        argv = ["--checkpoint", str(checkpoint), "--format", form, "--output", str(output), *flags]
        monkeypatch.setattr(sys, "argv", ["export.py", *argv])
        export.main()
        return output

    return call


def ours(checkpoint, pixels: torch.Tensor) -> torch.Tensor:
    """Logits, or the last map, of the network in a checkpoint, for uint8 images."""
    source = open_source(checkpoint)
    with torch.no_grad():
        unit = pixels.float() / 255
        return source.backbone(unit)["block6"] if source.net is None else source.net.logits(unit)


def normal(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


@pytest.mark.parametrize("form", ["torchvision", "timm", "smp"])
def test_a_backbone_gives_equal_features_in_each_library(exported, resnet18, pixels, form):
    state = torch.load(exported(resnet18, form, "w.pth"), weights_only=True)
    if form == "torchvision":
        net = torchvision.models.resnet18(weights=None)
        assert net.load_state_dict(state, strict=False).missing_keys == ["fc.weight", "fc.bias"]
        net = torch.nn.Sequential(*list(net.children())[:-2])
    elif form == "timm":
        net = timm.create_model("resnet18", num_classes=0, global_pool="")
        net.load_state_dict(state)
    else:
        net = smp.encoders.get_encoder("resnet18", weights=None)
        net.load_state_dict(state)
    with torch.no_grad():
        found = net.eval()(normal(pixels))
    found = found[-1] if form == "smp" else found
    torch.testing.assert_close(found, ours(resnet18, pixels), **CLOSE)


def test_what_is_exported_is_read_here_with_its_mean_and_std(exported, resnet18, pixels):
    for form, name in (("timm", "w.pth"), ("mmseg", "m.pth"), ("safetensors", "w.safetensors")):
        net = load_backbone(None, exported(resnet18, form, name))["model"].eval()
        with torch.no_grad():
            found = net(pixels.float() / 255)["block6"]
        torch.testing.assert_close(found, ours(resnet18, pixels), **CLOSE)


def test_safetensors_load_into_torchvision(exported, resnet18, pixels):
    state = load_file(exported(resnet18, "safetensors", "w.safetensors"))
    net = torchvision.models.resnet18(weights=None)
    net.load_state_dict(state, strict=False)
    net = torch.nn.Sequential(*list(net.children())[:-2])
    with torch.no_grad():
        found = net.eval()(normal(pixels))
    torch.testing.assert_close(found, ours(resnet18, pixels), **CLOSE)


def test_mmseg_gets_the_names_and_plain_values_that_it_reads(exported, resnet18, capsys):
    contents = torch.load(exported(resnet18, "mmseg", "w.pth"), weights_only=True)
    state = {k.removeprefix("backbone."): v for k, v in contents["state_dict"].items()}
    assert set(state) == set(read(resnet18))
    assert all(key.startswith("backbone.") for key in contents["state_dict"])
    assert contents["meta"]["name"] == "resnet18"
    said = capsys.readouterr().out
    assert "type='ResNet', depth=18, style='pytorch'" in said
    assert f"mean={[round(255 * x, 3) for x in MEAN]}" in said


class ConvModule(torch.nn.Module):
    """mmcv's: convolution, normalization and ReLU in one."""

    def __init__(self, before: int, after: int, norm: bool):
        super().__init__()
        self.conv = torch.nn.Conv2d(before, after, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(after) if norm else torch.nn.Identity()

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_a_vgg_has_the_names_of_mmpretrains(tmp_path, name):
    net, layers, before = lively(BACKBONES[name]()), [], 3
    for width in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        pool = width == "M"
        norm = name.endswith("bn")
        layers.append(torch.nn.MaxPool2d(2) if pool else ConvModule(before, width, norm))
        before = before if pool else width
    theirs = torch.nn.ModuleDict({"features": torch.nn.Sequential(*layers)}).eval()
    theirs.load_state_dict(mmpretrain_vgg(net.features, net.state_dict()))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs["features"](images), net(images)["block6"], **CLOSE)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert "type='mmpretrain.VGG', depth=11" in mmseg_config(open_source(tmp_path / "w.pth"), "f")


SMP_DECODERS = [
    {"name": "Unet", "decoder_channels": [64, 32, 16, 8, 8], "interpolation": "bilinear"},
    {"name": "FPN", "pyramid_channels": 32, "segmentation_channels": 32, "merge_policy": "cat"},
    {"name": "UPerNet", "decoder_channels": 32},
    {"name": "PSPNet", "output_stride": 32, "decoder_channels": 32},
]


@pytest.mark.parametrize("decoder", SMP_DECODERS, ids=lambda cfg: cfg["name"])
def test_a_whole_network_gives_equal_logits_in_smp(exported, tmp_path, pixels, decoder):
    best = tuned_run(tmp_path, decoder)
    state = torch.load(exported(best, "smp", "out/w.pth"), weights_only=True)
    text = (tmp_path / "out/README.md").read_text()
    call = next(line for line in text.splitlines() if line.startswith("net = smp."))
    net = eval(call.removeprefix("net = "), {"smp": smp})
    net.load_state_dict(state)
    with torch.no_grad():
        found = net.eval()(normal(pixels))
    torch.testing.assert_close(found, ours(best, pixels), **CLOSE)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [("resnet18", {"name": "DeepLabV3Plus", "decoder_channels": 32}), ("vgg11", {"name": "Unet"})],
)
def test_where_smp_has_another_network_it_gets_the_encoder(
    exported, tmp_path, name, decoder, capsys
):
    best = tuned_run(tmp_path, decoder, name)
    state = torch.load(exported(best, "smp", "out/w.pth"), weights_only=True)
    assert "the backbone alone" in capsys.readouterr().out
    smp.encoders.get_encoder(name, weights=None).load_state_dict(state)


def run_onnx(path, images: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})]


def drawn(size: tuple[int, int, int]) -> torch.Tensor:
    batch, height, width = size
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


DECODERS = [
    {"name": "Decoder"},
    {"name": "PSPNet", "decoder_channels": 32, "output_stride": 16},
]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda cfg: cfg["name"])
def test_onnx_gives_the_networks_logits_at_any_size_and_batch(exported, tmp_path, decoder):
    best = tuned_run(tmp_path, decoder)
    path = exported(best, "onnx", "out/net.onnx", "--preprocess")
    for size in SIZES:
        images = drawn(size)
        (found,) = run_onnx(path, images)
        torch.testing.assert_close(found, ours(best, images), atol=1e-4, rtol=1e-4)


def test_onnx_without_preprocessing_takes_what_is_scaled_already(exported, tuned, pixels):
    (found,) = run_onnx(exported(tuned, "onnx", "net.onnx"), normal(pixels))
    torch.testing.assert_close(found, ours(tuned, pixels), atol=1e-4, rtol=0)


def test_onnx_of_a_backbone_gives_its_maps(exported, resnet18):
    path = exported(resnet18, "onnx", "net.onnx", "--preprocess")
    for size in SIZES:
        images = drawn(size)
        found = run_onnx(path, images)
        assert len(found) == 5
        torch.testing.assert_close(found[-1], ours(resnet18, images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "result"), [("onnx", "classes"), ("torchscript", "probabilities")]
)
def test_a_graph_can_end_in_probabilities_or_classes(exported, tuned, pixels, form, result):
    path = exported(tuned, form, "net.bin", "--preprocess", "--result", result)
    found = run_onnx(path, pixels)[0] if form == "onnx" else load_jit(path)(pixels)
    logits = ours(tuned, pixels)
    if result == "classes":
        assert found.dtype == torch.uint8
        assert (found == logits.argmax(1)).float().mean() > 0.999
    else:
        torch.testing.assert_close(found, logits.softmax(1), **CLOSE)


def load_jit(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))


def test_torchscript_holds_for_other_sizes_than_it_was_traced_with(exported, tmp_path):
    best = tuned_run(tmp_path, {"name": "UPerNet", "decoder_channels": 32})
    net = load_jit(exported(best, "torchscript", "out/net.pt", "--preprocess"))
    for size in SIZES:
        images = drawn(size)
        with torch.no_grad():
            torch.testing.assert_close(net(images), ours(best, images), atol=1e-4, rtol=1e-4)


def test_a_graph_that_gives_other_numbers_is_not_written(exported, tuned, tmp_path, monkeypatch):
    from SSLRemoteSensing.exporting import graph

    monkeypatch.setattr(graph, "pad_to_stride", lambda x, height, width: x)
    with pytest.raises((UserError, RuntimeError)):
        exported(tuned, "torchscript", "out/net.pt")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_fine_tuned_network_comes_back_whole_from_safetensors(exported, tuned, pixels):
    path = exported(tuned, "safetensors", "w.safetensors")
    torch.testing.assert_close(ours(path, pixels), ours(tuned, pixels), **CLOSE)
    assert load_backbone(None, path)["missing"] == []


def card_of(folder) -> tuple[dict, str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_of_a_network_says_what_the_run_knows(exported, tuned, tmp_path):
    exported(
        tuned, "safetensors", "w.safetensors", "--license", "cc-by-4.0", "--dataset", "me/town"
    )
    head, body = card_of(tmp_path)
    assert head["license"] == "cc-by-4.0"
    assert "license_name" not in head
    assert head["pipeline_tag"] == "image-segmentation"
    assert head["datasets"] == ["me/town"]
    assert head["metrics"] == ["mean_iou", "f1", "accuracy", "kappa"]
    assert {"remote-sensing", "resnet18"} <= set(head["tags"])
    for said in ("ground, building, car", "Data: town", "3 of 30", "Steps: 40", "51.20", "none"):
        assert said in body
    assert "training: 128" in body
    assert "secret" not in body + json.dumps(read(tmp_path / "w.safetensors")["card"])


def test_the_card_of_a_backbone_says_how_to_feed_it(exported, resnet18, tmp_path):
    exported(resnet18, "timm", "w.pth")
    head, body = card_of(tmp_path)
    assert (head["license"], head["license_name"]) == ("other", "unknown")
    assert (head["pipeline_tag"], head["library_name"]) == ("image-feature-extraction", "timm")
    assert not {"datasets", "metrics"} & set(head)
    said = ["Data: tiles", "bands 1, 2, 3", "1023 became 255", "mean (0.4, 0.5, 0.3)", "Steps: 77"]
    for words in [*said, "Image size in training: 256", "Epochs: 2", "transform prediction", MARK]:
        assert words in body
    assert "secret" not in body + (tmp_path / "w.json").read_text()


def test_scores_of_another_checkpoint_are_not_told(exported, tmp_path):
    best = tuned_run(tmp_path, {"name": "LinearProbe"})
    results = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results | {"step": 39}))
    exported(best, "safetensors", "out/w.safetensors")
    head, body = card_of(tmp_path / "out")
    assert "metrics" not in head
    assert "Scores" not in body


@pytest.mark.parametrize(
    ("form", "name", "libraries"),
    [
        ("torchvision", "w.pth", 4),
        ("safetensors", "w.safetensors", 4),
        ("onnx", "w.onnx", 1),
        ("torchscript", "w.pt", 1),
        ("mmseg", "w.pth", 1),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_each_example_of_a_card_runs(
    exported, resnet18, tmp_path, monkeypatch, form, name, libraries
):
    exported(resnet18, form, name)
    blocks = card_of(tmp_path)[1].split("```python\n")[1:]
    assert len(blocks) == libraries
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block.split("```")[0], {})


def test_the_card_of_four_bands_has_examples_for_four(exported, tmp_path, monkeypatch):
    torch.save(BACKBONES["resnet18"](in_channels=4).state_dict(), tmp_path / "w.pth")
    exported(tmp_path / "w.pth", "timm", "out/w.pth")
    monkeypatch.chdir(tmp_path / "out")
    body = card_of(tmp_path / "out")[1]
    assert "No card says whether a mean" in body
    for block in body.split("```python\n")[1:]:
        exec(block.split("```")[0], {})


def test_the_whole_network_is_built_as_its_card_says(
    exported, tuned, tmp_path, pixels, monkeypatch
):
    exported(tuned, "safetensors", "w.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(card_of(tmp_path)[1].split("```python\n")[1].split("```")[0], names)
    with torch.no_grad():
        found = names["net"].eval().logits(pixels)
    torch.testing.assert_close(found, ours(tuned, pixels), **CLOSE)


@pytest.mark.parametrize(
    ("form", "name", "flags", "said"),
    [
        ("timm", "backbone.pth", [], "is the checkpoint itself"),
        ("timm", "there.pth", [], "is there already; pass --overwrite"),
        ("timm", "side.pth", [], r"side\.json: is there already"),
        ("timm", "w.safetensors", [], "no others, end with"),
        ("safetensors", "w.pth", [], r"end with \.safetensors"),
        ("timm", "w.pth", ["--preprocess"], "only for --format onnx and torchscript"),
        ("onnx", "w.onnx", ["--result", "classes"], "has no classes"),
        ("timm", "folder", [], "name a file for the weights"),
        ("timm", "README.md", [], "name a file for the weights"),
        ("timm", "readme/w.pth", [], r"README\.md beside it was not written by this command"),
    ],
)
def test_an_output_that_would_lose_something_is_refused(
    exported, resnet18, tmp_path, form, name, flags, said
):
    for part in ("backbone.pth", "there.pth", "side.json"):
        (tmp_path / part).write_bytes(resnet18.read_bytes())
    for folder in ("folder", "readme"):
        (tmp_path / folder).mkdir()
    (tmp_path / "readme/README.md").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said):
        exported(tmp_path / "backbone.pth", form, name, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_overwrite_replaces_and_a_card_of_ours_is_written_anew(exported, resnet18, tmp_path):
    for flags in ([], ["--overwrite"]):
        exported(resnet18, "timm", "w.pth", *flags)
    exported(resnet18, "safetensors", "w.safetensors")
    assert "w.safetensors" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_what_to_install(exported, tuned, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"--format onnx.*pip install onnx onnxruntime"):
        exported(tuned, "onnx", "w.onnx")


def test_a_damaged_network_and_a_pickle_bomb_are_one_line_and_status_2(
    exported, tuned, tmp_path, capsys
):
    torch.save({"model": Code(tmp_path / "ran")}, tmp_path / "bomb.pth")
    (tmp_path / "cut.pth").write_bytes(tuned.read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("weights")
    for name in ("bomb.pth", "cut.pth", "text.pth", "none.pth"):
        with pytest.raises(SystemExit) as status:
            run_command(lambda name=name: exported(tmp_path / name, "timm", "out/w.pth"))
        assert status.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert (name in said, said.count("\n")) == (True, 1)
    assert not (tmp_path / "ran").exists()


def test_the_command_runs_from_the_shell(run, resnet18, tmp_path):
    arguments = ["--checkpoint", str(resnet18), "--format", "torchvision"]
    done = run("tools/export.py", None, *arguments, "--output", str(tmp_path / "out/w.pth"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the backbone alone, resnet18" in done.stdout
    assert np.isin(
        ["w.pth", "w.json", "README.md"], [p.name for p in (tmp_path / "out").iterdir()]
    ).all()
