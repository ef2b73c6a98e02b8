"""tools/benchmark.py: run as a command, and its parts against what can be known by hand."""

import contextlib
import json
import re
import sys
from functools import partial
from types import SimpleNamespace

import benchmark
import cv2
import numpy as np
import pytest
import torch
from benchmarking import bench, counts, machine, presets, timing, training, variants
from benchmarking.timing import CPU
from conftest import ROOT
from preloaded import python
from torch import nn

from SSLRemoteSensing import build_pretext, load_config
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.machine import has_fast_bf16
from SSLRemoteSensing.models.losses import ExamplarLoss

SMALL = ["--device", "cpu", "--img_size", "32", "--batch_size", "2", "--steps", "1"]
SMALL += ["--loop_steps", "2", "--num_workers", "0", "--embeddings", "16"]


@pytest.fixture
def small_config(pretext_config) -> dict:
    """The contrastive task alone: the other heads take most of the time at 32 x 32."""
    return pretext_config | {"inpainting_head_cfg": None, "agr_head_cfg": None}


@pytest.fixture
def measure(small_config, tiles, monkeypatch, tmp_path):
    """Run a small measurement in this process; gives its figures."""
    (tmp_path / "config.py").write_text(f"config = {small_config!r}\n")
    output = tmp_path / "figures.json"
    words = ["--config_file", tmp_path / "config.py", "--images", tiles / "images", *SMALL]

    def call(name: str, *more) -> dict:
        line = ["benchmark.py", name, *words, "--output", output, *more]
        monkeypatch.setattr("sys.argv", list(map(str, line)))
        benchmark.main()
        return json.loads(output.read_text())

    return call


def test_a_training_prints_and_writes_figures_that_agree(run, small_config, tiles, tmp_path):
    output, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    done = run(
        "tools/benchmark.py", small_config, *SMALL, "--images", str(tiles / "images"),
        "--profile", str(trace), "--output", str(output), "--switches", "precision", "joint_pass",
        fresh=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    assert (figures["complete"], figures["counted_steps"]) == (True, 1)
    names = {"date", "command", "machine", "versions", "network", "img_size"}
    assert names | {"contrastive_over_matmul", "peak_memory_gib"} <= figures.keys()
    assert benchmark.table(figures) in done.stdout
    assert all(re.search(rf"^  {key}\b", done.stdout, re.MULTILINE) for key in figures)

    ceiling = figures["ceiling_matmul_tflops"] * 1e12
    work, rate = figures["flops_per_image"], figures["images_per_second"]
    ready = figures["batch_size"] / figures["fast_step_s"]
    assert figures["mfu"] == pytest.approx(work * rate / ceiling)
    assert figures["mfu_bare"] == pytest.approx(work * ready / ceiling)
    products = figures["matmul_tflops"][figures["fast_precision"]].values()
    assert ceiling == 1e12 * max(products)
    assert min(products) > 0
    pixels = figures["decode_megapixels_per_second"] / figures["decode_images_per_second"]
    assert pixels == pytest.approx(64 * 64 / 1e6)
    # ResNet-18's convolutions, 1.814e9 multiplications at 224 x 224: two passes, each forward and
    # twice backward, but for the input of the first, which needs no gradient; little in the head.
    first = 16 * 16 * 64 * 3 * 7 * 7
    assert work == pytest.approx(2 * 2 * (3 * 1.814e9 * 32**2 / 224**2 - first), rel=0.05)
    for name, fast in (("fp32", "fast_step_s"), ("published", "fast_beside_published_step_s")):
        assert figures[f"speedup_over_{name}"] == figures[f"{name}_step_s"] / figures[fast]
    assert figures["loop_efficiency"] == rate / figures["bare_images_per_second"]
    assert 0 < figures["data_wait"] < 1
    split = figures["step_split_s"]
    assert list(split) == ["data_wait", "transfer", "forward", "backward", "optimizer"]
    assert all(value > 0 for value in split.values())
    assert sum(split.values()) == pytest.approx(figures["step_split_total_s"], rel=0.01)
    assert sum(figures["step_split_share"].values()) == pytest.approx(1, abs=0.01)
    parts = figures["sample_parts_ms"]
    assert {"PretextDataset.read", "DistortBlock.__call__", "resize"} <= parts.keys()
    assert 0.4 < parts["PretextDataset.__getitem__"] / figures["sample_ms"] < 2.5
    joint = figures["switches"]["joint_pass"]
    assert (joint["from"], joint["to"]) == (False, True)
    ratio = joint["base_step_s"] / joint["step_s"]
    assert joint["images_per_second_ratio"] == pytest.approx(ratio)
    if not has_fast_bf16(CPU):
        assert "no bf16 instructions" in figures["switches"]["precision"]["not_measured"]
    assert any("conv" in event["name"] for event in json.loads(trace.read_text())["traceEvents"])


@pytest.mark.parametrize(
    ("name", "flag", "value", "message"),
    [
        ("ceilings", "--batch_size", "1", "--batch_size 1: must be at least 2"),
        ("ceilings", "--loop_steps", "1", "--loop_steps 1: must be at least 2"),
        ("prepare", "--rounds", "0", "--rounds 0: must be at least 1"),
        ("ceilings", "--output", "nowhere/f.json", "--output nowhere/f.json: no such folder"),
        ("ceilings", "--batch_size", "99", "batch_size=99"),
    ],
)
def test_mistakes_are_one_line(measure, capsys, name, flag, value, message):
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: measure(name, flag, value))
    assert message in capsys.readouterr().err


