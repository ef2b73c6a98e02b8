"""Runs without a config file: the config that is kept, going on, and what a folder refuses."""

import dataclasses
import json
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from calls import command
from conftest import ROOT, draw_tiles
from drawn import prepared
from teams import joined, start_team

import SSLRemoteSensing as sslrs
from SSLRemoteSensing import load_segmentation
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.training.resume import compare_cards
from SSLRemoteSensing.workflows.finetuning import finetune as run_finetuning
from SSLRemoteSensing.workflows.own_plans import literal
from SSLRemoteSensing.workflows.own_requests import FinetuningRequest, PretrainingRequest
from SSLRemoteSensing.workflows.own_runs import requested_config
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING
from SSLRemoteSensing.workflows.pretraining import check_pretext, open_pretraining
from SSLRemoteSensing.workflows.pretraining import pretrain as run_pretraining

QUICK = {"train_cfg.batch_size": 4, "train_cfg.device": "cpu", "train_cfg.precision": "fp32"}
SETS = [f"{key}={value}" for key, value in QUICK.items()]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_tiles(tmp_path_factory.mktemp("mine"), 8) / "images"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """A prepared set of two classes, 8 scenes for training, 2 each for validation and test."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(3)
    for number in range(12):
        classes = np.zeros((64, 64), np.uint8)
        classes[:, : int(rng.integers(16, 48))] = 1
        image = (classes[:, :, None] * 120 + rng.integers(0, 60, (64, 64, 3))).astype(np.uint8)
        for part, pixels in (("images", image), ("labels", classes)):
            (folder / "source" / part).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"source/{part}/s{number}.png"), pixels)
    prepared(folder, "folder", "--classes", "land", "water", "--splits", "val=s0,s1", "test=s2,s3",
             tile=64)  # fmt: skip
    return folder / "out"


def request(images, output, **more) -> PretrainingRequest:
    return PretrainingRequest((str(images),), str(output), "small", **more)


def entries(path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("preset", PRETRAINING)
def test_each_preset_gives_a_config_that_fits(images, tmp_path, preset):
    asked = PretrainingRequest((str(images),), str(tmp_path / "run"), preset, epochs=2)
    with requested_config(asked, writes=False) as config:
        check_pretext(config)
    network = [config["backbone_cfg"].get(key) for key in ("name", "model")]
    assert ":".join(filter(None, network)) == PRETRAINING[preset].backbone
    assert config["train_cfg"]["num_epoch"] == 2
    side = min(64, PRETRAINING[preset].img_size)  # no larger than the images
    assert config["train_cfg"]["train_data"]["img_size"] == side
    assert not (tmp_path / "run").exists()


def test_the_published_presets_are_the_published_configs(images, tmp_path):
    names = {"published": "vgg16", "published_resnet50": "resnet50"}
    for preset, network in names.items():
        asked = PretrainingRequest((str(images),), str(tmp_path / "run"), preset, epochs=13)
        with requested_config(asked, writes=False) as ours:
            pass
        theirs = load_config(f"configs/vr_{network}_inapinting_agr_examplar_cfg.py")
        for key in ("inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg"):
            assert ours[key] == {k: v for k, v in theirs[key].items() if k != "img_size"}
        for key in ("optimizer", "lr_schedule", "num_epoch"):
            assert ours["train_cfg"][key] == theirs["train_cfg"][key]
        assert list(ours["train_cfg"]["losses"]["factors"]) == [20, 1, 1]
        transforms, published = (
            config["train_cfg"]["train_data"]["agr_transforms_cfg"] for config in (ours, theirs)
        )
        assert transforms == published


def test_of_large_scenes_windows_are_read(tmp_path):
    scene = tmp_path / "scene.tif"
    shape = dict(height=520, width=600, count=3, dtype="uint8", tiled=True)
    place = rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000)
    values = np.random.default_rng(1).integers(1, 255, (3, 520, 600), np.uint8)
    with rasterio.open(scene, "w", crs="EPSG:32633", transform=place, **shape) as file:
        file.write(values)
    asked = request(scene, tmp_path / "run", size=64, epochs=1, settings=SETS)
    with requested_config(asked) as config:
        assert config["train_cfg"]["train_data"]["windows"] == {"size": 64}
        task, _ = open_pretraining(config)
    assert len(task.dataset) == round(520 * 600 / 64**2)
    assert task.dataset[(0, 3)]["anchor"].shape == (64, 64, 3)
    cv2.imwrite(str(tmp_path / "scene.jpg"), values.transpose(1, 2, 0))  # read whole
    asked = request(tmp_path / "scene.jpg", tmp_path / "other", size=64, epochs=1)
    with pytest.raises(UserError, match="1 samples; at least 3"), requested_config(asked):
        pass


def test_the_command_and_the_config_that_it_writes_give_the_same_weights(images, tmp_path):
    flags = ["--images", images, "--output", tmp_path / "run", "--preset", "small", "--epochs", 1]
    assert command("train.py", None, tmp_path, *flags, "--set", *SETS) == 0
    first = (tmp_path / "run/backbone.pth").read_bytes()
    config = tmp_path / "config.py"
    config.write_bytes((tmp_path / "run/config.py").read_bytes())
    (tmp_path / "run").rename(tmp_path / "before")
    assert command("train.py", None, tmp_path, "--config_file", config) == 0
    assert (tmp_path / "run/backbone.pth").read_bytes() == first
    text = config.read_text()
    assert 'config["train_cfg"]["batch_size"] = 4' in text
    assert '"""Pre-training on images without labels' in text


