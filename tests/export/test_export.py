"""tools/export.py: every format is read back by the library that it is for, with equal features."""

import math
import sys
from pathlib import Path

import cv2
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import yaml
from conftest import ROOT
from exports import run_export, tuned_run, undrawn
from lively import MEAN, STD, Code, lively
from safetensors.torch import load_file

from SSLRemoteSensing import load_backbone, load_segmentation
from SSLRemoteSensing.core.checkpoints import read
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.export import onnx
from SSLRemoteSensing.export.layouts import largest_difference, mmpretrain_vgg, mmseg_config
from SSLRemoteSensing.export.model_card import MARK, which_bands
from SSLRemoteSensing.export.source import open_source, scores_of
from SSLRemoteSensing.models.pretrained import BACKBONES

CLOSE = dict(atol=1e-5, rtol=0)
SIZES = [(1, 64, 96), (3, 32, 32), (2, 45, 67)]


@pytest.fixture(scope="session")
def pixels(oam) -> torch.Tensor:
    """A real tile, uint8 (1, 3, 96, 64)."""
    tile = cv2.imread(str(min((oam / "images").glob("*.jpg"))))[:96, :64, ::-1].copy()
    return torch.from_numpy(tile).permute(2, 0, 1)[None]


def normal(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


@pytest.mark.parametrize("form", ["torchvision", "timm", "smp", "safetensors"])
def test_a_backbone_gives_equal_features_in_each_library(exports, pixels, form):
    path = exports("backbone", form)
    state = load_file(path) if form == "safetensors" else torch.load(path, weights_only=True)
    with undrawn():
        if form in ("torchvision", "safetensors"):
            net = torchvision.models.resnet18(weights=None)
            missing = net.load_state_dict(state, strict=False).missing_keys
            assert missing == ["fc.weight", "fc.bias"]
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
    torch.testing.assert_close(found, exports.ours("backbone", pixels), **CLOSE)


@pytest.mark.parametrize("form", ["timm", "mmseg", "safetensors"])
def test_what_is_exported_is_read_here_with_its_mean_and_std(exports, pixels, form):
    net = load_backbone(None, exports("backbone", form))["model"].eval()
    with torch.no_grad():
        found = net(pixels.float() / 255)["block6"]
    torch.testing.assert_close(found, exports.ours("backbone", pixels), **CLOSE)


def test_mmseg_gets_the_names_and_plain_values_that_it_reads(exports):
    contents = torch.load(exports("backbone", "mmseg"), weights_only=True)
    state = {k.removeprefix("backbone."): v for k, v in contents["state_dict"].items()}
    assert set(state) == set(exports.source("backbone").weights())
    assert all(key.startswith("backbone.") for key in contents["state_dict"])
    assert contents["meta"]["name"] == "resnet18"
    said = mmseg_config(exports.source("backbone"), "w.pth")
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
    {"name": "Unet", "decoder_channels": [16, 16, 8, 8, 8], "interpolation": "bilinear"},
    {"name": "FPN", "pyramid_channels": 32, "segmentation_channels": 32, "merge_policy": "cat"},
    {"name": "UPerNet", "decoder_channels": 16},
    {"name": "PSPNet", "output_stride": 32, "decoder_channels": 16},
]


@pytest.mark.parametrize("decoder", SMP_DECODERS, ids=lambda cfg: cfg["name"])
def test_a_whole_network_gives_equal_logits_in_smp(exports, tmp_path, pixels, decoder):
    best = tuned_run(tmp_path, decoder)
    state = torch.load(run_export(best, "smp", tmp_path / "out/w.pth"), weights_only=True)
    text = (tmp_path / "out/README.md").read_text()
    call = next(line for line in text.splitlines() if line.startswith("net = smp."))
    with torch.device("meta"):
        net = eval(call.removeprefix("net = "), {"smp": smp})
    net.load_state_dict(dict(state), assign=True)
    with torch.no_grad():
        found = net.eval()(normal(pixels))
    torch.testing.assert_close(found, exports.ours(best, pixels), **CLOSE)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [("resnet18", {"name": "LinearProbe"}), ("vgg11", SMP_DECODERS[0])],
)
def test_where_smp_has_another_network_it_gets_the_encoder(tmp_path, name, decoder, capsys):
    best = tuned_run(tmp_path, decoder, name)
    state = torch.load(run_export(best, "smp", tmp_path / "out/w.pth"), weights_only=True)
    assert "the backbone alone" in capsys.readouterr().out
    with torch.device("meta"):
        encoder = smp.encoders.get_encoder(name, weights=None)
    encoder.load_state_dict(dict(state), assign=True)


