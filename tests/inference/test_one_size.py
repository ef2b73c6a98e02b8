"""A network that takes images of one size alone maps scenes of any size by itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exports import tuned_run
from mapped import draw, read, write

import SSLRemoteSensing as sslrs
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.export.model_card import model_card
from SSLRemoteSensing.export.source import Request, open_source
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.workflows.segmentation import open_network

BACKBONE = {"name": "timm", "model": "maxvit_pico_rw_256", "img_size": 64}


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    return tuned_run(tmp_path_factory.mktemp("tuned"), {"name": "Decoder"}, BACKBONE)


def test_a_scene_is_seen_in_windows_of_that_size_and_a_small_one_is_filled_up_to_it(best, tmp_path):
    scenes = [draw(40, 50, seed=1), draw(50, 150, seed=2)]
    paths = [write(tmp_path / f"{number}.tif", planes) for number, planes in enumerate(scenes)]
    maps = sslrs.predict(best, paths, tmp_path / "maps", device="cpu", precision="fp32")
    assert [read(path).shape for path in maps] == [(40, 50), (50, 150)]
    net = sslrs.load_segmentation(best)
    filled = F.pad(torch.from_numpy(scenes[0])[None].float(), (0, 14, 0, 24), mode="replicate")
    with torch.no_grad():
        expected = net.logits(filled / 255)[0, :, :40, :50].argmax(0)
    assert np.array_equal(read(maps[0]), expected.numpy())
    with pytest.raises(sslrs.UserError, match=r"--tile 96: best.pth takes windows of 64 pixels al"):
        sslrs.predict(best, paths[0], tmp_path / "map.tif", settings={"tile": 96})


def test_what_is_larger_is_refused_and_in_training_what_is_smaller(best):
    net = sslrs.load_segmentation(best)
    with pytest.raises(sslrs.UserError, match=r"images of 96 x 64 pixels: .* takes 64 x 64 alone"):
        net.logits(torch.rand(1, 3, 64, 90))
    with pytest.raises(sslrs.UserError, match=r"images of 64 x 32 pixels: .* takes 64 x 64 alone"):
        net.train().logits(torch.rand(2, 3, 32, 64))


def test_its_scores_are_of_windows_of_that_size(seg_config):
    scoring = {"window": 512, "overlap": 0.25}
    opened = open_network(seg_config | {"backbone_cfg": BACKBONE, "scoring_cfg": scoring})
    assert (opened.scoring.window, opened.scoring.overlap) == (64, 0.25)


def test_the_card_of_its_graph_says_the_size(best, exports):
    request = Request(best, "onnx", best.with_name("net.onnx"))
    text = model_card(open_source(best), request, network=True, smp=None)
    assert "Images (N, 3, 64, 64) as float" in text
    assert "\nAny batch; gives logits.\n" in text
    free = model_card(exports.source("tuned"), request, network=True, smp=None)
    assert "Images (N, 3, H, W) (bands" in free
    assert "\nAny batch, height and width; gives logits.\n" in free
    free = model_card(exports.source("backbone"), request, network=False, smp=None)
    assert "\nAny batch, height and width; gives maps block2 to block6 at 1/2 to 1/32" in free


def test_the_card_of_a_plain_vits_maps_says_which_sides_it_takes(tmp_path):
    cfg = {"name": "timm", "model": "vit_tiny_patch16_224", "mean": [0.5] * 3, "std": [0.2] * 3}
    net = build(BACKBONES, cfg, "backbone_cfg")
    torch.save({"model": net.state_dict(), "card": net.card()}, tmp_path / "w.pth")
    request = Request(tmp_path / "w.pth", "onnx", tmp_path / "net.onnx")
    text = model_card(open_source(tmp_path / "w.pth"), request, network=False, smp=None)
    assert "\nAny batch, height and width of multiples of 32; gives maps block2 to" in text
