"""Scoring by scenes: put together from tiles, predicted window by window, each pixel once."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_tiles
from drawn import draw_potsdam, eroded, prepared, write_png
from torch import nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.scenes import TiledImage, label_kinds, open_scenes, require_eroded
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix
from SSLRemoteSensing.evaluation.scoring import ScoringSettings, open_scored, score
from SSLRemoteSensing.inference.windows import bell, predict_scene, probabilities

CPU = torch.device("cpu")
SIZE = (150, 190)
CLASSES = [f"class {n}" for n in range(6)]
SCENES = ("2_10", "2_13", "2_14", "2_11")


class Pointwise(nn.Module):
    """A network without context: the classes of a pixel depend on that pixel alone."""

    def __init__(self, num_classes: int = 6):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, num_classes, 1)

    def logits(self, images):
        return 20 * self.layer(images.float() / 255)


def scored(net, tiles, num_classes=6, **settings):
    """Counts by kind of label, and the number of scenes."""
    settings = ScoringSettings(**settings)
    opened = open_scored(tiles, [f"class {n}" for n in range(num_classes)], settings)
    predict = predict_with(net, settings.tta)
    return score(predict, opened, CPU), opened.number


def open_tiles(folder: Path) -> SegmentationDataset:
    """Tiles of no prepared set."""
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    return SegmentationDataset(TileSettings(**paths), num_classes=2)


def scenes_of(tiles):
    return open_scenes(tiles, label_kinds(tiles))


def predict_with(net, tta=False):
    return lambda images: probabilities(net, CPU, "fp32", images, tta)


@pytest.fixture(scope="module", params=[64, 40], ids=["tiles side by side", "tiles overlapping"])
def potsdam(request, tmp_path_factory):
    """A prepared set with both kinds of labels, and what was drawn."""
    folder = tmp_path_factory.mktemp("potsdam")
    drawn = draw_potsdam(folder / "source", SCENES, size=SIZE)
    prepared(folder, "potsdam", "--labels", "both", "--stride", request.param, tile=64)
    return folder / "out", drawn


def open_part(root, split="test", labels="labels", **more) -> SegmentationDataset:
    paths = dict(image_path=f"{root}/images/{split}", label_path=f"{root}/{labels}/{split}")
    return SegmentationDataset(TileSettings(**paths, **more), num_classes=6)


@pytest.mark.parametrize("rows", [150, 64, 37, 1])
def test_scenes_are_those_that_were_cut(potsdam, rows):
    root, drawn = potsdam
    scenes = scenes_of(open_part(root))
    assert [scene.name for scene in scenes] == ["2_13", "2_14"]
    for scene in scenes:
        planes, classes = drawn[scene.name]
        assert (scene.height, scene.width) == SIZE
        for mosaic, expected in (
            (scene.image, planes[:3].transpose(1, 2, 0)),
            (scene.labels["full"], classes),
            (scene.labels["eroded"], np.where(eroded(classes) == 6, 255, classes)),
        ):
            parts = [mosaic.rows(y, min(rows, 150 - y)) for y in range(0, 150, rows)]
            assert np.array_equal(np.concatenate(parts), expected)
            assert mosaic.strip.size == 0  # nothing is kept of a scene that was read


def test_each_tile_is_read_once_when_tiles_lie_side_by_side(potsdam):
    image, read = scenes_of(open_part(potsdam[0]))[0].image, []
    counting = TiledImage(image.files, lambda file: read.append(file) or image.read(file), *SIZE)
    for y in range(0, 150, 10):
        counting.rows(y, 10)
    assert len(read) == len(set(read))


def test_a_full_gpu_is_told_with_the_keys_to_set(tiles):
    def predict(images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    opened = open_scored(open_tiles(tiles), ["a", "b"], ScoringSettings(on="tiles", batch_size=3))
    with pytest.raises(UserError, match=r"scoring 3 at a time needs more memory .*; set a smaller"):
        score(predict, opened, CPU)


@pytest.mark.parametrize("window", [64, 512], ids=["windows", "scenes in one piece"])
def test_each_scene_has_a_matrix_of_its_own(potsdam, window):
    root, drawn = potsdam
    opened = open_scored(open_part(root), CLASSES, ScoringSettings(window=window))
    matrices = opened.scene_matrices(CPU)
    counts = score(predict_with(Pointwise()), opened, CPU, by_scene=matrices)
    assert sum(matrix.counts for matrix in matrices).tolist() == counts["full"].tolist()
    for scene, matrix in zip(opened.scenes, matrices, strict=True):
        pixels = np.bincount(drawn[scene.name][1].ravel(), minlength=6)
        assert matrix.counts.sum(1).tolist() == pixels.tolist()
    assert matrices[0].counts.tolist() != matrices[1].counts.tolist()
    by_tiles = open_scored(open_part(root), CLASSES, ScoringSettings(on="tiles"))
    assert by_tiles.scene_matrices(CPU) is None


@pytest.mark.parametrize(
    ("window", "overlap"), [(64, 0.5), (64, 0), (50, 0.3), (96, 0.9), (512, 0.5)]
)
@pytest.mark.parametrize("tta", [False, True])
def test_scenes_by_windows_equal_whole_scenes_for_a_network_without_context(
    potsdam, window, overlap, tta
):
    root, drawn = potsdam
    net = Pointwise()
    settings = dict(window=window, overlap=overlap, batch_size=3, tta=tta)
    counts, number = scored(net, open_part(root), **settings)
    assert number == 2
    for kind in ("full", "eroded"):
        expected = ConfusionMatrix(6)
        for name in ("2_13", "2_14"):
            planes, classes = drawn[name]
            whole = torch.from_numpy(planes[:3].copy())[None]
            label = classes if kind == "full" else eroded(classes)
            label = torch.from_numpy(np.where(label == 6, 255, label))
            expected.update(net.logits(whole).argmax(1)[0], label)
        assert torch.equal(counts[kind], expected.counts)
    assert int(counts["full"].sum()) == 2 * 150 * 190  # each pixel once, though tiles overlap


@pytest.mark.parametrize(("window", "overlap"), [(32, 0.5), (48, 0.25), (33, 0.0), (200, 0.5)])
def test_blended_probabilities_equal_the_whole_image_for_a_network_without_context(window, overlap):
    net = Pointwise(4)
    image = np.random.default_rng(0).integers(0, 256, (101, 77, 3), np.uint8)
    asked = []

    def rows(y, height):
        asked.append((y, height))
        return image[y : y + height]

    predict = predict_with(net)
    strips = list(predict_scene(predict, rows, 101, 77, window, overlap, 2, CPU))
    starts = [y for y, _ in strips]
    assert starts == list(np.cumsum([0] + [found.shape[1] for _, found in strips])[:-1])
    assert [y for y, _ in asked] == [0, *np.cumsum([height for _, height in asked])[:-1]]
    assert sum(height for _, height in asked) == 101
    blended = torch.cat([found for _, found in strips], dim=1)
    whole = predict(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    torch.testing.assert_close(blended, whole, atol=1e-5, rtol=0)


class Corner(nn.Module):
    """Class 1 in the upper left quarter of whatever it is shown: a network with much context."""

    def logits(self, images):
        n, _, height, width = images.shape
        found = torch.zeros(n, 2, height, width)
        found[:, 1, : height // 2, : width // 2] = 4
        return found


def test_the_middle_of_a_window_outweighs_its_border():
    """At an overlap of a half the weights of all windows over a place add up to one."""
    weights = bell(64)
    assert (weights > 0).all()
    torch.testing.assert_close(weights[:32] + weights[32:], torch.ones(32))
    image = np.zeros((32, 96, 3), np.uint8)

    def rows(y, height):
        return image[y : y + height]

    strips = predict_scene(predict_with(Corner()), rows, 32, 96, 32, 0.5, 8, CPU)
    row = torch.cat([p for _, p in strips], 1)[1, 0]
    high, low = np.exp(4) / (1 + np.exp(4)), 0.5
    for x in (16, 20, 31):  # in the right half of the first window and the left of the second
        first, second = bell(32)[x], bell(32)[x - 16]
        assert row[x].item() == pytest.approx(float(low * first + high * second), abs=1e-5)


def test_turns_and_flips_are_undone_and_averaged():
    found = probabilities(Corner(), CPU, "fp32", torch.zeros(1, 3, 24, 40), tta=True)[0, 1]
    # By symmetry each quarter is 'upper left' in 2 of the 8 views.
    high = np.exp(4) / (1 + np.exp(4))
    expected = torch.full((24, 40), (2 * high + 6 * 0.5) / 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("view", range(8))
def test_the_eight_views_are_the_eight_of_a_square(view):
    """Looked at by a network that only answers one view, each pixel comes back to its place."""
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    turns, flip = divmod(view, 2)
    seen = torch.rot90(image.flip(3) if flip else image, turns, (2, 3))

    class OneView(nn.Module):
        def logits(self, images):
            second = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
            return images[:, :2] * second * torch.equal(images, seen)

    found = probabilities(OneView(), CPU, "fp32", image, tta=True)[0, 1]
    expected = (torch.sigmoid(image[0, 0]) + 7 * 0.5) / 8
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("on", ["scenes", "tiles"])
def test_tiles_that_were_not_prepared_are_scored_each_by_windows_or_whole(tmp_path, on):
    tiles, shown = open_tiles(draw_tiles(tmp_path, 3, size=100)), []
    scenes = [(Path(s.name).stem, s.height, s.width) for s in scenes_of(tiles)]
    assert scenes == [(f"tile_00{n}", 100, 100) for n in range(3)]

    class Watching(Pointwise):
        def logits(self, images):
            shown.append(images.shape)
            return super().logits(images)

    by_windows, number = scored(Watching(2), tiles, 2, on=on, window=64, batch_size=2)
    assert all(len(shape) == 4 and shape[0] <= 2 and shape[2:] == (64, 64) for shape in shown)
    whole, _ = scored(Pointwise(2), tiles, 2, on=on)
    assert torch.equal(by_windows["full"], whole["full"])
    assert (number, list(whole)) == (3 if on == "scenes" else None, ["full"])


def test_scoring_tiles_counts_the_pixels_of_overlapping_tiles_twice(potsdam):
    root, _ = potsdam
    tiles = open_part(root)
    counts, number = scored(Pointwise(), tiles, on="tiles")
    assert number is None
    assert int(counts["full"].sum()) == len(tiles) * 64 * 64
    assert set(counts) == {"full", "eroded"}


def test_a_scene_with_tiles_left_out_is_scored_by_tiles_and_that_is_said(potsdam, capsys):
    root, _ = potsdam
    part = open_part(root, hash_range=(0, 0.5))
    with pytest.raises(UserError, match=r"scene 2_1[34]: \d+ of its \d+ tiles are not among"):
        scenes_of(part)
    _, number = scored(Pointwise(), part)
    assert number is None
    assert "scored tile by tile: scene" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(50, 30), (64, 30), (50, 64), (64, 80)])
@pytest.mark.parametrize("folder", ["images", "labels_eroded"])
def test_a_tile_or_label_of_another_size_is_named(potsdam, tmp_path, folder, size):
    """Also one that is only narrower, which would leave a hole."""
    root, _ = potsdam
    shutil.copytree(root, tmp_path / "tiles")
    bad = sorted((tmp_path / f"tiles/{folder}/test").glob("2_13_0_*.png"))[1]
    write_png(bad, np.zeros((*size, 3) if folder == "images" else size, np.uint8))
    for settings in (dict(on="tiles"), dict(window=64)):
        with pytest.raises(UserError, match=f"{size[1]} x {size[0]}") as error:
            scored(Pointwise(), open_part(tmp_path / "tiles"), **settings)
        assert bad.name in str(error.value)


def test_the_cost_of_opening_a_scene_does_not_grow_with_their_number(potsdam):
    root, _ = potsdam

    def seconds(count: int) -> float:
        """CPU time, which other processes do not add to; the best of three."""
        part = open_part(root)
        names = [f"s{n}" for n in range(count)]
        place = {"height": 64, "width": 64}
        part.card = part.card | {"places": {"test": dict.fromkeys(names, place)}}
        part.pairs = [(f"{root}/images/test/{name}_0_0.png", "") for name in names]
        taken = []
        for _ in range(3):
            start = time.process_time()
            assert len(open_scenes(part, {})) == count
            taken.append(time.process_time() - start)
        return min(taken)

    # 10 times as many take about 10 times as long; 100 times where each looks at all.
    assert seconds(8000) / seconds(800) < 30


def test_tiles_that_another_tool_cut_are_no_scenes_and_that_is_said(tmp_path, capsys):
    """Their pixels may overlap: nobody can say how often each counts."""
    for place in ("0_0_64_64", "32_0_96_64"):
        write_png(tmp_path / f"images/2_10_{place}.png", np.zeros((64, 64, 3), np.uint8))
        write_png(tmp_path / f"labels/2_10_{place}.png", np.eye(64, dtype=np.uint8))
    _, number = scored(Pointwise(2), open_tiles(tmp_path), 2)
    assert number is None
    assert "scored tile by tile: where 2_10_0_0_64_64.png" in capsys.readouterr().err


def test_a_list_of_prepared_tiles_is_of_their_set_wherever_it_lies(potsdam, tmp_path):
    root, _ = potsdam
    files = sorted((root / "images/test").iterdir())
    (tmp_path / "test.txt").write_text("\n".join(map(str, files)))
    settings = TileSettings(str(tmp_path / "test.txt"), f"{root}/labels/test")
    tiles = SegmentationDataset(settings, num_classes=6)
    counts, number = scored(Pointwise(), tiles)
    assert number == 2
    assert list(counts) == ["full", "eroded"]


def test_a_set_trained_on_eroded_labels_is_scored_on_both_kinds(potsdam):
    root, _ = potsdam
    kinds = label_kinds(open_part(root, labels="labels_eroded"))
    assert list(kinds) == ["full", "eroded"]
    assert all("/labels/" in file for file in kinds["full"])
    assert all("/labels_eroded/" in file for file in kinds["eroded"])


def test_a_kind_that_lacks_labels_is_left_out_and_that_is_said(potsdam, tmp_path, capsys):
    root, _ = potsdam
    shutil.copytree(root, tmp_path / "tiles")
    next((tmp_path / "tiles/labels_eroded/test").iterdir()).unlink()
    tiles = open_part(tmp_path / "tiles")
    assert list(label_kinds(tiles)) == ["full"]
    assert "warning: 1 of" in capsys.readouterr().err
    classes = [*"abcde", "clutter"]
    with pytest.raises(UserError, match="no eroded labels are there"):
        open_scored(tiles, classes, ScoringSettings(protocols=["all_eroded"]))


def test_eroded_protocols_are_refused_before_training_where_there_are_no_eroded_labels(
    potsdam, tmp_path
):
    root, _ = potsdam
    images, labels = f"{root}/images/test", f"{root}/labels/test"
    require_eroded(["all_eroded"], images, labels)
    require_eroded(["all_eroded"], str(tmp_path / "not there yet"), str(tmp_path / "nor this"))
    require_eroded(["all"], str(tmp_path), str(tmp_path))
    for paths in ((str(tmp_path), labels), (images, str(tmp_path))):
        with pytest.raises(UserError, match="has no eroded labels"):
            require_eroded(["all", "all_eroded"], *paths)


def test_a_card_without_places_is_named(potsdam):
    root, _ = potsdam
    part = open_part(root)
    part.card = {key: value for key, value in part.card.items() if key != "places"}
    with pytest.raises(UserError, match=r"dataset.json: damaged \(lacks places\)"):
        scenes_of(part)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (dict(window=8), "scoring_cfg.window=8"),
        (dict(overlap=1), "scoring_cfg.overlap=1"),
        (dict(overlap=-0.1), "scoring_cfg.overlap=-0.1"),
        (dict(batch_size=0), "scoring_cfg.batch_size=0"),
        (dict(protocols=[]), "scoring_cfg.protocols=.*names none"),
        (dict(clutter="cluter"), "scoring_cfg.clutter='cluter': is none of"),
        (dict(one_against_rest=["water"]), r"scoring_cfg.one_against_rest=\['water'\]"),
        (dict(protocols=["clutter_ignored"]), "no class is named 'clutter'"),
        (dict(protocols=["mean_of_foreground_eroded"]), "no class is named 'clutter'"),
        (dict(protocols=["cloud_against_rest"]), "there are all, all_eroded"),
    ],
)
def test_settings_that_cannot_be_are_refused(keys, said):
    with pytest.raises(UserError, match=said):
        ScoringSettings(**keys).check(["ground", "roof"])


@pytest.mark.parametrize(
    ("classes", "rest"),
    [("background cloud snow", ["cloud", "snow"]), ("background cloud", []), ("ground roof", [])],
)
def test_cloud_and_snow_are_scored_on_their_own_where_there_are_others(classes, rest):
    assert ScoringSettings().against_rest(classes.split()) == rest
