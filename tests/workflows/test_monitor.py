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
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_tiles, fit_task
from teams import joined, start_team, team_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import entries, interrupt_at, moved, step_of
from torch import nn

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.evaluation.embeddings import alignment, effective_rank, spread, uniformity
from SSLRemoteSensing.evaluation.task_gradients import task_gradients
from SSLRemoteSensing.models.pretext import PretextNet, count_pairs
from SSLRemoteSensing.reports.image_grid import Grid, sized
from SSLRemoteSensing.reports.pretext_figures import (
    BLUE,
    CELL,
    inpainting_page,
    transforms_page,
)
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.meters import LossMeter, Throughput
from SSLRemoteSensing.training.settings import LogSettings, LoopSettings
from SSLRemoteSensing.training.tensorboard import charts, tag
from SSLRemoteSensing.workflows.finetuning import open_network
from SSLRemoteSensing.workflows.monitor import OWN_EPOCH, BatchMonitor, SampleMonitor, neighbours
from SSLRemoteSensing.workflows.pretraining import open_monitors

TRANSFORMS = ["flip", "flop", "r0", "r90", "r180", "r270"]
TASKS = ("inpainting", "agr", "exemplar")


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return {"block6": self.body(x)}


class AgrHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 6))

    def forward(self, first, second):
        maps = torch.cat([first["block6"], second["block6"]], dim=1)
        return self.fc(maps.mean((2, 3)))


class ExemplarHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 5)

    def forward(self, last_map):
        return self.fc(last_map.mean((2, 3)))


class InpaintingHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, maps):
        return self.up(maps["block6"])


def tiny_net(config: dict, tasks=TASKS) -> PretextNet:
    """A PretextNet of three layers: batch normalization, dropout, three losses, milliseconds."""
    from SSLRemoteSensing.models.pretext import pretext_losses

    heads = dict(inpainting=InpaintingHead(), agr=AgrHead(), exemplar=ExemplarHead())
    chosen = [head if task in tasks else None for task, head in heads.items()]
    return PretextNet(Backbone(), *chosen, pretext_losses())


def train(config: dict, watched: bool = True, build=tiny_net, sabotage=None, **changes):
    """Run `config` in this process, as train.py does."""
    train_cfg = config["train_cfg"] | changes
    train_cfg.pop("losses", None)
    torch.manual_seed(0)
    model = build(config)
    dataset = PretextDataset(PretextSettings(**train_cfg.pop("train_data")))
    if sabotage:
        sabotage(model)
    settings = LoopSettings(**train_cfg)
    monitors = open_monitors(model, dataset, TRANSFORMS, settings) if watched else ()
    fit_task(model, dataset, collate, **train_cfg, card={"config": config}, monitors=monitors)
    return model


@pytest.fixture
def config(pretext_config) -> dict:
    """24 tiles, steps of 4, 12 in all; entries every 2, looks every 5 and after the last."""
    pretext_config["train_cfg"]["log"] |= dict(vis_step=5)
    return pretext_config


def a_batch(config: dict, size: int = 8) -> dict:
    dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
    return collate([dataset[(0, index)] for index in range(size)])


def events_of(config: dict) -> EventAccumulator:
    events = EventAccumulator(
        config["train_cfg"]["log"]["log_path"], size_guidance=dict(images=0, tensors=0)
    )
    events.Reload()
    return events


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


# Figures of embeddings.


def test_effective_rank_of_known_matrices():
    one = torch.ones(6, 4)
    assert effective_rank(one) == pytest.approx(1)
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.eye(5).repeat(3, 1)) == pytest.approx(5)
    # Rows (1, 0) three times and (0, 1) once: singular values sqrt(3) and 1.
    rows = torch.tensor([[2.0, 0], [3, 0], [0.1, 0], [0, 7]])
    shares = [math.sqrt(3) / (math.sqrt(3) + 1), 1 / (math.sqrt(3) + 1)]
    entropy = -sum(share * math.log(share) for share in shares)
    assert effective_rank(rows) == pytest.approx(math.exp(entropy))


