"""Drawn images, small configs, and the commands as a user runs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# One thread, here and in the commands: the networks are tiny, and threads waiting for a core that
# another process has would make a step a hundred times slower.
os.environ["OMP_NUM_THREADS"] = "1"
# Else each of the hundreds of commands would compile our modules anew, half a second of CPU time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import cv2
import numpy as np
import pytest
from preloaded import python

from SSLRemoteSensing.core.config import load_config

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
# Shells start what is to run in the background with SIGINT ignored, which commands inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Those that take longest begin, so that no worker waits long for another's last file. It needs
# pytest-xdist's --no-loadscope-reorder, which would begin with those that have the most tests.
LONG = ("test_main_path.py", "test_commands.py", "test_distributed_runs.py", "test_results.py")
LONG += ("test_doctor.py", "test_label_efficiency.py", "test_benchmark.py", "test_soak.py")
LONG += ("test_frozen_runs.py", "test_any_timm.py", "test_gpu_day.py", "test_docs.py")
LONG += ("test_scaled_runs.py", "test_sslrs.py", "test_own_runs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


def fit_task(
    model, dataset, collate, *, card=None, monitors=(), probe=None, export=None, exported=(),
    evaluate=None, **train_cfg,
) -> bool:  # fmt: skip
    """`fit` with the keys of the loop as keywords."""
    from SSLRemoteSensing.training.engine import fit
    from SSLRemoteSensing.training.settings import LoopSettings
    from SSLRemoteSensing.training.task import Task

    task = Task(
        model, dataset, collate, card or {}, monitors=monitors, probe=probe, export=export,
        exported=exported, evaluate=evaluate,
    )  # fmt: skip
    return fit(task, LoopSettings(**train_cfg))


@pytest.fixture(scope="session")
def oam() -> Path:
    """The real tiles of oam_buildings."""
    folder = DATA / "oam_buildings"
    if not folder.is_dir():
        pytest.skip(f"the real tiles are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """What tools/export.py makes of two checkpoints, see `Exports`."""
    from exports import Exports

    return Exports(tmp_path_factory)


@pytest.fixture(scope="session")
def frozen_runs(tmp_path_factory):
    """The commands whose behaviour is frozen, see `Runs` in golden/runs.py."""
    from runs import Runs

    return Runs(tmp_path_factory.mktemp("frozen"))


def draw_tiles(folder: Path, count: int, size: int = 64, seed: int = 0) -> Path:
    """`count` images of bright roofs on green ground in images/, with labels 0/1 in labels/."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    for number in range(count):
        image = rng.normal((70, 110, 60), 14, (size, size, 3))
        label = np.zeros((size, size), np.uint8)
        for _ in range(3):
            y, x = rng.integers(0, size - 20, 2)
            h, w = rng.integers(10, 20, 2)
            image[y : y + h, x : x + w] = rng.normal(
                (190, 120, 100), 10, image[y : y + h, x : x + w].shape
            )
            label[y : y + h, x : x + w] = 1
        image = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/tile_{number:03d}.jpg"), image[:, :, ::-1])
        cv2.imwrite(str(folder / f"labels/tile_{number:03d}.png"), label)
    return folder


@pytest.fixture(scope="session")
def tiles(tmp_path_factory) -> Path:
    return draw_tiles(tmp_path_factory.mktemp("tiles"), 24)


def small_config(which: str, **train_cfg) -> dict:
    config = load_config(ROOT / f"configs/demo_oam_{which}_resnet18_cfg.py")
    config["train_cfg"] |= dict(batch_size=4, num_workers=0, device="cpu") | train_cfg
    config["train_cfg"] |= dict(precision="fp32", channels_last=False)
    return config


@pytest.fixture
def pretext_config(tiles, tmp_path) -> dict:
    """The demo config of pre-training, at 32 x 32 pixels, on drawn tiles."""
    config = small_config("pretrain", num_epoch=2)
    data = dict(data_path=str(tiles / "images"), data_format="*.jpg", img_size=32, crop_size=None)
    config["train_cfg"]["train_data"] |= data
    config["train_cfg"]["checkpoints"]["checkpoints_path"] = str(tmp_path / "run")
    config["train_cfg"]["log"] = dict(log_path=str(tmp_path / "run/log"), log_step=2)
    return config


@pytest.fixture
def light_pretext_config(pretext_config) -> dict:
    """With checkpoints a third as large as Adam's."""
    pretext_config["train_cfg"]["optimizer"] = dict(name="SGD", lr=1e-4)
    return pretext_config


@pytest.fixture
def seg_config(tiles, tmp_path) -> dict:
    """The demo config of fine-tuning on drawn tiles: 16 to train, 8 to validate."""
    config = small_config("finetune", num_step=6)
    config["train_cfg"]["optimizer"] = dict(name="SGD", lr=0.01)  # a third of AdamW's checkpoints
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    train_data = paths | dict(data_format=["tile_00*.jpg", "tile_01[0-2].jpg"], crop_size=32)
    config["train_cfg"]["train_data"] |= train_data | dict(hash_range=(0, 1))
    config["train_cfg"]["val_data"] = paths | dict(data_format="tile_01[3-7].jpg")
    config["train_cfg"]["test_data"] = paths | dict(data_format="tile_02*.jpg")
    config["train_cfg"]["checkpoints"]["checkpoints_path"] = str(tmp_path / "seg")
    config["train_cfg"]["log"] = dict(log_path=str(tmp_path / "seg/log"), log_step=2)
    return config


@pytest.fixture
def run(tmp_path):
    """Run one of the repository's commands with a config written to a file.

    `fresh`: in an interpreter of its own from the start, which takes seconds; see preloaded.py.
    """

    def call(
        script: str, config: dict | None, *arguments: str, fresh: bool = False
    ) -> subprocess.CompletedProcess:
        command = [sys.executable if fresh else python(), str(ROOT / script)]
        if config is not None:
            file = tmp_path / f"config_{script.replace('/', '_')}"
            file.write_text(f"config = {config!r}\n")
            command += ["--config_file", str(file)]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT
        )

    return call