def run_onnx(path, images: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})]


def drawn(size: tuple[int, int, int]) -> torch.Tensor:
    batch, height, width = size
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["tuned", "backbone", "pooling", "scaled"])
def test_onnx_gives_the_networks_numbers_at_any_size_and_batch(exports, kind, tmp_path):
    """Of a network its logits, of a backbone its five maps; or without scaling, mean and std."""
    own = "tuned" if kind == "scaled" else kind
    if kind == "pooling":  # its decoder pools to a grid
        own = tuned_run(tmp_path, {"name": "PSPNet", "decoder_channels": 16, "output_stride": 16})
        path = run_export(own, "onnx", tmp_path / "out/net.onnx", "--preprocess")
    else:
        path = exports(own, "onnx", *([] if kind == "scaled" else ["--preprocess"]))
    for size in SIZES:
        images = drawn(size)
        maps = run_onnx(path, normal(images) if kind == "scaled" else images)
        assert len(maps) == (5 if kind == "backbone" else 1)
        torch.testing.assert_close(maps[-1], exports.ours(own, images), atol=1e-4, rtol=1e-4)


def test_a_graph_can_end_in_probabilities_or_classes(exports, pixels):
    logits = exports.ours("tuned", pixels)
    (shares,) = run_onnx(exports("tuned", "onnx", "--result", "probabilities"), normal(pixels))
    torch.testing.assert_close(shares, logits.softmax(1), atol=1e-4, rtol=1e-4)
    (classes,) = run_onnx(exports("tuned", "onnx", "--result", "classes"), normal(pixels))
    assert classes.dtype == torch.uint8
    assert (classes == logits.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize(("amount", "flags"), [(0.01, ["--preprocess"]), (math.nan, [])])
def test_a_graph_that_gives_other_numbers_is_not_written(
    exports, tmp_path, monkeypatch, amount, flags
):
    def nudge(module: torch.nn.Module) -> None:
        list(module.parameters())[-1].data.view(-1)[0] += amount

    monkeypatch.setattr(onnx, "replace_adaptive_pools", nudge)
    with pytest.raises(UserError, match="--format onnx: gives other numbers than the network"):
        run_export(exports.checkpoints["tuned"], "onnx", tmp_path / "out/net.onnx", *flags)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_graph_is_compared_with_keeps_the_librarys_pools(exports, tmp_path):
    source = exports.source(tuned_run(tmp_path, SMP_DECODERS[3]))
    for preprocess in (True, False):
        graph = onnx.Graph(source, preprocess, "logits")
        onnx.replace_adaptive_pools(graph)
        kinds = [{type(module) for module in net.modules()} for net in (graph, source.net)]
        assert [onnx.AdaptiveMean in kind for kind in kinds] == [True, False]


def test_what_is_no_number_or_of_another_shape_is_never_within_a_tolerance():
    expected = [torch.tensor([0.5, -4.0]), torch.tensor([[0.25]])]
    assert largest_difference(expected, expected) == 0
    assert largest_difference(expected, [torch.tensor([0.5, -3.0]), expected[1]]) == 0.25
    spoilt = [torch.tensor([0.5, math.nan]), expected[1]]
    for first, second in ((expected, spoilt), (spoilt, expected), (expected, expected[::-1])):
        assert largest_difference(first, second) == math.inf


def test_a_network_that_gives_no_numbers_is_not_written(exports):
    """Rounding enlarged without end excuses nothing."""
    huge = open_source(exports.checkpoints["tuned"])  # one of its own, to be spoilt
    for parameter in huge.net.decoder.parameters():
        parameter.data.fill_(1e38)
    with pytest.raises(UserError, match="--format onnx: gives other numbers than the network"):
        onnx.compare(huge, False, "logits", lambda x: [huge.net.logits(x).detach()])


EVERY = [("backbone", form) for form in ("torchvision", "timm", "smp", "mmseg", "safetensors")]
EVERY += [("tuned", "safetensors"), ("tuned", "onnx", "--preprocess")]


@pytest.mark.parametrize("args", EVERY, ids=lambda args: "-".join(args[:2]))
def test_no_byte_of_an_export_tells_of_this_machine_or_its_user(exports, args):
    path = exports(*args)
    told = [str(ROOT), sys.prefix, sys.base_prefix, str(path.parent), "/home/", "jane", "secret"]
    told += [str(Path.home())] if len(Path.home().parts) > 1 else []
    for file in path.parent.iterdir():
        data = file.read_bytes()
        for words in told:
            assert words.encode() not in data, (file.name, words)


def card_of(folder) -> tuple[dict, str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


SCORES = ["mean_iou", "f1", "accuracy", "kappa"]
NETWORK = {"pipeline_tag": "image-segmentation", "metrics": SCORES}
OURS = "(bands 4, 1, 2 of the files: near infrared, red, green)"


@pytest.mark.parametrize(
    ("kind", "form", "flags", "head", "said"),
    [
        (
            "tuned", "safetensors", ["--license", "cc-by-4.0", "--dataset", "me/town"],
            NETWORK | {"license": "cc-by-4.0", "license_name": None, "datasets": ["me/town"]},
            ["ground, building, car", "Data: me/town", "3 of 30", "Steps: 40", "51.20", "none"],
        ),
        (
            "tuned", "safetensors", [], NETWORK | {"datasets": None},
            [OURS, "- Data: town\n", "Image size in training: 128"],
        ),
        (
            "backbone", "timm", [],
            {"license": "other", "license_name": "unknown", "datasets": None, "metrics": None,
             "pipeline_tag": "image-feature-extraction", "library_name": "timm"},
            ["bands 1, 2, 3", "1023 became 255", "mean (0.4, 0.5, 0.3)", "Steps: 77", MARK,
             "Image size in training: 256", "Epochs: 2", "transform prediction"],
        ),
    ],
)  # fmt: skip
def test_a_card_says_what_the_run_knows_and_how_to_feed_it(exports, kind, form, flags, head, said):
    shown, body = card_of(exports(kind, form, *flags).parent)
    assert {key: shown.get(key) for key in head} == head
    assert {"remote-sensing", "resnet18"} <= set(shown["tags"])
    assert [words for words in said if words not in body] == []
    # Of no prepared set: a folder may have its user's name.
    assert ("Data:" in body) == (kind == "tuned")


def test_the_card_in_a_file_names_its_bands_and_its_prepared_set(exports):
    card, names = read(exports("tuned", "safetensors"))["card"], ["near infrared", "red", "green"]
    assert (card["bands"], card["band_names"], card["prepared"]) == ([4, 1, 2], names, True)
    assert (card["dtype"], card["dataset"]) == ("uint8", "town")


def test_bands_without_numbers_or_names_are_told_as_far_as_known():
    named = {"band_names": ["red", "green"], "bands": None}
    assert which_bands(named) == "bands red, green"
    unnamed = {"band_names": ["band 1", "band 2"], "bands": [2, 3]}
    assert which_bands(unnamed) == "bands 2, 3 of the files"
    assert which_bands({}) == which_bands(unnamed | {"bands": None}) == ""


@pytest.mark.parametrize(
    ("name", "step", "miou"), [("best.pth", 40, 0.512), ("best.pth", 39, None), ("x.pth", 40, None)]
)
def test_scores_of_another_checkpoint_are_not_told(exports, name, step, miou):
    found = scores_of(exports.checkpoints["tuned"].with_name(name), step)
    assert (found and found["miou"]) == miou


def run_examples(folder: Path, monkeypatch) -> int:
    """Run each example of a card; how many there are."""
    monkeypatch.chdir(folder)
    blocks = card_of(folder)[1].split("```python\n")[1:]
    with undrawn():
        for block in blocks:
            exec(block.split("```")[0], {})
    return len(blocks)


LIBRARIES = {"torchvision": 4, "safetensors": 4, "onnx": 1, "mmseg": 1}


@pytest.mark.parametrize("form", LIBRARIES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_each_example_of_a_card_runs(exports, monkeypatch, form):
    folder = exports("backbone", form, *(["--preprocess"] if form == "onnx" else [])).parent
    assert run_examples(folder, monkeypatch) == LIBRARIES[form]


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 8), ("resnet50", 16)])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_lines_of_a_card_dilate_a_dilated_backbone(tmp_path, monkeypatch, name, stride, capsys):
    """But for those of libraries that cannot, which the command and the lines say."""
    net = lively(BACKBONES[name]())
    card = net.card() | {"output_stride": stride}
    torch.save({"model": net.state_dict(), "card": card}, tmp_path / "w.pth")
    run_export(tmp_path / "w.pth", "torchvision", tmp_path / "out/w.pth")
    is_basic, said = name == "resnet18", capsys.readouterr().err
    assert (f"library has no {name} whose maps are no coarser than 1/{stride}" in said) == is_basic
    net.dilate(stride)
    images, text = torch.rand(1, 3, 64, 64), card_of(tmp_path / "out")[1]
    monkeypatch.chdir(tmp_path / "out")
    assert f"Its maps are no coarser than 1/{stride}:" in text
    with torch.no_grad():
        expected, found = net(images)["block6"], []
        for block in text.split("```python\n")[1:]:
            names, code = {}, block.split("```")[0]
            if "Fine-tune it again." not in code:
                with undrawn():
                    exec(code, names)
                theirs = names.get("net") or names["backbone"]
                theirs = getattr(theirs.eval(), "forward_features", theirs)
                if "torchvision" in code:
                    theirs = torch.nn.Sequential(*list(theirs.children())[:-2])
                maps = theirs(images)
                found.append(maps["block6"] if isinstance(maps, dict) else maps)
    assert (expected.shape[-1], len(found)) == (64 // stride, 2 if is_basic else 3)
    for maps in found:
        torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)


