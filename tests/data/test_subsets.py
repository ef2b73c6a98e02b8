"""A few labels of many: the tiles that a fraction keeps."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from drawn import draw_classes, draw_image, write_png

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.data.subsets import choose_fraction, name_hash, scene_of
from SSLRemoteSensing.evaluation.scoring import ScoringSettings, open_scored, score
from SSLRemoteSensing.preparation.isprs import POTSDAM_SPLITS

POTSDAM = [
    f"{scene}_{y}_{x}"
    for scene in POTSDAM_SPLITS["train"] + POTSDAM_SPLITS["val"]
    for y in [*range(0, 5744, 256), 5744]
    for x in [*range(0, 5744, 256), 5744]
]
SMALL = [
    f"{scene}_{y}_{x}"
    for scene in ("2_10", "2_12", "area1")
    for y in range(0, 768, 256)
    for x in range(0, 1024, 256)
]
CHOSEN = {  # by (fraction, seed): what every machine must keep
    (0.1, 0): ["2_10_0_512", "2_12_0_0", "area1_0_0", "area1_256_512"],
    (0.1, 1): ["2_10_0_512", "2_12_256_512", "2_12_512_512", "area1_512_512"],
}


def names(stems, fraction, seed=0) -> set[str]:
    return {stems[index] for index in choose_fraction(stems, fraction, seed)}


@pytest.mark.parametrize(("given", "expected"), CHOSEN.items())
def test_the_same_tiles_are_chosen_everywhere(given, expected):
    assert sorted(names(SMALL, *given)) == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_a_smaller_fraction_is_within_a_larger_one(seed):
    chosen = [names(POTSDAM, f, seed) for f in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1)]
    for few, more in pairwise(chosen):
        assert few < more
    assert len(chosen[-1]) == len(POTSDAM)


def test_one_percent_of_24_scenes_of_576_tiles_are_138_others_for_another_seed():
    assert len(POTSDAM) == 24 * 576
    chosen = [names(POTSDAM, 0.01, seed) for seed in range(5)]
    for tiles in chosen:
        assert len(tiles) == 138
        assert len({scene_of(name) for name in tiles}) == 24
    assert len(set(map(frozenset, chosen))) == 5
    assert len(chosen[0] & chosen[1]) < 20  # 1.4 by chance
    # The order of the files does not matter.
    assert names(np.random.default_rng(0).permutation(POTSDAM).tolist(), 0.01, 3) == chosen[3]


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.3, 0.77])
@pytest.mark.parametrize("seed", range(5))
def test_each_scene_gives_its_share_also_where_scenes_differ_in_size(fraction, seed):
    sizes = {"a": 1, "b": 10, "c": 100, "d": 333, "e": 56}
    stems = [f"{scene}_{i}_0" for scene, count in sizes.items() for i in range(count)]
    potsdam = dict.fromkeys(POTSDAM_SPLITS["train"] + POTSDAM_SPLITS["val"], 576)
    for tiles, tiles_of in ((stems, sizes), (POTSDAM, potsdam)):
        counts = Counter(scene_of(name) for name in names(tiles, fraction, seed))
        for scene, count in tiles_of.items():
            assert abs(counts[scene] - fraction * count) < 1.1, scene


@pytest.mark.parametrize("count", [1, 2, 7, 99, 1000])
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 1 / 3, 0.5, 1.0])
def test_size_is_the_rounded_share_and_at_least_one(count, fraction):
    stems = [f"s{i % 3}_{i}_0" for i in range(count)]
    chosen = choose_fraction(stems, fraction, 0)
    assert len(chosen) == max(1, round(fraction * count))
    assert chosen == sorted(set(chosen))


def test_every_tile_of_a_scene_is_as_likely():
    counts = Counter()
    stems = [f"s_{i}_0" for i in range(20)]
    for seed in range(400):
        counts.update(names(stems, 0.1, seed))
    assert min(counts[stem] for stem in stems) > 15  # 40 expected, sigma 6
    assert max(counts.values()) < 65


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(UserError, match="fraction"):
        choose_fraction(SMALL, fraction, 0)


@pytest.mark.parametrize(
    ("stem", "scene"),
    [
        ("2_10_0_256", "2_10"),
        ("2_10_5744_5744", "2_10"),
        ("2_10_256_512", "2_10"),
        ("2_10_0_0_512_512", "2_10"),
        ("2_10_512_0_1024_512", "2_10"),
        ("1_0_256", "1"),
        ("area1_0_0", "area1"),
        ("area1_256_0_512_256", "area1"),
        ("top_potsdam_2_10_RGB_0_256", "top_potsdam_2_10_RGB"),
        ("GF1_WFV2_E140.6_N45.9_20171027_L1A0002713917_256_512",
         "GF1_WFV2_E140.6_N45.9_20171027_L1A0002713917"),
        ("m_4709963_se_14_1_20090818_0_256", "m_4709963_se_14_1_20090818"),
        ("tile", ""),
        ("kampala_1238448-1046528-21", ""),
    ],
)  # fmt: skip
def test_the_scene_of_a_tile_is_told_by_its_name(stem, scene):
    assert scene_of(stem) == scene


def test_a_hash_of_a_name_is_uniform_and_fixed():
    values = [name_hash(f"scene {i}") for i in range(2000)]
    assert name_hash("2_10") == pytest.approx(0.842571909951767, abs=1e-15)
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
    assert abs(np.mean(values) - 0.5) < 0.02


def test_a_dataset_keeps_the_tiles_of_its_fraction(tiles):
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    for hash_range in ((0, 1), (0.2, 1)):  # a fraction is of what hash_range leaves
        settings = TileSettings(**paths, hash_range=hash_range)
        whole = SegmentationDataset(settings, num_classes=2)
        few = replace(settings, fraction=0.25, fraction_seed=3)
        few = SegmentationDataset(few, num_classes=2)
        stems = [whole.name(i).stem for i in range(len(whole))]
        assert {few.name(i).stem for i in range(len(few))} == names(stems, 0.25, 3)
        assert len(few.pairs) == round(0.25 * len(whole.pairs))
        for i in range(len(few)):
            assert few.pairs[i][1].endswith(f"labels/{few.name(i).stem}.png")


def test_the_tiles_of_a_fraction_come_round_as_often_each_with_draws_of_its_own(tiles):
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    tiles = SegmentationDataset(TileSettings(**paths, fraction=0.25, crop_size=32), num_classes=2)
    assert (len(tiles), tiles.full_length) == (6, 24)
    few = tiles.repeated()
    assert len(few) == 24
    assert set(Counter(few.name(i) for i in range(24)).values()) == {4}
    assert few.name(0) == few.name(6)
    assert not np.array_equal(few[(0, 0)]["image"], few[(0, 6)]["image"])


def test_each_tile_of_a_fraction_is_scored_once(tiles):
    """They come round again in training; in a score they would count unevenly."""
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    few = SegmentationDataset(TileSettings(**paths, fraction=0.3), num_classes=2)

    def nothing(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(images.shape[0], 2, *images.shape[2:])

    opened = open_scored(few, ["other", "roof"], ScoringSettings(on="tiles", batch_size=4))
    counts = score(nothing, opened, torch.device("cpu"))["full"]
    assert counts.sum() == len(few.pairs) * 64 * 64


def test_fine_tuning_writes_the_names_of_its_tiles_and_reads_other_labels_as_those_of_train(
    run, seg_config, tmp_path
):
    """Labels 1 to 6 with 0 = not scored; those of validation and test lack the last classes."""
    for number in range(20):
        image = draw_image(3, (32, 32), number).transpose(1, 2, 0)
        write_png(tmp_path / f"images/t_{number:02d}.png", image)
        label = draw_classes((32, 32), number, [1] * (6 if number < 16 else 4)) + 1
        write_png(tmp_path / f"labels/t_{number:02d}.png", label.astype(np.uint8))
    paths = dict(image_path=str(tmp_path / "images"), label_path=str(tmp_path / "labels"))
    train = paths | dict(data_format=["t_0*.png", "t_1[0-5].png"], fraction=0.5, fraction_seed=2)
    val = paths | dict(data_format="t_1[6-9].png")
    seg_config["classes"] = list("abcdef")
    seg_config.pop("palette", None)
    seg_config["train_cfg"] |= dict(train_data=train, val_data=val, test_data=val, num_step=1)
    done = run("finetune_seg.py", seg_config, "--backbone", "random")
    assert done.returncode == 0, done.stderr
    assert "0 is taken as not scored" in done.stderr
    written = (tmp_path / "seg/train_tiles.txt").read_text().split()
    stems = [f"t_{number:02d}" for number in range(16)]
    assert sorted(written) == sorted(f"{stem}.png" for stem in names(stems, 0.5, 2))
    assert len(written) == 8
    results = json.loads((tmp_path / "seg/results.json").read_text())
    matrix = np.array(results["protocols"]["all"]["confusion_matrix"])
    labels = [draw_classes((32, 32), number, [1] * 4) for number in range(16, 20)]
    assert matrix.sum(1).tolist() == np.bincount(np.ravel(labels), minlength=6).tolist()
