"""Tiles drawn by the classes in their labels."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.sampling import ClassSampling, SamplingSettings
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings

# Nine tiles of ground and one of roof; the tenth has both, half and half; the last no label.
COUNTS = np.array([[100, 0]] * 8 + [[0, 100], [50, 50], [0, 0]])


def drawn(sampling: ClassSampling, epochs: int) -> np.ndarray:
    """How often each tile comes, (epochs, tiles)."""
    return np.array([
        np.bincount([sampling.tile(epoch, i) for i in range(sampling.length)], minlength=11)
        for epoch in range(epochs)
    ])  # fmt: skip


def test_a_tile_comes_as_often_as_the_classes_in_it_are_rare():
    sampling = ClassSampling(COUNTS, power=1.0, length=440, seed=3)
    ground, roof = 850 / 1000, 150 / 1000  # shares of the labelled pixels
    weights = np.array([1 / ground] * 8 + [1 / roof, (1 / ground + 1 / roof) / 2, 0])
    expected = 440 * weights / weights.sum()
    counts = drawn(sampling, 5)
    assert (counts.sum(1) == 440).all()
    assert np.abs(counts - expected).max() < 1
    assert (counts[:, 10] == 0).all()  # it has no label
    assert counts[0, 8] > 5 * counts[0, 0]


def test_power_0_draws_labelled_tiles_alike():
    counts = drawn(ClassSampling(COUNTS, power=0.0, length=30, seed=3), 2)
    assert counts.tolist() == [[3] * 10 + [0]] * 2


def test_the_shares_that_are_drawn_are_foretold():
    sampling = ClassSampling(COUNTS, power=0.5, length=2200, seed=1)
    pixels = drawn(sampling, 4).sum(0) @ (COUNTS / np.maximum(COUNTS.sum(1, keepdims=True), 1))
    np.testing.assert_allclose(sampling.drawn, pixels / pixels.sum(), atol=0.002)


def test_it_is_a_function_of_seed_epoch_and_index():
    first, same, other = (ClassSampling(COUNTS, 0.5, 23, seed) for seed in (1, 1, 2))
    keys = [(epoch, index) for epoch in range(6) for index in range(23)]
    assert [first.tile(*key) for key in keys] == [same.tile(*key) for key in reversed(keys)][::-1]
    assert [first.tile(*key) for key in keys] != [other.tile(*key) for key in keys]


def test_without_any_label_there_is_nothing_to_draw():
    with pytest.raises(UserError, match="no pixel of the labelled tiles has a label"):
        ClassSampling(np.zeros((3, 2)), 0.5, 3, 0)


@pytest.mark.parametrize("power", [-0.1, float("nan"), 5])
def test_a_power_out_of_range_is_refused(power):
    with pytest.raises(UserError, match=r"train_data\.sampling\.power="):
        SamplingSettings(power=power)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six tiles whose image says in each pixel which tile it is; the last alone is of class 1."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(6):
        image = np.full((8, 8, 3), 10 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), image)
        label = np.full((8, 8), number == 5, np.uint8)
        cv2.imwrite(str(tmp_path / f"labels/{number}.png"), label)
    return tmp_path


def open_tiles(folder: Path, **changes) -> SegmentationDataset:
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    return SegmentationDataset(TileSettings(**paths | changes), 2)


def test_samples_of_training_are_of_the_tiles_that_are_drawn(folder):
    tiles = open_tiles(folder, sampling=dict(by="class", power=1.0)).repeated()
    samples = [tiles[(epoch, index)] for epoch in range(4) for index in range(len(tiles))]
    assert len(tiles) == 6
    for sample in samples:
        assert (sample["image"] == 10 * sample["index"]).all()
        assert tiles.name(sample["index"]).stem == str(sample["index"])
        assert (sample["label"] == (sample["index"] == 5)).all()
    assert sum(sample["index"] == 5 for sample in samples) == 12  # half of them, by either class
    plain = open_tiles(folder).repeated()
    assert [plain[(0, index)]["index"] for index in range(6)] == list(range(6))


def test_windows_of_scenes_are_refused(folder):
    tiles = open_tiles(folder, sampling={})
    tiles.windows = object()
    with pytest.raises(UserError, match=r"train_data\.sampling: is for tiles"):
        tiles.repeated()
