"""What a grid says of other test scenes, and of the labels that an initialisation saves."""

import numpy as np
import pytest
import torch

from SSLRemoteSensing.evaluation.metrics import scores
from SSLRemoteSensing.workflows.label_efficiency.comparison import Results, equal_share
from SSLRemoteSensing.workflows.label_efficiency.scene_bootstrap import (
    miou,
    scene_counts,
    scene_gap,
)
from SSLRemoteSensing.workflows.label_efficiency.tables import score_table

CLASSES = ("a", "b", "c")


def random_scenes(seed: int, number: int = 6, hit: int = 80) -> dict[str, np.ndarray]:
    """Scenes of which most pixels lie on the diagonal, the more the higher `hit`."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, (number, 3, 3)) + hit * np.eye(3, dtype=int)
    return {f"scene {i}": matrix for i, matrix in enumerate(counts)}


def test_miou_of_a_draw_is_that_of_the_scenes_taken_so_often():
    counts = np.stack([*random_scenes(1).values()])
    counts[:, 2] = counts[:, :, 2] = 0  # a class that is nowhere has no part in the mean
    counts[0, 1, 2] = 5  # and one that is only predicted has
    weights = np.array([[1, 0, 0, 2, 3, 0], [0, 2, 1, 1, 1, 1], [6, 0, 0, 0, 0, 0]])
    expected = [
        scores(torch.from_numpy(np.tensordot(w, counts, 1)), CLASSES)["miou"] for w in weights
    ]
    assert miou(weights, counts) == pytest.approx(expected)


def test_a_range_holds_95_percent_of_the_draws_of_scenes_in_pairs():
    ours, theirs = [random_scenes(i, hit=90) for i in (1, 2)], [random_scenes(i) for i in (3, 4)]
    limits = scene_gap(ours, theirs)
    rng, names, gaps = np.random.default_rng(7), sorted(ours[0]), []
    for _ in range(600):
        picked = rng.choice(names, len(names))
        means = [
            np.mean([
                scores(torch.from_numpy(sum(cell[name] for name in picked)), CLASSES)["miou"]
                for cell in side
            ])
            for side in (ours, theirs)
        ]  # fmt: skip
        gaps.append(means[0] - means[1])
    expected = np.percentile(gaps, (2.5, 97.5))
    assert limits[:2] == pytest.approx(expected, abs=0.2 * np.ptp(expected))
    assert limits.scenes == 6
    assert limits.low < np.mean(gaps) < limits.high


def test_the_same_network_differs_by_nothing_and_a_better_one_surely():
    bad, good = random_scenes(1, 12, hit=20), random_scenes(1, 12, hit=200)
    limits = scene_gap([bad], [bad])
    assert limits[:2] == (0, 0)
    assert not limits.excludes_zero()
    assert scene_gap([good], [bad]).excludes_zero()
    assert scene_gap([bad], [good]).excludes_zero()


def test_nothing_is_said_of_no_pair_of_one_scene_and_of_other_scenes():
    ours = random_scenes(1)
    assert scene_gap([], []) is None
    assert scene_gap([random_scenes(1, 1)], [random_scenes(2, 1)]) is None
    assert scene_gap([ours], [random_scenes(2, 5)]) is None


def test_counts_are_those_of_the_full_labels_alone():
    contents = dict(kind="full", scenes=[dict(name="x", confusion_matrix=[[1, 2], [3, 4]])])
    assert scene_counts(contents)["x"].tolist() == [[1, 2], [3, 4]]
    assert scene_counts(contents | dict(kind="eroded")) is None
    assert scene_counts({}) is None  # no file


@pytest.mark.parametrize(
    ("score", "share"),
    [
        (0.30, 0.02), (0.20, 0.02),  # the first has it
        (0.50, 0.1), (0.60, 1.0),
        (0.40, 0.02 * 5**0.5),  # half way, on a logarithmic axis
        (0.55, 0.1 * 10**0.5),
        (0.61, None),
    ],
)  # fmt: skip
def test_the_share_with_which_a_curve_is_as_high(score, share):
    found = equal_share(score, {1.0: 0.60, 0.02: 0.30, 0.1: 0.50})
    assert found == (share if share is None else pytest.approx(share))


def test_a_curve_that_falls_between_is_as_high_where_it_first_rises_above():
    assert equal_share(0.5, {0.1: 0.4, 0.2: 0.3, 0.4: 0.5, 1.0: 0.6}) == pytest.approx(0.4)
    assert equal_share(0.4, {}) is None


def rows_of(init: str, mious: dict[float, list[float]], hit: int) -> list[dict]:
    """Finished cells, those at 2 % with scenes."""
    common = dict(init=init, lr=None, chosen=True, status="done", error="", tiles=9)
    return [
        common
        | dict(fraction=fraction, seed=seed, protocols=dict(all=dict(miou=value)))
        | dict(scenes=random_scenes(seed, hit=hit) if fraction == 0.02 else None)
        for fraction, values in mious.items()
        for seed, value in enumerate(values)
    ]


def test_the_table_has_a_row_of_shares_and_a_row_of_other_scenes():
    rows = rows_of("random", {0.02: [0.3, 0.34], 0.2: [0.42, 0.42], 1: [0.5, 0.52]}, hit=20)
    rows += rows_of("best", {0.02: [0.37, 0.37], 0.2: [0.53, 0.53], 1: [0.25, 0.2]}, hit=300)
    _, table = score_table(Results(rows, "random"), "miou", "all")
    lines = {line[0]: line[1:] for line in table}
    assert lines["best: as random with"] == ["6.3 %", "> 100 %", "< 2 %"]
    found = lines["best - random, other scenes"]
    assert found[0].startswith("**+")
    assert " to +" in found[0]
    assert found[1:] == ["", ""]
    # Of other scores there are no scenes' counts.
    for row in rows:
        row["protocols"]["all"]["oa"] = 0.5
    _, table = score_table(Results(rows, "random"), "oa", "all")
    assert not any("other scenes" in line[0] for line in table)
