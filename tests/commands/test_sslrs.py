"""`sslrs` and `python -m SSLRemoteSensing`: which commands there are, and that they are the same as
the scripts."""

import os
import re
import runpy
import signal
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from SSLRemoteSensing import __version__
from SSLRemoteSensing.__main__ import COMMANDS, main
from SSLRemoteSensing.commands.show import PICTURES
from SSLRemoteSensing.core import console
from SSLRemoteSensing.core.errors import run_command, stoppable

WORDS = {name: module for name, (module, _) in COMMANDS.items() if name != "show"}
WORDS |= {f"show {name}": module for name, (module, _) in PICTURES.items()}
SCRIPTS = {command: script for script, command in console.COMMANDS.items()}


@pytest.fixture
def sslrs(monkeypatch, capsys):
    """The program in this process: exit status, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sslrs", *words])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return call


def test_without_a_command_all_are_listed_with_a_line_each(sslrs):
    status, listed, _ = sslrs()
    assert status == 0
    assert sslrs("--help") == sslrs("-h") == (0, listed, "")
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", listed, re.MULTILINE)
    assert all(f"  {name} " in sslrs("show")[1] for name in PICTURES)


def test_the_versions(sslrs):
    status, versions, _ = sslrs("--version")
    assert status == 0
    assert versions.startswith(f"SSLRemoteSensing {__version__}\ntorch ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "error: sslrs pretrian: no such command, did you mean 'pretrain'?\n"),
        (["--sett"], "error: sslrs --sett: no such command, known: "),
        (["show", "label"], "error: sslrs show label: no such command, did you mean 'labels'?\n"),
    ],
)
def test_an_unknown_command_is_one_line_with_the_nearest_name(sslrs, words, message):
    status, out, error = sslrs(*words)
    assert (status, out) == (2, "")
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_every_script_that_users_know_has_a_command():
    assert set(console.COMMANDS.values()) | {"report"} == WORDS.keys()
    assert all((ROOT / script).is_file() for script in console.COMMANDS)


@pytest.mark.parametrize("words", WORDS)
def test_a_command_has_the_flags_of_its_script(sslrs, words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    status, text, _ = sslrs(*words.split(), "--help")
    assert status == 0
    assert text.startswith(f"usage: sslrs {words} ")
    assert "python" not in text
    if words not in SCRIPTS:
        return
    monkeypatch.setattr(sys, "argv", [SCRIPTS[words], "--help"])
    script = runpy.run_path(str(ROOT / SCRIPTS[words]))
    with pytest.raises(SystemExit) as end:
        script["main"]()
    assert end.value.code == 0
    known = capsys.readouterr().out
    assert known.startswith(f"usage: {SCRIPTS[words].rpartition('/')[2]} ")
    assert f"    python {SCRIPTS[words]} " in known
    assert re.findall(r"--\w+", known) == re.findall(r"--\w+", text)
    assert f"The same as `sslrs {words}`" in script["__doc__"]
    assert not re.search(r"(?<![\w/.])(tools/\w+|train|finetune_seg)\.py", text)  # a wheel has none


@pytest.mark.parametrize("words", WORDS)
def test_help_loads_neither_torch_nor_the_other_commands(words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['', *{words.split()!r}, '--help']\n"
        "try:\n"
        "    runpy.run_module('SSLRemoteSensing', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    loaded = [n for n in sys.modules if n.startswith('SSLRemoteSensing.commands.')]\n"
        "    print('status', end.code, 'torch' in sys.modules, *sorted(loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = [f"SSLRemoteSensing.commands.{WORDS[words]}"]
    loaded += ["SSLRemoteSensing.commands.show"] if words.startswith("show ") else []
    expected = f"status 0 False {' '.join(sorted(loaded))}"
    assert done.stdout.splitlines()[-1] == expected, done.stderr


MODULE = "python -m SSLRemoteSensing"


@pytest.mark.parametrize(
    ("start", "train", "this"),
    [
        ("tools/predict.py", "python train.py", "python tools/predict.py"),
        ("sslrs show labels", "sslrs pretrain", "sslrs show labels"),
        (f"{MODULE} predict", f"{MODULE} pretrain", f"{MODULE} predict"),
    ],
)
def test_the_next_command_is_named_as_this_one_was_started(monkeypatch, start, train, this):
    monkeypatch.setattr(sys, "argv", [start, "--input", "a b.tif"])
    assert console.command_line("train.py", "--set", "a=1") == f"{train} --set a=1"
    assert console.this_command() == f"{this} --input 'a b.tif'"
    assert console.this_command(["--help"]) == f"{this} --help"
    assert console.argv_words() == [*start.split(), "--input", "a b.tif"]
    sentence = "not finished; run tools/prepare.py, /my/train.py is left"
    is_script = start.endswith(".py")
    prepare = "tools/prepare.py" if is_script else "sslrs prepare"
    assert console.as_started(sentence) == sentence.replace("tools/prepare.py", prepare)


def test_sigterm_stops_as_ctrl_c_and_says_what_is_kept(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def work(number: int) -> None:
        with stoppable("stopped; half is kept"):
            os.kill(os.getpid(), number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(SystemExit) as end:
            run_command(lambda number=number: work(number))
        assert end.value.code == 128 + number
        assert capsys.readouterr().err == "stopped; half is kept\n"
    signal.signal(signal.SIGTERM, before)
    with stoppable("stopped"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_wheel_has_the_commands_and_no_tools(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    # A copy: setuptools would leave its build folder in the checkout.
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("SSLRemoteSensing", "pyproject.toml", "README.md", "LICENSE", "tools"):
        (tree / name).symlink_to(ROOT / name)
    command += ["--quiet", "--wheel-dir", str(tmp_path), str(tree)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "sslrs = SSLRemoteSensing.__main__:main" in wheel.read(entry).decode()
    assert {f"SSLRemoteSensing/commands/{module}.py" for module in WORDS.values()} <= set(names)
    assert "SSLRemoteSensing/__main__.py" in names
    assert not [name for name in names if name.startswith(("tools", "tests", "configs"))]