def test_python_goes_the_whole_way_and_goes_on(images, tiles, tmp_path):
    run = sslrs.pretrain(images, tmp_path / "a", "small", epochs=1, settings=QUICK)
    assert run.config == tmp_path / "a/config.py"
    assert json.loads(run.metrics.read_text().splitlines()[-1])["step"] == 2
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    settings = QUICK | {"train_cfg.num_step": 4, "train_cfg.loss": None}
    tuned = sslrs.finetune(tiles, tmp_path / "b", run.backbone, "quick", settings=settings)
    assert 0 <= tuned.scores["miou"] <= 1
    assert list(tuned.scores["per_class"]) == ["land", "water"]
    assert tuned.results["train_tiles"] == {"used": 8, "of": 8}
    config = load_config(tuned.config)
    assert config["backbone_cfg"]["name"] == "resnet18"  # the file's
    assert config["train_cfg"]["loss"] is None
    again = sslrs.finetune(tiles, tmp_path / "b", run.backbone, "quick", settings=settings)
    assert again == tuned
    (tmp_path / "a/backbone.json").unlink()
    tuned.best.unlink()
    weights = entries(run.backbone)
    assert sslrs.pretrain(images, tmp_path / "a", "small", epochs=1, settings=QUICK) == run
    assert all(torch.equal(value, weights[key]) for key, value in entries(run.backbone).items())
    assert json.loads((tmp_path / "a/backbone.json").read_text())["step"] == 2
    again = sslrs.finetune(tiles, tmp_path / "b", run.backbone, "quick", settings=settings)
    assert checkpoints.read(again.best)["step"] == 4
    assert again.results["step"] == 4
    scene = tiles / "images/test/s2_0_0.png"
    applied = dict(settings={"tile": 64}, device=torch.device("cpu"))
    maps = sslrs.predict(tuned.best, scene, tmp_path / "map.tif", **applied)
    assert [path.is_file() for path in maps] == [True]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    net = sslrs.load_segmentation(tuned.best)
    assert net.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_python_s_own_types_are_taken_for_those_of_a_config(images, tmp_path, monkeypatch):
    """Paths, and NumPy's numbers, as they come of a search over settings."""
    monkeypatch.setattr("SSLRemoteSensing.workflows.calls.run_pretraining", lambda config: None)
    settings = QUICK | {
        "train_cfg.batch_size": np.int64(4),
        "train_cfg.optimizer.lr": np.float32(0.5),
        "train_cfg.log.log_path": tmp_path / "log",
        "backbone_cfg.mean": [np.float64(0.25)] * 3,
        "backbone_cfg.std": np.array([0.5, 0.25, 0.125]),
    }
    given = dict(epochs=np.int64(2), size=np.int32(64), bands=np.array([3, 1, 2]))
    run = sslrs.pretrain(images, tmp_path / "run", "small", **given, settings=settings)
    config = load_config(run.config)
    assert config["train_cfg"]["batch_size"] == 4
    assert config["train_cfg"]["optimizer"]["lr"] == 0.5
    assert config["train_cfg"]["log"]["log_path"] == str(tmp_path / "log")
    assert config["train_cfg"]["num_epoch"] == 2
    assert config["train_cfg"]["train_data"]["bands"] == (3, 1, 2)
    assert config["backbone_cfg"]["mean"] == [0.25] * 3
    assert config["backbone_cfg"]["std"] == [0.5, 0.25, 0.125]


def test_an_empty_list_of_images_is_one_line(tmp_path):
    labelled = sslrs.OwnLabels([], tmp_path, ["land", "water"])
    for what, call in (
        ("images", lambda: sslrs.pretrain([], tmp_path / "run")),
        ("images", lambda: sslrs.finetune(labelled, tmp_path / "run")),
        ("scenes", lambda: sslrs.predict(tmp_path / "best.pth", (), tmp_path / "maps")),
    ):
        with pytest.raises(UserError, match=f"no {what} are given: an empty list; name a folder"):
            call()


