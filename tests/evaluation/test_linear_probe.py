"""The linear probe: what it reads off features, which tiles it takes, and that training is the
same with it."""

import contextlib
import re
import subprocess
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from calls import command
from conftest import ROOT
from drawn import draw_classes, draw_potsdam, prepared, write_png, write_tiff
from preloaded import python
from rasterio import Affine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tiny_run import at_call, entries, interrupt_at, moved, train
from torch import nn
from torch.nn import functional as F

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.subsets import scene_of
from SSLRemoteSensing.evaluation.linear_classifier import (
    L2,
    fit_linear,
    pixel_classes,
    pixel_features,
)
from SSLRemoteSensing.evaluation.linear_probe import LinearProbe
from SSLRemoteSensing.evaluation.probe_tiles import ProbeSettings
from SSLRemoteSensing.models.backbones import BLOCKS
from SSLRemoteSensing.models.heads import AGPHead, Decoder, ExamplarHead
from SSLRemoteSensing.models.pretext import PretextNet, pretext_losses
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.training.run import Run
from SSLRemoteSensing.training.task import Seen
from SSLRemoteSensing.training.tensorboard import charts, tag
from SSLRemoteSensing.workflows.monitor import EpochProbe

CLASSES = ("ground", "roof", "water")


class Shown(nn.Module):
    """A backbone whose one map is what `show` makes of the images."""

    in_channels = 3

    def __init__(self, show):
        super().__init__()
        self.show, self.weight = show, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return {"block2": self.show(images)}


def draw_three(folder: Path, names, size=64, not_scored=()) -> Path:
    """Tiles whose red, green and blue say the class of each pixel; `not_scored` columns are 255."""
    for number, name in enumerate(names):
        classes = draw_classes((size, size), number, (0.6, 0.3, 0.1), block=8)
        image = np.eye(3, dtype=np.uint8)[classes] * 200
        label = classes.copy()
        label[:, list(not_scored)] = 255
        write_png(folder / f"images/{name}.png", image)
        write_png(folder / f"labels/{name}.png", label)
    return folder


def probe_of(folder: Path, classes=CLASSES, train=None, **changes) -> LinearProbe:
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    small = dict(classes=classes, train_tiles=6, val_tiles=6, pixels=64)
    return LinearProbe(ProbeSettings(**paths | small | changes), img_size=64, train=train)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    return draw_three(tmp_path_factory.mktemp("three"), [f"tile{i}" for i in range(9)])


@pytest.fixture
def probe_cfg(tiles) -> dict:
    """The `probe` of a config, on the tiles that `pretext_config` trains on."""
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    return paths | dict(classes=("other", "roof"), train_tiles=4, val_tiles=4, pixels=32)


def test_features_with_the_label_score_one_and_constant_ones_the_most_frequent_class(three):
    probe = probe_of(three)
    found = probe.score(Shown(lambda images: images))
    assert found["miou"] == found["oa"] == 1
    assert [one["iou"] for one in found["per_class"].values()] == [1, 1, 1]
    assert found["pixels"] == 3 * 64 * 64  # a third of nine tiles
    found = probe.score(Shown(torch.ones_like))
    share = pytest.approx(float((probe.scored_labels == 0).float().mean()))
    assert [one["iou"] for one in found["per_class"].values()] == [share, 0, 0]
    assert (found["oa"], 3 * found["miou"]) == (share, share)


