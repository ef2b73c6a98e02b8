"""DenseExamplarHead: a cell's positive is the same ground of the other view, at every transform."""

import cv2
import numpy as np
import pytest
import torch

from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import cut
from SSLRemoteSensing.data.transforms import TRANSFORMS, RandomCrop
from SSLRemoteSensing.models.heads import TURNS, DenseExamplarHead, cropped, matched_cells
from SSLRemoteSensing.models.losses import ExamplarLoss
from SSLRemoteSensing.models.pretext import build_pretext
from SSLRemoteSensing.workflows.pretraining import check_pretext

CHANNELS = {"block4": 8, "block5": 12, "block6": 16}
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])
DENSE = dict(name="DenseExamplarHead", out_channels=16)


def test_rows_of_both_views_show_the_same_ground_at_each_transform():
    """Images whose every pixel is another, so that no wrong pair can look right."""
    rng, anchors, transformed = np.random.default_rng(0), [], []
    for name, angle in TURNS:
        cfg = dict(name=name, p=1.0) | ({} if angle is None else dict(angle=angle))
        image = rng.permutation(64).astype(np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
        anchors.append(image)
        transformed.append(np.array(build(TRANSFORMS, cfg, "transform")(image, rng)))
    views = [torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2) for x in (anchors, transformed)]
    first, second = matched_cells(*views, torch.arange(6), WHOLE.expand(6, 4))
    assert first.shape == (6 * 64, 3)
    torch.testing.assert_close(first, second.float(), rtol=0, atol=1e-3)
    shuffled, _ = matched_cells(*views, torch.arange(6).roll(1), WHOLE.expand(6, 4))
    assert (shuffled - second).abs().mean() > 5


def test_cells_of_a_crop_are_read_where_it_lies():
    """A picture that rises evenly down and to the right tells each pixel's place."""
    side, settings = 64, dict(crop_ratio_min=0.5, crop_ratio_max=0.9)
    down, right = np.mgrid[:side, :side].astype(np.float32)
    image = np.dstack([down, right, down + right])
    rng, places, views = np.random.default_rng(1), [], []
    for _ in range(20):
        window, crop = image, (0.0, 0.0, 1.0, 1.0)
        for _ in range(2):  # a crop of a crop
            window, crop = cut(window, crop, RandomCrop(**settings), rng)
        top, left, height, width = (n * side for n in crop)
        assert window.shape[:2] == (round(height), round(width))
        assert window[0, 0, :2] == pytest.approx((top, left), abs=1e-3)
        places.append(crop)
        views.append(cv2.resize(window, (side, side), interpolation=cv2.INTER_LINEAR))
    anchor = torch.from_numpy(image).permute(2, 0, 1).expand(20, 3, side, side)
    transformed = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
    label = torch.full((20,), list(TURNS).index(("Rotate", 0)))
    first, second = matched_cells(anchor, transformed, label, torch.tensor(places))
    inner = np.s_[:, 2:-2, 2:-2]  # a resized border pixel repeats its neighbour
    first, second = (x.view(20, side, side, 3)[inner] for x in (first, second))
    torch.testing.assert_close(first, second, rtol=0, atol=0.05)


def test_places_of_a_crop_are_as_exact_in_bf16():
    """A ramp tells them: 0 to 64 along a map of 64 cells, of which bf16 has one in four."""
    ramp = torch.arange(64.0).expand(2, 1, 64, 64)
    crop = torch.tensor([[0.11, 0.13, 0.8, 0.77], [0.07, 0.22, 0.71, 0.71]])
    expected = cropped(ramp, crop)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cropped(ramp, crop)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    columns = crop[:, 1:2] * 64 + (torch.arange(64) + 0.5) * crop[:, 3:] - 0.5
    torch.testing.assert_close(found[:, 0, 0], columns, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("side", "cells", "expected"), [(4, 8, 4), (16, 8, 8), (16, 4, 4)])