def test_minutes_are_planned_from_the_measured_speed(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("SSLRemoteSensing.workflows.own_lengths.measure_step", lambda *_: ({}, 3.0))
    with requested_config(request(images, tmp_path / "run", minutes=10, settings=SETS)) as config:
        pass
    # 90 % of 600 s at 3 s a step, and what reading a batch takes before each.
    assert 150 < config["train_cfg"]["num_step"] <= 180
    assert "num_epoch" not in config["train_cfg"]
    assert "as many as 10 minutes hold here" in capsys.readouterr().out


def test_the_line_of_the_length_is_of_the_run_that_comes(images, tiles, tmp_path, capsys):
    """8 images or tiles; what --set changes is said as it became."""
    for number, (settings, said) in enumerate((
        ([], "3 epochs of 1 steps (--epochs, --minutes), 8 images a step"),
        (["train_cfg.batch_size=4"], "3 epochs of 2 steps (--epochs, --minutes), 4 images a step"),
        (["train_cfg.batch_size=3", "train_cfg.accumulate_steps=2"],
         "3 epochs of 1 steps (--epochs, --minutes), 6 images a step"),
        (["train_cfg.num_epoch=7"], "7 epochs of 1 steps (--epochs, --minutes), 8 images a step"),
    )):  # fmt: skip
        asked = request(images, tmp_path / f"p{number}", epochs=3, settings=settings)
        with requested_config(asked):
            assert f"length: {said}\n" in capsys.readouterr().out
    for number, (more, said) in enumerate((
        ({}, "200 steps (--epochs), 8 tiles a step"),
        (dict(settings=["train_cfg.batch_size=2"]), "200 steps (--epochs), 2 tiles a step"),
        (dict(epochs=5), "5 epochs of 1 steps (--epochs), 8 tiles a step"),
        (dict(epochs=5, fraction=0.5, settings=["train_cfg.batch_size=2"]),
         "5 epochs of 4 steps (--epochs), 2 tiles a step"),
    )):  # fmt: skip
        output = str(tmp_path / f"f{number}")
        with requested_config(FinetuningRequest(str(tiles), output, preset="quick", **more)):
            assert f"length: {said}\n" in capsys.readouterr().out


def test_unlabelled_tiles_are_a_key_of_the_config(tiles, tmp_path, capsys):
    asked = FinetuningRequest(str(tiles), str(tmp_path / "run"), fraction=0.5, unlabelled="rest")
    with requested_config(asked) as config:
        assert config["train_cfg"]["unlabelled"] == {"image_path": "rest"}
    assert "unlabelled: rest, labelled by a network first (--unlabelled)" in capsys.readouterr().out
    asked = FinetuningRequest(str(tiles), str(tmp_path / "none"), unlabelled="rest")
    said = (
        "--unlabelled rest: all labels are used, and .*/out has no tiles without; give --fraction"
    )
    with pytest.raises(UserError, match=said), requested_config(asked):
        pass
    with requested_config(FinetuningRequest(str(tiles), str(tmp_path / "other"))) as config:
        assert "unlabelled" not in config["train_cfg"]


def test_the_preset_few_labels_is_the_recipe_of_the_results(images, tmp_path):
    expected = load_config(ROOT / "configs/few_labels_pretrain_cfg.py")
    asked = PretrainingRequest([str(images)], str(tmp_path / "run"), "few_labels")
    with requested_config(asked, writes=False) as config:
        pass
    heads = [key for key in expected if key.endswith("_head_cfg")]
    loop = ("losses", "optimizer", "joint_pass", "precision", "channels_last")
    views = [key for key in expected["train_cfg"]["train_data"] if key.endswith("transforms_cfg")]
    views += ["img_size", "crop_size"]
    assert [config[key] for key in heads] == [expected[key] for key in heads]
    assert config["backbone_cfg"] == expected["backbone_cfg"]
    for key in loop:
        assert config["train_cfg"][key] == expected["train_cfg"][key]
    own, stated = (c["train_cfg"]["train_data"] for c in (config, expected))
    for angle in (0, 90, 180, 270):  # a preset states the default
        assert own["agr_transforms_cfg"]["transforms_cfg"][f"Rotate_{angle}"].pop("p") == 1.0
    assert {key: own[key] for key in views} == {key: stated[key] for key in views}
    assert config["train_cfg"]["lr_schedule"]["name"] == "cosine"
    samples = expected["train_cfg"]["num_step"] * expected["train_cfg"]["batch_size"]
    assert samples == PRETRAINING["few_labels"].samples


def test_pre_trained_weights_get_a_tenth_of_the_rate_or_none(images, tiles, tmp_path, capsys):
    run = sslrs.pretrain(images, tmp_path / "a", "few_labels", epochs=1, settings=QUICK)
    settings = QUICK | {"train_cfg.num_step": 3}
    for backbone, factor in ((run.backbone, 0.1), ("random", 1.0)):
        asked = FinetuningRequest(str(tiles), str(tmp_path / "b"), str(backbone))
        with requested_config(asked, writes=False) as config:
            assert config["train_cfg"]["backbone_lr_factor"] == factor
    tuned = sslrs.finetune(tiles, tmp_path / "c", run.backbone, frozen=True, settings=settings)
    assert "as it is, read by a linear probe (--frozen)" in capsys.readouterr().out
    config = load_config(tuned.config)
    assert config["decoder_cfg"] == {"name": "LinearProbe"}
    assert "backbone_lr_factor" not in config["train_cfg"]
    before = torch.load(run.backbone, weights_only=True)
    after = sslrs.load_segmentation(tuned.best).backbone.state_dict()
    assert {key for key, value in before.items() if not torch.equal(value, after[key])} == set()
    with pytest.raises(UserError, match="--frozen: random weights have nothing to read"):
        sslrs.finetune(tiles, tmp_path / "d", frozen=True)


def test_a_length_that_is_set_takes_the_place_of_the_preset_s(images, tiles, tmp_path):
    tuning = FinetuningRequest(str(tiles), str(tmp_path / "tuned"), preset="quick")
    for asked in (request(images, tmp_path / "trained"), tuning):
        for key, other in (("num_step", "num_epoch"), ("num_epoch", "num_step")):
            settings = (f"train_cfg.{key}=3", "train_cfg.batch_size=4")
            asked = dataclasses.replace(asked, settings=settings)
            with requested_config(asked, writes=False) as config:
                assert config["train_cfg"][key] == 3
                assert other not in config["train_cfg"]


@pytest.mark.parametrize(
    ("more", "lengths"),
    [
        (dict(), ["num_step=3", "num_epoch=3"]),
        (dict(epochs=2), ["num_step=3"]),
        (dict(minutes=1), ["num_epoch=3"]),
    ],
)
def test_two_lengths_are_refused_before_anything_is_measured(
    images, tmp_path, monkeypatch, capsys, more, lengths
):
    monkeypatch.setattr("SSLRemoteSensing.workflows.own_lengths.measure_step", None)
    settings = [f"train_cfg.{text}" for text in lengths]
    asked = request(images, tmp_path / "run", settings=settings, **more)
    refused = pytest.raises(UserError, match="give either num_epoch or num_step")
    with refused, requested_config(asked):
        pass
    assert "length" not in capsys.readouterr().out


def test_more_images_a_step_than_there_are_are_refused_before_a_length_is_said(
    images, tiles, tmp_path, capsys
):
    settings = ["train_cfg.batch_size=9"]
    tuning = FinetuningRequest(str(tiles), str(tmp_path / "tuned"), settings=settings)
    for asked in (request(images, tmp_path / "trained", settings=settings), tuning):
        with pytest.raises(UserError, match="only 8 images; add"), requested_config(asked):
            pass
    assert "length" not in capsys.readouterr().out


def test_steps_that_are_set_need_no_measuring(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("SSLRemoteSensing.workflows.own_lengths.measure_step", None)
    asked = request(images, tmp_path / "run", minutes=1, settings=["train_cfg.num_step=3"])
    with requested_config(asked) as config:
        assert config["train_cfg"]["num_step"] == 3
    assert "length: 3 steps (--epochs, --minutes), 8 images a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "per_step"),
    [
        ([], 8),
        (["train_cfg.batch_size=4"], 4),
        (["train_cfg.global_batch_size=4"], 4),
        (["train_cfg.batch_size=4", "train_cfg.accumulate_steps=2"], 8),
    ],
)
def test_warm_up_and_log_follow_the_batch_that_is_trained(
    images, tiles, tmp_path, settings, per_step
):
    """Of 8 images or tiles an epoch, a tenth and a twentieth of the steps."""
    tuning = FinetuningRequest(str(tiles), str(tmp_path / "tuned"), preset="quick")
    for asked in (request(images, tmp_path / "trained"), tuning):
        for length in (dict(epochs=100), dict(settings=[*settings, "train_cfg.num_epoch=100"])):
            asked = dataclasses.replace(asked, **{"settings": settings, "epochs": None, **length})
            with requested_config(asked, writes=False) as config:
                cfg = config["train_cfg"]
            steps = 100 * 8 // per_step
            assert cfg["lr_schedule"]["warmup_steps"] == steps // 10
            assert cfg["log"]["log_step"] == steps // 20


def test_fine_tuning_lasts_as_many_epochs_as_are_asked_for(tiles, tmp_path, capsys):
    flags = ["--tiles", tiles, "--output", tmp_path / "run", "--preset", "quick", "--epochs", 2]
    assert command("finetune_seg.py", None, tmp_path, *flags, "--set", *SETS) == 0
    assert "length: 2 epochs of 2 steps (--epochs), 4 tiles a step" in capsys.readouterr().out
    entry = json.loads((tmp_path / "run/log/metrics.jsonl").read_text().splitlines()[-1])
    assert entry["step"] == 4
    assert "num_epoch=2," in (tmp_path / "run/config.py").read_text()
    with pytest.raises(UserError, match="its epochs is 2, now 3"):
        sslrs.finetune(tiles, tmp_path / "run", preset="quick", epochs=3, settings=QUICK)


def test_measuring_the_speed_is_of_the_minutes(images, tmp_path, monkeypatch):
    def measure(*_):
        time.sleep(1)
        return {}, 0.01

    monkeypatch.setattr("SSLRemoteSensing.workflows.own_lengths.measure_step", measure)
    asked = request(images, tmp_path / "run", minutes=3 / 60, settings=SETS)
    with requested_config(asked, writes=False) as config:
        assert 1 <= config["train_cfg"]["num_step"] <= 180  # of the 2 seconds that are left


def test_a_stopped_run_goes_on_by_the_same_command(images, tmp_path, monkeypatch):
    whole = sslrs.pretrain(images, tmp_path / "whole", "small", epochs=2, settings=QUICK)
    from SSLRemoteSensing.models.pretext import PretextNet

    forward, calls = PretextNet.forward, []

    def stop_at_third(self, batch):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(PretextNet, "forward", stop_at_third)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        sslrs.pretrain(images, tmp_path / "run", "small", epochs=2, settings=QUICK)
    monkeypatch.setattr(PretextNet, "forward", forward)
    run = sslrs.pretrain(images, tmp_path / "run", "small", epochs=2, settings=QUICK)
    first, second = entries(whole.backbone), entries(run.backbone)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(epochs=3), "its epochs is 2, now 3"),
        (dict(settings=["backbone_cfg.name=vgg11"]),
         "its backbone_cfg.name is 'resnet18', now 'vgg11'; give another folder"),
        (dict(settings=["train_cfg.optimizer.name=SGD"]), "its train_cfg.optimizer.name is 'Adam'"),
        (dict(settings=["agr_head_cfg=None"]), "its agr_head_cfg is {.*}, now None"),
        (dict(settings=["train_cfg.checkpoints.checkpoints_path=x"]), "its .*checkpoints_path is"),
        (dict(images=("x",)), "its images is"),
    ],
)  # fmt: skip
def test_a_folder_with_a_run_of_other_settings_is_refused(images, tmp_path, change, message):
    asked = dict(images=(str(images),), output=str(tmp_path / "run"), preset="small", epochs=2)
    with requested_config(PretrainingRequest(**asked)):
        pass
    (tmp_path / "run/run.json").write_text("{}")  # it has begun
    with (
        pytest.raises(UserError, match=message),
        requested_config(PretrainingRequest(**asked | change)),
    ):
        pass