def test_alignment_is_the_mean_squared_distance_of_the_views():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    loop = 0.0
    for a, b in zip(x.double().tolist(), y.double().tolist(), strict=True):
        length_a, length_b = math.hypot(*a), math.hypot(*b)
        loop += sum((p / length_a - q / length_b) ** 2 for p, q in zip(a, b, strict=True)) / 7
    assert alignment(x, y) == pytest.approx(loop, rel=1e-6)


def test_uniformity_of_known_sets():
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0)
    assert uniformity(torch.tensor([[1.0, 0], [-5, 0]])) == pytest.approx(-8)  # distance 2
    cross = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # 4 pairs sqrt(2) apart, 2 pairs 2
    expected = math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6)
    assert uniformity(cross) == pytest.approx(expected)


def test_spread_is_one_for_all_directions_and_zero_for_one():
    directions = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert spread(directions) == pytest.approx(1, abs=0.01)
    assert spread(torch.ones(5, 3)) == pytest.approx(0, abs=1e-7)


def test_neighbours_are_the_most_similar_others_best_first():
    angles = torch.tensor([0.0, 50, 10, 180, 30]).deg2rad()
    found, cosines = neighbours(torch.stack([angles.cos(), angles.sin()], 1), queries=2, count=2)
    assert found.tolist() == [[0, 2, 4], [4, 1, 2]]  # the first and the last; of equals the first
    expected = [[1, math.cos(math.radians(10)), math.cos(math.radians(30))]]
    expected += [[1, math.cos(math.radians(20)), math.cos(math.radians(20))]]
    assert cosines == pytest.approx(np.array(expected), abs=1e-6)
    alike, _ = neighbours(torch.ones(3, 2), queries=3, count=5)
    assert alike[:, 0].tolist() == [0, 1, 2]  # the query itself, whatever is its equal
    assert sorted(alike[1].tolist()) == [0, 1, 2]


# Gradients by task.


def explicit_gradients(net: PretextNet, batch: dict) -> dict[str, torch.Tensor]:
    """By a backward a task on a copy, dropout left out, batch statistics in use."""
    found = {}
    for task in TASKS:
        twin = copy.deepcopy(net).train()
        for module in twin.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        twin(batch)[task].backward()
        weights = twin.backbone.parameters()
        found[task] = torch.cat([weight.grad.flatten() for weight in weights]).double()
    return found


def test_gradients_by_task_are_those_of_a_backward_each(config):
    torch.manual_seed(0)
    net, batch = tiny_net(config).train(), a_batch(config)
    explicit, figures = explicit_gradients(net, batch), task_gradients(net, batch)
    for task in TASKS:
        assert figures[f"gradient_norm_{task}"] == pytest.approx(float(explicit[task].norm()))
    for one, two in (("inpainting", "agr"), ("inpainting", "exemplar"), ("agr", "exemplar")):
        cosine = torch.cosine_similarity(explicit[one], explicit[two], dim=0)
        assert figures[f"gradient_cosine_{one}_{two}"] == pytest.approx(float(cosine), abs=1e-5)
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
    dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
    step = step_of(net)
    samples = SampleMonitor(net, dataset, collate, 4, TRANSFORMS)
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    batch = step.to_device(a_batch(config))
    step.observe(BatchMonitor(net, TRANSFORMS).observe, batch, {}, step.to_device)
    seen = step.observe(samples.observe, batch, {}, step.to_device)
    assert set(seen.pictures) == {"inpainting", "transforms", "neighbours"}
    assert not seen.warnings
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    again = step.observe(samples.observe, batch, {}, step.to_device)
    assert again.figures == seen.figures
    pairs = [(again.pictures[name], picture) for name, picture in seen.pictures.items()]
    assert all(np.array_equal(*pair) for pair in pairs)
    assert not net.backbone.body[0].weight.grad_fn


