"""Watching a run: the figures are what their definitions say, and training does not notice."""

import copy
import json
import math
import os
import re
import sys
import threading
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, draw_tiles, fit_task
from teams import joined, start_team, team_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tiny_run import entries, images_of, interrupt_at, moved, step_of
from torch import nn

from SSLRemoteSensing import load_config
from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.evaluation.embeddings import alignment, effective_rank, spread, uniformity
from SSLRemoteSensing.evaluation.task_gradients import task_gradients
from SSLRemoteSensing.models.pretext import PretextNet, count_pairs, pretext_losses
from SSLRemoteSensing.reports import pretext_figures as pages
from SSLRemoteSensing.reports.image_grid import Grid, sized
from SSLRemoteSensing.training import logger, run_folder
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.meters import LossMeter, Throughput
from SSLRemoteSensing.training.settings import LogSettings, LoopSettings
from SSLRemoteSensing.training.tensorboard import charts, tag
from SSLRemoteSensing.workflows.monitor import OWN_EPOCH, BatchMonitor, SampleMonitor, neighbours
from SSLRemoteSensing.workflows.pretraining import open_monitors
from SSLRemoteSensing.workflows.segmentation import open_network

TRANSFORMS = ["flip", "flop", "r0", "r90", "r180", "r270"]
TASKS = ("inpainting", "agr", "exemplar")
PICTURES = ("inpainting", "neighbours", "transforms")


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return {"block6": self.body(x)}


class Head(nn.Module):
    """A layer over the means of the maps, or over the map as it is."""

    def __init__(self, fc: nn.Module, pools: bool = True):
        super().__init__()
        self.fc, self.pools = fc, pools

    def forward(self, *maps):
        last_maps = [part["block6"] for part in maps]
        pooled = [part.mean((2, 3)) if self.pools else part for part in last_maps]
        return self.fc(torch.cat(pooled, dim=1))


class EmbeddingHead(Head):
    def forward(self, maps):
        return [super().forward(maps)]


def tiny_net(config: dict, tasks=TASKS) -> PretextNet:
    """A PretextNet of three layers: batch normalization, dropout, three losses, milliseconds."""
    layers = nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 6)
    heads = dict(
        inpainting=Head(nn.ConvTranspose2d(8, 3, 4, stride=4), pools=False),
        agr=Head(nn.Sequential(*layers)),
        exemplar=EmbeddingHead(nn.Linear(8, 5)),
    )
    chosen = [head if task in tasks else None for task, head in heads.items()]
    return PretextNet(Backbone(), *chosen, pretext_losses())


def train(config: dict, watched: bool = True, build=tiny_net, sabotage=None, **changes):
    """Run `config` in this process, as train.py does."""
    train_cfg = config["train_cfg"] | changes
    del train_cfg["losses"], train_cfg["train_data"]
    torch.manual_seed(0)
    model, dataset = build(config), images_of(config)
    if sabotage:
        sabotage(model)
    settings = LoopSettings(**train_cfg)
    monitors = open_monitors(model, dataset, TRANSFORMS, settings) if watched else ()
    fit_task(model, dataset, collate, **train_cfg, card={"config": config}, monitors=monitors)
    return model


