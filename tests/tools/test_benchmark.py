"""tools/benchmark.py: run as a command, and its parts against what can be known by hand."""

import importlib
import json
import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torch import nn

from SSLRemoteSensing.core.machine import has_fast_bf16
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings
from SSLRemoteSensing.models.losses import ExamplarLoss

CPU = torch.device("cpu")
SMALL = ["--only", "training", "--device", "cpu", "--img_size", "32", "--batch_size", "2"]
SMALL += ["--steps", "1", "--loop_steps", "2", "--num_workers", "0", "--embeddings", "16"]


@pytest.fixture
def tool(monkeypatch):
    """Import one of the tool's modules."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


@pytest.fixture
def small_config(pretext_config) -> dict:
    """The contrastive task alone: the other heads take most of the time at 32 x 32."""
    return pretext_config | {"inpainting_head_cfg": None, "agr_head_cfg": None}


def test_command_prints_and_writes_figures_that_agree(run, small_config, tiles, tmp_path):
    output, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    done = run(
        "tools/benchmark.py", small_config, *SMALL, "--images", str(tiles / "images"),
        "--switches", "precision", "joint_pass", "--output", str(output), "--profile", str(trace),
        fresh=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    assert figures["complete"]
    kept = ("date", "command", "machine", "versions", "network", "img_size", "batch_size")
    kept += ("fast_precision", "sample_ms", "fp32_step_s", "fast_step_s", "speedup_over_fp32")
    kept += ("bare_images_per_second", "loop_images_per_second", "loop_efficiency", "data_wait")
    new = ("ceiling_matmul_tflops", "mfu", "images_per_second", "speedup_over_published")
    new += ("contrastive_over_matmul", "peak_memory_gib", "switches", "step_split_share")
    assert not set(kept + new) - figures.keys()
    for key in figures:
        assert re.search(rf"^  {key}\b", done.stdout, re.MULTILINE), key

    ready = figures["batch_size"] / figures["fast_step_s"]
    ceiling = figures["ceiling_matmul_tflops"] * 1e12
    work = figures["flops_per_image"]
    assert figures["mfu"] == pytest.approx(work * figures["images_per_second"] / ceiling)
    assert figures["mfu_bare"] == pytest.approx(work * ready / ceiling)
    assert ceiling == 1e12 * max(figures["matmul_tflops"][figures["fast_precision"]].values())
    # ResNet-18's convolutions, 1.814e9 multiplications at 224 x 224: two passes, each forward and
    # twice backward, but for the input of the first, which needs no gradient; little in the head.
    first = 16 * 16 * 64 * 3 * 7 * 7
    assert work == pytest.approx(2 * 2 * (3 * 1.814e9 * 32**2 / 224**2 - first), rel=0.05)
    assert figures["speedup_over_fp32"] == figures["fp32_step_s"] / figures["fast_step_s"]
    ratio = figures["published_step_s"] / figures["fast_beside_published_step_s"]
    assert figures["speedup_over_published"] == ratio
    ratio = figures["loop_images_per_second"] / figures["bare_images_per_second"]
    assert figures["loop_efficiency"] == ratio
    assert 0 < figures["data_wait"] < 1

    split = figures["step_split_s"]
    assert list(split) == ["data_wait", "transfer", "forward", "backward", "optimizer"]
    assert all(value > 0 for value in split.values())
    assert sum(split.values()) == pytest.approx(figures["step_split_total_s"], rel=0.01)
    assert sum(figures["step_split_share"].values()) == pytest.approx(1, abs=0.01)
    assert 0.2 < figures["step_split_total_s"] / figures["fast_step_s"] < 5

    parts = figures["sample_parts_ms"]
    assert {"read and decode", "DistortBlock", "class Rotate_90", "collate"} <= parts.keys()
    assert 0.4 < figures["sample_parts_sum_ms"] / figures["sample_ms"] < 1.6

    joint = figures["switches"]["joint_pass"]
    ratio = joint["base_step_s"] / joint["step_s"]
    assert (joint["from"], joint["to"]) == (False, True)
    assert joint["images_per_second_ratio"] == pytest.approx(ratio)
    if not has_fast_bf16(CPU):
        assert "no bf16 instructions" in figures["switches"]["precision"]["not_measured"]
    assert any("conv" in event["name"] for event in json.loads(trace.read_text())["traceEvents"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch_size", "1"], "--batch_size 1: must be at least 2"),
        (["--output", "nowhere/f.json"], "--output nowhere/f.json: no such folder"),
        (["--batch_size", "99"], "24 files, --batch_size 99"),
    ],
)
def test_mistakes_are_one_line(
    tool, pretext_config, tiles, tmp_path, monkeypatch, capsys, flags, words
):
    main = tool("benchmark").main
    run_command = tool("SSLRemoteSensing.core.errors").run_command
    config = tmp_path / "config.py"
    config.write_text(f"config = {pretext_config!r}\n")
    arguments = ["--config_file", str(config), *SMALL, "--images", str(tiles / "images"), *flags]
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        run_command(main)
    assert words in capsys.readouterr().err


def test_shares_of_watching_are_those_of_its_parts(
    tool, small_config, tiles, tmp_path, monkeypatch, capsys
):
    """By seconds given here for what is called: a step, an entry, a look, in two turns."""
    output, config = tmp_path / "figures.json", tmp_path / "config.py"
    small_config["train_cfg"]["log"] |= dict(log_step=10, vis_step=100)
    config.write_text(f"config = {small_config!r}\n")
    given = iter([9.0, 9.0, 30.0, 2.0, 0.5, 20.0])

    def spent(function, device):
        function()
        return next(given)

    monkeypatch.setattr(tool("benchmark_watching"), "spent", spent)
    arguments = [*SMALL[2:], "--only", "watching", "--config_file", str(config)]
    arguments += ["--images", str(tiles / "images"), "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
    tool("benchmark").main()
    figures = json.loads(output.read_text())
    assert figures["complete"]
    parts = {name: figures[f"watching_{name}_s"] for name in ("step", "entry", "look")}
    assert parts == dict(step=2, entry=0.5, look=20)
    assert figures["watching_first_look_s"] == 30
    by_default, own = 0.5 / 50 + 20 / 1000, 0.5 / 10 + 20 / 100  # seconds a step
    assert figures["watching_share"] == pytest.approx(by_default / (2 + by_default))
    assert figures["watching_share_of_config"] == pytest.approx(own / (2 + own))
    assert "vis_step                        100" in capsys.readouterr().out


def test_what_was_measured_outlives_an_error(tool, tmp_path, monkeypatch):
    benchmark, output = tool("benchmark"), tmp_path / "figures.json"

    def breaks(args, scratch):
        yield {"sample_ms": 1.5}
        raise torch.OutOfMemoryError("CUDA ...")

    monkeypatch.setattr(tool("benchmark_training"), "measure_training", breaks)
    monkeypatch.setattr("sys.argv", ["benchmark.py", *SMALL, "--output", str(output)])
    with pytest.raises(benchmark.UserError, match="--batch_size 2: out of memory"):
        benchmark.main()
    figures = json.loads(output.read_text())
    assert (figures["sample_ms"], figures["complete"]) == (1.5, False)


def test_preparing_is_left_out_without_rasterio(tool, tmp_path, monkeypatch):
    benchmark = tool("benchmark")
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    words = "left out: rasterio is not installed"
    assert benchmark.measure_preparation(False, tmp_path) == {"preparing": words}
    with pytest.raises(benchmark.UserError, match="rasterio is not installed"):
        benchmark.measure_preparation(True, tmp_path)


def test_flops_are_those_of_a_count_by_hand(tool):
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
    count_flops = tool("benchmark_steps").count_flops
    assert count_flops(lambda: net(images)) == first + second + linear
    # Backward: towards the weights and the input, which the first layer does not need.
    both = count_flops(lambda: net(images).sum().backward())
    assert both == 2 * first + 3 * second + 3 * linear


def test_published_loss_is_examplar_loss(tool):
    published = tool("benchmark_published").PublishedExemplarLoss()
    torch.manual_seed(0)
    values = torch.randn(2, 6, 16)
    gradients = []
    for loss in (published, ExamplarLoss()):
        views = values.clone().requires_grad_()
        result = loss(*views)
        result.backward()
        gradients.append((result.detach(), views.grad))
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_published_step_is_fp32_contiguous_and_untuned(tool, small_config, monkeypatch):
    module = tool("benchmark_published")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []
    monkeypatch.setattr(module, "run_step", lambda step, batch: seen.append((step, settings())))

    def settings() -> tuple:
        return torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    before = settings()
    module.fp32_step(small_config, CPU, {"index": torch.arange(2)}, published=True)()
    step, inside = seen[0]
    assert inside == (False, "highest")
    assert settings() == before
    assert step.precision == "fp32"
    assert step.memory_format == torch.contiguous_format
    assert not step.optimizer.defaults["fused"]
    assert isinstance(step.model.losses["exemplar"], module.PublishedExemplarLoss)


def test_a_compiled_loop_has_no_bare_steps_in_its_graph(tool, small_config, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    loop, steps = tool("benchmark_loop"), tool("benchmark_steps")
    dataset = PretextDataset(PretextSettings(**small_config["train_cfg"]["train_data"]))
    step = steps.build_step(small_config, CPU, steps.base_setting("fp32", 2) | {"compile": True})
    batch = steps.ready_batch(dataset, 2, CPU)
    settings = loop.fit_settings(small_config, CPU, "fp32", 2, 0) | {"compile": True}
    bare = partial(steps.run_step, step, batch)
    found = loop.run_in_turn(small_config, dataset, settings, 1, bare, tmp_path)
    assert found["loop_efficiency"] > 0


def test_laps_are_weighted_and_warm_up_is_left_out(tool):
    laps = [
        {"step": 2, "images_per_second": 1.0, "data_wait": 1.0},
        {"step": 4, "images_per_second": 1.0, "data_wait": 1.0},
        {"step": 6, "images_per_second": 8.0, "data_wait": 0.5},  # 8 images in 1 s
        {"step": 8, "images_per_second": 4.0, "data_wait": 0.2},  # 8 in 2 s
        {"step": 9, "images_per_second": 4.0, "data_wait": 0.0},  # 4 in 1 s
    ]
    mean = tool("benchmark_loop").mean_laps(laps, batch_size=4)
    assert mean["counted_steps"] == 5
    assert mean["images_per_second"] == pytest.approx(20 / 4)
    assert mean["data_wait"] == pytest.approx((0.5 + 0.4) / 4)


def test_ceilings_are_positive_and_without_gpu_said_so(tool, tiles):
    module = tool("benchmark_ceilings")
    rates = module.matmul_tflops(CPU, "fp32", (32, 64), repeats=1)
    assert list(rates) == ["32", "64"]
    assert all(rate > 0 for rate in rates.values())
    assert module.host_to_device(CPU) == "not measured: no GPU"
    files = sorted((tiles / "images").glob("*.jpg"))
    decoding = module.decode_rates(files, rounds=1)
    pixels = decoding["decode_megapixels_per_second"] / decoding["decode_images_per_second"]
    assert pixels == pytest.approx(64 * 64 / 1e6)


def test_functions_are_timed_in_turn_without_the_first(tool, monkeypatch):
    module, order, now = tool("benchmark_timing"), [], [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(module, "time", clock)

    def function(name: str, later: float):
        def call() -> None:
            now[0] += 100.0 if name not in order else later
            order.append(name)

        return call

    medians = module.in_turn([function("a", 2.0), function("b", 3.0)], CPU, 1)
    assert order == ["a", "b", "a", "b"]
    assert medians == [2.0, 3.0]


class Loss:
    """What a step adds up and goes backward from, which here takes four seconds."""

    def __init__(self, now: list[float]):
        self.now = now

    def __radd__(self, other):
        return self

    def backward(self) -> None:
        self.now[0] += 4


def test_step_is_split_where_its_parts_end(tool, monkeypatch):
    module, now = tool("benchmark_steps"), [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(module, "collate", lambda samples: {"samples": samples})

    def takes(seconds: float, result=None):
        def call(*arguments):
            now[0] += seconds
            return result

        return call

    class Images(list):
        __getitem__ = takes(16)

    losses = {"one": Loss(now)}
    step = SimpleNamespace(device=CPU, model=nn.Identity(), to_device=takes(1, {}))
    step.forward, step.update = takes(2, losses), takes(8)
    figures = module.split_step(step, Images("abc"), batch_size=2, num_workers=0, count=3)
    split = {"data_wait": 32, "transfer": 1, "forward": 2, "backward": 4, "optimizer": 8}
    assert figures["step_split_s"] == split
    assert figures["step_split_total_s"] == 47
    assert figures["step_split_share"]["optimizer"] == pytest.approx(8 / 47)


def test_switch_that_fails_is_told_and_the_next_is_measured(
    tool, small_config, monkeypatch, tiles, tmp_path
):
    module, steps = tool("benchmark_switches"), tool("benchmark_steps")
    base = steps.base_setting("fp32", 2)
    step = steps.build_step(small_config, CPU, base)
    assert module.is_fused(step)
    build = module.build_step

    def broken(config, device, setting):
        if setting["compile"]:
            raise RuntimeError("no\n  compiler")
        return build(config, device, setting)

    monkeypatch.setattr(module, "build_step", broken)
    dataset = tool("benchmark_data").open_images(
        small_config, str(tiles / "images"), 32, 2, tmp_path
    )
    names = ("batch_size", "compile", "precision")
    monkeypatch.setattr(module, "has_fast_bf16", lambda device: False)
    found = dict(module.measure_switches(small_config, dataset, step, base, names, 1))
    assert list(found) == ["precision", "compile", "batch_size_x2"]
    assert "no bf16 instructions" in found["precision"]["not_measured"]
    assert found["compile"] == {
        "from": False,
        "to": True,
        "not_measured": "RuntimeError: no compiler",
    }
    larger = found["batch_size_x2"]
    assert (larger["from"], larger["to"]) == (2, 4)
    ratio = 2 * larger["base_step_s"] / larger["step_s"]
    assert larger["images_per_second_ratio"] == pytest.approx(ratio)
    assert module.in_words(torch.OutOfMemoryError("CUDA ...")) == "out of memory"


def test_processes_are_measured_against_one_with_their_threads(run, small_config, tiles, tmp_path):
    output = tmp_path / "processes.json"
    small = ["--device", "cpu", "--img_size", "32", "--batch_size", "2", "--steps", "2"]
    small += ["--rounds", "1", "--images", str(tiles / "images"), "--output", str(output)]
    done = run("tools/benchmark_processes.py", small_config, *small)
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    ratio = figures["images_per_second_all"] / figures["images_per_second_one"]
    assert figures["efficiency"] == pytest.approx(ratio)
    assert 0.05 < ratio < 20
    assert re.search(r"^efficiency +\d", done.stdout, re.MULTILINE)