def begun(images, output, **more) -> tuple[PretrainingRequest, dict]:
    """A request whose run has begun in `output`, and its config."""
    asked = request(images, output, epochs=2, **more)
    with requested_config(asked) as config:
        (output / "run.json").write_text('{"runs": [1]}')
    return asked, config


CHANGES = [
    "train_cfg.device=cpu", "train_cfg.num_workers=1", "train_cfg.precision=fp32",
    "train_cfg.log.log_step=3", "train_cfg.checkpoints.save_minutes=2.5", "train_cfg.batch_size=4",
    "train_cfg.train_data.on_bad_image=skip", "train_cfg.optimizer.lr=0.002",
    "train_cfg.clip_grad_norm=1", "train_cfg.num_epoch=5", "train_cfg.lr_schedule=None",
]  # fmt: skip
FIXED = [
    "backbone_cfg.name=resnet34", "backbone_cfg.pretrained=True", "examplar_head_cfg=None",
    "agr_head_cfg={'name': 'AGPHead', 'in_channels': 512, 'num_classes': 6}",
    "train_cfg.optimizer.name=SGD", "train_cfg.optimizer.amsgrad=True",
]  # fmt: skip


@pytest.mark.parametrize("setting", CHANGES + FIXED)
def test_the_same_command_may_set_what_the_loop_lets_change(images, tmp_path, setting):
    """Both ask one function, and go on or refuse alike."""
    asked, old = begun(images, tmp_path / "run")
    before = (tmp_path / "run/config.py").read_text()
    changed = dataclasses.replace(asked, settings=[setting])
    new = load_config(tmp_path / "run/config.py", [setting])
    if setting in FIXED:
        with pytest.raises(UserError, match=setting.partition("=")[0]):
            compare_cards({"config": old}, {"config": new}, tmp_path)
        refused = pytest.raises(UserError, match=rf"its {setting.partition('=')[0]}.* is .*, now ")
        with refused, requested_config(changed):
            pass
        assert (tmp_path / "run/config.py").read_text() == before
        return
    compare_cards({"config": old}, {"config": new}, tmp_path, says=False)
    with requested_config(changed) as config:
        assert config == new
        assert config != old
        (tmp_path / "run/run.json").write_text('{"runs": [1, 2]}')  # the loop took it up
    assert load_config(tmp_path / "run/config.py") == new
    with requested_config(asked) as config:  # what is not given any more stays as it is
        assert config == new
    with requested_config(changed) as config:
        assert config == new
    assert (tmp_path / "run/config.py").read_text().count("# As --set has it.") == 1