@pytest.mark.parametrize(
    ("kind", "gsd", "is_told"),
    [
        ("placed", None, False),
        ("placed", 0.5, False),
        ("placed", 0.52, False),
        ("placed", 1.0, True),
        ("prepared", 0.5, False),
        ("prepared", 1.0, True),
        ("plain", 1.0, False),
    ],
)
def test_tiles_of_another_size_of_pixels_than_training_are_told(
    tmp_path, capsys, kind, gsd, is_told
):
    """Of half a metre, by their own georeference or by that of the scenes they were cut from."""
    folder, options = draw_three(tmp_path / "set", [f"tile{i}" for i in range(9)]), {}
    if kind != "plain":
        place = dict(crs="EPSG:32633", transform=Affine(0.5, 0, 366000, 0, -0.5, 5806000))
        for file in sorted((folder / "images").iterdir()):
            planes = cv2.imread(str(file)).transpose(2, 0, 1)[::-1]
            write_tiff(file.with_suffix(".tif"), np.ascontiguousarray(planes), **place)
            file.unlink()
        options = dict(data_format="*.tif")
    if kind == "prepared":
        (folder / "images").rename(tmp_path / "images")
        (folder / "labels").rename(tmp_path / "labels")
        (tmp_path / "source").mkdir()
        for part in ("images", "labels"):
            (tmp_path / part).rename(tmp_path / "source" / part)
        prepared(tmp_path, "folder", "--classes", *CLASSES, tile=64)
        folder, options = None, dict(path=str(tmp_path / "out"), image_path=None, label_path=None)
    capsys.readouterr()
    train = Reading(None, None, "train.tif", "uint8", 3, gsd=gsd)
    probe_of(folder or tmp_path, train=train, **options)
    said = capsys.readouterr().err
    assert said.count("warning") == is_told
    assert ("has pixels of 0.5 m, training sees 1 m; the probe's scores" in said) == is_told


def test_features_of_a_pixel_are_those_of_the_enlarged_maps():
    torch.manual_seed(0)
    maps = {"block2": torch.randn(2, 3, 16, 24), "block4": torch.randn(2, 5, 4, 6)}
    y, x = torch.randint(32, (2, 7)), torch.randint(48, (2, 7))
    y[0, :2], x[0, :2] = torch.tensor([0, 31]), torch.tensor([47, 0])  # corners
    places = torch.stack([(2 * x + 1) / 48 - 1, (2 * y + 1) / 32 - 1], -1)
    large = [F.interpolate(m, size=(32, 48), mode="bilinear") for m in maps.values()]
    whole = torch.cat(large, 1)
    wanted = torch.stack([whole[n, :, y[n], x[n]].T for n in range(2)])
    found = pixel_features(maps, places)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    weight, bias = torch.randn(4, 8), torch.randn(4)
    logits = F.conv2d(whole, weight[:, :, None, None], bias)
    assert torch.equal(pixel_classes(maps, (weight, bias), (32, 48)), logits.argmax(1))


