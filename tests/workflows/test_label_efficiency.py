"""tools/label_efficiency.py: which cells run, going on, learning rates, mistakes.

Most tests put a command in place of finetune_seg.py that only writes what that one would.
"""

import csv
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
import torchvision
from conftest import ROOT, draw_tiles
from preloaded import python

from SSLRemoteSensing.core.checkpoints import write
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import sha256
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.workflows.label_efficiency import jobs
from SSLRemoteSensing.workflows.label_efficiency.cells import arguments, remaining_cells, rows_of
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, plan_grid, write_grid
from SSLRemoteSensing.workflows.label_efficiency.jobs import run_jobs, slots_for
from SSLRemoteSensing.workflows.label_efficiency.report import describe, warnings_of
from SSLRemoteSensing.workflows.label_efficiency.run import choose_rates, locked

# A stand-in for finetune_seg.py. mIoU is 0.5, and 0.1 more at lr 0.01; test scores are 0.05 lower.
# In the folder of the grid: `calls` says what ran; a file `fail_NAME`, `diverge_NAME` or `wait`
# makes a cell fail, diverge or wait for a signal.
FAKE = """
import json, os, pathlib, runpy, signal, sys, time
flags = sys.argv[1:]
sets = dict(text.split("=", 1) for text in flags[flags.index("--set") + 1 :] if "train_cfg" in text)
folder = pathlib.Path(flags[flags.index("--checkpoints_path") + 1])
top, name = folder.parent.parent, folder.name
kind = "evaluate" if "--evaluate" in flags else "train"
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
note = lambda what: open(top / "calls", "a").write(f"{what} {name} {gpu}\\n")
note(kind)
print("working", file=sys.stderr)
config = runpy.run_path(flags[flags.index("--config_file") + 1])["config"]
assert config["train_cfg"]["num_step"] == 3
if (top / "wait").exists():
    received = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    (folder / "latest.pth").write_text("half")
    (top / f"started_{name}").touch()
    while not received:
        time.sleep(0.01)
    note(signal.Signals(received[0]).name)
    sys.exit(128 + received[0])
if (top / f"fail_{kind}_{name}").exists():
    sys.exit("error: weights of another network")
if (top / f"diverge_{name}").exists():
    print("error: step 2: weights are not finite; lower the learning rate", file=sys.stderr)
    sys.exit(2)
time.sleep(0.15 if gpu else 0)
split = "val" if sets.get("train_cfg.test_data") == "None" else "test"
miou = 0.5 + 0.1 * (float(sets.get("train_cfg.optimizer.lr", 0)) == 0.01) - 0.05 * (split == "test")
miou = round(miou, 6)
if kind == "train":
    for file in ("latest.pth", "epoch_0001.pth", "best.pth"):
        (folder / file).write_text("weights")
else:
    assert flags[flags.index("--evaluate") + 1] == str(folder / "best.pth")
    assert (folder / "best.pth").exists()
scores = dict(miou=miou, mf1=miou, oa=miou, kappa=miou, per_class=dict(road=dict(iou=miou)))
(folder / "results.json").write_text(json.dumps(dict(split=split, protocols=dict(all=scores))))
note("end")
"""


COMMAND = importlib.import_module("SSLRemoteSensing.commands.label_efficiency")
KEYS = ("batch_size", "num_step", "clip_grad_norm", "train_data")  # of train_cfg
INITS = ("random=random", "net=imagenet")


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(jobs, "POLL", 0.01)


@pytest.fixture
def fake(tmp_path) -> list[str]:
    (tmp_path / "fake.py").write_text(FAKE)
    return [sys.executable, "-S", str(tmp_path / "fake.py")]


@pytest.fixture
def config(seg_config) -> dict:
    seg_config["train_cfg"]["num_step"] = 3
    return seg_config


@pytest.fixture
def plan(config, tmp_path):
    """A grid of two initialisations, two fractions, two seeds; or what is given instead."""

    def call(inits=INITS, fractions=(0.5, 1), seeds=(0, 1), lrs=None, own=()):
        return plan_grid(tmp_path / "grid", config, inits, fractions, seeds, lrs, own)

    return call


@pytest.fixture
def trouble(tmp_path):
    """A file in the folder of the grid that makes a cell fail, diverge or wait."""

    def call(name: str) -> Path:
        (tmp_path / "grid").mkdir(exist_ok=True)
        (tmp_path / "grid" / name).touch()
        return tmp_path / "grid" / name

    return call