def test_a_dilated_vgg_is_in_no_library_and_that_is_said(exports, tmp_path, capsys):
    vgg = tuned_run(tmp_path, {"name": "DeepLabV3Plus", "decoder_channels": 16}, "vgg11")
    for form in ("timm", "mmseg"):
        run_export(vgg, form, tmp_path / form / "w.pth")
        said = capsys.readouterr()
        assert f"--format {form}: its library has no vgg11 whose maps" in said.err
        text = card_of(tmp_path / form)[1]
        assert text.count("Fine-tune it again") == (3 if form == "timm" else 1)
    assert "# Fine-tuned with output stride 16, dilated in a way that the VGG of mmpr" in said.out
    found = load_backbone(None, tmp_path / "timm/w.pth")["model"]
    assert found.output_stride == exports.source(vgg).backbone.output_stride == 16


def test_the_card_of_four_bands_has_examples_for_four(tmp_path, monkeypatch):
    torch.save(BACKBONES["resnet18"](in_channels=4).state_dict(), tmp_path / "w.pth")
    run_export(tmp_path / "w.pth", "timm", tmp_path / "out/w.pth")
    assert "No card says whether a mean" in card_of(tmp_path / "out")[1]
    assert run_examples(tmp_path / "out", monkeypatch) == 4