def test_the_classifier_is_the_least_of_its_loss():
    """The gradient at it is 0, on standardized features with one that does not vary."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(3, 5, (200, 4))).float()
    features[:, 2] = 7.3
    labels = torch.from_numpy((features[:, 0].numpy() + rng.normal(0, 4, 200) > 3).astype(np.int64))
    weight, bias = fit_linear(features.clone(), labels, 2)
    assert (weight[:, 2] == 0).all()
    mean, std = features.mean(0), features.std(0)
    std[2] = 1
    straight = (weight * std).requires_grad_()
    offset = (bias + weight @ mean).requires_grad_()
    logits = F.linear((features - mean) / std, straight, offset)
    loss = F.cross_entropy(logits, labels) + L2 / 2 * straight.square().sum()
    loss.backward()
    assert torch.cat([straight.grad.flatten(), offset.grad]).abs().max() < 1e-4
    assert float((logits.argmax(1) == labels).float().mean()) > 0.7


def test_pixels_that_are_not_scored_are_neither_fitted_on_nor_scored(tmp_path):
    """Nor are tiles without any other fitted on."""
    folder = draw_three(tmp_path, [f"tile{i}" for i in range(9)], not_scored=range(16, 64))
    probe = probe_of(folder)
    assert ((probe.places[..., 0] + 1) / 2 * 64 < 16).all()
    assert (probe.labels < 3).all()
    beside = torch.arange(64) < 16
    found = probe.score(Shown(lambda images: images * beside))
    assert (found["pixels"], found["miou"]) == (3 * 64 * 16, 1)
    for file in probe.fitted[:2]:
        write_png(folder / f"labels/{Path(file).name}", np.full((64, 64), 255, np.uint8))
    again = probe_of(folder)
    assert again.fitted == probe.fitted
    assert len(again.places) == len(probe.images) - 2
    assert torch.equal(again.images, probe.images[2:])


def test_random_weights_are_scored_with_statistics_of_their_own_features(tiles, monkeypatch):
    """Which running through images alone would give them: else that would pass for learning. Other
    processes, which wait at a barrier meanwhile, are not asked."""
    torch.manual_seed(0)
    backbone = Pyramid()
    probe = probe_of(tiles, ("other", "roof"))
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    found = probe.score(backbone)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(backbone))
    forward = nn.SyncBatchNorm.forward

    def asking(norm, images):
        assert not norm.training, "asks the others"
        return forward(norm, images)

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", asking)
    assert probe.score(synchronized) == found
    assert any(isinstance(one, nn.SyncBatchNorm) for one in synchronized.modules())
    norms = [norm for norm in backbone.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for part in (probe.images.float() / 255).split(8):
            backbone(part)
    seen = probe.score(backbone)
    assert seen == found
    norms[0].running_mean += 3
    assert probe.score(backbone) != seen  # its own statistics are taken as they are


@pytest.mark.parametrize("count", [1, 9])
def test_random_weights_are_scored_on_tiles_of_one_pixel_in_the_last_map(tmp_path, count):
    """Of which batch normalization has no variance where a tile is alone in its batch."""
    folder = draw_three(tmp_path, [f"tile{i}" for i in range(14)], size=32)
    probe = probe_of(folder, crop_size=32, train_tiles=count, val_tiles=1)
    assert len(probe.images) == count
    assert 0 <= probe.score(Pyramid())["miou"] <= 1


def test_a_probe_and_its_score_are_the_same_each_time(tiles):
    torch.manual_seed(0)
    backbone = Pyramid()
    one, two, other = (probe_of(tiles, ("other", "roof"), seed=seed) for seed in (0, 0, 1))
    assert (one.fitted, one.scored) == (two.fitted, two.scored)
    assert torch.equal(one.places, two.places)
    assert one.score(backbone) == two.score(backbone) == one.score(backbone)
    assert set(one.scored) != set(other.scored)


@pytest.mark.parametrize("seed", range(5))
def test_tiles_fitted_on_and_scored_share_no_scene(tmp_path, seed):
    names = [f"{scene}_{y}_{x}" for scene in "abcdef" for y in (0, 64) for x in (0, 64)]
    probe = probe_of(draw_three(tmp_path, names), seed=seed)
    fitted, scored = (set(map(scene_of, map(stem, part))) for part in (probe.fitted, probe.scored))
    assert not fitted & scored
    assert "6 tiles of 4 scenes, scored on 6 tiles of 2 scenes" in probe.describe()


def test_tiles_of_one_scene_are_divided_one_by_one_or_as_val_format_says(three):
    probe = probe_of(three)
    assert (len(probe.fitted), len(probe.scored)) == (6, 3)
    assert not set(probe.fitted) & set(probe.scored)
    assert (len(probe_of(three, train_tiles=2).fitted), len(probe.labels[0])) == (2, 64)
    probe = probe_of(three, val_format=("*7.png", "*8.png"))
    assert [stem(file) for file in probe.scored] == ["tile7", "tile8"]
    assert {stem(file) for file in probe.fitted} <= {f"tile{i}" for i in range(7)}


def test_a_prepared_set_gives_its_train_part_and_classes(tmp_path):
    draw_potsdam(tmp_path / "source", size=(96, 96))
    prepared(tmp_path, "potsdam")
    root = tmp_path / "out"
    settings = ProbeSettings(path=str(root), train_tiles=4, val_tiles=4, pixels=16)
    probe = LinearProbe(settings, img_size=32)
    assert len(probe.classes) == 6
    for file in probe.fitted + probe.scored:
        assert Path(file).parent == root / "images/train"
    assert "of 1 scenes" in probe.describe()
    test = dict(image_path=f"{root}/images/test", label_path=f"{root}/labels/test")
    with pytest.raises(UserError, match="is the test part of"):
        LinearProbe(ProbeSettings(**test, classes=probe.classes), img_size=32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(image_path="nowhere"), "image_path nowhere: no such folder or list"),
        (dict(label_path="nowhere"), "label_path nowhere: no such folder"),
        (dict(label_path=None), "both image_path and label_path"),
        (dict(path="nowhere", image_path=None, label_path=None), "path nowhere: no dataset.json"),
        (dict(path="nowhere"), "give either path"),
        (dict(classes=None), "name the classes"),
        (dict(classes=("ground",)), "name the classes"),
        (dict(classes=("ground", "roof")), "2"),
        (dict(data_format="tile0.png"), "1 tile, needed are"),
        (dict(data_format="*.jpg"), "no image matches"),
        (dict(val_format="tile*.png"), "names all of the 9 tiles"),
        (dict(val_format="nairobi_*.png"), "no image matches val_format="),
        (dict(crop_size=48), "must be a multiple of 32"),
        (dict(every=0), "every=0: must be at least 1"),
        (dict(seed=-3), "seed=-3: must be at least 0"),
        (dict(train_tiles=1, pixels=1), "are not of two classes; raise train_tiles"),
    ],
)
def test_mistakes_are_named_in_one_line(three, changes, said):
    with pytest.raises(UserError) as error:
        probe_of(three, **changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


class Pyramid(nn.Module):
    """A backbone of five maps that trains in seconds."""

    in_channels = 3
    channels = dict(zip(BLOCKS, (16, 32, 64, 64, 128), strict=True))

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleDict()
        before = self.in_channels
        for key, after in self.channels.items():
            conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
            self.blocks[key] = nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())
            before = after

    def forward(self, images):
        maps = {}
        for key, block in self.blocks.items():
            images = maps[key] = block(images)
        return maps


def pretext_net() -> PretextNet:
    """All three tasks, as published, on a small backbone."""
    backbone = Pyramid()
    *others, last = backbone.channels.values()
    of = dict(in_channels=last, map_channels=backbone.channels)
    inpainting = Decoder(out_channels=3, feat_channels=(*others[::-1], 8), **of)
    heads = inpainting, AGPHead(num_classes=6, **of), ExamplarHead(out_channels=32, **of)
    return PretextNet(backbone, *heads, pretext_losses())


def pretrain(config: dict, folder: Path, probe: dict | None) -> None:
    """2 epochs of 2 steps."""
    torch.manual_seed(0)
    net = pretext_net()
    monitor = probe and EpochProbe(LinearProbe(ProbeSettings(**probe), img_size=32), net.backbone)
    train(moved(config, folder), build=lambda _: net, probe=monitor, num_epoch=2, batch_size=12)


def test_training_is_the_same_bit_for_bit_with_a_probe(pretext_config, probe_cfg, tmp_path):
    """Statistics of batch normalization and dropout's generator included."""
    folders = tmp_path / "without", tmp_path / "with"
    states = []
    for folder, probe in zip(folders, (None, probe_cfg), strict=True):
        pretrain(pretext_config, folder, probe)
        states.append(torch.load(folder / "latest.pth", weights_only=True))
    for name, weights in states[0]["model"].items():
        assert torch.equal(weights, states[1]["model"][name]), name
    assert torch.equal(*(state["processes"][0]["random"]["cpu"] for state in states))
    logs = [entries(moved(pretext_config, folder)) for folder in folders]
    assert [one["loss"] for one in logs[0]] == [one["loss"] for one in logs[1] if "loss" in one]
    probed = [one for one in logs[1] if "probe_miou" in one]
    assert [(one["step"], one["epoch"]) for one in probed] == [(0, 0), (2, 0), (4, 1)]
    keys = {"probe_miou", "probe_oa", "probe_iou_other", "probe_iou_roof", "probe_seconds"}
    assert set(probed[0]) == keys | {"step", "epoch"}
    assert set(probed[1]) == set(probed[0]) | {"probe_share"}
    ious = probed[2]["probe_iou_other"], probed[2]["probe_iou_roof"]
    assert 0 < probed[2]["probe_miou"] == pytest.approx(sum(ious) / 2)