def run_all(grid, fake, slots=(None,), **more) -> list[str]:
    """Run what is left, as the tool does; what ran, in order."""
    write_grid(grid)
    log = grid.folder / "calls"
    log.unlink(missing_ok=True)
    run_jobs(grid, remaining_cells(grid), fake, slots, (), **more)
    if grid.lrs is not None:
        choose_rates(grid, **more)
        run_jobs(grid, remaining_cells(grid, ["unscored"]), fake, slots, (), **more)
    calls = log.read_text().splitlines() if log.exists() else []
    return [call.rsplit(" ", 1)[0] for call in calls if not call.startswith("end")]


def weights_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*.pth")}


def test_each_cell_runs_once_and_more_of_them_extend_a_grid(plan, fake, tmp_path):
    ran = run_all(plan(), fake)
    assert ran == [
        f"train {init}_f{fraction}_s{seed}"
        for seed in (0, 1)
        for fraction in ("0.5", "1")
        for init in ("random", "net")
    ]
    assert run_all(plan(), fake) == []
    rows = rows_of(plan())
    assert {(row["status"], row["split"]) for row in rows} == {("done", "test")}
    assert {row["tiles"] for row in rows if row["fraction"] == 0.5} == {6}
    (tmp_path / "grid/cells/net_f1_s1/results.json").unlink()
    assert run_all(plan(), fake) == ["train net_f1_s1"]
    ran = run_all(plan(seeds=(0, 1, 2), fractions=(1,)), fake)
    assert ran == ["train random_f1_s2", "train net_f1_s2"]
    ran = run_all(plan(inits=["more=random"], seeds=[5], fractions=[0.1]), fake)
    assert ran == ["train more_f0.1_s5"]
    assert len(rows_of(plan())) == 11  # a table has all that is there


def test_what_is_set_for_one_initialisation_reaches_its_cells_alone(plan, fake, config, tmp_path):
    inits = ("random=random", "frozen=imagenet", "net=imagenet")
    sets = ["train_cfg.freeze_backbone=True", "decoder_cfg.transfer=False"]
    own = [("frozen", text) for text in sets]
    grid = plan(inits, own=own)
    run_all(grid, fake)
    for cell in grid.cells():
        words = arguments(grid, cell, False, None)
        assert [word for word in words if word in sets] == (sets if cell.init == "frozen" else [])
    assert any("with train_cfg.freeze_backbone=True" in line for line in describe(grid))
    assert not remaining_cells(plan(inits, own=own))
    with pytest.raises(UserError, match=r"inits.frozen.set is 'train_cfg.freeze_back.* now ''"):
        plan(inits)
    with pytest.raises(UserError, match=r"inits.net.set is '', now 'train_cfg.freeze_backbone"):
        plan(inits, own=[*own, ("net", sets[0])])
    assert plan(inits[:1]).known_inits["frozen"]["set"] == sets
    # The baseline is random as the config trains it.
    assert plan(["random=random", "more=random"], own=[("more", sets[0])]).baseline == "random"
    assert (
        plan_grid(tmp_path / "new", config, ["a=random"], [1], [0], None, [("a", sets[0])]).baseline
        is None
    )


def test_weights_are_deleted_unless_they_are_asked_for(plan, fake, tmp_path):
    run_all(plan(seeds=[0]), fake)
    cell = tmp_path / "grid/cells/net_f1_s0"
    for name in ("latest.pth", "epoch_0001.pth"):  # as a crash leaves them
        (cell / name).write_text("left")
    assert run_all(plan(seeds=[0]), fake) == []
    assert weights_in(tmp_path / "grid") == set()
    run_all(plan(seeds=[1]), fake, keep_weights=True)
    names = {f"cells/{init}_f{f}_s1/best.pth" for init in ("random", "net") for f in ("0.5", "1")}
    assert weights_in(tmp_path / "grid") == names


def test_on_several_gpus_cells_run_side_by_side_each_on_its_own(plan, fake, tmp_path):
    run_all(plan(), fake, slots=("3", "5"))
    calls = [line.split() for line in (tmp_path / "grid/calls").read_text().splitlines()]
    assert [what for what, _, _ in calls[:2]] == ["train", "train"]
    busy = {"3": 0, "5": 0}
    for what, _, gpu in calls:
        busy[gpu] += -1 if what == "end" else 1
        assert 0 <= busy[gpu] <= 1
    for gpu in ("3", None):
        words = arguments(plan(), Cell("net", 1.0, 0), False, gpu)
        assert ("train_cfg.device=cuda" in words) == (gpu is not None)


