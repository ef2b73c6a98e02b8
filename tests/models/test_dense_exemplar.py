"""DenseExamplarHead: a cell's positive is the same ground of the other view, at every transform."""

import numpy as np
import pytest
import torch

from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.transforms import TRANSFORMS
from SSLRemoteSensing.models.heads import TURNS, DenseExamplarHead, matched_cells
from SSLRemoteSensing.models.losses import ExamplarLoss
from SSLRemoteSensing.models.pretext import build_pretext
from SSLRemoteSensing.workflows.pretraining import check_pretext

CHANNELS = {"block4": 8, "block5": 12, "block6": 16}
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
    first, second = matched_cells(*views, torch.arange(6))
    assert first.shape == (6 * 64, 3)
    assert torch.equal(first, second)
    shuffled, _ = matched_cells(*views, torch.arange(6).roll(1))
    assert not torch.equal(shuffled, second)


@pytest.mark.parametrize(("side", "cells", "expected"), [(4, 8, 4), (16, 8, 8), (16, 4, 4)])
def test_a_map_gives_at_most_so_many_cells(side, cells, expected):
    head = DenseExamplarHead(CHANNELS, 16, "block5", cells)
    assert head(torch.randn(2, 12, side, side)).shape == (2, 16, expected, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(block="block7"), "block4, block5, block6"),
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


def test_the_loss_of_a_net_is_that_of_its_cells_and_trains_up_to_the_block(dense_config):
    dense_config["train_cfg"]["losses"] = dict(
        ExamplarLoss=dict(name="ExamplarLoss", temperature=0.1, self_similarity="exclude"),
        factors=(20, 1, 1),
    )
    torch.manual_seed(0)
    net = build_pretext(dense_config)
    anchor = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    label = torch.tensor([0, 3, 4, 5])
    turned = torch.stack([list(TURNS.values())[k](anchor[[i]])[0] for i, k in enumerate(label)])
    batch = dict(occluded=anchor, anchor=anchor, transformed=turned, transform_label=label)
    loss = net(batch)["exemplar"]
    loss.backward()
    gradients = {key: p.grad for key, p in net.backbone.named_parameters() if p.grad is not None}
    assert any(key.startswith("layer3") and g.abs().sum() > 0 for key, g in gradients.items())
    assert not any(key.startswith("layer4") for key in gradients)  # which block5 does not read
    maps = net.features(anchor)
    assert net.embed(maps).shape == (4, 16)
    views = [net.exemplar_head(x["block5"]) for x in (maps, net.features(turned))]
    expected = ExamplarLoss(0.1, "exclude")(*matched_cells(*views, label))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("change", ["crop", "flip", "order"])
def test_data_whose_places_are_not_known_is_refused(dense_config, change):
    transforms = dense_config["train_cfg"]["train_data"]["agr_transforms_cfg"]
    check_pretext(dense_config)
    if change == "crop":
        transforms["shortcut_cfg"]["crop"] = dict(name="RandomCrop")
    elif change == "flip":
        transforms["shortcut_cfg"]["flip"] = dict(name="RandomVerticalFlip")
    else:
        classes = transforms["transforms_cfg"]
        first = next(iter(classes))
        classes[first] = classes.pop(first)
    with pytest.raises(UserError, match="DenseExamplarHead"):
        check_pretext(dense_config)
