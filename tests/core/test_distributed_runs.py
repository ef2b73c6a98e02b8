"""Runs of several processes: what they see, how they go on, stop and fail, and what they write.

As in test_distributed.py a team of processes is started once, and computes what the tests look at.
"""

import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT, draw_tiles, fit_task
from preloaded import python
from teams import attempt, joined, start_team, team_results
from tiny_run import TinyNet, interrupt_at
from torch.utils.data import Dataset

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.reports import results
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.sampler import KeySampler

LR = 0.01


class Noted(Dataset):
    """Drawn images that note the (epoch, index) of each that is asked for."""

    def __init__(self, size: int):
        self.size, self.seen = size, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> dict:
        self.seen.append(key)
        rng = np.random.default_rng(key)
        names = ("occluded", "anchor", "transformed")
        sample = {name: rng.integers(0, 256, (8, 8, 3), np.uint8) for name in names}
        facts = dict(transform_label=int(rng.integers(6)), crop=(0, 0, 1, 1), index=key[1])
        return sample | facts | dict(skipped=[])

    def name(self, index: int) -> Path:
        return Path(f"{index}.png")


def train(
    folder: Path, stop=None, size: int = 48, number=signal.SIGTERM, spoil=None, **changes
) -> dict:
    """What this process sees and says of a run, and where it leaves its weights.

    Args:
        stop: the call of the network at which the last process alone is sent the signal `number`;
            what the processes ask each other travels for a step, so they stop after the next one.
        spoil: the call of the network whose losses are no numbers in the last process.
    """
    torch.manual_seed(0)
    model, data, states, scored, saved = TinyNet(), Noted(size), [], [], []
    last = distributed.rank() == distributed.size() - 1
    if stop is not None and last:
        interrupt_at(stop, number)(model)

    def note(*_) -> None:
        states.append(torch.get_rng_state())
        saved.append((folder / "latest.pth").exists())

    def spoilt(module, inputs, losses) -> dict:
        factor = math.nan if last and len(saved) // 2 == spoil else 1.0
        return {name: loss * factor for name, loss in losses.items()}

    model.body[3].register_forward_hook(note)
    model.register_forward_hook(spoilt)

    def evaluate() -> dict:
        scored.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"miou": 0.5}

    settings = dict(batch_size=4, optimizer=dict(name="Adam", lr=LR), device="cpu", num_epoch=4)
    settings |= dict(checkpoints=dict(checkpoints_path=str(folder)))
    settings |= dict(log=dict(log_path=str(folder / "log"), log_step=1)) | changes
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        try:
            going = fit_task(model, data, collate, **settings, evaluate=evaluate)
        except SystemExit as error:
            going, code = None, error.code
    found = dict(model=model.state_dict(), seen=data.seen, states=states, scored=scored)
    found["saved"] = saved[::2]  # at each step; the network is called for two images
    return found | dict(code=code, going=going, said=said.getvalue())


def of_two(folder: Path) -> dict:
    found = {"straight": train(folder / "straight")}
    found["halted"] = train(folder / "halted", stop=8)  # of 6 steps an epoch
    for name in ("by_one", "by_nines"):  # copies, to go on in two ways
        if distributed.rank() == 0:
            shutil.copytree(folder / "halted", folder / name)
    distributed.barrier()
    found["resumed"] = train(folder / "halted")
    found["interrupted"] = train(folder / "interrupted", stop=2, number=signal.SIGINT)
    found["asked to save"] = train(folder / "asked", stop=2, number=signal.SIGUSR1, num_epoch=1)
    found["spoilt"] = train(folder / "spoilt", spoil=3, num_epoch=1, max_skipped_steps=1)
    halves = dict(batch_size=2, accumulate_steps=2)
    found["straight halves"] = train(folder / "straight_halves", **halves)
    train(folder / "halves", stop=15, **halves)  # between the halves of step 8
    found["resumed halves"] = train(folder / "halves", **halves)
    found["at an end"] = train(folder / "at_an_end")
    for name, changes in SCHEDULED.items():
        train(folder / name, stop=8, **changes)
    found["halted late"] = train(folder / "late", stop=3, size=20, num_epoch=3, batch_size=2)
    rank = distributed.rank()
    found["unequal"] = attempt(partial(train, folder / "unequal", size=24 + rank))
    own = folder / ("late" if rank else "unshared")
    found["unshared"] = attempt(partial(train, own, size=20))
    return found


