"""Where tiles lie, how many a data set has, and which scenes are of which split."""

import numpy as np
import pytest

from SSLRemoteSensing.data.prepared import positions
from SSLRemoteSensing.preparation.isprs import (
    POTSDAM_FAULTS,
    POTSDAM_SHARES,
    POTSDAM_SIZE,
    POTSDAM_SPLITS,
    POTSDAM_VAL,
    VAIHINGEN_SHARES,
    VAIHINGEN_SIZES,
    VAIHINGEN_SPLITS,
    VAIHINGEN_VAL,
)

ROWS = {2: (10, 11, 12), 3: (10, 11, 12), 4: (10, 11, 12), 5: (10, 11, 12)}
ROWS |= {6: (7, 8, 9, 10, 11, 12), 7: (7, 8, 9, 10, 11, 12)}
POTSDAM_TRAIN = [f"{row}_{column}" for row, columns in ROWS.items() for column in columns]
ROWS = {2: (13, 14), 3: (13, 14), 4: (13, 14, 15), 5: (13, 14, 15), 6: (13, 14, 15), 7: (13,)}
POTSDAM_TEST = [f"{row}_{column}" for row, columns in ROWS.items() for column in columns]
VAIHINGEN_TRAIN = list(map(str, (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)))
VAIHINGEN_TEST = list(map(str, (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)))


def tiles(size: tuple[int, int], tile: int, stride: int) -> int:
    height, width = size
    return len(positions(height, tile, stride)) * len(positions(width, tile, stride))


@pytest.mark.parametrize("length", [32, 33, 63, 64, 65, 70, 90, 96, 257])
@pytest.mark.parametrize(("tile", "stride"), [(32, 32), (32, 20), (32, 1), (31, 31)])
def test_windows_cover_every_pixel_and_stay_inside(length, tile, stride):
    starts = positions(length, tile, stride)
    covered = np.zeros(length, int)
    for start in starts:
        assert 0 <= start <= length - tile
        covered[start : start + tile] += 1
    assert covered.all()
    assert starts == sorted(set(starts))
    # No more windows than it takes, and all but the last one a stride apart.
    assert len(starts) == 1 + -(-(length - tile) // stride)
    assert set(np.diff(starts[:-1])) <= {stride}


def test_potsdam_has_the_published_number_of_chips():
    one = tiles(POTSDAM_SIZE, 512, 512)
    train = POTSDAM_SPLITS["train"] + POTSDAM_SPLITS["val"]
    assert (one * len(train), one * len(POTSDAM_SPLITS["test"])) == (3456, 2016)


@pytest.mark.parametrize(("stride", "expected"), [(512, (344, 398)), (256, (1046, 1208))])
def test_vaihingen_has_the_published_number_of_chips(stride, expected):
    def count(scenes):
        return sum(tiles(VAIHINGEN_SIZES[scene], 512, stride) for scene in scenes)

    train = VAIHINGEN_SPLITS["train"] + VAIHINGEN_SPLITS["val"]
    assert (count(train), count(VAIHINGEN_SPLITS["test"])) == expected


@pytest.mark.parametrize(
    ("splits", "val", "train", "test"),
    [
        (POTSDAM_SPLITS, POTSDAM_VAL, POTSDAM_TRAIN, POTSDAM_TEST),
        (VAIHINGEN_SPLITS, VAIHINGEN_VAL, VAIHINGEN_TRAIN, VAIHINGEN_TEST),
    ],
    ids=["potsdam", "vaihingen"],
)
def test_splits_are_as_published_with_validation_taken_from_train(splits, val, train, test):
    assert set(splits) == {"train", "val", "test"}
    every = [scene for scenes in splits.values() for scene in scenes]
    assert len(every) == len(set(every))
    assert splits["val"] == val
    assert sorted(splits["train"] + splits["val"]) == sorted(train)
    assert sorted(splits["test"]) == sorted(test)
    assert 0.1 < len(val) / len(train) < 0.25


def test_scenes_with_known_faults_are_not_in_validation():
    assert set(POTSDAM_FAULTS) == {"4_12", "6_7", "7_10"}
    assert not set(POTSDAM_FAULTS) & set(POTSDAM_VAL)


def test_every_scene_of_vaihingen_has_a_size():
    assert set(VAIHINGEN_SIZES) == set(VAIHINGEN_TRAIN) | set(VAIHINGEN_TEST)


def test_published_shares_are_shares():
    assert sum(POTSDAM_SHARES) == pytest.approx(1, abs=0.002)
    assert sum(VAIHINGEN_SHARES) == pytest.approx(1, abs=0.002)
