"""Errors tile by tile: counted while scoring, and what is chosen of them to be looked at."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import draw_potsdam, prepared
from torch import nn

from SSLRemoteSensing.data.class_weights import label_shares
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.evaluation.scoring import Scoring, ScoringSettings, open_scored, score
from SSLRemoteSensing.evaluation.tile_errors import Place, TileErrors, edges, rank
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.reports.examples import look_at, reach

CPU = torch.device("cpu")


class Blurred(nn.Module):
    """A network that sees 9 x 9 pixels: its map of a window depends on where the window ends."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, 6, 9, padding=4)

    def logits(self, images):
        return 20 * self.layer(images.float() / 255)


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("potsdam")
    draw_potsdam(folder / "source", ("2_10", "2_13", "2_14"), size=(150, 190))
    prepared(folder, "potsdam", "--labels", "both", "--stride", 40, tile=64)
    return folder / "out"


def open_test(root: Path) -> SegmentationDataset:
    paths = dict(image_path=f"{root}/images/test", label_path=f"{root}/labels/test")
    return SegmentationDataset(TileSettings(**paths), num_classes=6)


@pytest.mark.parametrize(("length", "side"), [(600, 256), (6000, 512), (2566, 512), (5, 8), (8, 8)])
def test_parts_are_nearly_equal_and_cover_all(length, side):
    found = edges(length, side)
    sizes = np.diff(found)
    assert (found[0], found[-1]) == (0, length)
    assert sizes.max() <= side
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) == -(-length // side)


@pytest.mark.parametrize("strip", [1, 7, 64, 100])
def test_counts_are_those_of_plain_loops_however_the_rows_come(strip):
    rng = np.random.default_rng(0)
    sizes, side = [(100, 70), (40, 130)], 32
    maps = [rng.integers(0, 3, size) for size in sizes]
    labels = [rng.choice([0, 1, 2, 255], size) for size in sizes]
    errors = TileErrors(sizes, side, CPU)
    for scene, (classes, label) in enumerate(zip(maps, labels, strict=True)):
        for y in range(0, len(label), strip):
            rows = (torch.from_numpy(one[None, y : y + strip]) for one in (classes, label))
            errors.add([scene], y, *rows)
    for one in errors.places():
        box = np.s_[one.y : one.y + one.height, one.x : one.x + one.width]
        classes, label = maps[one.scene][box], labels[one.scene][box]
        assert one.scored == (label != 255).sum()
        assert one.wrong == ((label != 255) & (label != classes)).sum()
    areas = [sum(p.height * p.width for p in errors.places() if p.scene == i) for i in (0, 1)]
    assert areas == [h * w for h, w in sizes]


def score_test(root, settings, classes):
    """The scoring of the test tiles below `root` by a network that blurs."""
    net, opened = Blurred(), open_scored(open_test(root), classes, settings)
    errors = opened.tile_errors(max(settings.window, 60), CPU)

    def predict(images):
        return probabilities(net, CPU, "fp32", images)

    counts = score(predict, opened, CPU, errors=errors)
    return Scoring(Path("best.pth"), {}, {}, "test", opened, predict, CPU, counts, errors)


def test_whole_tiles_are_counted_under_their_own_numbers():
    errors = TileErrors([(4, 4)] * 3, 8, CPU)
    label = torch.tensor([0, 1, 255]).view(3, 1, 1).expand(3, 4, 4)
    errors.add([2, 0, 1], 0, torch.zeros(3, 4, 4, dtype=torch.int64), label)
    assert [(one.scored, one.wrong) for one in errors.places()] == [(16, 16), (0, 0), (16, 0)]


@pytest.mark.parametrize("on", ["scenes", "tiles"])
@pytest.mark.parametrize(("window", "overlap"), [(64, 0.5), (50, 0.3), (512, 0.5)])
def test_a_tile_that_is_shown_has_the_errors_that_were_scored(potsdam, on, window, overlap):
    settings = ScoringSettings(on=on, window=window, overlap=overlap, batch_size=3)
    scoring = score_test(potsdam, settings, [f"class {n}" for n in range(6)])
    places, counts = scoring.errors.places(), scoring.counts["full"]
    assert sum(one.scored for one in places) == int(counts.sum())
    assert sum(one.wrong for one in places) == int(counts.sum() - counts.trace())
    for one in places[:: 1 + len(places) // 8]:
        shown = look_at(scoring, one, potsdam)
        assert shown.image.shape[:2] == shown.label.shape == shown.classes.shape
        assert int((shown.label != shown.classes).sum()) == one.wrong
        for pixels in (shown.image, shown.label):
            assert pixels.base is None  # and does not keep the scene


@pytest.mark.parametrize(
    ("protocols", "kinds"),
    [
        (None, ["full", "eroded"]),
        (["all_eroded"], ["eroded"]),
        (["all_eroded", "all"], ["eroded", "full"]),
    ],
)
def test_errors_are_of_the_labels_of_the_first_protocol(potsdam, protocols, kinds):
    settings = ScoringSettings(window=64, overlap=0, batch_size=64, protocols=protocols)
    scoring = score_test(potsdam, settings, [*(f"class {n}" for n in range(5)), "clutter"])
    places, counts = scoring.errors.places(), scoring.counts
    assert list(counts) == kinds
    first = counts[kinds[0]]
    assert sum(one.scored for one in places) == int(first.sum())
    assert sum(one.wrong for one in places) == int(first.sum() - first.trace())
    if len(kinds) == 2:
        assert counts["eroded"].sum() < counts["full"].sum()
    shown = look_at(scoring, places[0], potsdam)
    assert int((shown.label != 255).sum()) == places[0].scored


def test_the_windows_of_a_part_are_those_of_the_scene():
    assert reach(1500, 512, 256, 0, 100) == (0, 512)
    assert reach(1500, 512, 256, 600, 700) == (256, 1024)  # those at 256 and 512
    assert reach(1500, 512, 256, 1400, 1500) == (988, 1500)  # the last one moved inward
    assert reach(300, 512, 256, 0, 300) == (0, 300)


def place(number: int, wrong: int, scored: int = 100) -> Place:
    return Place(number, 0, 0, 10, 10, scored, wrong)


@pytest.mark.parametrize(
    ("wrong", "groups"),
    [
        # In order: 6 1 3 5 10 8 0 9 4 2 7, of which 8 is the median.
        (
            [50, 3, 90, 10, 70, 20, 0, 99, 40, 60, 30],
            {"best": [6, 1, 3], "median": [10, 8, 0], "worst": [7, 2, 4]},
        ),
        ([5] * 9, {"best": [0, 1, 2], "median": [3, 4, 5], "worst": [8, 7, 6]}),
        ([9, 5], {"all": [1, 0]}),
        ([9, 5, 7], {"best": [1], "median": [2], "worst": [0]}),
    ],
)
def test_best_median_and_worst_are_those_of_the_shares_and_few_are_all_shown(wrong, groups):
    """Equal ones stay in order."""
    assert numbers([place(i, w) for i, w in enumerate(wrong)]) == (groups, len(wrong))


def numbers(places: list[Place]) -> tuple[dict[str, list[int]], int]:
    groups, count = rank(places)
    return {name: [one.scene for one in group] for name, group in groups.items()}, count


def test_tiles_of_which_hardly_anything_is_scored_are_not_ranked():
    sparse = [place(0, 9, 9), place(1, 0, 0)]
    assert numbers([*sparse, place(2, 1), place(3, 10, 10)]) == ({"all": [2, 3]}, 2)
    assert numbers(sparse) == ({"all": [0]}, 1)  # better than nothing
    assert numbers([place(0, 0, 0)]) == ({}, 0)


def test_shares_of_classes_are_those_of_the_labels(potsdam):
    tiles = open_test(potsdam)
    counts = sum(np.bincount(tiles.read(i)[1].ravel(), minlength=256) for i in range(len(tiles)))
    found = label_shares(tiles)
    assert found["tiles"] == len(tiles)
    assert found["shares"] == pytest.approx(counts[:6] / counts[:6].sum())