def test_shares_of_watching_are_those_of_its_parts(
    small_config, measure, monkeypatch, tmp_path, capsys
):
    """By seconds given here for what is called: a step, an entry, a look, in two turns."""
    given = iter([9.0, 9.0, 30.0, 2.0, 0.5, 20.0])
    monkeypatch.setattr(training, "spent", lambda function, device: (function(), next(given))[1])
    figures = measure("watching")
    assert figures["complete"]
    parts = {name: figures[f"watching_{name}_s"] for name in ("step", "entry", "look")}
    assert parts == dict(step=2, entry=0.5, look=20)
    assert figures["watching_first_look_s"] == 30
    own = small_config["train_cfg"]["log"]["log_step"], 1000
    for share, (entries, looks) in (("share", (50, 1000)), ("share_of_config", own)):
        a_step = 0.5 / entries + 20 / looks
        assert figures[f"watching_{share}"] == pytest.approx(a_step / (2 + a_step))
    printed = capsys.readouterr().out
    assert re.search(r"^  vis_step +1000", printed, re.MULTILINE)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "table", str(tmp_path / "figures.json")])
    benchmark.main()
    assert capsys.readouterr().out == printed


def test_what_was_measured_outlives_an_error(measure, monkeypatch, tmp_path):
    def breaks(bench):
        yield {"sample_ms": 1.5}
        raise torch.OutOfMemoryError("CUDA ...")

    monkeypatch.setattr(machine, "measure_data", breaks)
    with pytest.raises(UserError, match="--batch_size 2: out of memory"):
        measure("data")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["sample_ms"], figures["complete"]) == (1.5, False)


def test_flops_are_those_of_a_count_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 4, kernel_size=3, padding=1),
        nn.Conv2d(4, 5, kernel_size=3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(5 * 4 * 4, 7),
    )
    images = torch.randn(2, 3, 8, 8)
    first = 2 * 2 * 8 * 8 * 4 * 3 * 9  # multiply and add, 2 images
    second = 2 * 2 * 4 * 4 * 5 * 4 * 9
    linear = 2 * 2 * 80 * 7
    assert training.count_flops(lambda: net(images)) == first + second + linear
    # Backward: towards the weights and the input, which the first layer does not need.
    both = training.count_flops(lambda: net(images).sum().backward())
    assert both == 2 * first + 3 * second + 3 * linear


def test_operations_counted_from_shapes_are_those_of_a_step():
    file = ROOT / "configs/few_labels_pretrain_cfg.py"
    counted = counts.count(file, 256)
    net = build_pretext(load_config(file))
    batch = counts.pretext_batch(32)
    flops = training.count_flops(lambda: sum(net(batch).values()).backward())
    assert counted["img_size"] == 32  # the config's own
    assert counted["gflops_per_sample"] == flops / counts.SAMPLES / 1e9
    assert counted["parameters"] == sum(weight.numel() for weight in net.parameters())


