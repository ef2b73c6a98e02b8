"""What a notebook may hand to pretrain, finetune, predict: taken, or refused in a line."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import SSLRemoteSensing as sslrs
from SSLRemoteSensing.core.config import plain_value
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.workflows import calls
from SSLRemoteSensing.workflows.calls import as_texts
from SSLRemoteSensing.workflows.own_requests import PretrainingRequest

CUDA = torch.device("cuda", 0)


def test_maps_go_by_what_suits_the_device_as_the_command_does():
    settings = sslrs.MapSettings(workers=2)
    assert (settings.on(CUDA).batch_size, settings.on(CUDA).workers) == (16, 2)
    assert (settings.on(torch.device("cpu")).batch_size, settings.batch_size) == (1, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(tile=64.0), "tile: expected int | None, not 64.0"),
        (dict(batch_size=2.0), "batch_size: expected int | None, not 2.0"),
        (dict(overlap="0.5", bands=1), "overlap: expected float, not '0.5'; bands: expected "),
        (dict(scale=(0, 10000)), "scale: expected a dict, not (0, 10000)"),
        (dict(scale="percentile"), "scale: expected a dict, not 'percentile'"),
        (dict(vector_classes="roof"), "vector_classes: expected Sequence[str] | None, not 'roof'"),
        (dict(tta=1), "tta: expected bool, not 1"),
        (dict(tile=torch.tensor(0.5)), "tile: expected int | None, not 0.5"),
    ],
)
def test_a_setting_of_another_type_is_named_with_what_it_should_be(given, said):
    with pytest.raises(sslrs.UserError) as error:
        sslrs.MapSettings(**given)
    assert str(error.value).startswith(said)


def test_numbers_of_numpy_and_torch_are_numbers():
    given = dict(tile=np.int64(96), overlap=np.float32(0.25), bands=np.array([3, 1]))
    given |= dict(scale={"minimum": np.zeros(2), "maximum": torch.tensor([5, 7])})
    settings = sslrs.MapSettings(**given, max_value=None, vector_classes=("a", "b"))
    assert (settings.tile, settings.overlap, settings.bands) == (96, 0.25, [3, 1])
    assert settings.scale == Scale((0, 0), (5, 7))
    assert sslrs.MapSettings(scale=Scale(0, 9), bands=range(1, 4)).bands == (1, 2, 3)
    asked = PretrainingRequest(("a",), "b", bands=np.array([2, 4]), minutes=np.float64(3))
    assert (asked.bands, asked.minutes) == ([2, 4], 3)


def test_settings_of_a_config_are_as_they_would_be_written():
    given = {"a.b": np.int64(16), "a.c": Path("tiles/x"), "d": (np.float64(0.5), 2), "e": "2e-3"}
    assert as_texts(given) == ("a.b=16", "a.c=tiles/x", "d=(0.5, 2)", "e=2e-3")
    assert plain_value({"x": range(2), 3: [np.bool_(True)]}) == {"x": (0, 1), 3: [True]}


def pretrain(folder, images="images", **given):
    return sslrs.pretrain(images, folder / "run", **given)


def finetune(folder, tiles="tiles", **given):
    return sslrs.finetune(tiles, folder / "run", **given)


def predict(folder, scenes="scene.tif", **given):
    return sslrs.predict("best.pth", scenes, folder / "map.tif", **given)


def own(**given):
    return sslrs.OwnLabels("images", "labels", **given)


@pytest.mark.parametrize(
    ("call", "given", "said"),
    [
        (pretrain, dict(minutes="30"), "minutes: expected float | None, not '30'"),
        (pretrain, dict(bands=3), "bands: expected Sequence[int] | None, not 3"),
        (pretrain, dict(images=None), "images: expected a path, not None"),
        (pretrain, dict(images=["a", 7]), "images: expected a path, not 7"),
        (pretrain, dict(preset=2), "preset: expected str, not 2"),
        (pretrain, dict(settings=["a=1"]), "settings: expected dict, not ['a=1']"),
        (finetune, dict(fraction="0.1"), "fraction: expected float, not '0.1'"),
        (finetune, dict(backbone=None), "backbone: expected a path, not None"),
        (finetune, dict(unlabelled=True), "unlabelled: expected a path, not True"),
        (predict, dict(overwrite="no"), "overwrite: expected bool, not 'no'"),
        (predict, dict(precision=32), "precision: expected str, not 32"),
        (predict, dict(settings={"tiel": 64}), "settings: unknown key 'tiel', did you mean 'tile'"),
        (predict, dict(settings={"tile": "64"}), "settings.tile: expected int | None, not '64'"),
        (predict, dict(settings=64), "settings: expected a dict, not 64"),
        (predict, dict(scenes=5), "scenes: expected a path, not 5"),
    ],
)
def test_an_argument_of_another_type_is_refused_before_anything_is_opened(
    tmp_path, call, given, said
):
    with pytest.raises(sslrs.UserError) as error:
        call(tmp_path, **given)
    assert str(error.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [pretrain, finetune, predict])
def test_a_call_leaves_the_program_as_it_was(tmp_path, monkeypatch, call):
    def run(*given, **options):
        torch.manual_seed(5)
        torch.backends.cudnn.benchmark = not before[1]
        cv2.setNumThreads(before[0] + 1)
        raise sslrs.UserError("ended")

    before = cv2.getNumThreads(), torch.backends.cudnn.benchmark
    state = torch.get_rng_state()
    for name in ("requested_config", "plan_maps"):
        monkeypatch.setattr(calls, name, run)
    with pytest.raises(sslrs.UserError, match="ended"):
        call(tmp_path)
    assert (cv2.getNumThreads(), torch.backends.cudnn.benchmark) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(classes="roof"), "classes: expected Sequence[str], not 'roof'"),
        (dict(tile="64", label_codes=5), "tile: expected int | None, not '64'; label_codes: exp"),
    ],
)
def test_labels_of_ones_own_are_refused_by_type_too(given, said):
    with pytest.raises(sslrs.UserError) as error:
        own(**given)
    assert str(error.value).startswith(said)
    assert own(label_codes=np.array([0, 255])).label_codes == [0, 255]
