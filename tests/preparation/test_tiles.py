"""Where tiles lie, how many a data set has, and which scenes are of which split."""

from collections import defaultdict

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

TRAIN = dict.fromkeys(range(2, 6), (10, 11, 12)) | dict.fromkeys((6, 7), range(7, 13))
TEST = {2: (13, 14), 3: (13, 14), 4: (13, 14, 15), 5: (13, 14, 15), 6: (13, 14, 15), 7: (13,)}
POTSDAM_TRAIN, POTSDAM_TEST = (
    [f"{row}_{column}" for row, columns in rows.items() for column in columns]
    for rows in (TRAIN, TEST)
)
VAIHINGEN_TRAIN = list(map(str, (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)))
VAIHINGEN_TEST = list(map(str, (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)))


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


@pytest.mark.parametrize(
    ("splits", "size_of", "stride", "expected"),
    [
        (POTSDAM_SPLITS, defaultdict(lambda: POTSDAM_SIZE), 512, (3456, 2016)),
        (VAIHINGEN_SPLITS, VAIHINGEN_SIZES, 512, (344, 398)),
        (VAIHINGEN_SPLITS, VAIHINGEN_SIZES, 256, (1046, 1208)),
    ],
)
def test_the_sets_have_the_published_number_of_chips(splits, size_of, stride, expected):
    def count(scenes):
        sides = [[len(positions(n, 512, stride)) for n in size_of[scene]] for scene in scenes]
        return sum(rows * columns for rows, columns in sides)

    assert (count(splits["train"] + splits["val"]), count(splits["test"])) == expected


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


def test_what_is_known_of_the_scenes_fits_their_splits():
    assert set(POTSDAM_FAULTS) == {"4_12", "6_7", "7_10"}
    assert not set(POTSDAM_FAULTS) & set(POTSDAM_VAL), "a scene with faults is in validation"
    assert set(VAIHINGEN_SIZES) == set(VAIHINGEN_TRAIN) | set(VAIHINGEN_TEST)
    for shares in (POTSDAM_SHARES, VAIHINGEN_SHARES):
        assert sum(shares) == pytest.approx(1, abs=0.002)
