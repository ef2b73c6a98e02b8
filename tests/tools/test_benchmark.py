"""tools/benchmark.py: run as a command, and its parts against what can be known by hand."""

import json
import re
from types import SimpleNamespace

import benchmark
import cv2
import numpy as np
import pytest
import torch
from benchmarking import bench, machine, scenes, table, timing, training, variants
from benchmarking.timing import CPU
from torch import nn

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
def words(small_config, tiles, tmp_path) -> list[str]:
    """The flags of a small measurement of training."""
    (tmp_path / "config.py").write_text(f"config = {small_config!r}\n")
    return ["--config_file", str(tmp_path / "config.py"), "--images", str(tiles / "images"), *SMALL]


@pytest.fixture
def measure(words, monkeypatch, tmp_path):
    """Run a measurement in this process; gives its figures."""

    def call(name: str, *more: str) -> dict:
        output = tmp_path / "figures.json"
        monkeypatch.setattr(
            "sys.argv", ["benchmark.py", name, *words, *more, "--output", str(output)]
        )
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
    assert figures["complete"]
    assert {"date", "command", "machine", "versions", "network", "img_size"} <= figures.keys()
    assert {"contrastive_over_matmul", "peak_memory_gib"} <= figures.keys()
    assert table.table(figures) in done.stdout
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
    ("more", "said"),
    [
        (["--batch_size", "1"], "--batch_size 1: must be at least 2"),
        (["--loop_steps", "1"], "--loop_steps 1: must be at least 2"),
        (["--output", "nowhere/f.json"], "--output nowhere/f.json: no such folder"),
        (["--batch_size", "99"], "batch_size=99"),
    ],
)
def test_mistakes_are_one_line(words, monkeypatch, capsys, more, said):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "ceilings", *words, *more])
    with pytest.raises(SystemExit, match="2"):
        run_command(benchmark.main)
    assert said in capsys.readouterr().err


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


def test_published_loss_is_examplar_loss():
    torch.manual_seed(0)
    values = torch.randn(2, 6, 16)
    gradients = []
    for loss in (variants.PublishedExemplarLoss(), ExamplarLoss()):
        views = values.clone().requires_grad_()
        result = loss(*views)
        result.backward()
        gradients.append((result.detach(), views.grad))
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


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
    for step in (fp32, published):
        assert (step.precision, step.memory_format) == ("fp32", torch.contiguous_format)
    assert fp32.optimizer.defaults["fused"]
    assert not published.optimizer.defaults["fused"]
    assert isinstance(published.model.losses["exemplar"], variants.PublishedExemplarLoss)


def test_laps_are_weighted_and_warm_up_is_left_out():
    laps = [
        {"step": 2, "images_per_second": 1.0, "data_wait": 1.0},
        {"step": 4, "images_per_second": 1.0, "data_wait": 1.0},
        {"step": 6, "images_per_second": 8.0, "data_wait": 0.5},  # 8 images in 1 s
        {"step": 8, "images_per_second": 4.0, "data_wait": 0.2},  # 8 in 2 s
        {"step": 9, "images_per_second": 4.0, "data_wait": 0.0},  # 4 in 1 s
    ]
    mean = training.mean_laps(laps, batch_size=4)
    assert mean["counted_steps"] == 5
    assert mean["images_per_second"] == pytest.approx(20 / 4)
    assert mean["data_wait"] == pytest.approx((0.5 + 0.4) / 4)


def test_functions_are_timed_in_turn_without_the_first(monkeypatch):
    order, now = [], [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def takes(name: str, later: float) -> None:
        now[0] += 100.0 if name not in order else later
        order.append(name)

    medians = timing.in_turn([lambda: takes("a", 2.0), lambda: takes("b", 3.0)], CPU, 1)
    assert order == ["a", "b", "a", "b"]
    assert medians == [2.0, 3.0]


def test_step_is_split_where_its_parts_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(training, "collate", lambda samples: {"samples": samples})

    def takes(seconds: float, result=None):
        def call(*arguments):
            now[0] += seconds
            return result

        return call

    class Images(list):
        __getitem__ = takes(16)

    class Loss:
        backward = takes(4)

        def __radd__(self, other):
            return self

    step = SimpleNamespace(device=CPU, model=nn.Identity(), to_device=takes(1, {}))
    step.forward, step.update = takes(2, {"one": Loss()}), takes(8)
    figures = training.split_step(step, Images("abc"), batch_size=2, num_workers=0, count=3)
    split = {"data_wait": 32, "transfer": 1, "forward": 2, "backward": 4, "optimizer": 8}
    assert figures["step_split_s"] == split
    assert figures["step_split_total_s"] == 47
    assert figures["step_split_share"]["optimizer"] == pytest.approx(8 / 47)


def test_switch_that_fails_is_told_and_the_next_is_measured(measure, monkeypatch):
    build = bench.Bench.step

    def broken(self, changes=None):
        if changes == {"compile": True}:
            raise RuntimeError("no\n  compiler")
        return build(self, changes)

    monkeypatch.setattr(bench.Bench, "step", broken)
    monkeypatch.setattr(variants, "has_fast_bf16", lambda device: False)
    found = measure("switches", "--switches", "precision", "compile", "batch_size")["switches"]
    assert list(found) == ["precision", "compile", "batch_size"]
    assert "no bf16 instructions" in found["precision"]["not_measured"]
    words = "RuntimeError: no compiler"
    assert found["compile"] == {"from": False, "to": True, "not_measured": words}
    larger = found["batch_size"]
    assert (larger["from"], larger["to"]) == (2, 4)
    ratio = 2 * larger["base_step_s"] / larger["step_s"]
    assert larger["images_per_second_ratio"] == pytest.approx(ratio)


def test_processes_are_measured_against_one_with_their_threads(measure, capsys):
    figures = measure("processes", "--steps", "2", "--rounds", "1")
    ratio = figures["images_per_second_all"] / figures["images_per_second_one"]
    assert figures["efficiency"] == pytest.approx(ratio)
    assert 0.05 < ratio < 20
    assert re.search(r"^  efficiency +\d", capsys.readouterr().out, re.MULTILINE)


def test_mapping_is_measured_beside_the_network(measure):
    small = ("--network", "pointwise", "--width", "96", "--height", "64", "--tile", "64")
    figures = measure("predict", *small, "--batch_size", "1", "--rounds", "1")
    rates = [figures[f"{name}_pixels_per_second"] for name in ("map", "bare")]
    assert figures["map_over_bare"] == pytest.approx(rates[0] / rates[1])
    assert figures["peak_bytes"] > 2**26
    memory_alone = measure("predict", *small, "--batch_size", "1", "--rounds", "0")
    assert "map_over_bare" not in memory_alone


def test_preparing_is_compared_with_copying_the_same_tiles(tmp_path):
    args = SimpleNamespace(rounds=1, side=600, open_tiles=300)
    figures = {
        key: value for part in scenes.measure_prepare(args, tmp_path) for key, value in part.items()
    }
    assert figures["prepare_over_copy"] == figures["copy_scene_s"] / figures["prepare_scene_s"]
    assert figures["prepare_scaling"] > 0
    copied = cv2.imread(str(tmp_path / "copies/344_256.png"))
    ours = cv2.imread(str(tmp_path / "tiles/images/train/2_10_344_256.png"))
    assert np.array_equal(copied, ours)
    assert figures["open_s"] > 0