def test_a_fine_tuned_network_comes_back_whole_also_by_the_lines_of_its_card(
    exports, pixels, monkeypatch
):
    path, names = exports("tuned", "safetensors"), {}
    monkeypatch.chdir(path.parent)
    exec(card_of(path.parent)[1].split("```python\n")[1].split("```")[0], names)
    for net in (names["net"], load_segmentation(exports.checkpoints["tuned"])):
        assert not net.training
        assert net.classes == ["ground", "building", "car"]
        with torch.no_grad():
            torch.testing.assert_close(net.logits(pixels), exports.ours("tuned", pixels), **CLOSE)
    torch.testing.assert_close(exports.ours(path, pixels), exports.ours("tuned", pixels), **CLOSE)
    assert load_backbone(None, path)["missing"] == []
    with pytest.raises(UserError, match=r"backbone\.pth: no fine-tuned network"):
        load_segmentation(exports.checkpoints["backbone"])


def test_the_import_of_published_model_cards_still_works(exports):
    from SSLRemoteSensing.checkpoint import read

    assert read(exports.checkpoints["tuned"])["card"]["classes"]


@pytest.mark.parametrize(
    ("form", "name", "flags", "said"),
    [
        ("timm", "backbone.pth", [], "is the checkpoint itself"),
        ("timm", "there.pth", [], "is there already; pass --overwrite"),
        ("timm", "side.pth", [], r"side\.json: is there already"),
        ("timm", "w.safetensors", [], "no others, end with"),
        ("safetensors", "w.pth", [], r"end with \.safetensors"),
        ("timm", "w.pth", ["--preprocess"], "--preprocess: only for --format onnx"),
        ("onnx", "w.onnx", ["--result", "classes"], "has no classes"),
        ("timm", "folder", [], "name a file for the weights"),
        ("timm", "README.md", [], "name a file for the weights"),
        ("timm", "readme/w.pth", [], r"README\.md beside it was not written by this command"),
    ],
)
def test_an_output_that_would_lose_something_is_refused(exports, tmp_path, form, name, flags, said):
    (tmp_path / "backbone.pth").symlink_to(exports.checkpoints["backbone"])
    for part in ("there.pth", "side.json"):
        (tmp_path / part).write_text("mine")
    for folder in ("folder", "readme"):
        (tmp_path / folder).mkdir()
    (tmp_path / "readme/README.md").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said):
        run_export(tmp_path / "backbone.pth", form, tmp_path / name, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_overwrite_replaces_and_a_card_of_ours_is_written_anew(exports, tmp_path):
    run = exports.checkpoints["backbone"]
    (tmp_path / "w.pth").write_text("mine")
    run_export(run, "timm", tmp_path / "w.pth", "--overwrite")
    assert set(torch.load(tmp_path / "w.pth", weights_only=True)) == set(read(run))
    run_export(run, "safetensors", tmp_path / "w.safetensors")
    assert "w.safetensors" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_what_to_install(exports, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"--format onnx.*pip install onnx onnxruntime"):
        onnx.onnx_model(exports.source("tuned"), False, "logits", {})


@pytest.mark.filterwarnings("ignore")  # deprecation, as in an export
@pytest.mark.parametrize("write", [onnx.traced, onnx.exported])
def test_a_roll_by_more_than_the_length_is_one_in_the_graph_too(write):
    class Shifted(torch.nn.Module):
        def forward(self, x):
            return torch.roll(x, (-3, 5), dims=(2, 3)).roll(1, 1)

    with torch.no_grad(), onnx.RollsByIndex():
        model = write(Shifted(), torch.rand(2, 3, 32, 64), ["logits"], False)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for height, width in (2, 4), (5, 3), (3, 9):
        x = torch.arange(3.0 * height * width).view(1, 3, height, width)
        (y,) = session.run(None, {"images": x.numpy()})
        assert y.tolist() == Shifted()(x).tolist()


def test_a_roll_of_all_values_stays_one():
    with onnx.RollsByIndex():
        assert torch.roll(torch.tensor([[1, 2], [3, 4]]), 1).tolist() == [[4, 1], [2, 3]]


@pytest.mark.parametrize("dims", [1, (1,), [1]])
def test_one_shift_may_go_with_dims_of_any_kind(dims):
    with onnx.RollsByIndex():
        assert torch.roll(torch.tensor([[1, 2, 3]]), 1, dims=dims).tolist() == [[3, 1, 2]]


def test_without_onnxscript_a_network_that_no_trace_carries_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"--format onnx: no trace.*pip install onnxscript"):
        onnx.exported(torch.nn.Identity(), torch.zeros(2, 3, 32, 32), ["images"], False)