# Training does not notice.


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(accumulate_steps=2, channels_last=True, clip_grad_norm=1.0),
        dict(precision="bf16", optimizer=dict(name="AdamW", lr=1e-3)),
        dict(max_skipped_steps=1),
    ],
    ids=["plain", "accumulated", "bf16", "skipping"],
)
def test_watching_changes_nothing(config, tmp_path, changes):
    """Weights, statistics, moments, losses and generators are the same to the last bit."""
    config["train_cfg"]["log"] |= dict(vis_step=1)
    plain = moved(config, tmp_path / "plain")
    changes = dict(num_epoch=1) | changes
    train(config, **changes)
    train(plain, watched=False, **changes)
    one, two = (
        run_folder.read(Path(c["train_cfg"]["checkpoints"]["checkpoints_path"]))
        for c in (config, plain)
    )
    for key in ("model", "optimizer"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)
    assert torch.equal(*(state["processes"][0]["random"]["cpu"] for state in (one, two)))
    losses = [
        [[entry.get(k) for k in ("step", "loss", *TASKS)] for entry in entries(c) if "lr" in entry]
        for c in (config, plain)
    ]
    assert losses[0] == losses[1]


def test_compiled_training_is_watched_and_unchanged(config, tmp_path, monkeypatch):
    """Inductor takes half a minute for its first graph: all of torch.compile but that."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain = moved(config, tmp_path / "plain")
    changes = dict(compile=True, num_epoch=1)
    one, two = train(config, **changes), train(plain, watched=False, **changes)
    torch.compiler.reset()
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(0 <= entry["agr_accuracy"] <= 1 for entry in entries(config) if "lr" in entry)


def work(folder: Path) -> None:
    """In each of two processes: watched, and not."""
    config = json.loads((folder / "config.json").read_text())
    plain = moved(config, folder / "plain")
    found = {}
    with joined(2):
        for name, one in (("watched", config), ("plain", plain)):
            found[name] = train(one, name == "watched").state_dict()
        found["size"] = distributed.size()
        with distributed.alone():
            found["alone"] = distributed.size(), distributed.rank()
    torch.save(found, folder / f"found.{os.environ['RANK']}.pt")


@pytest.fixture(scope="session")
def pair(tiles, tmp_path_factory) -> tuple[Path, list[dict]]:
    def start(folder: Path) -> None:
        from conftest import ROOT

        from SSLRemoteSensing import load_config

        config = load_config(ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py")
        cfg = config["train_cfg"]
        cfg |= dict(batch_size=2, num_epoch=1, num_workers=0, device="cpu", channels_last=False)
        cfg["precision"] = "fp32"
        data = dict(data_path=str(tiles / "images"), data_format="*.jpg", img_size=32)
        cfg["train_data"] |= data | dict(crop_size=None)
        cfg["checkpoints"]["checkpoints_path"] = str(folder / "watched")
        cfg["log"] = dict(log_path=str(folder / "watched/log"), log_step=2, vis_step=3)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        start_team(__file__, folder, groups=[2])

    return team_results("watching", tmp_path_factory, start)


def test_the_first_of_several_processes_watches_alone(pair):
    """Its losses ask the others for nothing, and all learn what they learn without."""
    folder, found = pair
    for part in found:
        for name, value in part["plain"].items():
            assert torch.equal(part["watched"][name], value), name
        assert part["size"] == 2
        assert part["alone"] == (1, 0)
    lines = (folder / "watched/log/metrics.jsonl").read_text().splitlines()
    looked = [one for one in map(json.loads, lines) if "gradient_norm_exemplar" in one]
    assert [entry["step"] for entry in looked] == [3, 6]


# Figures of a run.


def test_accuracy_is_that_of_the_training_batches_since_the_last_entry(config):
    """Counted again here from logits of the very passes, by class."""
    seen = []

    def sabotage(model):
        def spy(module, given, logits):
            seen.append(logits.detach().argmax(1))

        model.agr_head.register_forward_hook(spy)
        forward = model.forward

        def labelled(batch):
            losses = forward(batch)
            seen[-1] = list(zip(batch["transform_label"].tolist(), seen[-1].tolist(), strict=True))
            return losses

        model.forward = labelled

    config["train_cfg"]["log"] |= dict(vis_step=0)
    train(config, sabotage=sabotage, accumulate_steps=2)
    told = entries(config)
    assert [entry["step"] for entry in told] == [2, 4, 6]
    for number, entry in enumerate(told):
        pairs = [pair for batch in seen[4 * number : 4 * number + 4] for pair in batch]
        assert len(pairs) == 16
        right = sum(label == guess for label, guess in pairs)
        assert entry["agr_accuracy"] == pytest.approx(right / 16)
        for index, name in enumerate(TRANSFORMS):
            own = [label == guess for label, guess in pairs if label == index]
            expected = pytest.approx(sum(own) / len(own)) if own else None
            assert entry[f"agr_accuracy_{name}"] == expected


def test_pairs_are_counted_as_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (50,), generator=generator)
    logits = torch.randn(50, 4, generator=generator)
    loop = torch.zeros(4, 4, dtype=torch.int64)
    for true, row in zip(label, logits, strict=True):
        loop[true, row.argmax()] += 1
    assert torch.equal(count_pairs(label, logits), loop)


def test_a_step_that_is_left_out_counts_in_no_accuracy():
    history = LossMeter([0], limit=1)
    for step, good in ((1, 1.0), (2, math.nan)):
        loss = {"agr": torch.tensor(good)}
        history.add(step, {"index": []}, loss, {"agr_confusion": torch.eye(2).long() * step})
        history.norms[step] = torch.tensor(good)
    history.leave_out(2, limit=1, say=print)
    assert history.take()[1]["agr_confusion"].tolist() == [[1, 0], [0, 1]]
    assert history.take() == ({}, {})


def test_shares_are_those_of_the_weighted_losses(config):
    train(config, num_epoch=1)
    for entry in entries(config):
        if "loss" in entry:
            shares = [entry[f"share_{task}"] for task in TASKS]
            assert shares == pytest.approx([entry[task] / entry["loss"] for task in TASKS])
            assert sum(shares) == pytest.approx(1)


def test_figures_of_a_look_are_those_of_the_bank(config):
    """24 tiles in batches of 4: all of them, by draws that no epoch of training has."""
    net = train(config)
    dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
    bank = collate([dataset[(OWN_EPOCH, index)] for index in range(24)])
    net.eval()
    with torch.no_grad():
        views = [
            net.exemplar_head(net.features(bank[key])["block6"])
            for key in ("anchor", "transformed")
        ]
    last = entries(config)[-1]
    assert last["step"] == 12
    assert last["effective_rank"] == pytest.approx(effective_rank(views[0]), rel=1e-5)
    assert last["alignment"] == pytest.approx(alignment(*views), rel=1e-4)
    assert last["uniformity"] == pytest.approx(uniformity(views[0]), rel=1e-4)


def test_gradients_of_a_look_in_bf16_are_nearly_those_in_fp32(config):
    """Weights that autocast has kept from the pass without gradients would give none of them."""
    dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
    figures = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        net = tiny_net(config)
        step = step_of(net, precision=precision)
        samples = SampleMonitor(net, dataset, collate, 8, TRANSFORMS)
        figures.append(step.observe(samples.observe, {}, {}, step.to_device).figures)
    for task in TASKS:
        norms = [one[f"gradient_norm_{task}"] for one in figures]
        assert norms[0] > 0
        assert norms[1] == pytest.approx(norms[0], rel=0.1)


@pytest.mark.parametrize("tasks", [("inpainting",), ("agr",), ("exemplar",), ("agr", "exemplar")])
def test_a_net_of_some_tasks_is_watched_by_what_it_has(config, tasks):
    train(config, build=partial(tiny_net, tasks=tasks), num_epoch=1)
    last = entries(config)[-1]
    assert {key for key in last if key.startswith("gradient_norm_")} == {
        f"gradient_norm_{task}" for task in tasks
    }
    assert ("agr_accuracy" in last) == ("agr" in tasks)
    assert ("embedding_std" in last) == ("exemplar" in tasks)
    assert 1 <= last["effective_rank"] <= 8
    pictures = {
        "neighbours": True,
        "inpainting": "inpainting" in tasks,
        "transforms": "agr" in tasks,
    }
    expected = {f"pictures/{name}" for name, there in pictures.items() if there}
    assert set(events_of(config).Tags()["images"]) == expected


def test_embeddings_that_collapse_are_seen_in_every_figure(config):
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


# TensorBoard.


def test_events_hold_grouped_tags_at_the_steps_of_the_entries(config):
    train(config)
    events = events_of(config)
    every, looks = [2, 4, 6, 8, 10, 12], [5, 10, 12]
    expected = {
        "losses/sum": every,
        "losses/inpainting": every,
        "shares/exemplar": every,
        "transforms/accuracy": every,
        "course/lr": every,
        "course/images_per_second": every,
        "course/data_wait": every,
        "course/watching": every,
        "course/memory_gb": every,
        "gradients/norm": every,
        "embeddings/std": every,
        "embeddings/effective_rank": looks,
        "gradients/norm_inpainting": looks,
        "gradients/cosine_agr_exemplar": looks,
    }
    for name, steps in expected.items():
        assert [event.step for event in events.Scalars(name)] == steps, name
    for name in ("inpainting", "transforms", "neighbours"):
        assert [event.step for event in events.Images(f"pictures/{name}")] == looks
    written = {entry["step"]: entry for entry in entries(config)}
    for event in events.Scalars("embeddings/effective_rank"):
        assert event.value == pytest.approx(written[event.step]["effective_rank"])


def test_the_last_layout_holds_every_chart_that_has_a_curve(config):
    from tensorboard.plugins.custom_scalar import layout_pb2

    train(config)
    last = events_of(config).Tensors("custom_scalars__config__")[-1]
    layout = layout_pb2.Layout.FromString(last.tensor_proto.string_val[0])
    shown = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert shown["losses, weighted"] == ["losses/.*"]
    tags = [tag for tag in events_of(config).Tags()["scalars"] if tag.startswith("transforms/")]
    for title, count in (("accuracy of the transform prediction", 1), ("accuracy by transform", 6)):
        (pattern,) = shown[title]
        assert sum(re.match(pattern, tag) is not None for tag in tags) == count  # as TensorBoard
    assert shown["cosine of the tasks' gradients"] == ["gradients/cosine.*"]
    assert len(layout.category) == 1
    assert "validation" not in shown


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("loss", "losses/sum"),
        ("agr", "losses/agr"),
        ("share_agr", "shares/agr"),
        ("agr_accuracy_Rotate_90", "transforms/accuracy_Rotate_90"),
        ("embedding_std", "embeddings/std"),
        ("gradient_norm", "gradients/norm"),
        ("val_miou", "validation/miou"),
        ("cross_entropy", "losses/cross_entropy"),
    ],
)
def test_tags_are_grouped(key, expected):
    assert tag(key) == expected
    title = next(iter(charts([key])["run"]))
    assert title


# Pictures.


def test_the_panels_of_the_inpainting_page_are_the_pixels(config):
    generator = np.random.default_rng(0)
    anchor = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    occluded = anchor.copy()
    occluded[:, 8:20, 4:16] = 255 - occluded[:, 8:20, 4:16]
    prediction = np.clip(anchor / 255 + 0.25, None, 2).astype(np.float32)
    page = inpainting_page(occluded, prediction, anchor, ["a", "b"])
    grid = Grid(128, 128, 2, columns=4, header=1)
    panels = [
        page[y : y + grid.height, x : x + grid.width]
        for y, x in (grid.corner(row, column) for row in range(2) for column in range(4))
    ]
    for row in range(2):
        shown = panels[4 * row : 4 * row + 4]
        assert np.array_equal(shown[0], sized(occluded[row], 4))
        assert np.array_equal(shown[2], sized(anchor[row], 4))
        expected = np.rint(np.clip(prediction[row] * 255, 0, 255))
        assert np.abs(shown[1] - sized(expected, 4)).max() <= 1
        error = np.zeros((32, 32))
        # 0.25 in each channel; where the anchor's grey is 127 or 128 inverting changes it by 1.
        error[8:20, 4:16] = 255 * 0.25 / 0.5
        assert np.abs(shown[3] - sized(error, 4)[:, :, None]).max() <= 1


def test_the_pictures_of_a_run_show_its_samples(config):
    """The anchor panel of the event file's picture is the anchor of the bank's first sample."""
    train(config, num_epoch=1)
    picture = decoded(events_of(config).Images("pictures/inpainting")[-1].encoded_image_string)
    dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
    grid = Grid(128, 128, 4, columns=4, header=1)
    assert picture.shape == (*grid.shape, 3)
    for row in range(4):
        sample = dataset[(OWN_EPOCH, 6 * row)]
        for column, key in ((0, "occluded"), (2, "anchor")):
            y, x = grid.corner(row, column)
            panel = picture[y : y + grid.height, x : x + grid.width]
            assert np.array_equal(panel, sized(sample[key], 4)), (row, key)


def test_cells_of_the_confusion_matrix_are_blue_by_their_share_of_the_row():
    page = transforms_page(np.array([[4, 0], [1, 3]]), ["a", "b"], "of 8")
    grid, white, blue = Grid(CELL, CELL, 2, 2, header=2), np.array([255] * 3), np.array(BLUE)
    for place, share in {(0, 0): 1, (0, 1): 0, (1, 0): 0.25, (1, 1): 0.75}.items():
        colour = page[grid.corner(*place)].astype(int)
        assert np.abs(colour - (white + share * (blue - white))).max() <= 1


def test_with_vis_writes_the_same_pictures_as_files(config, tmp_path):
    config["train_cfg"]["log"] |= dict(with_vis=True)
    train(config)
    folder = tmp_path / "run/log/vis"
    names = ("inpainting", "neighbours", "transforms")
    expected = [f"step_{step:07d}_{name}.png" for step in (5, 10, 12) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == expected
    events = events_of(config)
    for name in names:
        for event in events.Images(f"pictures/{name}"):
            path = folder / f"step_{event.step:07d}_{name}.png"
            assert path.read_bytes() == event.encoded_image_string


def test_vis_path_chooses_the_folder(config, tmp_path):
    config["train_cfg"]["log"] |= dict(with_vis=True, vis_path=str(tmp_path / "seen"))
    train(config, num_epoch=1)
    assert (tmp_path / "seen/step_0000005_inpainting.png").is_file()
    assert not (tmp_path / "run/log/vis").exists()


def test_vis_step_zero_draws_nothing(config, tmp_path):
    config["train_cfg"]["log"] |= dict(with_vis=True, vis_step=0)
    train(config, num_epoch=1)
    assert events_of(config).Tags()["images"] == []
    assert not (tmp_path / "run/log/vis").exists()
    assert "effective_rank" not in entries(config)[-1]
    assert "agr_accuracy" in entries(config)[-1]


def test_a_run_that_goes_on_has_each_step_once(config, tmp_path):
    """Stopped at step 6 and gone on with: entries, curves and pictures as of a straight run."""
    config["train_cfg"]["log"] |= dict(with_vis=True)
    train(config)
    halted = moved(config, tmp_path / "halted")
    with pytest.raises(SystemExit):
        train(halted, sabotage=interrupt_at(7))
    stray = tmp_path / "halted/log/vis/step_0000009_inpainting.png"
    stray.write_bytes(b"of a step after the checkpoint")
    time.sleep(1.1)  # event files are named, and so put in order, by the second
    train(halted)
    assert not stray.exists()
    timed = ("images_per_second", "data_wait", "watching", "memory_gb")
    told = [
        [{k: v for k, v in entry.items() if k not in timed} for entry in entries(one)]
        for one in (config, halted)
    ]
    assert told[0] == told[1]
    for one in (config, halted):
        events = events_of(one)
        assert [event.step for event in events.Images("pictures/transforms")] == [5, 10, 12]
        assert [event.step for event in events.Scalars("embeddings/uniformity")] == [5, 10, 12]
    straight, again = (
        {path.name: path.read_bytes() for path in (tmp_path / run / "log/vis").iterdir()}
        for run in ("run", "halted")
    )
    assert straight == again


def test_a_run_that_starts_anew_keeps_the_pictures_of_the_one_before(config, tmp_path):
    config["train_cfg"]["log"] |= dict(with_vis=True)
    train(config, num_epoch=1)
    folder = tmp_path / "run/log/vis"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in (tmp_path / "run").glob("*.pth"):
        path.unlink()
    train(config, num_epoch=1, seed=3)
    aside = {path.name: path.read_bytes() for path in (folder / "earlier_1").iterdir()}
    assert aside == before
    assert {path.name for path in folder.glob("*.png")} == set(before)
    assert (folder / "step_0000005_inpainting.png").read_bytes() != before[
        "step_0000005_inpainting.png"
    ]


# What may go wrong, and what it takes.


def test_a_full_disk_costs_pictures_and_not_the_run(config, tmp_path, capsys, monkeypatch):
    from SSLRemoteSensing.core.errors import CannotWrite
    from SSLRemoteSensing.training import logger

    def full(path, data):
        raise CannotWrite(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(logger, "write_bytes", full)
    config["train_cfg"]["log"] |= dict(with_vis=True)
    train(config)
    said = capsys.readouterr().err
    assert said.count("pictures are lost (") == 1
    assert "training goes on" in said
    assert checkpoints.read(tmp_path / "run/latest.pth")["step"] == 12


def test_files_that_cannot_be_read_are_no_part_of_the_bank(config, tmp_path):
    folder = draw_tiles(tmp_path / "some", 10) / "images"
    (folder / "tile_003.jpg").write_bytes(b"no image")
    data = config["train_cfg"]["train_data"] | dict(data_path=str(folder))
    dataset = PretextDataset(PretextSettings(**data))
    bank = SampleMonitor(tiny_net(config), dataset, collate, 4, TRANSFORMS).read_bank()
    assert [batch["index"].tolist() for batch in bank] == [[0, 5, 8, 1]]
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    samples = SampleMonitor(tiny_net(config), dataset, collate, 4, TRANSFORMS)
    seen = samples.observe({}, {}, lambda batch: batch)
    assert (seen.figures, seen.pictures) == ({}, {})
    assert "too few to be read" in seen.warnings["watching"]


def test_memory_that_is_too_small_for_a_look_is_told(config):
    dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
    samples = SampleMonitor(tiny_net(config), dataset, collate, 4, TRANSFORMS)

    def full(batch):
        raise torch.OutOfMemoryError

    assert "log.vis_step=0" in samples.observe({}, {}, full).warnings["watching"]


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
    with pytest.raises(UserError, match="with_vis=True: there are pictures of pre-training only"):
        open_network(seg_config)
    with pytest.raises(UserError, match="vis_step=-1: must be at least 0"):
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
    assert dict(pair.split(" ") for pair in line.split("  "))["agr_accuracy"] == "0.25"
    assert not [one for one in threading.enumerate() if "Event" in one.name]


if __name__ == "__main__":
    work(Path(sys.argv[1]))