def config_in(folder: Path, tiles: Path) -> dict:
    """24 tiles, steps of 4, 12 in all; entries every 2, looks every 5 and after the last."""
    config = load_config(ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py")
    cfg = config["train_cfg"]
    cfg |= dict(batch_size=4, num_epoch=2, num_workers=0, device="cpu", channels_last=False)
    cfg |= dict(precision="fp32", checkpoints=dict(checkpoints_path=str(folder)))
    data = dict(data_path=str(tiles / "images"), data_format="*.jpg", img_size=32)
    cfg["train_data"] |= data | dict(crop_size=None)
    cfg["log"] = dict(log_path=str(folder / "log"), log_step=2, vis_step=5, with_vis=True)
    return config


@pytest.fixture
def config(tiles, tmp_path) -> dict:
    return config_in(tmp_path / "run", tiles)


@pytest.fixture(scope="module")
def finished(tiles, tmp_path_factory) -> tuple[dict, PretextNet]:
    """A whole run and its network, to be looked at."""
    config = config_in(tmp_path_factory.mktemp("finished"), tiles)
    return config, train(config)


def a_batch(config: dict, size: int = 8) -> dict:
    dataset = images_of(config)
    return collate([dataset[(0, index)] for index in range(size)])


def sample_monitor(config: dict, net: PretextNet, batch_size: int = 4) -> SampleMonitor:
    return SampleMonitor(net, images_of(config), collate, batch_size, TRANSFORMS)


def events_of(config: dict) -> EventAccumulator:
    log_path = config["train_cfg"]["log"]["log_path"]
    return EventAccumulator(log_path, size_guidance=dict(images=0, tensors=0)).Reload()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# Figures of embeddings.


def test_effective_rank_of_known_matrices():
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1)
    assert effective_rank(torch.eye(5).repeat(3, 1)) == pytest.approx(5)
    # Rows (1, 0) three times and (0, 1) once: singular values sqrt(3) and 1.
    rows = torch.tensor([[2.0, 0], [3, 0], [0.1, 0], [0, 7]])
    shares = [math.sqrt(3) / (math.sqrt(3) + 1), 1 / (math.sqrt(3) + 1)]
    entropy = -sum(share * math.log(share) for share in shares)
    assert effective_rank(rows) == pytest.approx(math.exp(entropy))


def test_alignment_is_the_mean_squared_distance_of_the_views():
    x, y = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    loop = 0.0
    for a, b in zip(x.double().tolist(), y.double().tolist(), strict=True):
        length_a, length_b = math.hypot(*a), math.hypot(*b)
        loop += sum((p / length_a - q / length_b) ** 2 for p, q in zip(a, b, strict=True)) / 7
    assert alignment(x, y) == pytest.approx(loop, rel=1e-6)


def test_uniformity_and_spread_of_known_sets():
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0)
    assert uniformity(torch.tensor([[1.0, 0], [-5, 0]])) == pytest.approx(-8)  # distance 2
    cross = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # 4 pairs sqrt(2) apart, 2 pairs 2
    assert uniformity(cross) == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6))
    directions = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert spread(directions) == pytest.approx(1, abs=0.01)
    assert spread(torch.ones(5, 3)) == pytest.approx(0, abs=1e-7)


def test_neighbours_are_the_most_similar_others_best_first():
    angles = torch.tensor([0.0, 50, 10, 180, 30]).deg2rad()
    found, cosines = neighbours(torch.stack([angles.cos(), angles.sin()], 1), queries=2, count=2)
    assert found.tolist() == [[0, 2, 4], [4, 1, 2]]  # the first and the last; of equals the first
    expected = np.cos(np.deg2rad([[0, 10, 30], [0, 20, 20]]))
    assert cosines == pytest.approx(expected, abs=1e-6)
    alike, _ = neighbours(torch.ones(3, 2), queries=3, count=5)
    assert alike[:, 0].tolist() == [0, 1, 2]  # the query itself, whatever is its equal
    assert sorted(alike[1].tolist()) == [0, 1, 2]


# Gradients by task.


def test_gradients_by_task_are_those_of_a_backward_each(config):
    """A backward a task on a copy, dropout left out, batch statistics in use."""
    torch.manual_seed(0)
    net, batch, explicit = tiny_net(config).train(), a_batch(config), {}
    for task in TASKS:
        twin = copy.deepcopy(net)
        for module in twin.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        twin(batch)[task].backward()
        weights = twin.backbone.parameters()
        explicit[task] = torch.cat([weight.grad.flatten() for weight in weights]).double()
    figures = task_gradients(net, batch)
    for task in TASKS:
        assert figures[f"gradient_norm_{task}"] == pytest.approx(float(explicit[task].norm()))
    for first, second in combinations(TASKS, 2):
        cosine = torch.cosine_similarity(explicit[first], explicit[second], dim=0)
        key = f"gradient_cosine_{first}_{second}"
        assert figures[key] == pytest.approx(float(cosine), abs=1e-5)
    assert len(figures) == 6