def test_a_fine_tuning_changes_by_the_same_rule(tiles, tmp_path):
    asked = FinetuningRequest(str(tiles), str(tmp_path / "run"), preset="quick")
    with requested_config(asked):
        (tmp_path / "run/latest.pth").touch()
    changed = dataclasses.replace(asked, settings=["scoring_cfg.tta=True", *SETS])
    with requested_config(changed) as config:
        assert (config["scoring_cfg"]["tta"], config["train_cfg"]["device"]) == (True, "cpu")
    for setting, said in (
        ("decoder_cfg.name=LinearProbe", "its decoder_cfg.name is 'Decoder', now 'LinearProbe'"),
        ("classes=['a', 'b']", r"its classes is .*, now \['a', 'b'\]"),
    ):
        changed = dataclasses.replace(asked, settings=[setting])
        with pytest.raises(UserError, match=said), requested_config(changed):
            pass


def test_a_value_can_be_set_back(images, tmp_path):
    asked, _ = begun(images, tmp_path / "run", settings=["train_cfg.batch_size=4"])
    for number, value in enumerate((8, 4, 8)):
        settings = ["train_cfg.log.log_step=1", f"train_cfg.batch_size={value}"]
        with requested_config(dataclasses.replace(asked, settings=settings)) as config:
            assert config["train_cfg"]["batch_size"] == value
            (tmp_path / "run/run.json").write_text(json.dumps({"runs": [number]}))
        assert load_config(tmp_path / "run/config.py") == config
    kept = json.loads((tmp_path / "run/command.json").read_text())["settings"]
    assert kept == ["train_cfg.batch_size=8", "train_cfg.log.log_step=1"]


