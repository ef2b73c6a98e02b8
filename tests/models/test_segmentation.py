"""Labelled tiles, the segmentation network, scoring and its pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_tiles
from tiny_run import step_of
from torch import nn

from SSLRemoteSensing import build_segmentation
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.classes import colour_map
from SSLRemoteSensing.core.config import override
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.segmentation import (
    SegmentationDataset,
    TileSettings,
    collate,
    name_hash,
)
from SSLRemoteSensing.evaluation.scoring import ScoringSettings, open_scored, score
from SSLRemoteSensing.models.backbones import unit_range
from SSLRemoteSensing.reports.figures import draw_confusion_matrix, draw_examples
from SSLRemoteSensing.reports.results import protocol_table


def open_tiles(folder, num_classes=2, seed=0, coding=None, **changes) -> SegmentationDataset:
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    settings = TileSettings(**paths | changes)
    return SegmentationDataset(settings, num_classes, seed=seed, coding=coding)


@pytest.fixture
def coded(tmp_path):
    """One tile whose label is a function of its image: label = (red > 127)."""
    rng = np.random.default_rng(0)
    red = rng.integers(0, 256, (50, 70), dtype=np.uint8)
    image = np.dstack([red, red // 2, rng.integers(0, 256, (50, 70), dtype=np.uint8)])
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), image[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "labels/a.png"), (red > 127).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    "augment",
    [
        dict(crop_size=32),
        dict(flips=True),
        dict(turns=True),
        dict(crop_size=64),  # padded in one direction
        dict(crop_size=96),  # padded in both
        dict(crop_size=40, flips=True, turns=True),
    ],
)
def test_image_and_label_stay_together(coded, augment):
    dataset = open_tiles(coded, **augment)
    views = set()
    for epoch in range(16):
        sample = dataset[(epoch, 0)]
        image, label = sample["image"], sample["label"]
        if "crop_size" in augment:
            assert label.shape == (augment["crop_size"],) * 2
        scored = label != 255
        assert scored.sum() == min(50, label.shape[0]) * min(70, label.shape[1]) or (
            "turns" in augment
        )
        assert np.array_equal((image[:, :, 0] > 127)[scored], label[scored].astype(bool))
        views.add(image.tobytes())
    assert len(views) > (3 if augment != dict(crop_size=96) else 0)


def test_jitter_changes_the_image_and_not_the_label(coded):
    plain = open_tiles(coded)[(0, 0)]
    jittered = open_tiles(coded, jitter=dict(brightness=(0.5, 0.6)))[(0, 0)]
    assert np.array_equal(plain["label"], jittered["label"])
    assert jittered["image"].mean() < 0.7 * plain["image"].mean()


def test_a_sample_depends_on_its_key_alone(tiles):
    augment = dict(crop_size=32, flips=True, turns=True, jitter=dict(hue=0.1))
    one, two = open_tiles(tiles, **augment), open_tiles(tiles, **augment)
    one[(0, 1)]
    assert np.array_equal(one[(2, 3)]["image"], two[(2, 3)]["image"])
    assert not np.array_equal(one[(2, 3)]["image"], two[(3, 3)]["image"])


def test_hash_ranges_divide_the_tiles(tiles):
    everything = {Path(file).name for file, _ in open_tiles(tiles).pairs}
    parts = [
        {Path(file).name for file, _ in open_tiles(tiles, hash_range=bounds).pairs}
        for bounds in ((0, 0.4), (0.4, 1))
    ]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    assert name_hash("zanzibar_1") == pytest.approx(0.7182612)  # a pin: splits must never move
    with pytest.raises(UserError, match="keeps none of 24"):
        open_tiles(tiles, hash_range=(0.5, 0.5))


def test_a_list_file_chooses_the_tiles(tiles, tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_text(f"{tiles}/images/tile_003.jpg\n{tiles}/images/tile_001.jpg\n")
    dataset = open_tiles(tiles, image_path=str(listed))
    assert [Path(label).name for _, label in dataset.pairs] == ["tile_003.png", "tile_001.png"]
    assert dataset[(0, 0)]["label"].shape == (64, 64)


def test_sub_folders_and_other_label_names_pair_up(tmp_path):
    source = draw_tiles(tmp_path / "flat", 2)
    for kind, ending, suffix in (("images", "jpg", ""), ("labels", "png", "_label")):
        folder = tmp_path / kind / "site"
        folder.mkdir(parents=True)
        for n in range(2):
            file = source / f"{kind}/tile_00{n}.{ending}"
            (folder / f"tile_00{n}{suffix}.{ending}").write_bytes(file.read_bytes())
    dataset = open_tiles(tmp_path, label_format="{stem}_label.png")
    assert len(dataset) == 2
    assert np.array_equal(dataset.read(0)[1], open_tiles(source).read(0)[1])


def test_tiles_of_different_size_cannot_make_a_batch(tmp_path):
    draw_tiles(tmp_path / "a", 1, size=64)
    folder = draw_tiles(tmp_path / "b", 1, size=48)
    samples = [open_tiles(tmp_path / "a")[(0, 0)], open_tiles(folder)[(0, 0)]]
    with pytest.raises(UserError, match="set crop_size"):
        collate(samples)


def test_logits_have_the_image_s_size_whatever_it_is(seg_config):
    net = build_segmentation(seg_config).eval()
    for height, width in ((64, 64), (33, 70), (1, 5)):
        images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        assert net.logits(images).shape == (1, 2, height, width)
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    whole = net.decoder(net.features(images))
    torch.testing.assert_close(net.logits(images), whole)


def test_a_frozen_backbone_stays_as_it_is(seg_config):
    override(seg_config, "train_cfg.freeze_backbone=True")
    net = build_segmentation(seg_config).train()
    before = {key: value.clone() for key, value in net.backbone.state_dict().items()}
    groups = net.param_groups(backbone_lr_factor=0.1)
    optimizer = torch.optim.SGD([dict(params=group["params"]) for group in groups], lr=0.1)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = {"image": image, "label": torch.ones(2, 32, 32, dtype=torch.uint8)}
    sum(net(batch).values()).backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in net.backbone.state_dict().items())
    assert len(groups) == 1


def test_norm_eval_keeps_the_statistics_and_trains_the_weights(seg_config, tmp_path):
    torch.manual_seed(0)
    start = build_segmentation(seg_config).backbone
    with torch.no_grad():
        start.train()(torch.rand(4, 3, 64, 64))
    torch.save(start.state_dict(), tmp_path / "start.pth")
    seg_config["backbone_cfg"]["pretrained"] = str(tmp_path / "start.pth")
    override(seg_config, "train_cfg.norm_eval=True")
    net = build_segmentation(seg_config).train()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = start.eval()(unit_range(image))
    found = net.features(image)
    assert all(torch.equal(found[key], value) for key, value in features.items())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sum(
        net({"image": image, "label": torch.ones(2, 64, 64, dtype=torch.uint8)}).values()
    ).backward()
    optimizer.step()
    before, after = start.state_dict(), net.backbone.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert not any("running" in key or "num_batches" in key for key in changed)
    assert {name for name, _ in net.backbone.named_parameters()} == changed
    assert any(module.training for module in net.decoder.modules())


def halves(seg_config, weight=1.0) -> tuple[nn.Module, dict, dict]:
    """A network whose statistics stay as they are, and two batches of two tiles."""
    unlabelled = {"image_path": "rest", "weight": weight}
    override(seg_config, f"train_cfg.unlabelled={unlabelled}")
    rng = torch.Generator().manual_seed(3)
    first, second = (
        {
            "image": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=rng),
            "label": torch.randint(0, 2, (2, 64, 64), dtype=torch.uint8, generator=rng),
        }
        for _ in range(2)
    )
    return build_segmentation(seg_config).eval(), first, second


def beside(first: dict, second: dict) -> dict:
    """`second` as the tiles that a network labelled."""
    return first | {"unlabelled_image": second["image"], "pseudo_label": second["label"]}


def test_tiles_that_a_network_labelled_have_a_loss_of_their_own(seg_config):
    net, first, second = halves(seg_config, weight=0.25)
    losses = net(beside(first, second))
    assert losses.keys() == {"cross_entropy", "cross_entropy_pseudo"}
    torch.testing.assert_close(losses["cross_entropy"], net(first)["cross_entropy"])
    expected = 0.25 * net(second)["cross_entropy"]
    torch.testing.assert_close(losses["cross_entropy_pseudo"], expected)


def test_pseudo_labels_of_255_change_no_gradient(seg_config):
    net, first, second = halves(seg_config)
    second["label"][:] = 255
    gradients = []
    for batch in (first, beside(first, second)):
        net.zero_grad()
        sum(net(batch).values()).backward()
        gradients.append([weight.grad.clone() for weight in net.parameters()])
    for alone, both in zip(*gradients, strict=True):
        torch.testing.assert_close(both, alone, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("norm_eval=True", "random weights have none"),
        ("loss.class_weights=[1, 2, 3]", "3 weights for 2 classes"),
    ],
)
def test_a_training_that_cannot_be_is_refused(seg_config, change, said):
    override(seg_config, f"train_cfg.{change}")
    with pytest.raises(UserError, match=said):
        build_segmentation(seg_config)


def test_the_backbone_s_rate_is_a_factor_of_the_decoder_s(seg_config):
    net = build_segmentation(seg_config)
    groups = net.param_groups(backbone_lr_factor=0.1)
    step = step_of(net, groups, optimizer=dict(name="AdamW", lr=0.01))
    step.set_lr(0.5)
    assert [group["lr"] for group in step.optimizer.param_groups] == [0.0005, 0.005]
    assert step.lr() == 0.005
    grouped = sum(p.numel() for g in step.optimizer.param_groups for p in g["params"])
    assert grouped == sum(p.numel() for p in net.parameters())


def red_is_one(images):
    return (images[:, 0] > 127).to(torch.uint8)


def red_likely_one(images):
    """Probabilities, from uint8 images."""
    red = images[:, 0] / 255
    return torch.stack([1 - red, red], 1)


def test_scoring_counts_each_pixel_once_in_tiles_of_any_size(tmp_path):
    draw_tiles(tmp_path, 6)
    for file in tmp_path.glob("*/tile_002.*"):
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:48, :48])
    dataset = open_tiles(tmp_path)
    opened = open_scored(dataset, ["other", "roof"], ScoringSettings(on="tiles", batch_size=3))
    counts = score(red_likely_one, opened, torch.device("cpu"))["full"]
    assert int(counts.sum()) == 5 * 64**2 + 48**2
    expected = np.zeros(4, np.int64)
    for index in range(len(dataset)):
        image, label = dataset.read(index)
        expected += np.bincount((2 * label + (image[:, :, 0] > 127)).ravel(), minlength=4)
    assert counts.flatten().tolist() == expected.tolist()


def test_the_table_names_classes_and_absent_ones():
    from SSLRemoteSensing.evaluation.metrics import scores

    found = scores(torch.tensor([[3, 1, 0], [1, 5, 0], [0, 0, 0]]), ("a", "b", "rare"))
    text = protocol_table({"all": found})
    assert "65.71" in text  # mean of 3 / 5 and 5 / 7
    assert "left out of its means: rare" in text


def test_map_colours_are_the_palette_s_and_unscored_is_black():
    classes = np.array([[0, 1, 255]], np.uint8)
    colours = colour_map(classes, [(1, 2, 3), (4, 5, 6)])
    assert colours.tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]


def test_pictures_show_maps_and_matrix(tiles, tmp_path):
    dataset = open_tiles(tiles)
    palette = [(10, 250, 10), (250, 10, 250)]
    maps, page = {"map": red_is_one}, tmp_path / "e.png"
    draw_examples(maps, dataset, ("ground", "roof"), palette, page, count=4)
    picture = cv2.imread(str(tmp_path / "e.png"))[:, :, ::-1]
    for colour in palette:
        share = (np.abs(picture.astype(int) - colour).max(axis=2) < 3).mean()
        assert share > 0.01
    draw_confusion_matrix([[9, 1], [0, 0]], ("ground", "roof"), tmp_path / "m.png")
    matrix = cv2.imread(str(tmp_path / "m.png"))
    assert min(matrix.shape[:2]) > 300
    assert len(np.unique(matrix.reshape(-1, 3), axis=0)) > 50


def test_a_checkpoint_of_other_classes_is_refused(seg_config, tmp_path):
    net = build_segmentation(seg_config)
    card = {"classes": ["a", "b"]}
    checkpoints.write(tmp_path / "best.pth", {"model": net.state_dict(), "card": card})
    with pytest.raises(UserError, match=r"trained on classes \['a', 'b'\]"):
        checkpoints.read_network(tmp_path / "best.pth", ["other", "building"])
    other = nn.Linear(2, 2)
    contents = checkpoints.read_network(tmp_path / "best.pth", ["a", "b"])
    with pytest.raises(UserError, match="not of the config's network"):
        checkpoints.load_network(other, contents, tmp_path / "best.pth")