def test_a_task_of_weight_zero_has_no_cosine_and_a_frozen_backbone_no_figures(config):
    net, batch = tiny_net(config), a_batch(config)
    net.weights["agr"] = 0
    figures = task_gradients(net, batch)
    assert figures["gradient_norm_agr"] == 0
    assert [key for key in figures if "cosine" in key] == ["gradient_cosine_inpainting_exemplar"]
    net.backbone.requires_grad_(False)
    assert task_gradients(net, batch) == {}


def test_a_look_leaves_weights_statistics_gradients_modes_and_generators(config):
    torch.manual_seed(0)
    net = tiny_net(config).train()
    net.agr_head.eval()  # a part in another mode than the rest
    step = step_of(net)
    samples = sample_monitor(config, net)
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    batch = step.to_device(a_batch(config))
    monitors = (BatchMonitor(net, TRANSFORMS), samples, samples)
    _, seen, again = (step.observe(x.observe, batch, {}, step.to_device) for x in monitors)
    assert set(seen.pictures) == set(PICTURES)
    assert not seen.warnings
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert again.figures == seen.figures
    assert all(np.array_equal(again.pictures[name], seen.pictures[name]) for name in PICTURES)


# Training does not notice.


@pytest.mark.parametrize(
    "changes",
    [
        dict(accumulate_steps=2, channels_last=True, clip_grad_norm=1.0),
        dict(precision="bf16", optimizer=dict(name="AdamW", lr=1e-3)),
        dict(max_skipped_steps=1),
        dict(compile=True),
    ],
    ids=["accumulated", "bf16", "skipping", "compiled"],
)
def test_watching_changes_nothing(config, tmp_path, monkeypatch, changes):
    """Weights, statistics, moments, losses and generators are the same to the last bit.

    Inductor takes half a minute for its first graph: all of torch.compile but that.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config["train_cfg"]["log"] |= dict(vis_step=1)
    plain = moved(config, tmp_path / "plain")
    train(config, num_epoch=1, **changes)
    train(plain, watched=False, num_epoch=1, **changes)
    torch.compiler.reset()
    configs = (config, plain)
    states = [run_folder.read(c["train_cfg"]["checkpoints"]["checkpoints_path"]) for c in configs]
    for key in ("model", "optimizer"):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=0)
    assert torch.equal(*(state["processes"][0]["random"]["cpu"] for state in states))
    logs = [[entry for entry in entries(c) if "lr" in entry] for c in configs]
    for watched, alone in zip(*logs, strict=True):
        assert 0 <= watched["agr_accuracy"] <= 1
        assert all(watched[key] == alone[key] for key in ("step", "loss", *TASKS))


def work(folder: Path) -> None:
    """In each of two processes: watched, and not."""
    config = json.loads((folder / "config.json").read_text())
    plain = moved(config, folder / "plain")
    results = {}
    with joined(2):
        for name, cfg in (("watched", config), ("plain", plain)):
            results[name] = train(cfg, name == "watched").state_dict()
        results["size"] = distributed.size()
        with distributed.alone():
            results["alone"] = distributed.size(), distributed.rank()
    torch.save(results, folder / f"found.{os.environ['RANK']}.pt")


def test_the_first_of_several_processes_watches_alone(tiles, tmp_path_factory):
    """Its losses ask the others for nothing, and all learn what they learn without."""

    def start(folder: Path) -> None:
        config = config_in(folder / "watched", tiles)
        config["train_cfg"] |= dict(batch_size=2, num_epoch=1)
        config["train_cfg"]["log"] |= dict(vis_step=3)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        start_team(__file__, folder, groups=[2])

    folder, results = team_results("watching", tmp_path_factory, start)
    for part in results:
        for name, value in part["plain"].items():
            assert torch.equal(part["watched"][name], value), name
        assert part["size"] == 2
        assert part["alone"] == (1, 0)
    looks = entries(config_in(folder / "watched", tiles))
    looks = [entry["step"] for entry in looks if "gradient_norm_exemplar" in entry]
    assert looks == [3, 6]


# Figures of a run.


def test_accuracy_is_that_of_the_training_batches_since_the_last_entry(config):
    """Counted again here from logits of the very passes, by class."""
    labels, guesses = [], []

    def sabotage(model):
        model.register_forward_pre_hook(
            lambda module, given: labels.extend(given[0]["transform_label"].tolist())
        )
        model.agr_head.register_forward_hook(
            lambda module, maps, logits: guesses.extend(logits.argmax(1).tolist())
        )

    config["train_cfg"]["log"] |= dict(vis_step=0)
    config["train_cfg"]["checkpoints"] |= dict(save_step=2)  # at the last step alone
    train(config, sabotage=sabotage, accumulate_steps=2)
    assert [entry["step"] for entry in entries(config)] == [2, 4, 6]
    for number, entry in enumerate(entries(config)):
        pairs = list(zip(labels, guesses, strict=True))[16 * number :][:16]
        assert len(pairs) == 16
        right = sum(label == guess for label, guess in pairs)
        assert entry["agr_accuracy"] == pytest.approx(right / 16)
        for index, name in enumerate(TRANSFORMS):
            hits = [label == guess for label, guess in pairs if label == index]
            expected = pytest.approx(sum(hits) / len(hits)) if hits else None
            assert entry[f"agr_accuracy_{name}"] == expected


def test_pairs_are_counted_as_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (50,), generator=generator)
    logits, loop = torch.randn(50, 4, generator=generator), torch.zeros(4, 4, dtype=torch.int64)
    for true, row in zip(label, logits, strict=True):
        loop[true, row.argmax()] += 1
    assert torch.equal(count_pairs(label, logits), loop)


def test_a_step_that_is_left_out_counts_in_no_accuracy():
    meter = LossMeter([0], limit=1)
    for step, good in ((1, 1.0), (2, math.nan)):
        loss, counts = {"agr": torch.tensor(good)}, {"agr_confusion": torch.eye(2).long() * step}
        meter.add(step, {"index": []}, loss, counts)
        meter.norms[step] = torch.tensor(good)
    meter.leave_out(2, limit=1, say=print)
    assert meter.take()[1]["agr_confusion"].tolist() == [[1, 0], [0, 1]]
    assert meter.take() == ({}, {})


def test_figures_of_a_run_are_those_of_its_losses_and_of_the_bank(finished):
    """24 tiles in batches of 4: all of them, by draws that no epoch of training has."""
    config, net = finished
    for entry in entries(config):
        if "loss" in entry:
            shares = [entry[f"share_{task}"] for task in TASKS]
            assert shares == pytest.approx([entry[task] / entry["loss"] for task in TASKS])
            assert sum(shares) == pytest.approx(1)
    dataset = images_of(config)
    bank = collate([dataset[(OWN_EPOCH, index)] for index in range(24)])
    net.eval()
    with torch.no_grad():
        maps = [net.features(bank[key]) for key in ("anchor", "transformed")]
        views = [net.exemplar_head(pyramid)[0] for pyramid in maps]
    last = entries(config)[-1]
    assert last["step"] == 12
    assert last["effective_rank"] == pytest.approx(effective_rank(views[0]), rel=1e-5)
    assert last["alignment"] == pytest.approx(alignment(*views), rel=1e-4)
    assert last["uniformity"] == pytest.approx(uniformity(views[0]), rel=1e-4)


def test_gradients_of_a_look_in_bf16_are_nearly_those_in_fp32(config):
    """Weights that autocast has kept from the pass without gradients would give none of them."""
    figures = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        net = tiny_net(config)
        step = step_of(net, precision=precision)
        samples = sample_monitor(config, net, batch_size=8)
        figures.append(step.observe(samples.observe, {}, {}, step.to_device).figures)
    for task in TASKS:
        norms = [values[f"gradient_norm_{task}"] for values in figures]
        assert norms[0] > 0
        assert norms[1] == pytest.approx(norms[0], rel=0.1)


@pytest.mark.parametrize("tasks", [("inpainting",), ("agr",), ("exemplar",), ("agr", "exemplar")])
def test_a_net_of_some_tasks_is_watched_by_what_it_has(config, tasks):
    train(config, build=partial(tiny_net, tasks=tasks), num_epoch=1)
    last = entries(config)[-1]
    norms = {key for key in last if key.startswith("gradient_norm_")}
    assert norms == {f"gradient_norm_{task}" for task in tasks}
    assert ("agr_accuracy" in last) == ("agr" in tasks)
    assert ("embedding_std" in last) == ("exemplar" in tasks)
    assert 1 <= last["effective_rank"] <= 8
    owners = dict(inpainting="inpainting", transforms="agr")
    pictures = {f"pictures/{name}" for name in PICTURES if owners.get(name, tasks[0]) in tasks}
    assert set(events_of(config).Tags()["images"]) == pictures


def test_embeddings_that_collapse_are_seen_in_every_figure(config, capsys):
    def build(config):
        net = tiny_net(config)
        nn.init.zeros_(net.exemplar_head.fc.weight)
        net.exemplar_head.requires_grad_(False)
        return net

    train(config, build=build, num_epoch=1)
    last = entries(config)[-1]
    assert last["embedding_std"] < 1e-6
    assert last["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert last["alignment"] == pytest.approx(0, abs=1e-9)
    assert last["uniformity"] == pytest.approx(0, abs=1e-9)
    assert capsys.readouterr().err.count("lower the temperature of ExamplarLoss") == 1


# TensorBoard.


def test_events_hold_grouped_tags_and_a_layout_of_charts_that_have_a_curve(finished):
    events = events_of(finished[0])
    often = ("losses/sum", "losses/inpainting", "shares/exemplar", "transforms/accuracy")
    often += ("gradients/norm", "embeddings/std", "course/lr", "course/images_per_second")
    often += ("course/data_wait", "course/watching", "course/memory_gb")
    looks = ("embeddings/effective_rank", "gradients/norm_inpainting")
    looks += ("gradients/cosine_agr_exemplar",)
    for names, steps in ((often, [2, 4, 6, 8, 10, 12]), (looks, [5, 10, 12])):
        for name in names:
            assert [event.step for event in events.Scalars(name)] == steps, name
    written = {entry["step"]: entry for entry in entries(finished[0])}
    for event in events.Scalars("embeddings/effective_rank"):
        assert event.value == pytest.approx(written[event.step]["effective_rank"])
    last = events.Tensors("custom_scalars__config__")[-1]
    layout = layout_pb2.Layout.FromString(last.tensor_proto.string_val[0])
    shown = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert shown["losses, weighted"] == ["losses/.*"]
    assert shown["cosine of the tasks' gradients"] == ["gradients/cosine.*"]
    tags = [name for name in events.Tags()["scalars"] if name.startswith("transforms/")]
    for title, count in (("accuracy of the transform prediction", 1), ("accuracy by transform", 6)):
        (pattern,) = shown[title]
        assert sum(re.match(pattern, name) is not None for name in tags) == count  # as TensorBoard
    assert len(layout.category) == 1
    assert "validation" not in shown


def test_tags_are_grouped():
    groups = dict(loss="losses/sum", agr="losses/agr", share_agr="shares/agr")
    groups |= dict(
        agr_accuracy_Rotate_90="transforms/accuracy_Rotate_90", val_miou="validation/miou"
    )
    groups |= dict(embedding_std="embeddings/std", gradient_norm="gradients/norm")
    for key, expected in (groups | dict(cross_entropy="losses/cross_entropy")).items():
        assert tag(key) == expected
        assert next(iter(charts([key])["run"]))  # its title


# Pictures.


def test_the_panels_of_the_inpainting_page_are_the_pixels():
    generator = np.random.default_rng(0)
    anchor = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    occluded = anchor.copy()
    occluded[:, 8:20, 4:16] = 255 - occluded[:, 8:20, 4:16]
    prediction = np.clip(anchor / 255 + 0.25, None, 2).astype(np.float32)
    page = pages.inpainting_page(occluded, prediction, anchor, ["a", "b"])
    grid = Grid(128, 128, 2, columns=4, header=1)
    error = np.zeros((32, 32, 1))
    # 0.25 in each channel; where the anchor's grey is 127 or 128 inverting changes it by 1.
    error[8:20, 4:16] = 255 * 0.25 / 0.5
    for row in range(2):
        restored = np.rint(np.clip(prediction[row] * 255, 0, 255))
        for column, expected in enumerate((occluded[row], restored, anchor[row], error)):
            y, x = grid.corner(row, column)
            panel = page[y : y + grid.height, x : x + grid.width].astype(float)
            assert np.abs(panel - sized(expected, 4)).max() <= column % 2


def test_cells_of_the_confusion_matrix_are_blue_by_their_share_of_the_row():
    page = pages.transforms_page(np.array([[4, 0], [1, 3]]), ["a", "b"], "of 8")
    grid = Grid(pages.CELL, pages.CELL, 2, 2, header=2)
    white, blue = np.array([255] * 3), np.array(pages.BLUE)
    for place, share in {(0, 0): 1, (0, 1): 0, (1, 0): 0.25, (1, 1): 0.75}.items():
        colour = page[grid.corner(*place)].astype(int)
        assert np.abs(colour - (white + share * (blue - white))).max() <= 1


def test_the_pictures_of_a_run_are_of_its_network_and_are_files_too(finished):
    config, net = finished
    events = events_of(config)
    files = {
        f"step_{event.step:07d}_{name}.png": event.encoded_image_string
        for name in PICTURES
        for event in events.Images(f"pictures/{name}")
    }
    assert files_in(Path(config["train_cfg"]["log"]["log_path"], "vis")) == files
    assert set(files) == {f"step_{s:07d}_{name}.png" for s in (5, 10, 12) for name in PICTURES}
    seen = sample_monitor(config, net).observe({}, {}, lambda batch: batch)
    for name, picture in seen.pictures.items():
        data = np.frombuffer(files[f"step_0000012_{name}.png"], np.uint8)
        assert np.array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1], picture), name


def test_vis_path_chooses_the_folder_and_vis_step_zero_draws_nothing(config, tmp_path):
    """A run that starts anew there keeps the pictures of the one before."""
    folder, name = tmp_path / "seen", "step_0000005_inpainting.png"
    config["train_cfg"]["log"] |= dict(vis_path=str(folder))
    train(config, num_epoch=1)
    before = files_in(folder)
    for path in (tmp_path / "run").glob("*.pth"):
        path.unlink()
    train(config, num_epoch=1, seed=3)
    assert files_in(folder / "earlier_1") == before
    assert files_in(folder).keys() == before.keys()
    assert files_in(folder)[name] != before[name]
    blind = moved(config, tmp_path / "blind")
    blind["train_cfg"]["log"] |= dict(vis_step=0, vis_path="")
    train(blind, num_epoch=1)
    assert events_of(blind).Tags()["images"] == []
    assert not list(tmp_path.glob("*/log/vis"))
    assert "effective_rank" not in entries(blind)[-1]
    assert "agr_accuracy" in entries(blind)[-1]


def test_a_run_that_goes_on_has_each_step_once(finished, tmp_path):
    """Stopped at step 6 and gone on with: entries, curves and pictures as of a straight run."""
    straight, halted = finished[0], moved(finished[0], tmp_path / "halted")
    with pytest.raises(SystemExit):
        train(halted, sabotage=interrupt_at(7))
    stray = tmp_path / "halted/log/vis/step_0000009_inpainting.png"
    stray.write_bytes(b"of a step after the checkpoint")
    time.sleep(1.1)  # event files are named, and so put in order, by the second
    train(halted)
    assert not stray.exists()
    written = [entries(config) for config in (straight, halted)]
    for entry in (*written[0], *written[1]):
        for key in ("images_per_second", "data_wait", "watching", "memory_gb"):
            entry.pop(key, None)
    assert written[0] == written[1]
    events = events_of(halted)
    for curve in (events.Images("pictures/transforms"), events.Scalars("embeddings/uniformity")):
        assert [event.step for event in curve] == [5, 10, 12]
    folders = [Path(c["train_cfg"]["log"]["log_path"], "vis") for c in (straight, halted)]
    assert files_in(folders[0]) == files_in(folders[1])


# What may go wrong, and what it takes.


def test_a_full_disk_costs_pictures_and_not_the_run(config, tmp_path, capsys, monkeypatch):
    full = mock.Mock(side_effect=CannotWrite("cannot be written (No space left on device)"))
    monkeypatch.setattr(logger, "write_bytes", full)
    train(config)
    said = capsys.readouterr().err
    assert said.count("pictures are lost (") == 1
    assert "training goes on" in said
    assert checkpoints.read(tmp_path / "run/latest.pth")["step"] == 12


def test_files_that_cannot_be_read_are_no_part_of_the_bank_and_too_little_memory_is_told(
    config, tmp_path
):
    folder = draw_tiles(tmp_path / "some", 10) / "images"
    (folder / "tile_003.jpg").write_bytes(b"no image")
    config["train_cfg"]["train_data"] |= dict(data_path=str(folder))
    monitor = sample_monitor(config, tiny_net(config))
    assert [batch["index"].tolist() for batch in monitor.read_bank()] == [[0, 5, 8, 1]]
    seen = monitor.observe({}, {}, mock.Mock(side_effect=torch.OutOfMemoryError))
    assert "log.vis_step=0" in seen.warnings["watching"]
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    seen = sample_monitor(config, tiny_net(config)).observe({}, {}, lambda batch: batch)
    assert (seen.figures, seen.pictures) == ({}, {})
    assert "too few to be read" in seen.warnings["watching"]


def test_the_clock_leaves_watching_out_of_the_speed_of_training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Throughput()
    clock.images = 30
    now[0] += 2
    with clock.spending("waiting"):
        now[0] += 1
    with clock.spending("watching"):
        now[0] += 7
    rates = dict(images_per_second=30 / 3, data_wait=1 / 3, watching=7 / 10)
    assert clock.lap() == pytest.approx(rates)


def test_pictures_that_are_asked_for_where_there_are_none_are_refused(seg_config):
    seg_config["train_cfg"]["log"] |= dict(with_vis=True)
    with pytest.raises(UserError, match="with_vis=True: only pre-training"):
        open_network(seg_config)
    with pytest.raises(UserError, match="vis_step=-1: must be at least"):
        LogSettings("log", vis_step=-1)


def test_the_line_of_text_of_an_entry_is_short_and_made_of_pairs(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    (tmp_path / "log").mkdir()
    log = RunLog(tmp_path / "log", 2, 902)
    now[0] += 30
    log.write(dict(step=5, epoch=0, loss=2.5, share_agr=0.5, agr_accuracy=0.25, agr_accuracy_r0=1))
    log.write(dict(step=5, epoch=0, effective_rank=3.25))
    log.close()
    line, look = capsys.readouterr().out.splitlines()
    # 3 steps took 30 seconds: 897 take 8970.
    assert line == "step 5/902  epoch 0  left 2:29:30  loss 2.5  agr_accuracy 0.25"
    assert look == "step 5/902  epoch 0  effective_rank 3.25"
    assert not [thread for thread in threading.enumerate() if "Event" in thread.name]


if __name__ == "__main__":
    work(Path(sys.argv[1]))