def test_published_loss_is_examplar_loss():
    torch.manual_seed(0)
    views = torch.randn(2, 6, 16, requires_grad=True)
    losses = [loss(*views) for loss in (variants.PublishedExemplarLoss(), ExamplarLoss())]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, views)[0] for loss in losses]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_published_step_is_fp32_contiguous_and_untuned(measure, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []

    def settings() -> tuple:
        return torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    before = settings()
    monkeypatch.setattr(variants, "run_step", lambda step, _: seen.append((step, settings())))
    measure("published")
    assert settings() == before
    assert [inside for _, inside in seen[::2]] == [(False, "highest")] * (len(seen) // 2)
    fp32, published = seen[0][0], seen[-2][0]
    for step, is_fused in ((fp32, True), (published, False)):
        assert (step.precision, step.memory_format) == ("fp32", torch.contiguous_format)
        assert step.optimizer.defaults["fused"] == is_fused
    assert isinstance(published.model.losses["exemplar"], variants.PublishedExemplarLoss)


def test_functions_are_timed_in_turn_without_the_first(monkeypatch):
    order, now = [], [0.0]
    for module in (timing, training):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def takes(name: str, later: float) -> None:
        now[0] += 100.0 if order.count(name) < first else later
        order.append(name)

    first = 1
    medians = timing.in_turn([lambda: takes("a", 2.0), lambda: takes("b", 3.0)], CPU, 1)
    assert order == ["a", "b", "a", "b"]
    assert medians == [2.0, 3.0]
    # The parts of a step, of which each has what the one before gives.
    first = 2 + 2
    parts = {"a": lambda _: takes("a", 4.0) or 5, "b": lambda five: takes("b", float(five))}
    assert training.split_seconds(parts, CPU, 2) == {"a": 4.0, "b": 5.0}
    assert order == ["a", "b"] * 6


def test_switch_that_fails_is_told_and_the_next_is_measured(measure, monkeypatch):
    build = bench.Bench.step

    def broken(self, changes=None):
        if changes == {"compile": True}:
            raise RuntimeError("no\n  compiler")
        return build(self, changes)

    monkeypatch.setattr(bench.Bench, "step", broken)
    monkeypatch.setattr(variants, "has_fast_bf16", lambda device: False)
    entries = measure("switches", "--switches", "precision", "compile", "batch_size")["switches"]
    assert list(entries) == ["precision", "compile", "batch_size"]
    assert "no bf16 instructions" in entries["precision"]["not_measured"]
    words = "RuntimeError: no compiler"
    assert entries["compile"] == {"from": False, "to": True, "not_measured": words}
    larger = entries["batch_size"]
    assert (larger["from"], larger["to"]) == (2, 4)
    ratio = 2 * larger["base_step_s"] / larger["step_s"]
    assert larger["images_per_second_ratio"] == pytest.approx(ratio)


def test_processes_are_measured_against_one_with_their_threads(measure, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", python())
    figures = measure("processes", "--steps", 2, "--rounds", 1)
    ratio = figures["images_per_second_all"] / figures["images_per_second_one"]
    assert figures["efficiency"] == pytest.approx(ratio)
    assert 0.05 < ratio < 20
    assert re.search(r"^  efficiency +\d", capsys.readouterr().out, re.MULTILINE)


def test_mapping_is_measured_beside_the_network(measure):
    small = ("--network", "pointwise", "--width", 96, "--height", 64, "--tile", 64)
    figures = measure("predict", *small, "--batch_size", 1, "--rounds", 1)
    rates = [figures[f"{name}_pixels_per_second"] for name in ("map", "bare")]
    assert figures["map_over_bare"] == pytest.approx(rates[0] / rates[1])
    assert figures["peak_bytes"] > 2**26
    assert "map_over_bare" not in measure("predict", *small, "--batch_size", 1, "--rounds", 0)


def test_windows_are_compared_with_tiles_of_the_same_pixels(measure):
    figures = measure("windows", "--rounds", 2, "--side", 300, "--windows", 20)
    for name in ("deflate", "lzw", "strips"):
        part = figures[f"windows_{name}"]
        assert min(part["window_ms"], part["tile_ms"]) > 0
        assert min(part["rounds"]) <= part["window_rate_over_tile"] <= max(part["rounds"])


def test_preparing_is_compared_with_copying_the_same_tiles(measure, monkeypatch, tmp_path):
    scratch = partial(contextlib.nullcontext, tmp_path)
    monkeypatch.setattr(benchmark, "tempfile", SimpleNamespace(TemporaryDirectory=scratch))
    figures = measure("prepare", "--rounds", 1, "--side", 600, "--open_tiles", 300)
    assert figures["prepare_over_copy"] == figures["copy_scene_s"] / figures["prepare_scene_s"]
    assert figures["prepare_scaling"] > 0
    assert figures["open_s"] > 0
    paths = ("copies/344_256.png", "tiles/images/train/2_10_344_256.png")
    assert np.array_equal(*(cv2.imread(str(tmp_path / path)) for path in paths))


def test_presets_are_measured_as_their_commands_would_run(measure, monkeypatch):
    pool = SimpleNamespace(apply=lambda function, given: function(*given))  # this process
    here = SimpleNamespace(Pool=lambda count: contextlib.nullcontext(pool))
    monkeypatch.setattr(presets.multiprocessing, "get_context", lambda kind: here)
    more = ("--img_size", 64, "--presets", "quick", "--rounds", 1)
    figures = measure("presets", *more)
    assert (figures["complete"], figures["img_size"]) == (True, 64)
    entry = figures["presets"]["quick"]
    assert (entry["network"], entry["batch_size"]) == ("resnet18", 8)
    assert entry["rounds"] == [entry["samples_per_second"]]
    assert entry["samples_per_second"] > 0.1
    assert 0.2 < entry["peak_memory_gib"] < 8
    with pytest.raises(UserError, match="--preset quik: unknown, did you mean 'quick'"):
        measure("presets", "--presets", "quik")
