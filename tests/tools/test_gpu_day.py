"""tools/gpu_day.py: a whole day at toy size, without what its machine may lack; and days that are
stopped, fail or hang."""

import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import gpu_day
import pytest
import torch
from conftest import draw_tiles
from gpu_parts import day as days
from gpu_parts import maps, packing, parts, smoke, throughput
from gpu_parts.day import Command, Day, Part
from preloaded import python

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json

ABSENT = ("rasterio", "segmentation_models_pytorch")
SPLITS = ("train",) * 4 + ("val", "test")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """Tiles of 64 as `pack` makes them, of sets drawn in the layout of the open ones."""
    folder = tmp_path_factory.mktemp("gpu_pack")
    for number, name in enumerate((*packing.SETS, packing.EXTRA)):
        data = draw_tiles(folder / f"data/{name}", len(SPLITS), size=256, seed=number)
        rows = [f"tile_{number:03d},{split}" for number, split in enumerate(SPLITS)]
        (data / "scenes.csv").write_text("\n".join(["scene,split", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python())
        patch.setattr(packing, "QUALITY", {64: 90})
        patch.setattr(packing, "SETS", {"mumbai": packing.SETS["mumbai"]})
        packing.pack(folder / "data", folder / "pack")
    return folder / "pack"


def script(folder: Path, name: str, text: str) -> list[str]:
    path = folder / f"{name}.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def day_of(folder: Path, commands: list[Command], seconds: float = 60.0) -> Day:
    (folder / "out").mkdir(exist_ok=True)
    part = Part("part", "of a test", commands)
    deadline = time.monotonic() + seconds + days.GRACE
    return Day([part], folder / "out", folder / "work", deadline, dict(os.environ))


def states(folder: Path) -> dict[str, str]:
    commands = read_json(folder / "out/part.json")["commands"]
    return {name: record["status"] for name, record in commands.items()}


def test_a_whole_day_at_toy_size_without_what_its_machine_may_lack(
    pack, monkeypatch, tmp_path, capsys
):
    """All parts run, on the CPU; the same command again has nothing left to do."""
    for name in ABSENT:
        (tmp_path / f"absent/{name}").mkdir(parents=True)
        (tmp_path / f"absent/{name}/__init__.py").write_text("raise ModuleNotFoundError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))  # of the cells' interpreters
    monkeypatch.setenv("ABSENT_MODULES", " ".join(ABSENT))  # of tests/preloaded.py
    monkeypatch.setenv("GPU_TESTS_ON", "cpu")
    monkeypatch.setattr(sys, "executable", python())
    line = ["gpu_day.py", "--toy", "--minutes", "30", "--pack", pack, "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", list(map(str, line)))
    gpu_day.main()
    printed = capsys.readouterr().out
    summary = (tmp_path / "out/summary.md").read_text()
    assert summary.endswith(printed[printed.index("| part |") :])
    assert "Toy size, on the CPU" in summary
    found = {name: read_json(tmp_path / f"out/{name}.json")["commands"] for name in gpu_day.NAMES}
    for name, commands in found.items():
        for command, record in commands.items():
            assert record["status"] == "done", (name, command, record)
            assert record["figures"]["headline"]
    cases = found["smoke"]["smoke"]["figures"]["cases"]
    assert len(cases) == len(smoke.MODES) * len(smoke.OPENINGS)
    assert all(case["passes"] for case in cases.values())
    assert cases["pretrain fp32"]["first"] == cases["finetune compiled"]["first"] == 0
    assert cases["pretrain resume"]["equal"]
    assert cases["pretrain bf16"]["first"] > 0
    assert found["nccl"]["collectives"]["figures"]["backend"] == "gloo"
    assert not found["tests"]["pytest"]["figures"]["failed"]
    assert len(found["tests"]["pytest"]["figures"]["passed"]) > 4
    fast = found["throughput"]["throughput"]["figures"]["measured"]["vgg16_bn batch 2"]
    assert fast["images_per_second"] == 2 / fast["step_s"]
    assert 0 < fast["mfu"] < 1
    assert found["maps"]["maps"]["figures"]["measured"]["resnet18"]["megapixels_per_second"] > 0
    grid = found["evidence"]["mumbai_64px_x1"]["figures"]
    assert set(grid["miou"]["1.0"]) == {"random", "few_labels"}
    begun = time.monotonic()
    gpu_day.main()
    assert time.monotonic() - begun < 20
    assert "..." not in capsys.readouterr().out


def test_a_day_that_is_stopped_goes_on_with_what_is_left(tmp_path):
    """The first command is asked to end while it works, saves, and goes on from there."""
    first = script(
        tmp_path, "first",
        """
import pathlib, signal, sys, time
state = pathlib.Path(sys.argv[1])
begun = state.exists()
def save(number, frame):
    state.write_text('{"headline": "saved"}')
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
if not begun:
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(60)
state.write_text('{"headline": "whole"}')
""",
    )  # fmt: skip
    state, ready = tmp_path / "state.json", tmp_path / "ready"
    commands = [
        Command("first", [*first, str(state), str(ready)], 60, lambda: read_json(state)),
        Command("second", [sys.executable, "-c", "print(1)"], 60, dict),
    ]
    day = day_of(tmp_path, commands)
    poll = days.POLL

    class Clock:
        """As soon as the first one works, SIGTERM comes to the day."""

        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(poll)
            if ready.exists() and not state.exists() and not day.signals:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(days, "time", Clock)
        day.run()
    assert states(tmp_path) == {"first": "stopped", "second": "to do"}
    assert read_json(tmp_path / "out/part.json")["commands"]["first"]["figures"] == {
        "headline": "saved"
    }
    day_of(tmp_path, commands).run()
    assert states(tmp_path) == {"first": "done", "second": "done"}
    again = day_of(tmp_path, commands)
    again.run_command = None  # nothing is left
    again.run()
    assert "| part | first | done |" in again.summary()
    assert "whole" in again.summary()


def test_what_fails_or_hangs_takes_nothing_with_it(tmp_path, monkeypatch):
    """One that hangs and does not hear SIGTERM ends with all that it started; the next call tries
    these after the others."""
    monkeypatch.setattr(days, "GRACE", 0.5)
    hangs = script(
        tmp_path, "hangs",
        """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
""",
    )  # fmt: skip
    order, pid = tmp_path / "order", tmp_path / "pid"
    note = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    fails = [sys.executable, "-c", f"{note}; raise RuntimeError('no\\nkernel')"]
    commands = [
        Command("fails", [*fails, str(order), "f"], 60, dict),
        Command("hangs", [*hangs, str(pid)], 5, dict),
        Command("missing", ["/no/such/program"], 60, dict),
        Command("waits", [sys.executable, "-c", "1"], 60, dict, needs=["fails"]),
        Command("last", [sys.executable, "-c", note, str(order), "l"], 60, dict),
    ]
    commands[0] = Command(*list(vars(commands[0]).values())[:4], makes=tmp_path / "never")
    day = day_of(tmp_path, commands)
    day.run()
    found = states(tmp_path)
    assert found == {
        "fails": "failed", "hangs": "timed out", "missing": "failed", "waits": "to do",
        "last": "done",
    }  # fmt: skip
    assert order.read_text() == "fl"
    records = day.records["part"]
    assert "RuntimeError: no" in records["fails"]["error"]
    assert "/no/such/program" in records["missing"]["error"]
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(int(pid.read_text()))
    assert day.has_failed()
    new = Command("new", [sys.executable, "-c", note, str(order), "n"], 60, dict)
    day_of(tmp_path, [commands[0], new]).run()
    assert order.read_text() == "flnf"


def is_running(number: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False


def test_no_command_is_begun_that_has_no_time(tmp_path):
    day = day_of(tmp_path, [Command("late", [sys.executable, "-c", "1"], 60, dict)], seconds=1)
    day.run()
    assert states(tmp_path) == {"late": "to do"}


def test_what_a_day_needs_is_made_again_where_it_is_gone(tmp_path):
    made = tmp_path / "made"
    touch = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    maker = Command("maker", [sys.executable, "-c", touch, str(made)], 60, dict, makes=made)
    user = Command("user", [sys.executable, "-c", "1"], 60, dict, needs=["maker"])
    day_of(tmp_path, [maker]).run()
    made.unlink()  # as on another machine
    day_of(tmp_path, [maker, user]).run()
    assert states(tmp_path) == {"maker": "done", "user": "done"}
    assert made.exists()
    made.unlink()
    day_of(tmp_path, [maker, user]).run()
    assert not made.exists()  # nobody needs it any more


def test_what_was_stopped_half_way_is_not_used(tmp_path):
    made = tmp_path / "made"
    half = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    maker = Command("maker", [sys.executable, "-c", half, str(made)], 1.5, dict, makes=made)
    user = Command("user", [sys.executable, "-c", "1"], 60, dict, needs=["maker"])
    day_of(tmp_path, [maker, user]).run()
    assert made.exists()
    assert states(tmp_path) == {"maker": "timed out", "user": "to do"}


def test_out_of_memory_is_a_result_and_nothing_is_measured_twice(monkeypatch, tmp_path):
    calls = []

    def measurements(args):
        def measure(name: str, found):
            def parts(scratch: Path):
                calls.append(name)
                if isinstance(found, Exception):
                    raise found
                yield found

            return name, parts

        fast = {"flops_per_image": 4e11, "images_per_second": 50.0}
        yield measure("matmul", {"ceiling_matmul_tflops": 100.0})
        yield measure("vgg16_bn batch 64", fast)
        yield measure("vgg16_bn batch 512", torch.OutOfMemoryError("CUDA out of memory"))
        yield measure("vgg16_bn compiled", RuntimeError("no\ncompiler"))
        yield measure("vgg16_bn loop, 8 workers", {"images_per_second": 45.0, "data_wait": 0.01})

    monkeypatch.setattr(throughput, "measurements", measurements)
    output = tmp_path / "figures.json"
    line = ["throughput", "--output", output, "--work", tmp_path / "work", "--images", "none"]
    monkeypatch.setattr("sys.argv", list(map(str, line)))
    throughput.main()
    measured = read_json(output)["measured"]
    assert measured["vgg16_bn batch 64"]["mfu"] == pytest.approx(50 * 4e11 / 100e12)
    assert measured["vgg16_bn loop, 8 workers"]["mfu"] == pytest.approx(0.18)
    assert measured["vgg16_bn batch 512"] == {"out_of_memory": True}
    assert measured["vgg16_bn compiled"] == {"not_measured": "RuntimeError: no compiler"}
    assert "batch 512: out of memory" in read_json(output)["headline"]
    throughput.main()
    assert len(calls) == 5


def test_maps_are_measured_from_file_to_file_where_rasterio_is(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", python())
    found = maps.file_rate(Namespace(work=tmp_path, toy=True), 96, 64)
    assert found["megapixels_per_second"] == found["map_pixels_per_second"] / 1e6 > 0


def test_pre_trainings_that_cost_least_come_first(pack, tmp_path, monkeypatch):
    """By windows of the same ground, each at the sides that its grids are of."""
    monkeypatch.setattr(parts, "packed_sets", lambda pack, side: ["mumbai"])
    commands = parts.evidence(parts.Place(pack, tmp_path, toy=False))
    names = [command.name for command in commands]
    assert names[:4] == ["pretrain_64px_x10", "mumbai_64px_x10", "pretrain_64px_x30",
                         "mumbai_64px_x30"]  # fmt: skip
    assert len(names) == 2 * len(parts.TIMES) * len(parts.SIDES)
    last = commands[names.index("pretrain_256px_x100")].words
    assert {"train_cfg.num_step=150000", "train_cfg.train_data.img_size=128"} <= {*last}
    assert commands[-1].needs == ["pretrain_256px_x100"]


def test_mistakes_are_one_line(monkeypatch, tmp_path):
    for words, text in (
        (["pack", "--data", "nowhere"], "nowhere: has no mumbai/images"),
        (["--minutes", "0"], "must be above 0"),
        (["--pack", "nowhere"], "has no tiles; python tools/gpu_day.py pack"),
    ):
        monkeypatch.setattr("sys.argv", ["gpu_day.py", "--out", str(tmp_path / "out"), *words])
        with pytest.raises(UserError, match=text):
            gpu_day.main()


def test_the_list_runs_nothing(pack, monkeypatch, tmp_path, capsys):
    words = ["--list", "--pack", str(pack), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["gpu_day.py", *words])
    gpu_day.main()
    printed = capsys.readouterr().out
    assert printed.count("| to do |") > 10
    assert not list((tmp_path / "out").iterdir())