def test_nothing_is_kept_of_a_change_that_was_refused_or_came_too_late(images, tmp_path, capsys):
    """Of a wrong key, of one that the loop refuses later, of a finished run, of a dry run."""
    asked, _ = begun(images, tmp_path / "run")
    before = [(tmp_path / "run" / name).read_bytes() for name in ("config.py", "command.json")]
    for settings, error in (
        (["train_cfg.batch_sise=4"], "did you mean 'batch_size'"),
        (["train_cfg.num_step=4"], "give either num_epoch or num_step"),
        (["train_cfg.batch_size=99"], "only 8 images"),
        (["train_cfg.batch_size"], "write it as key.key=VALUE"),
    ):
        changed = dataclasses.replace(asked, settings=settings)
        with pytest.raises(UserError, match=error), requested_config(changed):
            raise UserError("only 8 images")  # as the loop, before it takes up the run
    for writes in (True, False):
        changed = dataclasses.replace(asked, settings=["train_cfg.num_epoch=4"])
        with requested_config(changed, writes) as config:
            assert config["train_cfg"]["num_epoch"] == 4
            held = load_config(tmp_path / "run/config.py")["train_cfg"]["num_epoch"]
            assert held == (4 if writes else 2)
    assert before == [
        (tmp_path / "run" / name).read_bytes() for name in ("config.py", "command.json")
    ]
    assert "as this run began, now with train_cfg.num_epoch=4\n" in capsys.readouterr().out


def test_a_network_that_was_set_is_not_left_out_by_mistake(images, tmp_path):
    settings = ["backbone_cfg.name=resnet34", "train_cfg.batch_size=4"]
    asked, _ = begun(images, tmp_path / "run", settings=settings)
    refused = pytest.raises(UserError, match=r"began with --set \S+=resnet34, which is not")
    with refused, requested_config(dataclasses.replace(asked, settings=settings[1:])):
        pass


def test_a_folder_that_was_moved_is_not_begun_anew_where_it_was(images, tmp_path, capsys):
    asked, _ = begun(images, tmp_path / "run")
    moved = tmp_path / "moved there"
    (tmp_path / "run").rename(moved)
    with (
        pytest.raises(UserError, match=r"was moved, its config.py has the run in \S+/run") as told,
        requested_config(dataclasses.replace(asked, output=str(moved))),
    ):
        pass
    words = shlex.split(str(told.value).rpartition("go on by: ")[2])
    assert words[:2] == ["sslrs", "pretrain"]
    assert command("train.py", None, tmp_path, *words[2:], "--dry_run", "--set", *SETS) == 0
    config = moved / "config.py"
    config.write_text(config.read_text().replace(f"{tmp_path}/run", str(moved)))
    with requested_config(dataclasses.replace(asked, output=str(moved))) as config:
        assert config["train_cfg"]["log"]["log_path"] == f"{moved}/log"


def advised(line: str) -> list[str]:
    """The --set that an error's line advises for the same command."""
    return re.search(r"the same command with (--set \S+(?: \w+(?:\.\w+)+=\w+)*)", line)[1].split()


def test_a_run_that_a_broken_image_ends_goes_on_as_its_error_says(images, tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(images, folder)
    file = folder / "tile_005.jpg"
    file.write_bytes(file.read_bytes()[:700])
    flags = ["--images", folder, "--output", tmp_path / "run", "--preset", "small", "--epochs", 2]
    assert command("train.py", None, tmp_path, *flags, "--set", *SETS) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: is truncated; replace or remove it, or pass over it: the same command" in line
    assert command("train.py", None, tmp_path, *flags, "--set", *SETS, *advised(line)) == 0
    said = capsys.readouterr().out
    assert "as this run began, now with train_cfg.train_data.on_bad_image=skip" in said
    assert f"skipped, cannot be read: {file} (1 so far)" in said
    assert (
        'config["train_cfg"]["train_data"]["on_bad_image"] = "skip"'
        in (tmp_path / "run/config.py").read_text()
    )


def test_a_run_that_full_memory_ends_goes_on_as_its_error_says(
    images, tmp_path, monkeypatch, capsys
):
    from SSLRemoteSensing.models.pretext import PretextNet

    forward, calls = PretextNet.forward, []

    def fail_at_second(self, batch):
        calls.append(len(batch["anchor"]))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, batch)

    monkeypatch.setattr(PretextNet, "forward", fail_at_second)
    flags = ["--images", images, "--output", tmp_path / "run", "--preset", "small", "--epochs", 2]
    flags += ["--set", *SETS[1:], "train_cfg.log.vis_step=0"]
    assert command("train.py", None, tmp_path, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: train_cfg.batch_size=8: a step needs more memory than there is")
    assert command("train.py", None, tmp_path, *flags, *advised(line)) == 0
    assert "going on from" in capsys.readouterr().out
    assert calls == [8, 8, 4, 4]  # the second epoch in halves


def test_an_edited_config_is_what_goes_on(images, tmp_path, capsys):
    asked = request(images, tmp_path / "run", epochs=2)
    with requested_config(asked):
        pass
    path = tmp_path / "run/config.py"
    path.write_text(path.read_text().replace("num_epoch=2", "num_epoch=7"))
    with requested_config(asked) as config:
        assert config["train_cfg"]["num_epoch"] == 7
    assert "as this run began" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--images", "IMAGES"], "--images: needs --output, the folder of the run"),
        (["--preset", "small"], "--preset: goes with --images, which is not given"),
        ([], "--config_file or --images: give one of them"),
        (["--images", "IMAGES", "--output", "RUN", "--preset", "smal"],
         "--preset smal: unknown, did you mean 'small'?"),
        (["--images", "none", "--output", "RUN"], "--images none: no such file or folder"),
        (["--images", "IMAGES", "--output", "RUN", "--epochs", "1", "--minutes", "1"],
         "--epochs, --minutes: give one of them"),
        (["--images", "IMAGES", "--output", "RUN", "--size", "100"],
         "--size 100: must be a multiple of 32, the network's stride"),
        (["--images", "IMAGES", "--output", "RUN", "--minutes", "-1"],
         "--minutes -1: must be above 0"),
        (["--images", "IMAGES", "--output", "RUN", "--set", "train_cfg.batch_sise=4"],
         "train_cfg: unknown key 'batch_sise', did you mean 'batch_size'?"),
        (["--images", "IMAGES", "--output", "RUN", "--with_imagenet", "true"],
         "--with_imagenet: does not go with --images; leave out one of them"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(images, tmp_path, capsys, flags, said):
    words = {"IMAGES": images, "RUN": tmp_path / "run"}
    flags = [words.get(word, word) for word in flags]
    assert command("train.py", None, tmp_path, *flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error: {said}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tiles="none"), "--tiles none: no such folder"),
        (dict(tiles="IMAGES"), "no dataset.json in it; tools/prepare.py folder makes a set"),
        (dict(preset="small"), "--preset small: unknown, known: quick, standard, full"),
        (dict(fraction=0), "--fraction 0: must be above 0 and at most 1"),
        (dict(backbone="none.pth"), "none.pth"),
    ],
)
def test_tiles_that_cannot_be_are_refused(images, tiles, tmp_path, change, message):
    asked = dict(tiles=str(tiles), output=str(tmp_path / "run"))
    change = {key: str(images) if value == "IMAGES" else value for key, value in change.items()}
    with (
        pytest.raises(UserError, match=message),
        requested_config(FinetuningRequest(**asked | change)),
    ):
        pass
    assert not (tmp_path / "run/command.json").exists()