def test_a_map_gives_at_most_so_many_cells(side, cells, expected):
    head = DenseExamplarHead(CHANNELS, 16, ("block4", "block5"), cells)
    maps = {"block4": torch.randn(2, 8, side, side), "block5": torch.randn(2, 12, side, side)}
    assert [x.shape for x in head(maps)] == [(2, 16, expected, expected)] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(block="block7"), "block4, block5, block6"),
        (dict(block=("block4", "block1")), "block4, block5, block6"),
        (dict(block=()), "block4, block5, block6"),
        (dict(cells=0), "cells=0"),
        (dict(out_channels=0), "out_channels=0"),
    ],
)
def test_settings_that_make_no_head_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DenseExamplarHead(CHANNELS, **settings)


@pytest.fixture
def dense_config(pretext_config) -> dict:
    data = pretext_config["train_cfg"]["train_data"]
    data["agr_transforms_cfg"]["shortcut_cfg"].pop("RandomCrop", None)
    data["img_size"] = 64
    return pretext_config | dict(examplar_head_cfg=DENSE)


@pytest.mark.parametrize("block", ["block5", ("block4", "block5")])
def test_the_loss_of_a_net_is_that_of_its_cells_and_trains_up_to_the_block(dense_config, block):
    dense_config["examplar_head_cfg"] = DENSE | dict(block=block)
    dense_config["train_cfg"]["losses"] = dict(
        ExamplarLoss=dict(name="ExamplarLoss", temperature=0.1, self_similarity="exclude"),
        factors=(20, 1, 1),
    )
    torch.manual_seed(0)
    net = build_pretext(dense_config)
    anchor = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    label, crop = torch.tensor([0, 3, 4, 5]), torch.tensor([[0.1, 0.0, 0.7, 0.8]] * 4)
    turned = torch.stack([list(TURNS.values())[k](anchor[[i]])[0] for i, k in enumerate(label)])
    batch = dict(occluded=anchor, anchor=anchor, transformed=turned, transform_label=label)
    loss = net(batch | dict(crop=crop))["exemplar"]
    loss.backward()
    gradients = {key: p.grad for key, p in net.backbone.named_parameters() if p.grad is not None}
    assert any(key.startswith("layer3") and g.abs().sum() > 0 for key, g in gradients.items())
    assert not any(key.startswith("layer4") for key in gradients)  # which block5 does not read
    maps = net.features(anchor)
    assert net.embed(maps).shape == (4, 16)
    views = zip(net.exemplar_head(maps), net.exemplar_head(net.features(turned)), strict=True)
    contrast = ExamplarLoss(0.1, "exclude")
    parts = [contrast(*matched_cells(*pair, label, crop)).item() for pair in views]
    assert len(parts) == (1 if block == "block5" else 2)
    assert loss.item() == pytest.approx(np.mean(parts), rel=1e-4)


def test_a_last_stage_that_no_head_reads_is_refused(dense_config):
    """It would be exported with its first weights, and end a run of several processes."""
    alone = dense_config | dict(inpainting_head_cfg=None, agr_head_cfg=None)
    with pytest.raises(UserError, match=r"read block5 and not block6.*examplar_head_cfg.block"):
        build_pretext(alone)
    net = build_pretext(alone | dict(examplar_head_cfg=DENSE | dict(block=("block5", "block6"))))
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batch = dict(anchor=images, transformed=images, transform_label=torch.full((4,), 2))
    net(batch | dict(crop=WHOLE.expand(4, 4)))["exemplar"].backward()
    assert all(weight.grad is not None for weight in net.parameters())


@pytest.mark.parametrize("change", ["flip", "order"])
def test_data_whose_places_are_not_known_is_refused(dense_config, change):
    transforms = dense_config["train_cfg"]["train_data"]["agr_transforms_cfg"]
    check_pretext(dense_config)
    transforms["shortcut_cfg"]["crop"] = dict(name="RandomCrop")
    check_pretext(dense_config)
    if change == "flip":
        transforms["shortcut_cfg"]["flip"] = dict(name="RandomVerticalFlip")
    else:
        classes = transforms["transforms_cfg"]
        first = next(iter(classes))
        classes[first] = classes.pop(first)
    with pytest.raises(UserError, match="DenseExamplarHead"):
        check_pretext(dense_config)
