"""Which images overlap on the map."""

import numpy as np
import pytest

from SSLRemoteSensing.preparation.footprints import last_overlaps


@pytest.mark.parametrize("tall", [False, True])
def test_the_last_that_overlaps_is_that_of_plain_loops(tall):
    rng = np.random.default_rng(2)
    corners = rng.integers(0, (40, 90) if tall else (90, 40), (60, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 12, (60, 2))], 1).astype(float)
    boxes[rng.random(60) < 0.1] = np.nan  # without a place
    expected = []
    for number, (left, bottom, right, top) in enumerate(boxes):
        met = [
            other
            for other, (a, b, c, d) in enumerate(boxes)
            if other > number and a <= right and c >= left and b <= top and d >= bottom
        ]
        expected.append(max(met, default=number))
    assert last_overlaps(boxes).tolist() == expected
    assert 10 < sum(n != number for number, n in enumerate(expected)) < 60


def test_without_a_place_nothing_overlaps():
    assert last_overlaps(np.full((3, 4), np.nan)).tolist() == [0, 1, 2]