def test_tiles_without_validation_or_labels_are_refused(tmp_path):
    for number in range(4):
        (tmp_path / "source").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"source/s{number}.png"), np.zeros((64, 64, 3), np.uint8))
    prepared(tmp_path, "folder", tile=64)
    with (
        pytest.raises(UserError, match="was prepared without labels"),
        requested_config(FinetuningRequest(str(tmp_path / "out"), str(tmp_path / "run"))),
    ):
        pass


@pytest.fixture
def labelled(tmp_path):
    """A scene of 192 rows with a label image, and the same label as a polygon."""
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    rng = np.random.default_rng(8)
    image = rng.integers(1, 255, (3, 192, 96), np.uint8)
    place = rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    shape = dict(height=192, width=96, dtype="uint8", crs="EPSG:32633", transform=place)
    with rasterio.open(tmp_path / "images/scene.tif", "w", count=3, **shape) as file:
        file.write(image)
    label = np.zeros((192, 96), np.uint8)
    label[:, 30:70] = 1
    with rasterio.open(tmp_path / "labels/scene.tif", "w", count=1, **shape) as file:
        file.write(label, 1)
    outline = shapely.to_wkb(np.array([shapely.box(500_030, 5_000_000 - 192, 500_070, 5_000_000)]))
    pyogrio.raw.write(
        tmp_path / "roofs.gpkg", outline, [np.array(["roof"], object)], ["kind"],
        geometry_type="Polygon", crs="EPSG:32633", driver="GPKG",
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("kind", ["labels", "roofs.gpkg"])
def test_images_and_labels_become_tiles_of_blocks_of_ground(labelled, capsys, kind):
    classes = dict(classes=("land", "roof")) if kind == "labels" else dict(class_field="kind")
    own = sslrs.OwnLabels((str(labelled / "images"),), str(labelled / kind), **classes)
    asked = FinetuningRequest(own, str(labelled / "run"), preset="quick")
    with requested_config(asked) as config:
        assert len(config["classes"]) == 2
        assert config["train_cfg"]["train_data"]["crop_size"] == 64
    said = capsys.readouterr().out
    assert "blocks of ground, no random tiles" in said
    assert " of 64 x 64 pixels of 1 m, 3 channels" in said
    tiles = labelled / "run/tiles"
    card = json.loads((tiles / "dataset.json").read_text())
    assert card["tiles"] == {"train": 2, "val": 2, "test": 2}
    part = cv2.imread(str(tiles / "labels/val/scene_val_0_0.png"), cv2.IMREAD_UNCHANGED)
    expected = np.zeros((64, 64), np.uint8)
    expected[:, 30:] = 1
    assert np.array_equal(part, expected)
    with requested_config(asked) as again:  # and nothing is prepared again
        assert again == config
    assert "prepared" not in capsys.readouterr().out


def test_python_takes_images_with_labels(labelled):
    own = sslrs.OwnLabels(labelled / "images", labelled / "labels", ["land", "roof"])
    settings = QUICK | {"train_cfg.num_step": 1, "train_cfg.batch_size": 2}
    tuned = sslrs.finetune(own, labelled / "run", preset="quick", settings=settings)
    assert list(tuned.scores["per_class"]) == ["land", "roof"]
    assert checkpoints.read(tuned.best)["card"]["gsd"] == pytest.approx(1, rel=1e-3)  # the scene's
    asked = json.loads((labelled / "run/command.json").read_text())
    assert asked["images"] == [str(labelled / "images")]  # as the command's flags keep it
    assert (asked["tiles"], asked["tile"], asked["classes"]) == (None, None, ["land", "roof"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--images", "IMAGES", "--output", "RUN"],
         "--tiles, or --images with --labels: give one of the two"),
        (["--tiles", "TILES", "--output", "RUN", "--labels", "LABELS"],
         "--labels: is for --images; --tiles has been prepared"),
        (["--images", "IMAGES", "--labels", "LABELS", "--output", "RUN"],
         "there are labels, so name their classes in order: --classes A B ..."),
        (["--images", "none", "--labels", "LABELS", "--output", "RUN"],
         "--images none: no such folder or zip file"),
        (["--images", "IMAGES", "--labels", "none.gpkg", "--output", "RUN"], "none.gpkg"),
        (["--images", "IMAGES", "--labels", "LABELS", "--output", "RUN", "--tile", "128",
          "--classes", "a", "b"], "is 192 pixels high, no three tiles of 128"),
        (["--fraction", "0.5"], "--fraction: goes with --tiles, which is not given"),
        (["--epochs", "2"], "--epochs: goes with --tiles, which is not given"),
        (["--unlabelled", "rest"], "--unlabelled: goes with --tiles, which is not given"),
        (["--images", "IMAGES", "--labels", "LABELS", "--output", "RUN", "--unlabelled", "rest"],
         "--unlabelled rest: all labels are used, and all images have one; give --fraction 0.1"),
        (["--images", "IMAGES", "--labels", "LABELS", "--output", "RUN", "--unlabelled", "IMAGES"],
         "is the folder of --images, with validation and test in it; name one of others"),
        (["--tiles", "TILES", "--output", "RUN", "--epochs", "0"], "--epochs 0: must be above 0"),
    ],
)  # fmt: skip
def test_a_mistake_with_labels_is_one_line(labelled, capsys, flags, said):
    words = {"IMAGES": labelled / "images", "LABELS": labelled / "labels", "RUN": labelled / "run"}
    words["TILES"] = labelled
    assert command("finetune_seg.py", None, labelled, *(words.get(x, x) for x in flags)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("preset", FINETUNING)
def test_presets_of_fine_tuning(tiles, tmp_path, preset):
    asked = FinetuningRequest(str(tiles), str(tmp_path / "run"), preset=preset, fraction=0.5)
    with requested_config(asked, writes=False) as config:
        assert config["train_cfg"]["num_step"] == FINETUNING[preset].num_step
        assert config["train_cfg"]["train_data"]["fraction"] == 0.5
        assert config["train_cfg"]["batch_size"] == min(FINETUNING[preset].batch_size, 8)


def test_a_dry_run_of_two_processes_needs_what_one_needs(images, tiles, tmp_path):
    """The first alone writes the config, for as long as the dry run lasts."""
    shutil.copytree(images, tmp_path / "images")
    shutil.copytree(tiles, tmp_path / "tiles")
    start_team(__file__, tmp_path, groups=[2])
    said = [(tmp_path / f"said.{rank}").read_text() for rank in (0, 1)]
    assert said[0].count("one step: ") == 2
    assert said[1] == ""
    assert not (tmp_path / "run").exists()


def dry_runs(folder) -> None:
    """What each of two processes does: both kinds of dry run."""
    tuning = FinetuningRequest(str(folder / "tiles"), str(folder / "run"), settings=SETS)
    tasks = {run_pretraining: request(folder / "images", folder / "run", settings=SETS)}
    for run, asked in (tasks | {run_finetuning: tuning}).items():
        with requested_config(asked, writes=False) as config:
            run(config, dry_run=True)


def test_values_are_written_as_python():
    value = ('a "b"', ("c",), 2, None, True)
    assert literal(value) == '("a \\"b\\"", ("c",), 2, None, True,)'
    assert eval(literal(value)) == value


def test_a_network_of_timm_goes_from_preset_to_fine_tuning(images, tiles, tmp_path, monkeypatch):
    """Which network it is fine-tuning knows from the weights' card."""
    pytest.importorskip("timm")
    small = dataclasses.replace(PRETRAINING["convnext"], backbone="timm:convnext_atto", img_size=64)
    monkeypatch.setitem(PRETRAINING, "convnext", small)
    folder = tmp_path / "pretrained"
    run = sslrs.pretrain(images, folder, "convnext", epochs=1, settings=QUICK)
    text = (folder / "config.py").read_text()
    assert 'backbone_cfg=dict(name="timm", model="convnext_atto", in_channels=bands)' in text
    assert "feat_channels=(160, 80, 40, 64, 32,)" in text
    assert 'name="AdamW"' in text
    settings = QUICK | {"train_cfg.num_step": 1}
    tuned = sslrs.finetune(tiles, tmp_path / "tuned", run.backbone, "quick", settings=settings)
    assert load_segmentation(tuned.best).backbone.name == "convnext_atto of timm"


if __name__ == "__main__":
    with joined(2):
        dry_runs(Path(sys.argv[1]))
