"""A run's folder: one run at a time, and neither damage, a full disk nor a signal loses the run."""

import errno
import io
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from calls import command
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import TinyNet, at_call, entries, images_of, interrupt_at, moved, train

from SSLRemoteSensing.core import checkpoints, locks
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.logger import RunLog
from SSLRemoteSensing.training.rehearsal import rehearse
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task

MARK = torch.full((8,), 0.7312)
BITS = MARK.numpy().tobytes()
DAMAGES = {
    # One bit of a weight: torch opens the file, and gives another number.
    "flipped": lambda data: data.replace(BITS, bytes([BITS[0] ^ 1]) + BITS[1:]),
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


def marked(config: dict) -> TinyNet:
    """With weights that can be found in a file's bytes."""
    net = TinyNet()
    net.register_buffer("mark", MARK.clone())
    return net


def dry_run(config: dict) -> None:
    """Of the network that `train` trains."""
    others = ("train_data", "losses")
    loop = LoopSettings(**{k: v for k, v in config["train_cfg"].items() if k not in others})
    rehearse(Task(marked(config), images_of(config), collate, {"config": config}), loop)


def damage(path, how: str) -> bytes:
    """Damage a file in place, as a disk does: another name of it would be damaged, too."""
    data, damaged = path.read_bytes(), DAMAGES[how](path.read_bytes())
    assert damaged != data
    path.write_bytes(damaged)
    return damaged


def whole_files(folder) -> dict[str, int]:
    """The step of each checkpoint in `folder`; a damaged one raises."""
    return {file.name: checkpoints.read(file)["step"] for file in sorted(folder.glob("*.pth"))}


def steps_of_events(folder, tag: str = "losses/sum") -> list[int]:
    """The steps of a curve, as TensorBoard shows it."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


# Damage.


@pytest.fixture
def finished(pretext_config, tmp_path):
    """The folder of a run of three epochs of six steps, and what its weights are."""
    pretext_config["train_cfg"]["checkpoints"]["max_keep"] = 3
    model = train(pretext_config, build=marked, num_epoch=3)
    return tmp_path / "run", model.state_dict()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_latest_is_put_aside_for_the_newest_good_epoch(finished, how, capsys):
    folder, weights = finished
    damaged = damage(folder / "latest.pth", how)
    state = run_folder.read(folder)
    assert state["step"] == 18
    assert all(torch.equal(value, weights[key]) for key, value in state["model"].items())
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {folder}/latest.pth: damaged, ")
    assert said.endswith("latest.damaged.pth; going back to epoch_0003.pth, step 18\n")
    assert (folder / "latest.damaged.pth").read_bytes() == damaged
    assert run_folder.read(folder)["step"] == 18
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_dry_run_looks_at_the_checkpoint_that_the_run_would_go_on_from(
    finished, pretext_config, capsys, how
):
    """Which is an epoch's here: another network is refused now, not after the dry run."""
    folder, _ = finished
    latest = folder / "latest.pth"
    latest.unlink() if how == "gone" else damage(latest, how)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    dry_run(pretext_config)
    assert "one step: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"epoch_0003\.pth: agr_head_cfg was .* is now None"):
        dry_run(pretext_config | {"agr_head_cfg": None})
    for file in folder.glob("*.pth"):
        damage(file, "empty") if file.stat().st_size else None
    with pytest.raises(UserError, match=r"latest\.pth: damaged or gone, and no epoch_\*"):
        dry_run(pretext_config)
    assert before.keys() == {file.name for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_run_that_goes_back_an_epoch_ends_as_if_nothing_had_been(
    finished, pretext_config, capsys, how
):
    """A new run would write over the epochs that are left of the old one."""
    folder, weights = finished
    logged = [(entry["step"], entry["loss"]) for entry in entries(pretext_config)]
    for name in ("latest.pth", "epoch_0003.pth"):
        (folder / name).unlink() if how == "gone" else damage(folder / name, how)
    model = train(pretext_config, build=marked, num_epoch=3)
    said = capsys.readouterr().err
    assert "going back to epoch_0002.pth, step 12" in said
    assert ("latest.pth: is not there; " in said) == (how == "gone")
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert [(entry["step"], entry["loss"]) for entry in entries(pretext_config)] == logged
    assert steps_of_events(folder / "log") == [step for step, _ in logged]


def test_damaged_later_epochs_are_passed_over_and_do_not_push_out_the_one_just_written(
    finished, capsys
):
    folder, _ = finished
    for name, how in zip(("latest", "epoch_0003", "epoch_0002"), DAMAGES, strict=True):
        damage(folder / f"{name}.pth", how)
    state = run_folder.read(folder)
    assert state["step"] == 6
    assert "going back to epoch_0001.pth" in capsys.readouterr().err
    run_folder.save(folder, state, finished_epoch=2, max_keep=1)
    latest, kept = (folder / name for name in ("latest.pth", "epoch_0002.pth"))
    assert checkpoints.read(kept)["step"] == 6
    assert not (folder / "epoch_0001.pth").exists()
    assert latest.read_bytes() == kept.read_bytes()
    assert not latest.samefile(kept)


def test_a_folder_of_damaged_files_alone_is_an_error_of_one_line(finished, pretext_config):
    folder, _ = finished
    for number, how in ((1, "empty"), (2, "flipped"), (3, "truncated")):
        damage(folder / f"epoch_000{number}.pth", how)
    damage(folder / "latest.pth", "flipped")
    before = {file.name: file.read_bytes() for file in folder.glob("*.pth")}
    with pytest.raises(UserError, match=r"latest\.pth: damaged or gone, and no epoch_\*"):
        train(pretext_config, build=marked, num_epoch=3)
    assert {file.name: file.read_bytes() for file in folder.glob("*.pth")} == before


def test_a_checkpoint_that_cannot_be_opened_is_not_called_damaged(finished, monkeypatch):
    """A lost mount says so of files that are whole: they must not be put aside."""
    folder, _ = finished

    def lost(path, *args):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(type(folder), "open", lost)
    with pytest.raises(UserError, match="cannot be opened") as error:
        run_folder.read(folder)
    assert not isinstance(error.value, checkpoints.Damaged)
    assert (folder / "latest.pth").exists()


def stale(*args, **options):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def filled(*args):
    raise MemoryError


class StaleFile(io.FileIO):
    """Its first bytes are cached, no others."""

    def read(self, size=-1):
        return super().read(size) if 0 <= size < 512 else stale()


def no_memory(*args, **options):
    """What torch says, of 4 kB in place of 2^60 bytes, which no file has."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    raise RuntimeError(str(refused.value).replace(str(2**60), "4096"))


READ_FAULTS = {
    "while members are tested": (zipfile.ZipFile, "testzip", stale, "Stale file handle"),
    "while it is asked whether it is an archive": (
        pathlib.Path,
        "open",
        lambda path, mode: StaleFile(path),
        "Stale file handle",
    ),
    "while it is loaded": (torch, "load", stale, "Stale file handle"),
    "no memory for Python": (zipfile.ZipFile, "testzip", filled, "too little memory"),
    "no memory for torch": (torch, "load", no_memory, "too little memory"),
}


@pytest.mark.parametrize("when", READ_FAULTS)
def test_what_cannot_be_read_is_not_put_aside_as_damaged(finished, monkeypatch, when):
    """The run would go back to an epoch before, of files that are all whole."""
    folder, _ = finished
    before = {file.name: file.read_bytes() for file in folder.glob("*.pth")}
    owner, name, fault, reason = READ_FAULTS[when]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fault)
        with pytest.raises(UserError, match=rf"latest\.pth: cannot be read \({reason}") as error:
            run_folder.read(folder)
    assert not isinstance(error.value, checkpoints.Damaged)
    assert {file.name: file.read_bytes() for file in folder.glob("*.pth")} == before
    assert run_folder.read(folder)["step"] == 18


def test_a_run_of_version_1_whose_disk_was_full_repeats_the_epoch(finished, capsys):
    """Its checkpoint said that something else of its epoch was not written."""
    folder, _ = finished
    state = checkpoints.read(folder / "latest.pth")
    for name in ("latest.pth", "epoch_0003.pth"):
        torch.save(state | {"pending": True, "checksum": "its own"}, folder / name)
    assert run_folder.read(folder)["step"] == 12
    assert "going back to epoch_0002.pth, step 12" in capsys.readouterr().err
    for file in folder.glob("epoch_*.pth"):
        file.unlink()
    torch.save(state | {"pending": True, "checksum": "its own"}, folder / "latest.pth")
    assert run_folder.read(folder)["step"] == state["step"]  # rather than to lose all of it
    assert "going on without them" in capsys.readouterr().err


def test_a_backbone_that_is_not_its_card_s_is_refused(tmp_path):
    """Its file is a plain state_dict: the card has the hash of the file."""
    checkpoints.export_backbone(tmp_path, {"features.0.weight": MARK}, {"name": "vgg16"})
    path = tmp_path / "backbone.pth"
    assert checkpoints.read_card(path, checkpoints.read(path))["name"] == "vgg16"
    torch.save({"features.0.weight": MARK + 1}, path)
    with pytest.raises(checkpoints.Damaged, match=r"not the file of its card backbone\.json"):
        checkpoints.read_card(path, checkpoints.read(path))


# Results that are lost.


def test_a_best_that_is_lost_is_not_waited_for(pretext_config, tmp_path, capsys):
    """No later score is as high as its own; the run would end without any best.pth."""
    best = tmp_path / "run/best.pth"
    train(pretext_config, num_epoch=1, evaluate=lambda: {"miou": 0.9})
    best.unlink()
    scores = iter([0.3, 0.2])
    model = train(pretext_config, num_epoch=3, evaluate=lambda: {"miou": next(scores)})
    assert checkpoints.read(best)["step"] == 12
    assert "best.pth: is not there; the best epoch from here on" in capsys.readouterr().err
    best.unlink()
    train(pretext_config, num_epoch=3, evaluate=lambda: {"miou": next(scores)})
    restored = checkpoints.read(best)
    assert restored["step"] == 18
    weights = model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in restored["model"].items())
    assert restored["card"] == checkpoints.read(best.with_name("latest.pth"))["card"]
    assert "best.pth: is not there; the weights after the last step" in capsys.readouterr().err


def test_a_finished_run_without_best_gets_none(pretext_config, tmp_path):
    for _ in range(2):
        train(pretext_config)
        assert not (tmp_path / "run/best.pth").exists()


def test_what_a_finished_run_has_exported_and_lost_is_exported_again(pretext_config, tmp_path):
    files, exported, model = [tmp_path / "run/a", tmp_path / "run/b"], [], TinyNet()

    def export(place):
        exported.append((place.epoch, place.step, place.images, model.agr.weight.tolist()))
        for file in files:
            file.touch()

    tasks = dict(build=lambda _: model, export=export, exported=files)
    train(pretext_config, **tasks)
    assert len(exported) == 2
    train(pretext_config, **tasks)
    assert len(exported) == 2
    files[1].unlink()
    model = tasks["build"](None)
    torch.nn.init.zeros_(model.agr.weight)
    train(pretext_config, **tasks)
    assert exported[2] == exported[1]


# A second run.


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended(
    pretext_config, tmp_path, capsys
):
    """However the first ends: after SIGKILL its workers still live for seconds."""
    pretext_config["train_cfg"] |= dict(num_epoch=1000, num_workers=1)
    pretext_config["train_cfg"]["checkpoints"]["save_step"] = 1000
    pretext_config["train_cfg"]["log"]["log_step"] = 1
    file, log = tmp_path / "first.py", tmp_path / "run/log/metrics.jsonl"
    file.write_text(f"config = {pretext_config!r}\n")
    line = [sys.executable, "train.py", "--config_file", str(file)]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = subprocess.Popen(line, cwd=ROOT, start_new_session=True, **quiet)
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert command("train.py", pretext_config, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"another run is writing there (process {first.pid} on " in line
    assert first.poll() is None
    first.kill()
    first.wait()
    with run_folder.locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run/.lock").exists()
    os.killpg(first.pid, signal.SIGKILL)  # its workers


HOLD = """
import pathlib, sys, time
from SSLRemoteSensing.training import run_folder
with run_folder.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_with_the_same_log_is_refused_and_what_killed_ones_left_is_cleared_up(
    pretext_config, tmp_path
):
    """It would put the first one's metrics aside."""
    folder = tmp_path / "run/log"
    folder.mkdir(parents=True)
    holder = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        text = (
            rf"run/log: another run .*process {process.pid} .* set another train_cfg\.log\.log_path"
        )
        for attempt in (train, dry_run):
            with pytest.raises(UserError, match=text):
                attempt(pretext_config)
        process.kill()
    for name in ("run/.epoch_0009.pth.part", "run/.writable.1", "run/log/.metrics.jsonl.part"):
        (tmp_path / name).write_bytes(bytes(100))
    train(pretext_config)
    assert not list(tmp_path.glob("run/**/.*"))


def test_a_folder_that_cannot_be_locked_is_said_and_used(tmp_path, monkeypatch, capsys):
    def unknown(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", unknown)
    with run_folder.locked(tmp_path):
        assert "cannot be locked against a second run" in capsys.readouterr().err


# A full disk.


@pytest.fixture
def full_disk(monkeypatch):
    """Two functions: fill the disk, and empty it again."""
    original, full = os.fsync, []

    def fsync(number):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(number)

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda: full.append(1), full.clear


@pytest.fixture
def largest_file():
    """Set how large the system lets a file grow: a write that fails for real, half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int = soft) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    limit()
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, full_disk):
    path = tmp_path / "latest.pth"
    checkpoints.write(path, {"a": torch.ones(3)})
    full_disk[0]()
    with pytest.raises(UserError, match="No space left"):
        checkpoints.write(path, {"a": torch.zeros(3)})
    assert torch.equal(checkpoints.read(path)["a"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pth"]


def test_a_full_disk_is_said_and_the_next_checkpoint_tries_again(
    pretext_config, tmp_path, full_disk, capsys
):
    fill, free = full_disk
    during = []

    def sabotage(model):
        at_call(7, fill)(model)  # the second epoch's checkpoint fails, the third's does not
        at_call(13, lambda: during.append(whole_files(tmp_path / "run")))(model)
        at_call(13, free)(model)

    pretext_config["train_cfg"]["checkpoints"]["max_keep"] = 3
    straight = train(moved(pretext_config, tmp_path / "straight"), num_epoch=3).state_dict()
    model = train(pretext_config, sabotage, num_epoch=3)
    said = capsys.readouterr().out
    assert said.count("cannot be written (") == said.count("training goes on") == 1
    assert "No space left on device" in said
    assert during == [{"epoch_0001.pth": 6, "latest.pth": 6}]
    files = {"epoch_0001.pth": 6, "epoch_0003.pth": 18, "latest.pth": 18}
    assert whole_files(tmp_path / "run") == files
    assert not list((tmp_path / "run").glob(".*"))
    assert all(torch.equal(value, straight[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("stops", [False, True])
def test_a_last_checkpoint_that_cannot_be_written_is_an_error(
    pretext_config, tmp_path, full_disk, stops
):
    """At the end, and where a signal stops the run."""

    def sabotage(model):
        at_call(8, full_disk[0])(model)
        if stops:
            interrupt_at(9, signal.SIGTERM)(model)

    with pytest.raises(CannotWrite, match=r"\.pth: cannot be written .*No space left"):
        train(pretext_config, sabotage)
    assert whole_files(tmp_path / "run") == {"epoch_0001.pth": 6, "latest.pth": 6}
    assert not list((tmp_path / "run").glob(".*"))
    full_disk[1]()
    train(pretext_config)
    assert whole_files(tmp_path / "run")["latest.pth"] == 12


def test_a_file_that_the_system_cuts_off_replaces_none(
    pretext_config, tmp_path, capsys, largest_file
):
    def sabotage(model):
        at_call(7, lambda: largest_file(15_000))(model)
        at_call(13, largest_file)(model)

    pretext_config["train_cfg"]["checkpoints"] |= dict(save_minutes=1e-9, max_keep=3)
    train(pretext_config, sabotage, num_epoch=3)
    said = capsys.readouterr().out
    assert said.count("cannot be written (") == said.count("training goes on") == 6
    files = {"epoch_0001.pth": 6, "epoch_0003.pth": 18, "latest.pth": 18}
    assert whole_files(tmp_path / "run") == files
    assert not list((tmp_path / "run").glob(".*"))


def test_no_checkpoint_is_written_where_something_else_of_its_epoch_could_not_be(
    pretext_config, tmp_path
):
    """The same command then does that epoch again; with all steps done it would do nothing."""
    exported = []

    def export(place):
        exported.append(place.step)
        if len(exported) == 2:
            raise CannotWrite("backbone.pth: cannot be written")

    tasks = dict(export=export, evaluate=lambda: {"miou": 0.5})
    with pytest.raises(CannotWrite, match=r"backbone\.pth"):
        train(pretext_config, **tasks)
    assert whole_files(tmp_path / "run") == {"best.pth": 6, "epoch_0001.pth": 6, "latest.pth": 6}
    for _ in range(2):
        train(pretext_config, **tasks)
        assert exported == [6, 12, 12]
    steps = [entry["step"] for entry in entries(pretext_config) if "val_miou" in entry]
    assert steps == [6, 12]


def test_a_backbone_that_cannot_be_written_does_not_cost_the_best_weights(pretext_config, tmp_path):
    """best.pth was written: a worse score of a later epoch must not take its place."""
    scores, failures = iter([0.7, 0.2]), [CannotWrite("backbone.pth: cannot be written")]

    def export(place):
        if failures:
            raise failures.pop()

    train(pretext_config, export=export, evaluate=lambda: {"miou": next(scores)})
    assert checkpoints.read(tmp_path / "run/best.pth")["step"] == 6


def test_metrics_that_cannot_be_written_do_not_end_the_run(pretext_config, tmp_path, capsys):
    """On a full disk the entries are lost, and said to be, once."""
    path = tmp_path / "run/log/metrics.jsonl"

    def fill():
        path.unlink()
        path.symlink_to("/dev/full")

    train(pretext_config, at_call(4, fill))
    printed = capsys.readouterr()
    assert printed.err.count("entries are lost") == 1
    assert "No space left on device" in printed.err
    assert "step 12/12" in printed.out
    assert checkpoints.read(tmp_path / "run/latest.pth")["step"] == 12


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_that_cannot_be_written_do_not_end_the_run(
    pretext_config, tmp_path, capsys, largest_file
):
    """TensorBoard's thread ends at the first error: its curves go on when there is room again."""
    pretext_config["train_cfg"]["log"]["log_step"] = 1
    pretext_config["train_cfg"]["checkpoints"]["save_step"] = 9

    def sabotage(model):
        at_call(4, lambda: largest_file(100))(model)
        at_call(7, largest_file)(model)

    train(pretext_config, sabotage)
    said = capsys.readouterr().err
    assert said.count("entries are lost (") == 1
    assert "File too large" in said
    left = [1, 2, 3, 7, 8, 9, 10, 11, 12]
    assert [entry["step"] for entry in entries(pretext_config)] == left
    assert steps_of_events(tmp_path / "run/log") == left


# The log of a run that was cut off.


def test_an_entry_is_on_the_disk_when_it_is_written(tmp_path):
    """A run that is killed loses none: TensorBoard's writer alone keeps them for two minutes."""
    (tmp_path / "log").mkdir()
    log = RunLog(tmp_path / "log", 0, 2)
    log.write({"step": 1, "epoch": 0, "loss": 0.5})
    shutil.copytree(tmp_path / "log", tmp_path / "then")
    log.close()
    assert steps_of_events(tmp_path / "then") == [1]
    assert json.loads((tmp_path / "then/metrics.jsonl").read_text())["step"] == 1


@pytest.mark.parametrize("killed_at", [5, 9])
def test_what_a_run_logged_after_its_last_checkpoint_is_not_shown_twice(
    pretext_config, tmp_path, killed_at
):
    """Nor before its first one; and where what was logged last is no text."""

    def kill():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(pretext_config, at_call(killed_at, kill))
    with (tmp_path / "run/log/metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    time.sleep(1.1)  # event files are named, and so put in order, by the second
    train(pretext_config)
    assert [entry["step"] for entry in entries(pretext_config)] == [2, 4, 6, 8, 10, 12]
    assert steps_of_events(tmp_path / "run/log") == [2, 4, 6, 8, 10, 12]


# Signals.


def test_sigusr1_saves_and_the_run_goes_on(pretext_config, tmp_path):
    seen = []

    def sabotage(model):
        interrupt_at(2, signal.SIGUSR1)(model)
        for number in (3, 5):
            at_call(number, lambda: seen.append(whole_files(tmp_path / "run")))(model)

    train(pretext_config, sabotage)
    assert seen == [{"latest.pth": 2}] * 2
    assert whole_files(tmp_path / "run")["latest.pth"] == 12


def test_sigusr1_before_the_first_step_ends_nothing():
    """Some batch systems send it early."""
    code = "import os, signal\nfrom SSLRemoteSensing.core.errors import run_command\n"
    code += "run_command(lambda: (os.kill(os.getpid(), signal.SIGUSR1), print('still here')))\n"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "still here\n"), done.stderr


def test_sigterm_to_all_lets_a_long_step_end_and_save(pretext_config, tmp_path):
    """Batch systems signal the workers, too; the step still needs them."""
    pretext_config["train_cfg"] |= dict(num_workers=1, num_epoch=1)

    def long_step():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)

    with pytest.raises(SystemExit, match="143"):
        train(pretext_config, at_call(2, long_step))
    assert whole_files(tmp_path / "run")["latest.pth"] == 2
    assert not multiprocessing.active_children()


def test_a_second_sigint_ends_at_once(pretext_config, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        # Two that come at once are one to Python.
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(pretext_config, at_call(1, twice))
    assert not list((tmp_path / "run").glob("*.pth"))
    assert not (tmp_path / "run/.lock").exists()