@pytest.mark.parametrize("error", ["Fail", "InvalidArgument", "RuntimeException"])
def test_a_graph_that_does_not_run_is_made_by_torch_export(exports, monkeypatch, capsys, error):
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    def fails(*given) -> None:
        raise getattr(errors, error)("node Split")

    monkeypatch.setattr(onnx, "traced", fails)
    monkeypatch.setattr(onnx, "exported", fails)
    with pytest.raises(UserError, match=r"torch cannot write resnet18 as ONNX \(node Split\)"):
        onnx.onnx_model(exports.source("tuned"), False, "logits", {})
    assert "no trace of resnet18 (node Split): by torch.export" in capsys.readouterr().out


def test_a_damaged_network_and_a_pickle_bomb_are_one_line_and_status_2(exports, tmp_path, capsys):
    torch.save({"model": Code(tmp_path / "ran")}, tmp_path / "bomb.pth")
    (tmp_path / "cut.pth").write_bytes(exports.checkpoints["tuned"].read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("weights")
    for name in ("bomb.pth", "cut.pth", "text.pth", "none.pth"):
        with pytest.raises(SystemExit) as status:
            run_command(lambda name=name: run_export(tmp_path / name, "timm", tmp_path / "w.pth"))
        assert status.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert (name in said, said.count("\n")) == (True, 1)
    assert not (tmp_path / "ran").exists()


def test_the_command_runs_from_the_shell(run, exports, tmp_path):
    arguments = ["--checkpoint", str(exports.checkpoints["backbone"]), "--format", "torchvision"]
    arguments += ["--output", str(tmp_path / "out/w.pth")]
    done = run("tools/export.py", None, *arguments, fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the backbone alone, resnet18" in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"w.pth", "w.json", "README.md"} <= files