COSINE = dict(lr_schedule=dict(name="cosine"))
SCHEDULED = {"epochs": COSINE, "steps": COSINE | dict(num_epoch=None, num_step=24)}


def of_one(folder: Path) -> dict:
    found = {"by one": train(folder / "by_one", batch_size=8)}
    found["by nines"] = train(folder / "by_nines", batch_size=9)
    for name, changes in SCHEDULED.items():
        found[name] = train(folder / name, **changes)
    found["late"] = train(folder / "late", size=20, num_epoch=3, batch_size=12)
    return found


def command(name: str, config: Path, *arguments: str) -> None:
    """One of the repository's commands in this process, which has joined the others."""
    sys.argv = [name, "--config_file", str(config), *arguments]
    with mock.patch.object(distributed, "processes", contextlib.nullcontext):
        import_module(f"SSLRemoteSensing.commands.{name}").main()


def matrices(results: dict) -> dict[str, list]:
    return {name: one["confusion_matrix"] for name, one in results["protocols"].items()}


SCORINGS = {
    "scenes": (),
    "tiles": ("--tiles", "--set", "scoring_cfg.window=64"),
    "one": ("--set", "train_cfg.test_data.data_format=tile_000.jpg"),  # none for the second
}


def evaluate(folder: Path, name: str) -> dict:
    """The confusion matrices of a network's checkpoint, scored in each way; tile_errors.csv and the
    pictures of report.html."""
    own, found = folder / name, {}
    if distributed.rank() == 0:
        own.mkdir()
        shutil.copy(folder / "seg/best.pth", own)
    distributed.barrier()
    for way, arguments in SCORINGS.items():
        command("finetune", folder / "seg.py", "--evaluate", str(own / "best.pth"), *arguments)
        if distributed.rank() == 0:
            pictures = re.findall('src="(data:image/[^"]+)"', (own / "report.html").read_text())
            counts = matrices(json.loads((own / "results.json").read_text()))
            found[way] = counts, (own / "tile_errors.csv").read_text(), pictures
    return found


def work(folder: Path) -> None:
    rank, found = int(os.environ["RANK"]), {}
    for figure in ("draw_confusion_matrix", "draw_examples"):  # which take seconds
        setattr(results, figure, lambda *_: None)
    if rank == 0:  # before it knows of the other
        found["halted at an end"] = train(folder / "at_an_end", stop=4, batch_size=12)
    with joined(2):
        found |= of_two(folder)
        command("pretrain", folder / "pretext.py")
        command("finetune", folder / "seg.py", "--backbone", "random")
        found["scored by two"] = evaluate(folder, "by_two")
    if rank == 0:
        found |= of_one(folder)
        found["scored by one"] = evaluate(folder, "alone")
    torch.save(found, folder / f"found.{rank}.pt")


def start_work(folder: Path, tiles: Path) -> None:
    """Draw and write what `work` needs, and start it."""
    folder.mkdir()
    pretext = smaller(tiles, folder / "pretext")
    (folder / "pretext.py").write_text(f"config = {pretext!r}\n")
    seg = load_config(ROOT / "configs/demo_oam_finetune_resnet18_cfg.py")
    seg["train_cfg"] |= dict(device="cpu", precision="fp32", num_workers=0, batch_size=4)
    seg["train_cfg"] |= dict(num_step=6)
    for split, path in (("train", tiles), ("val", folder / "scenes"), ("test", folder / "scenes")):
        paths = dict(image_path=f"{path}/images", label_path=f"{path}/labels")
        seg["train_cfg"][f"{split}_data"] = paths | dict(data_format="*.jpg")
    seg["train_cfg"]["train_data"] |= dict(crop_size=32)
    seg["train_cfg"]["checkpoints"]["checkpoints_path"] = str(folder / "seg")
    seg["train_cfg"]["log"] = dict(log_path=f"{folder}/seg/log", log_step=3)
    seg["scoring_cfg"] = dict(window=32, overlap=0.5, batch_size=3)
    (folder / "seg.py").write_text(f"config = {seg!r}\n")
    draw_tiles(folder / "scenes", 5)
    start_team(__file__, folder, groups=[2])