@pytest.mark.parametrize(
    ("there", "visible", "device", "jobs", "slots"),
    [
        (0, None, "auto", None, [None]),
        (0, None, "cpu", 2, [None, None]),
        (3, None, "auto", None, ["0", "1", "2"]),
        (3, None, "cpu", None, [None]),
        (2, "4,7", "cuda", None, ["4", "7"]),
        (2, "4,7", "cuda:1", 2, ["7", "7"]),
        (2, "4,7", "auto", 3, ["4", "7", "4"]),
    ],
)
def test_cells_run_on_the_gpus_that_are_visible(monkeypatch, there, visible, device, jobs, slots):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots_for(device, jobs) == slots


def test_of_the_learning_rates_the_best_on_validation_is_scored_on_test_once(plan, fake, tmp_path):
    """And seeds added later are trained at that rate alone: test tiles were seen."""
    lrs = (0.1, 0.001, 0.01)
    for rate, scoring in ((0.01, False), (0.01, True), (None, False)):
        words = arguments(plan(lrs=rate and lrs), Cell("net", 1.0, 0, rate), scoring, None)
        assert ("train_cfg.test_data=None" in words) == (rate is not None and not scoring)
    ran = run_all(plan(lrs=lrs), fake)
    assert len(ran) == 24 + 8
    assert ran[24:] == [
        f"evaluate {init}_f{f}_s{seed}_lr0.01"
        for seed in (0, 1)
        for f in ("0.5", "1")
        for init in ("random", "net")
    ]
    assert run_all(plan(lrs=lrs), fake) == []
    assert weights_in(tmp_path / "grid") == set()
    rows = rows_of(plan(lrs=lrs))
    assert len(rows) == 24
    for row in rows:
        miou = row["protocols"]["all"]["miou"]
        expected = (True, "test", 0.6, 0.55) if row["lr"] == 0.01 else (False, "val", 0.5, 0.5)
        assert (row["chosen"], row["split"], row["val_miou"], miou) == expected
    ran = run_all(plan(lrs=lrs, seeds=[0, 1, 2], fractions=[1], inits=["net=imagenet"]), fake)
    assert ran == ["train net_f1_s2_lr0.01", "evaluate net_f1_s2_lr0.01"]


def test_of_equal_rates_the_smaller_is_chosen_and_an_end_of_the_list_is_warned_of(plan, fake):
    grid = plan(lrs=[0.3, 0.1, 0.2])
    run_all(grid, fake)
    assert set(grid.chosen.values()) == {0.1}
    texts = [text for text in warnings_of(grid, []) if "--lrs" in text]
    for init, text in zip(("random", "net"), texts, strict=True):
        assert f"chosen for {init} at 50 %, 100 % is 0.1, at the lower end of the list" in text
    grid.lrs = [0.01, 0.1, 1]
    assert not any("--lrs" in text for text in warnings_of(grid, []))


def test_a_rate_that_diverges_is_out_and_another_failure_keeps_the_choice_open(plan, fake, trouble):
    trouble("diverge_random_f1_s1_lr0.01")
    file = trouble("fail_train_net_f1_s0_lr0.1")
    grid = plan(lrs=[0.1, 0.01], fractions=[1])
    ran = run_all(grid, fake)
    assert grid.chosen == {("random", 1.0): 0.1}
    assert ran[8:] == ["evaluate random_f1_s0_lr0.1", "evaluate random_f1_s1_lr0.1"]
    (remark,) = choose_rates(grid)
    assert remark.startswith("net, 100 %: no learning rate is chosen, not all its cells have")
    file.unlink()
    grid = plan(lrs=[0.1, 0.01], fractions=[1])
    assert run_all(grid, fake) == [
        "train net_f1_s0_lr0.1", "evaluate net_f1_s0_lr0.01", "evaluate net_f1_s1_lr0.01"
    ]  # fmt: skip
    rows = {(row["init"], row["seed"], row["lr"]): row for row in rows_of(grid)}
    assert "not finite" in rows["random", 1, 0.01]["error"]  # the table says so still


def test_a_choice_rests_on_all_seeds_that_were_searched(plan, fake):
    """Also where a later call asks for fewer of them."""
    given = dict(lrs=[0.01, 0.1], inits=["net=imagenet"], fractions=[1])
    grid = plan(**given)
    write_grid(grid)
    cells = remaining_cells(grid)
    # Of seed 1 one rate only.
    run_jobs(grid, [cell for cell in cells if cell.seed == 0] + cells[-1:], fake, [None], ())
    assert "not all its cells have ended" in choose_rates(plan(**given, seeds=[0]))[0]


