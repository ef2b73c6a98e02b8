"""MatchingHead: turns and labels agree, and the transform prediction is learned from the start."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from demo_scenes.town import draw_town
from torch import nn

from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.data.transforms import TRANSFORMS
from SSLRemoteSensing.models.heads import TURNS, AGPHead, MatchingHead
from SSLRemoteSensing.models.losses import CrossEntropyLoss
from SSLRemoteSensing.models.pretext import PretextNet, count_pairs, pretext_losses
from SSLRemoteSensing.workflows.pretraining import check_pretext

ROOT = Path(__file__).resolve().parents[2]
CHANNELS = {"block5": 12, "block6": 16}


def pyramid(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {key: torch.randn(n, c, 8, 8) for key, c in CHANNELS.items()}


@pytest.mark.parametrize("label", range(6))
def test_a_turn_of_a_map_is_what_the_transform_of_that_class_does_to_an_image(label):
    name, angle = list(TURNS)[label]
    cfg = dict(name=name, p=1.0) | ({} if angle is None else dict(angle=angle))
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    turned = build(TRANSFORMS, cfg, "transform")(image, np.random.default_rng(0))
    as_map = torch.from_numpy(image).permute(2, 0, 1)[None]
    assert torch.equal(
        TURNS[name, angle](as_map)[0].permute(1, 2, 0), torch.from_numpy(np.array(turned))
    )


@pytest.mark.parametrize(("n", "cells"), [(60, 4), (60, 8), (3, 8)])
def test_a_map_that_was_only_turned_is_told_by_every_block_at_random_weights(n, cells):
    """Three images are enough, and bf16 and channels_last give the same."""
    head = MatchingHead(6, CHANNELS, tuple(CHANNELS), embed_channels=32, cells=cells)
    anchor, labels = pyramid(n), torch.arange(n) * (1 if n > 6 else 2) % 6
    turns = list(TURNS.values())
    transformed = {
        key: torch.cat([turns[k](x[i : i + 1]) for i, k in enumerate(labels)])
        for key, x in anchor.items()
    }
    logits = head(anchor, transformed)
    assert logits.shape == (n, 6, 2)
    assert (logits.argmax(1) == labels[:, None]).all()
    packed = [
        {key: x.contiguous(memory_format=torch.channels_last) for key, x in maps.items()}
        for maps in (anchor, transformed)
    ]
    assert torch.allclose(head(*packed), logits, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head(anchor, transformed)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, logits, atol=0.2)


def test_what_all_images_have_at_a_place_is_no_match():
    """The trace of the padding, the same in every image, does not tell that nothing was turned."""
    head = MatchingHead(6, CHANNELS, ("block6",)).eval()
    trace = torch.randn(1, 16, 8, 8).expand(8, -1, -1, -1)
    assert head({"block6": trace}, {"block6": trace}).abs().max() < 1e-4


def test_loss_and_confusion_of_several_answers():
    torch.manual_seed(0)
    logits, label = torch.randn(10, 6, 3), torch.randint(0, 6, (10,))
    one_by_one = [F.cross_entropy(logits[:, :, i], label) for i in range(3)]
    assert torch.allclose(CrossEntropyLoss()(logits, label), sum(one_by_one) / 3)
    assert torch.equal(count_pairs(label, logits), count_pairs(label, logits.mean(2)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(num_classes=5), "num_classes=5"),
        (dict(num_classes=6, blocks=("block7",)), "block5, block6"),
        (dict(num_classes=6, blocks=()), "block5, block6"),
        (dict(num_classes=6, blocks=("block5",)), "name block6"),
        (dict(num_classes=6, blocks=("block6", "block6")), "each once"),
        (dict(num_classes=6, cells=1), "cells=1"),
        (dict(num_classes=6, embed_channels=0), "embed_channels=0"),
    ],
)
def test_settings_that_make_no_head_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        MatchingHead(map_channels=CHANNELS, **({"blocks": ("block6",)} | settings))


def test_maps_that_are_not_square_are_refused():
    maps = {"block6": torch.randn(2, 16, 4, 8)}
    with pytest.raises(ValueError, match="4 x 8"):
        MatchingHead(6, CHANNELS, ("block6",))(maps, maps)


@pytest.fixture
def matching_config(pretext_config) -> dict:
    pretext_config["agr_head_cfg"] = dict(name="MatchingHead", num_classes=6)
    pretext_config["train_cfg"]["train_data"]["img_size"] = 64
    return pretext_config


@pytest.mark.parametrize("change", ["order", "p=0.5", "without p"])
def test_a_config_with_other_classes_is_refused(matching_config, change):
    cfg = matching_config["train_cfg"]["train_data"]["agr_transforms_cfg"]["transforms_cfg"]
    cfg["Rotate_90"].pop("p", None)  # by itself it always turns
    check_pretext(matching_config)
    if change == "order":
        first = next(iter(cfg))
        cfg[first] = cfg.pop(first)
    elif change == "p=0.5":
        cfg["Rotate_90"]["p"] = 0.5
    else:
        del cfg["RandomVerticalFlip"]["p"]
    with pytest.raises(UserError, match="published six"):
        check_pretext(matching_config)


@pytest.mark.parametrize(
    ("key", "value", "said"), [("batch_size", 2, "at least 3"), ("img_size", 32, "at least 64")]
)
def test_batches_and_images_too_small_to_learn_from_are_refused(matching_config, key, value, said):
    train_cfg = matching_config["train_cfg"]
    (train_cfg if key == "batch_size" else train_cfg["train_data"])[key] = value
    with pytest.raises(UserError, match=said):
        check_pretext(matching_config)


def test_the_scale_is_bounded():
    head = MatchingHead(6, CHANNELS, ("block6",))
    head.log_scale.data.fill_(50.0)
    maps = pyramid(4)
    assert head(maps, maps).abs().max() <= 100.01


class Small(nn.Module):
    """Five convolutions, each of stride 2."""

    def __init__(self):
        super().__init__()
        self.channels = {f"block{i}": c for i, c in enumerate((16, 24, 32, 48, 64), start=2)}
        widths = [3, *self.channels.values()]
        self.blocks = nn.ModuleDict(
            {
                key: nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for key, a, b in zip(self.channels, widths, widths[1:], strict=False)
            }
        )

    def forward(self, x):
        maps = {}
        for key, block in self.blocks.items():
            x = maps[key] = block(x)
        return maps


def test_it_learns_where_the_published_head_is_still_at_chance(tmp_path, pretext_config):
    """Windows of drawn towns with the published jitter and crops, 40 steps of 32."""
    for i in range(16):
        town, _ = draw_town(np.random.default_rng([11, i]), 128, 128, metres=0.2)
        cv2.imwrite(str(tmp_path / f"{i}.png"), town[:, :, 2::-1])
    data = pretext_config["train_cfg"]["train_data"]
    data |= dict(data_path=str(tmp_path), data_format="*.png", img_size=64, crop_size=64)
    tiles = PretextDataset(PretextSettings(**data))
    samples = [tiles[(i // 16, i % 16)] for i in range(1280)]
    accuracy = {}
    for name in ("published", "matching"):
        torch.manual_seed(0)
        backbone = Small()
        if name == "published":
            head = AGPHead(64, 6, backbone.channels)
        else:
            head = MatchingHead(6, backbone.channels, embed_channels=32)
        net = PretextNet(backbone, None, head, None, pretext_losses())
        optimizer, counted = torch.optim.Adam(net.parameters(), lr=2e-3), torch.zeros(6, 6)
        for step in range(40):
            optimizer.zero_grad()
            net(collate(samples[32 * step : 32 * step + 32]))["agr"].backward()
            optimizer.step()
            if step >= 25:
                counted += net.counted["agr_confusion"]
        accuracy[name] = float(counted.diagonal().sum() / counted.sum())
    assert accuracy["published"] < 0.3, accuracy  # chance is 0.17
    assert accuracy["matching"] > 0.5, accuracy