def run_tiny(config: dict, sabotage=None, every=1, **changes) -> list[tuple[int, bool]]:
    """Train TinyNet with a probe that gives a figure; after which epochs, and whether at the end,
    it was asked."""
    calls = []

    class Counting(EpochProbe):
        def measure(self, place):
            epochs = place.epoch + (place.step > 0)
            calls.append((epochs, place.is_last))
            return Seen({"probe_miou": epochs / 10}, {"probe": "it is dear"})

    probe = Counting(SimpleNamespace(score=print, settings=SimpleNamespace(every=every)), None)
    train(config, sabotage, probe=probe, **changes)
    return calls


def probed_steps(config: dict) -> list[int]:
    return [entry["step"] for entry in entries(config) if "probe_miou" in entry]


@pytest.fixture
def boards_in_order(monkeypatch):
    """Event files of one process and second are read by their number as text: 10 before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


def board_steps(config: dict) -> list[int]:
    events = EventAccumulator(config["train_cfg"]["log"]["log_path"])
    events.Reload()
    return [event.step for event in events.Scalars("probe/miou")]


def test_what_it_takes_is_not_in_the_chart_of_its_scores():
    shown = charts(["probe_miou", "probe_seconds", "probe_share"])["run"]
    patterns = shown["probe"][1]
    tags = [tag(key) for key in ("probe_miou", "probe_seconds", "probe_share")]
    assert [any(re.fullmatch(p, one) for p in patterns) for one in tags] == [True, False, False]
    assert "course/probe_share" in shown["share of the time: waiting for data, watching, probe"][1]


@pytest.mark.parametrize(
    ("changes", "epochs", "steps"),
    [
        (dict(num_epoch=None, num_step=15), [0, 1, 2, 3], [0, 6, 12, 15]),
        (dict(checkpoints=dict(save_step=2), num_epoch=3), [0, 1, 2, 3], [0, 6, 12, 18]),
        (dict(every=2, num_epoch=5), [0, 2, 4, 5], [0, 12, 24, 30]),
    ],
)
def test_it_is_measured_before_the_first_step_after_each_epoch_and_at_the_end(
    pretext_config, tmp_path, capsys, changes, epochs, steps
):
    """Wherever checkpoints are; `every` leaves epochs out but not the last."""
    if "checkpoints" in changes:
        places = changes["checkpoints"] | dict(checkpoints_path=str(tmp_path / "run"))
        changes = changes | dict(checkpoints=places)
    calls = run_tiny(pretext_config, **changes)
    assert calls == [(epoch, epoch == epochs[-1]) for epoch in epochs]
    assert probed_steps(pretext_config) == board_steps(pretext_config) == steps
    assert capsys.readouterr().err == "warning: it is dear\n"


@pytest.mark.usefixtures("boards_in_order")
@pytest.mark.parametrize("call", [2, 6, 8, 12])
def test_a_run_that_was_stopped_logs_each_epoch_once(pretext_config, call):
    """Stopped in the middle of an epoch, and in its last step."""
    with pytest.raises(SystemExit) if call < 12 else contextlib.nullcontext():
        run_tiny(pretext_config, interrupt_at(call))
    run_tiny(pretext_config)
    assert probed_steps(pretext_config) == board_steps(pretext_config) == [0, 6, 12]


@pytest.mark.usefixtures("boards_in_order")
@pytest.mark.parametrize("saves", [0, 1])
def test_a_run_that_crashed_before_the_checkpoint_logs_each_epoch_once(
    pretext_config, monkeypatch, saves
):
    """As by a kill: the figure of an epoch is written, and the checkpoint is that before it."""
    save, done = Run.write_checkpoint, []

    def crash(saver, *args):
        if len(done) == saves:
            raise RuntimeError("killed")
        done.append(save(saver, *args))

    monkeypatch.setattr(Run, "write_checkpoint", crash)
    with pytest.raises(RuntimeError, match="killed"):
        run_tiny(pretext_config)
    monkeypatch.setattr(Run, "write_checkpoint", save)
    assert probed_steps(pretext_config) == [0, 6, 12][: saves + 2]
    run_tiny(pretext_config)
    assert probed_steps(pretext_config) == board_steps(pretext_config) == [0, 6, 12]


def test_weights_that_are_not_finite_are_told_before_they_are_probed(pretext_config):
    def spoil(model):
        with torch.no_grad():
            model.agr.weight.fill_(torch.nan)

    with pytest.raises(UserError, match="not finite"):
        run_tiny(pretext_config, lambda model: at_call(6, lambda: spoil(model))(model))
    assert probed_steps(pretext_config) == [0]


def test_the_share_of_a_probe_is_of_the_training_since_the_one_before(three, monkeypatch):
    monitor = EpochProbe(probe_of(three), Shown(lambda images: images))
    figures = monitor.measure(None).figures
    assert figures["probe_iou_water"] == 1
    assert "probe_share" not in figures
    times = iter([100.0, 101.0])
    monkeypatch.setattr(monitor, "ended", 90.0)
    monkeypatch.setattr("SSLRemoteSensing.workflows.monitor.time.perf_counter", lambda: next(times))
    figures = monitor.measure(None).figures
    assert (figures["probe_seconds"], figures["probe_share"]) == (1, 0.1)


def test_two_processes_probe_once_and_end(pretext_config, probe_cfg, tmp_path):
    pretext_config |= dict(inpainting_head_cfg=None, agr_head_cfg=None)
    pretext_config["train_cfg"] |= dict(probe=probe_cfg, batch_size=6, num_epoch=1)
    file = tmp_path / "config.py"
    file.write_text(f"config = {pretext_config!r}\n")
    torchrun = [python(), "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=2", "train.py", "--config_file", str(file)],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("probe: fitted on 128 pixels of 4 tiles, scored on 4 tiles") == 1
    assert probed_steps(pretext_config) == [0, 2]


def probe_tool(config: dict, folder: Path, *flags: str) -> int:
    return command("tools/probe.py", config, folder, "--backbone", *flags)


def test_the_tool_scores_random_weights_and_files(pretext_config, probe_cfg, tmp_path, capsys):
    """With all maps, and with those alone that are named."""
    pretext_config["train_cfg"]["probe"] = probe_cfg
    torch.manual_seed(3)
    backbone = BACKBONES["resnet18"]()
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    probe, mious = LinearProbe(ProbeSettings(**probe_cfg), img_size=32), []
    for blocks in (None, ["block2"], ["block6"]):
        found = probe.score(backbone, blocks=blocks)
        mious.append(found["miou"])
        for words in (["random", "--seed", "3"], [str(tmp_path / "weights.pth")]):
            words += ["--blocks", *blocks] if blocks else []
            assert probe_tool(pretext_config, tmp_path, *words) == 0
            out = capsys.readouterr().out
            assert f"mIoU {100 * found['miou']:.2f}, OA {100 * found['oa']:.2f}, in %;" in out
            iou = f"{100 * found['per_class']['roof']['iou']:.2f}"
            assert re.search(rf"^roof +{iou} ", out, re.MULTILINE)
    assert len(set(mious)) == 3
    assert probe.score(backbone, blocks=list(BLOCKS))["miou"] == mious[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--draws", "0"], "--draws 0: must be at least 1"),
        (["--blocks", "block1"], "--blocks: 'block1' is no map of resnet18: block2, block3"),
        (["--set", "train_cfg.probe=None"], "train_cfg.probe: is missing in the config; set"),
        (["--set", "train_cfg.probe.evry=2"], "train_cfg.probe: unknown key 'evry', did you mean"),
        (["--set", "train_cfg.probe.label_path=gone"], "train_cfg.probe: label_path gone: no such"),
    ],
)
def test_a_mistake_is_told_in_one_line(pretext_config, probe_cfg, tmp_path, capsys, words, said):
    pretext_config["train_cfg"]["probe"] = probe_cfg
    assert probe_tool(pretext_config, tmp_path, "random", *words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


def test_the_tool_averages_over_draws_of_tiles_and_of_random_weights(
    pretext_config, probe_cfg, tmp_path, capsys
):
    pretext_config["train_cfg"]["probe"] = probe_cfg
    scores = []
    for draw in (0, 1):
        torch.manual_seed(5 + draw)
        probe = LinearProbe(ProbeSettings(**probe_cfg, seed=draw), img_size=32)
        scores.append(100 * probe.score(BACKBONES["resnet18"]())["miou"])
    assert probe_tool(pretext_config, tmp_path, "random", "--seed", "5", "--draws", "2") == 0
    out = capsys.readouterr().out
    mean, half = map(float, re.search(r"^mIoU +([\d.]+) ± ([\d.]+)$", out, re.MULTILINE).groups())
    assert mean == pytest.approx(sum(scores) / 2, abs=0.01)
    assert half == pytest.approx(12.7062 * abs(scores[0] - scores[1]) / 2, rel=1e-3)
    assert all(f"mIoU {score:.2f}, OA" in out for score in scores)