def test_a_scoring_that_fails_is_tried_again_without_training(plan, fake, trouble):
    file = trouble("fail_evaluate_net_f1_s0_lr0.01")
    grid = plan(inits=["net=imagenet"], lrs=[0.01], fractions=[1], seeds=[0])
    run_all(grid, fake)
    (row,) = rows_of(grid)
    assert (row["status"], row["error"]) == ("unscored", "weights of another network")
    assert row["protocols"] == {}  # validation scores do not pass for test scores
    assert remaining_cells(grid) == [Cell("net", 1.0, 0, 0.01)]
    file.unlink()
    assert run_all(grid, fake) == ["evaluate net_f1_s0_lr0.01"]
    assert rows_of(grid)[0]["error"] == ""


def test_without_test_data_the_chosen_cells_keep_their_validation_scores(plan, fake, config):
    config["train_cfg"]["test_data"] = None
    assert len(run_all(plan(lrs=[0.01, 0.1]), fake)) == 16
    grid = plan(lrs=[0.01, 0.1])
    assert {row["split"] for row in rows_of(grid)} == {"val"}
    assert weights_in(grid.folder) == set()
    assert any("the config has no test_data" in text for text in describe(grid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_cells_save_and_starts_no_other(
    plan, fake, trouble, number, monkeypatch
):
    file, grid, signals = trouble("wait"), plan(), []
    write_grid(grid)

    def sleep(seconds):
        if len(list(grid.folder.glob("started_*"))) == 2 and not signals:
            signals.append(number)
        os.sched_yield()

    monkeypatch.setattr(jobs.time, "sleep", sleep)
    run_jobs(grid, remaining_cells(grid), fake, (None, None), signals)
    rows = rows_of(grid)
    statuses = [row["status"] for row in rows]
    assert (statuses.count("stopped"), statuses.count("to do")) == (2, 6)
    assert not any(row["error"] for row in rows)
    assert len(weights_in(grid.folder)) == 2  # latest.pth, to go on from
    # The other kind: Ctrl-C reaches the cells too, and a second one of a kind ends them unsaved.
    calls = [line.split()[0] for line in (grid.folder / "calls").read_text().splitlines()]
    other = {signal.SIGINT: "SIGTERM", signal.SIGTERM: "SIGINT"}[number]
    assert [call for call in calls if call.startswith("SIG")] == [other, other]
    monkeypatch.undo()
    file.unlink()
    assert len(run_all(grid, fake)) == 8


def test_a_process_that_was_killed_is_told_as_such(tmp_path):
    (tmp_path / "output.txt").write_text("error: of an earlier attempt\nstep 1\n")
    assert "SIGKILL, perhaps for want of memory" in jobs.error_line(tmp_path / "output.txt", 0, -9)
    assert jobs.error_line(tmp_path / "output.txt", 29, 1) == "step 1"
    assert jobs.error_line(tmp_path / "output.txt", 29, 0) == "wrote no results.json; step 1"


def test_another_grid_in_the_folder_is_refused_by_what_differs(plan, config, fake, tmp_path):
    file = tmp_path / "net.pth"
    file.write_text("one")
    write_grid(plan(inits=["random=random", f"net={file}"]))

    grid = plan(inits=[f"net={file}"])

    def refused(inits=("random=random",), **more) -> str:
        with pytest.raises(UserError) as error:
            plan(inits, **more)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "its lrs is None, now [0.1]" in refused(lrs=[0.1])
    file.write_text("two")
    assert "its inits.net.weights is '" in refused(inits=[f"net={file}"])
    with pytest.raises(UserError, match="changed while the grid ran"):
        run_jobs(grid, remaining_cells(grid), fake, [None], ())
    assert "its inits.random.weights is 'random', now 'imagenet'" in refused(["random=imagenet"])
    config["train_cfg"]["num_step"] = 4
    assert "its train_cfg.num_step is 3, now 4" in refused()
    config["train_cfg"]["num_step"] = 3
    config["train_cfg"]["train_data"]["data_format"] = "tile_00*.jpg"
    assert "train_data.data_format" in refused()
    assert "(and 1 keys more)" in refused()  # train_tiles


def test_what_changes_no_result_may_change_within_a_grid(plan, config, tmp_path):
    """Of an earlier version, too, which knew nothing set for one initialisation."""
    (tmp_path / "net.pth").write_text("one")
    (tmp_path / "copy.pth").write_text("one")
    write_grid(plan(inits=[f"net={tmp_path}/net.pth"]))
    assert load_config(tmp_path / "grid/config.py") == config  # that of the cells
    config["train_cfg"] |= dict(num_workers=2, seed=9)
    config["train_cfg"]["checkpoints"]["checkpoints_path"] = "elsewhere"
    config["train_cfg"]["train_data"]["fraction"] = 0.3
    config["backbone_cfg"]["pretrained"] = True
    file = tmp_path / "grid/grid.json"
    record = json.loads(file.read_text())
    assert record["inits"]["net"].pop("set") == []
    file.write_text(json.dumps(record))
    grid = plan(inits=[f"net={tmp_path}/copy.pth"])
    assert not any("with" in line for line in describe(grid) if line.startswith("Initialisation"))


def test_a_damaged_grid_is_told(plan):
    grid = plan()
    write_grid(grid)
    (grid.folder / "grid.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        plan()
    (grid.folder / "grid.json").unlink()
    plan()  # nothing was run yet
    grid.path(grid.cells()[0]).mkdir()
    (grid.path(grid.cells()[0]) / "cell.json").write_text("{}")
    with pytest.raises(UserError, match=r"grid.json: not there, but cells of a grid are"):
        plan()


def test_a_second_command_in_the_same_folder_is_refused(plan, fake, trouble):
    trouble("wait")
    grid = plan()
    write_grid(grid)
    (grid.folder / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"), locked(grid):
        pass
    (grid.folder / ".lock").rmdir()
    with locked(grid), pytest.raises(UserError, match="another command"), locked(plan()):
        pass
    grid.path(grid.cells()[0]).mkdir()
    with locked(grid):  # which is killed, and leaves a cell that goes on
        config = ["--config_file", str(grid.folder / "config.py")]
        left = jobs.start(grid, remaining_cells(grid)[0], [*fake, *config], None, 1).process
    with pytest.raises(UserError, match="or a cell that it left"), locked(plan()):
        pass
    left.kill()
    left.wait()
    with locked(plan()):
        pass


def test_the_number_of_steps_is_the_same_in_every_cell_and_stated(plan, config):
    config["train_cfg"] |= dict(num_step=None, num_epoch=5, accumulate_steps=2, batch_size=3)
    grid = plan(fractions=(0.01, 0.02, 0.5, 1))
    assert (grid.tiles, grid.steps) == (13, 10)
    text = "\n".join(describe(grid))
    assert "10 steps in every cell, whatever its fraction, of 6 tiles each" in text
    assert "1 % = 1 (60 passes), 2 % = 1 (60 passes), 50 % = 6 (10 passes), 100 % = 13 (" in text
    assert "1 % and 2 % would be less than one tile: at least one is kept" in text
    assert "1 % and 2 % keep the same number of tiles" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(inits=["random"]), "write NAME=random"),
        (dict(inits=["a="]), "write NAME=random"),
        (dict(inits=["../a=random"]), "a name is of letters"),
        (dict(inits=["a=random", "A=imagenet"]), "twice"),
        (dict(inits=["a=nowhere.pth"]), "nowhere.pth: cannot be read"),
        (dict(fractions=[0.5, 0]), "--fractions 0: must be above 0"),
        (dict(fractions=[1.5]), "--fractions 1.5: must be above 0 and at most 1"),
        (dict(fractions=[float("nan")]), "--fractions nan"),
        (dict(fractions=[0.5, 0.50]), "--fractions: 0.5 stands there twice"),
        (dict(seeds=[-1]), "--seeds -1: must be 0 to 2^63 - 1"),
        (dict(seeds=[1, 1]), "--seeds: 1 stands there twice"),
        (dict(lrs=[0.0]), "--lrs 0: must be above 0"),
        (dict(lrs=[0.1, 0.1]), "--lrs: 0.1 stands there twice"),
        (dict(own=[("other", "train_cfg.norm_eval=True")]), "other: is no name of --init"),
        (dict(own=[("net",)]), "write the keys after it"),
        (dict(own=[("net", "train_cfg.num_step=9")]), "must be the same for all, so use --set"),
        (dict(own=[("net", "decoder_cfg.name=Unet")]), "must be the same for all"),
        (dict(own=[("net", "train_cfg.freeze=True")]), "must be the same for all"),
        (dict(own=[("net", "train_cfg.optimizer.lrr=1")]), "lrr"),
        (dict(own=[("net", "train_cfg.backbone_lr_factor=often")]), "backbone_lr_factor"),
        (dict(own=[("net", "train_cfg.freeze_backbone")]), "key.key=VALUE"),
        (dict(own=[("net", "train_cfg.optimizer.lr=1")], lrs=[0.1]), "--lrs chooses the rate"),
        (dict(batch_size=14), "train_cfg.batch_size: a step takes 14 of 13 train tiles"),
        (dict(num_step=0), "num_step=0: must be at least 1"),
        (dict(clip_grad_norm=float("inf")), "train_cfg.clip_grad_norm=inf: cannot be kept"),
        (
            dict(train_data=dict(image_path="none", label_path=".")),
            "train_data: image_path none",
        ),
    ],
)
def test_what_no_cell_could_use_is_told_at_once(plan, config, tmp_path, given, said):
    config["train_cfg"] |= {key: given.pop(key) for key in [*given] if key in KEYS}
    with pytest.raises(UserError) as error:
        plan(**given)
    assert said in str(error.value)
    assert not (tmp_path / "grid").exists()


@pytest.fixture
def tool(config, fake, tmp_path, monkeypatch, capsys):
    """The command in this process, with the stand-in; its exit status and what it printed."""
    monkeypatch.setattr(COMMAND, "FINETUNE", fake)
    monkeypatch.setattr(  # nothing is downloaded
        "SSLRemoteSensing.models.pretrained.imagenet_weights",
        lambda name: torchvision.models.get_model(name, weights=None).state_dict(),
    )
    file = tmp_path / "config.py"
    file.write_text(f"config = {config!r}\n")
    given = ["--config_file", str(file), "--init", "random=random", "--init", "net=imagenet"]
    given += ["--fractions", "0.5", "1", "--seeds", "0", "1", "--output", str(tmp_path / "grid")]

    def call(*more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["label_efficiency.py", *given, *more])
        status = 0
        try:
            run_command(COMMAND.main)
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


def table_of(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


def test_a_dry_run_writes_nothing_and_the_command_tables_curves_and_the_answer(
    tool, tmp_path, monkeypatch
):
    (tmp_path / "dry.py").write_text("import sys; print('one step: 2.5 s', sys.argv[-1])")
    with monkeypatch.context() as patch:
        patch.setattr(COMMAND, "FINETUNE", [sys.executable, str(tmp_path / "dry.py")])
        status, said = tool("--dry_run")
        twins = tool("--dry_run", "--fractions", "0.5", "--unlabelled", "rest")[1]
    assert (status, said.count("to do  ")) == (0, 8)
    assert "8 cells of 3 steps, 1 at a time: about 6" in said  # 8 x 3 x 2.5 s, and starting
    assert "from a rehearsal on this machine; validation and scoring come on top. N" in said
    assert "on top, and of unlabelled tiles the training of the network that labels" in twins
    folder = tmp_path / "grid"
    assert not folder.exists()

    status, said = tool()
    assert status == 0
    assert "8 of 8 cells to do" in said
    hint = next(line for line in said.splitlines() if line.startswith("next: "))
    assert hint.endswith("--seeds 0 1 2 3 4")
    assert hint.count("--seeds") == 1
    assert "--fractions 0.5 1 --output" in hint
    assert "[8 of 8] net, 100 %, seed 1: test mIoU 45.00 %" in said
    assert "100 % = 13 (0.923 passes)" in said
    assert "warning: 3 steps see 12 of the 13 tiles that 100 % of the labels are" in said
    assert "best on validation, of the only one a cell" in said
    answer, page = "net 50 % (+0.00 ± 0.00)", (folder / "report.html").read_text()
    table = (folder / "table.md").read_text()
    assert all(answer in text for text in (said, table, page))
    assert "3 steps in every cell" in table
    assert "net, 100 %, seed 1" in page
    assert len(table_of(folder)) == 8
    assert cv2.imread(str(folder / "curves.png")) is not None

    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    status, said = tool("--dry_run", "--seeds", "0", "1", "2", "--jobs", "2")
    assert (said.count("done   "), said.count("to do  ")) == (8, 4)
    assert "from the mean of the finished cells" in said
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before

    for file in folder.glob("cells/*/cell.json"):
        seconds = 80 if "net" in file.parent.name else 10
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": seconds}))
    kept = next(folder.glob("cells/net_*/cell.json"))
    text = kept.read_text()
    kept.unlink()
    assert "1 cell of 3 steps, 1 at a time: about 80 s, from" in tool("--dry_run")[1]
    kept.write_text(text)

    status, said = tool("--against", "net", "--protocol", "all_eroded")
    assert (status, "0 of 8 cells to do" in said) == (0, True)
    assert "| random - net " in (folder / "table.md").read_text()
    # The labels turn out not to have it.
    assert "warning: no result has the protocol all_eroded; this is of all" in said


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(
    tool, tmp_path, trouble, monkeypatch, capsys
):
    file, folder = trouble("fail_train_net_f0.5_s1"), tmp_path / "grid"
    status, said = tool()
    assert status == 1
    assert (folder / "calls").read_text().count("train ") == 8
    assert re.search(r"FAILED after \d+ s: weights of another network \(see ", said)
    assert "1 cell without a result; the same command tries again" in said
    table = (folder / "table.md").read_text()
    assert "45.0 (1 of 2)" in table
    assert "net, 50 %, seed 1: weights of another network" in table

    # The report is written again from the cells alone.
    texts = {name: (folder / name).read_bytes() for name in ("table.csv", "table.md")}
    for name in (*texts, "report.html", "curves.png"):
        (folder / name).unlink()
    report = importlib.import_module("SSLRemoteSensing.commands.report")
    monkeypatch.setattr(sys, "argv", ["sslrs report", str(folder)])
    report.main()
    assert f"results: {folder / 'table.md'}" in capsys.readouterr().out
    assert (folder / "report.html").exists()
    assert (folder / "curves.png").exists()
    assert {name: (folder / name).read_bytes() for name in texts} == texts
    monkeypatch.setattr(sys, "argv", ["sslrs report", str(folder), "--against", "nett"])
    with pytest.raises(UserError, match="--against nett: is no initialisation of the grid"):
        report.main()

    status, said = tool("--seeds", "0")  # it is no longer asked for
    assert (status, "the same command tries again" in said) == (0, False)
    file.unlink()
    (folder / "calls").unlink()
    assert tool()[0] == 0
    calls = (folder / "calls").read_text()
    assert (calls.split()[1], calls.count("train ")) == ("net_f0.5_s1", 1)
    assert not any(row["error"] for row in table_of(folder))
    (folder / "grid.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["sslrs report", str(folder)])
    with pytest.raises(UserError, match=r"grid\.json: damaged"):
        report.main()


def test_the_command_searches_rates_and_says_which(tool, tmp_path, trouble):
    file = trouble("fail_train_net_f1_s1_lr0.1")
    status, said = tool("--lrs", "0.001", "0.01", "0.1")
    assert status == 1
    assert "24 of 24 cells to do" in said
    remark = "net, 100 %: no learning rate is chosen, not all its cells have ended"
    assert remark in said
    assert remark in (tmp_path / "grid/table.md").read_text()
    chosen = {(row["init"], row["fraction"]) for row in table_of(tmp_path / "grid")
              if row["chosen"] == "True"}  # fmt: skip
    assert chosen == {("random", "0.5"), ("random", "1.0"), ("net", "0.5")}
    file.unlink()
    assert tool("--lrs", "0.001", "0.01", "0.1")[0] == 0
    table = (tmp_path / "grid/table.md").read_text()
    assert "Learning rates searched: 0.001, 0.01, 0.1" in table
    assert "**60.0 ± 0.0**" in table
    assert "| random                   | 55.0 ± 0.0" in table


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "train_cfg.optimizer.lrr=1"], "did you mean 'lr'?"),
        (["--set", "train_cfg.device=cuda:99"], "this machine has"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--against", "nett"], "--against nett: is no initialisation of the grid (random, net)"),
        (["--protocol", "eroded"], "--protocol eroded: the cells can have all, all_eroded"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tool, tmp_path, more, said):
    status, output = tool(*more)
    assert (status, output.count("\n"), output[:7]) == (2, 1, "error: ")
    assert said in output
    assert not (tmp_path / "grid").exists()


# From here on with finetune_seg.py itself, on drawn scenes.


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The words of a command on drawn tiles, with a tiny config and weights of its backbone."""
    folder = tmp_path_factory.mktemp("scenes")
    tiles = draw_tiles(folder, 20, size=32)
    config = load_config(ROOT / "configs/demo_oam_finetune_resnet18_cfg.py")
    paths = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    train_cfg = config["train_cfg"]
    train_cfg |= dict(batch_size=2, num_step=2, num_workers=0, device="cpu", precision="fp32")
    train_cfg |= dict(channels_last=False, optimizer=dict(name="SGD", lr=0.01), lr_schedule=None)
    train_cfg["train_data"] = paths | dict(data_format="tile_00*.jpg", crop_size=32)
    train_cfg["val_data"] = paths | dict(data_format="tile_01[0-4].jpg")
    train_cfg["test_data"] = paths | dict(data_format="tile_01[5-9].jpg")
    (folder / "config.py").write_text(f"config = {config!r}\n")
    write(folder / "resnet18.pth", BACKBONES["resnet18"]().state_dict())

    def call(output: Path, *more: str) -> list[str]:
        flags = ["--config_file", str(folder / "config.py"), "--output", str(output)]
        flags += ["--init", "random=random", *more]
        flags = [word.replace("WEIGHTS", str(folder / "resnet18.pth")) for word in flags]
        return [python(), "tools/label_efficiency.py", *flags]

    return call


def run_words(line: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    """Until `condition()`; that of a busy machine takes long, that of a dead process for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_grid_on_drawn_scenes_is_stopped_and_goes_on(command, tmp_path):
    """Ctrl-C, which reaches the whole process group, while the second cell is trained."""
    line = command(tmp_path, "ours=WEIGHTS", "--fractions", "0.05", "1", "--seeds", "0")
    first = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    done = tmp_path / "cells/random_f0.05_s0/cell.json"
    running = tmp_path / "cells/ours_f0.05_s0/output.txt"
    wait_for(
        lambda: done.exists() and running.exists() and "steps in all" in running.read_text(), first
    )
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=300)
    assert first.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert "[2 of 4] ours, 5 %, seed 0: stopped" in out
    assert not (tmp_path / "cells/random_f1_s0/cell.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in done.parent.rglob("*")}

    second = run_words([*line, "--jobs", "2"])
    assert second.returncode == 0, second.stderr
    assert "3 of 4 cells to do, 2 at a time" in second.stdout
    assert {file: file.stat().st_mtime_ns for file in done.parent.rglob("*")} == finished
    rows = table_of(tmp_path)
    expected = [("random", "0.05", "1"), ("random", "1.0", "10")]
    expected += [("ours", "0.05", "1"), ("ours", "1.0", "10")]
    digest = sha256(Path(line[1 + line.index("random=random")].removeprefix("ours=")))[:12]
    assert [(row["init"], row["fraction"], row["tiles"]) for row in rows] == expected
    for row in rows:
        assert (row["status"], row["split"], row["steps"]) == ("done", "test", "2")
        assert 0 <= float(row["all.miou"]) <= 1
        assert row["weights"] == (digest if row["init"] == "ours" else "")
        cell = tmp_path / f"cells/{row['init']}_f{float(row['fraction']):g}_s0"
        assert len((cell / "train_tiles.txt").read_text().splitlines()) == int(row["tiles"])
    table = (tmp_path / "table.md").read_text()
    assert "5 % would be less than one tile: at least one is kept." in table
    assert "1 seed, so without intervals" in table
    assert (tmp_path / "curves.png").exists()
    assert not list(tmp_path.rglob("latest.pth")) + list(tmp_path.rglob("best.pth"))

    third = run_words([sys.executable, *line[1:], "--dry_run"])
    assert third.returncode == 0, third.stderr
    assert (third.stdout.count("done   "), third.stdout.count("to do  ")) == (4, 0)


def test_test_tiles_are_read_for_the_chosen_rate_alone_and_at_the_end(command, tmp_path):
    """All but the first are empty at first: all training and the choice do without them."""
    absent = draw_tiles(tmp_path / "later", 20, size=32, seed=1)
    for file in sorted(absent.glob("*/*"))[1:]:
        file.write_bytes(b"")
    paths = f"train_cfg.test_data.image_path={absent}/images"
    paths = [paths, f"train_cfg.test_data.label_path={absent}/labels"]
    flags = ["--fractions", "1", "--seeds", "0", "--lrs", "0.01", "--set", *paths]
    line = command(tmp_path / "grid", *flags)
    first = run_words(line)
    assert first.returncode == 1, first.stderr
    cell = tmp_path / "grid/cells/random_f1_s0_lr0.01"
    assert json.loads((cell / "results.json").read_text())["split"] == "val"
    assert str(absent) in first.stdout.rpartition("FAILED")[2]
    val = json.loads((cell / "cell.json").read_text())["val"]["all"]["miou"]
    assert (cell / "best.pth").exists()

    draw_tiles(absent, 20, size=32, seed=1)
    second = run_words(line)
    assert second.returncode == 0
    assert "test mIoU" in second.stdout
    assert "at the lower end of the list" in second.stdout
    assert json.loads((cell / "results.json").read_text())["split"] == "test"
    after = json.loads((cell / "cell.json").read_text())
    assert (after["status"], after["val"]["all"]["miou"]) == ("done", val)
    assert not (cell / "best.pth").exists()
