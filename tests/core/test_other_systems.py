"""Windows and macOS, as far as they can be played here: without what only POSIX has, with workers
that start anew, and with paths as Windows writes them."""

import math
import ntpath
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from preloaded import python
from torch import nn
from torch.overrides import TorchFunctionMode

import SSLRemoteSensing
from SSLRemoteSensing.core import checkpoints, locks, machine
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data import file_lists
from SSLRemoteSensing.evaluation.embeddings import alignment, effective_rank, uniformity
from SSLRemoteSensing.evaluation.task_gradients import task_gradients
from SSLRemoteSensing.training.meters import LossMeter
from SSLRemoteSensing.training.run_folder import holder, locked

ROOT = Path(SSLRemoteSensing.__file__).parents[1]

# Takes from this project, and from the modules it calls, what Windows lacks; libraries that look
# for it by themselves keep theirs.
WITHOUT_POSIX = """
import builtins, os, runpy, select, signal, sys
import torch, tensorboard, matplotlib
absent = {"fcntl", "resource", "termios", "pwd", "grp", "pty"}
find = builtins.__import__
def look(name, globals=None, *rest, **named):
    if name in absent and (globals or {}).get("__name__", "").startswith("SSLRemoteSensing"):
        raise ImportError(name)
    return find(name, globals, *rest, **named)
builtins.__import__ = look
for module, names in {
    signal: "SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGPIPE SIGHUP alarm siginterrupt",
    os: "uname pread pwrite sched_getaffinity pathconf sysconf killpg",
    select: "poll",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""


TRAIN_TWICE = """
import importlib
scripts, names = sys.argv[1:5], sys.argv[5:]
for name in names:
    importlib.import_module(name)
for script, config in zip(scripts[::2], scripts[1::2]):
    for _ in range(2):
        sys.argv = [script, "--config_file", config]
        runpy.run_path(script, run_name="__main__")
"""


def test_all_is_imported_and_both_trainings_run_without_posix(
    light_pretext_config, seg_config, tmp_path
):
    """The second run of each goes on, so that its folder is locked, left and locked again."""
    packages = pkgutil.walk_packages(SSLRemoteSensing.__path__, "SSLRemoteSensing.")
    names = [package.name for package in packages if not package.name.endswith("__main__")]
    assert len(names) > 100
    light_pretext_config["train_cfg"]["num_epoch"] = 1
    seg_config["backbone_cfg"]["pretrained"] = str(tmp_path / "run/backbone.pth")
    scripts = []
    for script, config in (("train.py", light_pretext_config), ("finetune_seg.py", seg_config)):
        file = tmp_path / f"{script}_cfg.py"
        file.write_text(f"config = {config!r}\n")
        scripts += [script, str(file)]
    result = subprocess.run(
        [python(), "-c", WITHOUT_POSIX + TRAIN_TWICE, *scripts, *names],
        capture_output=True, text=True, cwd=ROOT, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = (tmp_path / "run/log/metrics.jsonl").read_text()
    assert "inpainting" in metrics
    assert "memory_gb" not in metrics  # which nobody tells there
    assert (tmp_path / "seg/best.pth").exists()


def test_a_second_run_is_refused_without_fcntl_too(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert holder(tmp_path) == f"process {os.getpid()} on {machine.platform.node()}"
        text = f"another run is writing there .process {os.getpid()} on "
        with pytest.raises(UserError, match=text), locked(tmp_path):
            pass
    assert holder(tmp_path) is None
    with locked(tmp_path):
        pass


SPAWNED = """
import multiprocessing, runpy, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_workers_that_start_anew_read_the_same_images(light_pretext_config, tmp_path):
    """As on Windows and macOS, where nothing is inherited and all must be sent."""
    light_pretext_config["train_cfg"] |= {"num_epoch": None, "num_step": 2}
    light_pretext_config["train_cfg"]["log"]["vis_step"] = 0
    (tmp_path / "spawned.py").write_text(SPAWNED)
    starts, weights = [[python()], [sys.executable, str(tmp_path / "spawned.py")]], []
    for workers, start in enumerate(starts):
        folder = tmp_path / f"run_{workers}"
        light_pretext_config["train_cfg"] |= {"num_workers": workers}
        light_pretext_config["train_cfg"]["checkpoints"]["checkpoints_path"] = str(folder)
        light_pretext_config["train_cfg"]["log"]["log_path"] = str(folder / "log")
        file = tmp_path / "cfg.py"
        file.write_text(f"config = {light_pretext_config!r}\n")
        result = subprocess.run(
            [*start, "train.py", "--config_file", str(file)],
            capture_output=True, text=True, cwd=ROOT, timeout=900,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        weights.append(checkpoints.read(folder / "latest.pth")["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_memory_and_cores_are_told_or_said_to_be_unknown(monkeypatch):
    assert 1 <= machine.cores() <= os.cpu_count()
    assert 2**20 < machine.peak_memory() < machine.memory() < math.inf
    monkeypatch.setattr(machine, "resource", None)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.cores() == os.cpu_count()
    assert math.isnan(machine.peak_memory())
    assert machine.memory() == math.inf


def test_apple_s_device_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"'mps': this machine or torch has none; pass --set train"):
        machine.choose_device("mps")
    assert machine.choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.choose_device("auto") == machine.choose_device("mps") == torch.device("mps")
    assert machine.choose_precision("auto", torch.device("mps")) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    assert machine.choose_device("auto") == torch.device("cuda", 0)


def test_patterns_and_lists_may_be_written_with_back_slashes(tiles, tmp_path, monkeypatch):
    name = sorted(file.name for file in (tiles / "images").iterdir())[0]
    (tmp_path / "list.txt").write_bytes(f"images\\{name}\r\n".encode("utf-16"))
    (tmp_path / "images").symlink_to(tiles / "images")
    assert [*file_lists.find_images(tmp_path / "list.txt", "")] == [f"{tmp_path}/images/{name}"]
    expected = [*file_lists.find_images(tmp_path, "images/*.jpg")]
    monkeypatch.setattr(file_lists.os, "sep", ntpath.sep)
    assert [*file_lists.find_images(tmp_path, "images\\*.jpg")] == expected


class PlayedMps(TorchFunctionMode):
    """What was not brought to the CPU first has no float64."""

    def __init__(self):
        super().__init__()
        self.on_cpu: list[torch.Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.double and not any(args[0] is one for one in self.on_cpu):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            self.on_cpu.append(result)
        return result


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 4, bias=False)

    def forward(self, batch):
        x = self.backbone(batch)
        return {"one": x.square().mean(), "other": x.abs().mean()}


def test_what_is_logged_of_losses_gradients_and_embeddings_asks_mps_for_no_float64():
    meter = LossMeter(range(6), limit=1)
    with PlayedMps():
        for step, loss in enumerate((1.0, 2.5), start=1):
            meter.add(step, {"index": torch.arange(2)}, {"agr": torch.tensor(loss)}, {})
            meter.norms[step] = torch.tensor(3.0)
        figures, _ = meter.take()
        gradients = task_gradients(TwoTasks(), torch.rand(3, 4))
        views = torch.eye(4), 2 * torch.eye(4).flip(0)
        numbers = [effective_rank(views[0]), alignment(*views), uniformity(views[0])]
    assert figures == {"loss": 1.75, "agr": 1.75, "gradient_norm": 3.0}
    assert set(gradients) == {
        "gradient_norm_one",
        "gradient_norm_other",
        "gradient_cosine_one_other",
    }
    assert numbers == pytest.approx([4, 2, -4])