@pytest.fixture(scope="session")
def team(tiles, tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of the runs of `work`, and what each of its processes found."""
    start = partial(start_work, tiles=tiles)
    return team_results("distributed_runs", tmp_path_factory, start)


def entries(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in lines if "loss" in entry]


def together(parts: list[dict], name: str) -> list:
    """All keys that the processes saw, one process after the other."""
    return [key for part in parts if name in part for key in part[name]["seen"]]


# Samples.


def test_two_processes_see_in_each_step_what_one_would_see(team):
    """So no image is seen twice in an epoch."""
    _, found = team
    by_step = [
        sorted(key for part in found for key in part["straight"]["seen"][4 * s : 4 * s + 4])
        for s in range(25)
    ]
    assert by_step == [*(sorted(keys) for keys in KeySampler(48, 8, 6, 0, 24, seed=0)), []]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("halted", "resumed"),
        ("halted", "by one"),
        ("halted", "by nines"),
        ("halted at an end", "at an end"),
    ],
)
def test_going_on_with_other_numbers_of_processes_shows_no_image_twice(team, before, after):
    """By one process, in steps of 8 and of 9, of which an epoch has 5: from 24 the next is the
    fourth. And by two, where one had come to an epoch's end in steps of 12.
    """
    _, found = team
    seen = together(found, before) + together(found, after)
    assert len(seen) == len(set(seen))
    rest = [24 + 18, 45, 45] if after == "by nines" else [48, 48, 48]
    assert Counter(epoch for epoch, _ in seen) == dict(enumerate([48, *rest]))


def test_no_epoch_is_passed_over_where_a_larger_step_does_not_fit_its_rest(team):
    """16 of 20 images seen; of steps of 12 the epoch has one, so the next epoch is the next."""
    _, found = team
    seen = together(found, "halted late") + together(found[:1], "late")
    assert Counter(epoch for epoch, _ in seen) == {0: 16, 1: 12, 2: 12}


# Weights.


@pytest.mark.parametrize(
    "name", ["straight", "straight halves", "resumed", "resumed halves", "spoilt"]
)
def test_all_processes_have_the_same_weights_after_a_run(team, name):
    """Each with its own batch normalization and dropout, over 24 steps."""
    _, (first, second) = team
    for key, _ in TinyNet().named_parameters():
        assert torch.equal(first[name]["model"][key], second[name]["model"][key]), key
        assert first[name]["model"][key].isfinite().all()


def test_each_process_draws_its_own_dropout(team):
    _, (first, second) = team
    pairs = zip(first["straight"]["states"], second["straight"]["states"], strict=True)
    assert not any(torch.equal(one, two) for one, two in pairs)
    assert not any(torch.equal(*two) for two in pairwise(second["straight"]["states"][::2]))


def test_all_processes_score_the_weights_and_statistics_that_are_saved(team):
    """Statistics of batch normalization are each process's own, until they are asked for."""
    folder, (first, second) = team
    for key, value in checkpoints.read(folder / "straight/best.pth")["model"].items():
        assert torch.equal(first["straight"]["scored"][0][key], value), key
        assert torch.equal(second["straight"]["scored"][0][key], value), key


@pytest.mark.parametrize(
    ("kind", "folders"), [("", ("straight", "halted")), (" halves", ("straight_halves", "halves"))]
)
def test_going_on_equals_a_straight_run_bit_for_bit(team, kind, folders):
    """Stopped in mid-epoch by a signal to one process."""
    folder, found = team
    for part in found:
        straight, resumed = part[f"straight{kind}"], part[f"resumed{kind}"]
        for key, value in straight["model"].items():
            assert torch.equal(value, resumed["model"][key]), key
        states = straight["states"][-len(resumed["states"]) :]
        assert all(map(torch.equal, states, resumed["states"]))
    keys = ("step", "epoch", "lr", "loss", "inpainting", "agr", "exemplar")
    logs = [entries(folder / name / "log") for name in folders]
    ours, theirs = ([{key: entry[key] for key in keys} for entry in log] for log in logs)
    assert ours == theirs
    assert [entry["step"] for entry in ours] == list(range(1, 25))


@pytest.mark.parametrize(
    ("name", "number", "step"), [("halted", signal.SIGTERM, 9), ("interrupted", signal.SIGINT, 3)]
)
def test_a_signal_to_one_process_stops_all_at_the_same_step(team, name, number, step):
    _, (first, second) = team
    assert first[name]["code"] == second[name]["code"] == 128 + number
    assert len(first[name]["seen"]) == len(second[name]["seen"]) == step * 4
    assert f"stopped after step {step}; the same command goes on" in first[name]["said"]
    assert "stopped" not in second[name]["said"]


def test_sigusr1_to_one_process_has_the_first_save(team):
    _, (first, second) = team
    assert first["asked to save"]["code"] == second["asked to save"]["code"] == 0
    assert first["asked to save"]["saved"] == [False] * 3 + [True] * 3  # of one epoch of six steps


def test_a_step_is_left_out_by_all_where_one_process_s_loss_is_no_number(team):
    _, (first, second) = team
    files = ", ".join(f"{index}.png" for _, index in second["spoilt"]["seen"][8:12])
    told = "step 3: loss inpainting, agr, exemplar is not finite, left out (1 of at most 1)"
    assert f"{told}; files: {files}\n" in first["spoilt"]["said"]


# Going on with another number of processes.


IMAGES = [*range(0, 72, 8), *range(72, 192, 4)]  # seen before a step


@pytest.mark.parametrize(
    ("name", "epochs", "done"),
    [
        ("epochs", [0] * 6 + [1] * 9 + [2] * 12 + [3] * 12, [seen / 192 for seen in IMAGES]),
        ("steps", [0] * 6 + [1] * 9 + [2] * 9, [step / 24 for step in range(24)]),
    ],
)
def test_epoch_and_rate_go_on_with_another_number_of_processes(team, name, epochs, done):
    """9 steps of 8 images, then steps of 4: as far through the schedule as through the images, or
    through the steps, where their number is given."""
    folder, (first, *_) = team
    log, total = entries(folder / name / "log"), len(epochs)
    assert [entry["step"] for entry in log] == list(range(1, total + 1))
    assert [entry["epoch"] for entry in log] == epochs
    rates = [LR * (1 + math.cos(math.pi * share)) / 2 for share in done]
    assert [entry["lr"] for entry in log] == pytest.approx(rates)
    assert f"48 images, 12 steps of 4 an epoch, {total} steps in all" in first[name]["said"]
    assert f"{name}/latest.pth: step 9 of {total}, epoch 1" in first[name]["said"]
    if name == "epochs":
        assert run_folder.read(folder / name)["epoch"] == 4
        assert (folder / name / "epoch_0004.pth").exists()


def test_processes_that_see_other_images_or_folders_are_refused(team):
    _, found = team
    for part in found:
        assert part["unequal"].startswith("data: the processes have [24, 25]; ")
        assert "process 1 sees another folder than the first" in part["unshared"]


# The commands.


def smaller(tiles: Path, folder: Path) -> dict:
    """Pre-training of which a checkpoint is small, for four epochs of three steps."""
    config = load_config(ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py")
    config["backbone_cfg"]["out_keys"] = ()
    config["inpainting_head_cfg"]["feat_channels"] = (8, 8, 8, 8, 8)
    config["agr_head_cfg"] = None
    config["examplar_head_cfg"]["out_channels"] = 8
    train_cfg = config["train_cfg"]
    train_cfg |= dict(global_batch_size=8, num_epoch=4, num_workers=0, device="cpu")
    train_cfg |= dict(precision="fp32", optimizer=dict(name="SGD", lr=0.01))
    data = dict(data_path=str(tiles / "images"), data_format="*.jpg", img_size=32, crop_size=None)
    train_cfg["train_data"] |= data
    train_cfg["checkpoints"] |= dict(checkpoints_path=str(folder), save_step=4)
    train_cfg["log"] = dict(log_path=str(folder / "log"), log_step=1)
    return config


@pytest.fixture
def small(tiles, tmp_path) -> dict:
    return smaller(tiles, tmp_path / "run")


ALONE = "--standalone --nproc_per_node=2"


class Torchrun:
    """A command under torchrun with two processes, or as many as its flags `launch` say."""

    def __init__(
        self, folder: Path, script: str, config: dict, *arguments: str, launch: str = ALONE
    ):
        file = folder / "config.py"
        file.write_text(f"config = {config!r}\n")
        self.paths = [folder / "stdout", folder / "stderr"]
        line = [python(), "-m", "torch.distributed.run", *launch.split()]
        line += [str(ROOT / script), "--config_file", str(file), *arguments]
        with self.paths[0].open("w") as out, self.paths[1].open("w") as err:
            env = os.environ | dict(TORCHRUN_FOLDER=str(folder))
            self.process = subprocess.Popen(line, stdout=out, stderr=err, env=env, cwd=ROOT)

    @property
    def stdout(self) -> str:
        return self.paths[0].read_text()

    @property
    def stderr(self) -> str:
        return self.paths[1].read_text()

    def __enter__(self) -> "Torchrun":
        return self

    def __exit__(self, *_) -> None:
        children = self.workers().values() if self.process.poll() is None else ()
        for pid in (*children, self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def workers(self) -> dict[int, int]:
        """Rank -> process, of those that torchrun started."""
        ranks = {}
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # another's, or ended
                variables = file.read_bytes().decode(errors="replace").split("\0")
                if f"TORCHRUN_FOLDER={self.paths[0].parent}" in variables:
                    found = [v.removeprefix("RANK=") for v in variables if v.startswith("RANK=")]
                    ranks |= {int(rank): int(file.parent.name) for rank in found}
        return ranks

    def say(self, text: str) -> dict[int, int]:
        """Wait until stdout has `text`; the workers."""
        end = time.monotonic() + 120
        while text not in self.stdout:
            assert self.process.poll() is None, self.stderr[-3000:]
            assert time.monotonic() < end, self.stderr[-3000:]
            time.sleep(0.05)
        return self.workers()

    def end(self) -> int:
        return self.process.wait(timeout=120)


def gone(pids) -> bool:
    """Whether none of the processes is there any more, or it is dead and not yet buried."""

    def dead(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    end = time.monotonic() + 5
    while time.monotonic() < end and not all(dead(pid) for pid in pids):
        time.sleep(0.1)
    return all(dead(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_run_stopped_and_killed_ends_with_the_files_of_a_straight_one(small, tmp_path, team):
    """SIGTERM saves and the same command goes on; a process that dies ends them all."""
    with Torchrun(tmp_path, "train.py", small) as stopped:
        workers = stopped.say("step 2/12")
        assert set(workers) == {0, 1}
        stopped.process.terminate()
        assert stopped.end() != 0
        assert gone(workers.values())
        said = stopped.stdout
    assert said.count("24 images, 3 steps of 8 an epoch, 12 steps in all") == 1
    assert said.count("step 1/12") == said.count("step 2/12") == 1
    assert said.count("stopped after step") == 1
    first = run_folder.read(tmp_path / "run")["step"]
    assert f"stopped after step {first};" in said

    with Torchrun(tmp_path, "train.py", small) as killed:
        workers = killed.say(f"step {first + 2}/12")
        os.kill(workers[1], signal.SIGKILL)
        start = time.monotonic()
        assert killed.end() != 0
        assert time.monotonic() - start < 60
        assert gone(workers.values())
        assert f"latest.pth: step {first} of 12" in killed.stdout

    with Torchrun(tmp_path, "train.py", small) as last:
        assert last.end() == 0, last.stderr[-3000:]
        said = last.stdout
    assert said.count("backbone: ") == said.count("step 12/12") == 1
    log = entries(tmp_path / "run/log")
    assert [entry["step"] for entry in log] == list(range(1, 13))
    names = ["backbone.json", "backbone.pth", "epoch_0004.pth", "latest.pth", "log", "run.json"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    assert json.loads((tmp_path / "run/backbone.json").read_text())["images_seen"] == 8 * 12
    runs = json.loads((tmp_path / "run/run.json").read_text())["runs"]
    assert [run["processes"] for run in runs] == [2, 2, 2]
    folders = tmp_path / "run", team[0] / "pretext"
    ours, theirs = (checkpoints.read(folder / "backbone.pth") for folder in folders)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@contextlib.contextmanager
def machines(folder: Path, config: dict):
    """A pre-training on two machines with a process each, which meet on this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as ends:
        launches = []
        for rank in range(2):
            (folder / str(rank)).mkdir(parents=True)
            launch = f"--nnodes=2 --node_rank={rank} --nproc_per_node=1 --master_addr=127.0.0.1"
            launch += f" --master_port={port}"
            launches.append(Torchrun(folder / str(rank), "train.py", config, launch=launch))
            ends.enter_context(launches[-1])
        yield launches


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_machines_of_which_one_dies_go_on_to_the_weights_of_a_straight_run(
    small, tmp_path, team
):
    small["train_cfg"]["checkpoints"]["save_minutes"] = 1e-6  # after each step
    with machines(tmp_path / "first", small) as (left, lost):
        left.say("step 3/12")
        for pid in (lost.process.pid, *lost.workers().values()):
            os.kill(pid, signal.SIGKILL)
        assert left.end() != 0
        lines = [line for line in left.stderr.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        assert "process 0: lost the others" in lines[0]
        assert "goes on by the same command on all machines" in lines[0]
    step = run_folder.read(tmp_path / "run")["step"]
    assert 2 <= step < 12
    with machines(tmp_path / "again", small) as launches:
        assert [launch.end() for launch in launches] == [0, 0], launches[0].stderr[-3000:]
        assert f"latest.pth: step {step} of 12" in launches[0].stdout
    folders = tmp_path / "run", team[0] / "pretext"
    ours, theirs = (checkpoints.read(folder / "backbone.pth") for folder in folders)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_an_error_of_another_process_is_told_with_its_number(small, tmp_path):
    """An image that only the second one comes to, in the second step."""
    data = draw_tiles(tmp_path / "broken", 24) / "images"
    small["train_cfg"]["train_data"]["data_path"] = str(data)
    small["train_cfg"]["num_workers"] = 1  # whose traceback is not told
    _, (_, index), *_ = list(KeySampler(24, 4, 3, 0, 3, 0, rank=1, processes=2))[1]
    broken = data / f"tile_{index:03d}.jpg"
    broken.write_bytes(b"")
    with Torchrun(tmp_path, "train.py", small) as failed:
        assert failed.end() != 0
        lines = failed.stderr.splitlines()
        told = [line for line in lines if line.startswith("error: process 1: ")]
        assert len(told) == 1
        assert broken.name in told[0]
        assert not (tmp_path / "run/latest.pth").exists()
        assert "Traceback" not in failed.stderr.partition("torch/distributed/")[0]


def test_fine_tuning_by_two_processes_trains_and_scores_once(team):
    folder, (first, *_) = team
    said = (folder / "said.0").read_text()
    assert said.count("labels of 24 of 24 train tiles, 5 val tiles") == 1
    assert said.count("24 images, 3 steps of 8 an epoch, 6 steps in all") == 1
    assert "val tiles" not in (folder / "said.1").read_text()
    assert [entry["step"] for entry in entries(folder / "seg/log")] == [3, 6]
    names = ["best.pth", "epoch_0002.pth", "latest.pth", "results.json", "run.json", "scenes.json"]
    assert sorted(path.name for path in (folder / "seg").glob("*.[jp]*")) == names
    results = json.loads((folder / "seg/results.json").read_text())
    assert matrices(results) == first["scored by two"]["scenes"][0]


@pytest.mark.parametrize(("way", "shown"), [("scenes", 3), ("tiles", 3), ("one", 1)])
def test_scores_errors_and_pictures_do_not_depend_on_the_number_of_processes(team, way, shown):
    """By scenes in windows, by tiles, and of a single scene, none for the second process."""
    _, (first, second) = team
    by_protocol, errors, pictures = first["scored by two"][way]
    assert (by_protocol, errors, pictures) == first["scored by one"][way]
    assert second["scored by two"] == {}
    counts = np.array(next(iter(by_protocol.values())))
    assert counts.sum() == 64 * 64 * (1 if way == "one" else 5)
    assert (counts.sum(0) > 0).all()
    assert len(pictures) == 4 * shown
    rows = [line.split(",") for line in errors.splitlines()[1:]]
    assert sum(int(row[-1]) for row in rows) == counts.sum() - counts.trace()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
