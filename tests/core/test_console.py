"""The terminal: help that can be copied from, bars and colours there, plain lines in a pipe."""

import argparse
import contextlib
import fcntl
import importlib
import io
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import ROOT, draw_tiles

from SSLRemoteSensing.core import console
from SSLRemoteSensing.core.cli import Flags, config_words
from SSLRemoteSensing.core.console import command_line, shell_line
from SSLRemoteSensing.core.errors import note_ctrl_c, run_command
from SSLRemoteSensing.training.logger import on_the_bar

# Every command with flags, and those whose help may load torch: their networks are classes there.
COMMANDS = ["train.py", "finetune_seg.py"]
COMMANDS += sorted(
    f"tools/{file.name}"
    for file in (ROOT / "tools").glob("*.py")
    if re.search(r"def flags\(\)|import flags", file.read_text())
)
SLOW = {"tools/make_configuration_docs.py"}
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@pytest.fixture
def parser_of(monkeypatch):
    """The parser of a command by its path."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "tools"))

    def parser(command: str) -> argparse.ArgumentParser:
        return importlib.import_module(Path(command).stem).flags()

    return parser


def test_each_command_of_the_readme_is_walked():
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:python |torchrun .*?)((?:tools/)?\w+\.py)", readme))
    assert named - {"setup.py"} <= set(COMMANDS)
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_each_flag_has_help_and_shows_its_default(parser_of, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parser = parser_of(command)
    text = parser.format_help()
    assert max(map(len, text.splitlines())) <= 100
    formatter = parser.formatter_class("")
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        assert action.help, action.dest
        if action.default in (None, False, [], argparse.SUPPRESS):
            continue
        shown = formatter._expand_help(action)
        default = action.default if isinstance(action.default, list | tuple) else [action.default]
        assert f"(default: {' '.join(map(str, default))})" in shown, action.dest
        assert " ".join(shown.split()) in " ".join(text.split()), action.dest


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - SLOW))
def test_help_does_not_load_torch(command):
    """Which takes seconds; in a process of its own, as this one has it."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        f"sys.path.insert(0, {str((ROOT / command).parent)!r})\n"
        "try:\n"
        f"    runpy.run_path({command!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('status', end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "status 0 False", done.stderr


def test_version_names_this_package_and_torch(run):
    import torch

    done = run("finetune_seg.py", None, "--version")
    assert done.returncode == 0, done.stderr
    ours, other = done.stdout.splitlines()
    assert re.fullmatch(r"SSLRemoteSensing \d+\.\d+\.\d+", ours)
    assert other == f"torch {torch.__version__.split('+')[0]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example_of_itself(command):
    """That they parse and set keys that exist is tested in tests/docs/test_docs.py."""
    name = console.COMMANDS.get(command, "").replace(" ", "_")
    file = ROOT / f"SSLRemoteSensing/commands/{name}.py"
    document = (file if file.is_file() else ROOT / command).read_text().split('"""')[1]
    assert re.search(rf"^    (python|torchrun .*) {re.escape(command)}( |$)", document, re.M)


def on_a_terminal(command: list[str], width: int = 80, **environment: str) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of `width` columns: its status, and all that it wrote."""
    child, screen = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        os.environ.pop("NO_COLOR", None)
        os.environ.update({"TERM": "xterm"} | environment)
        os.execv(command[0], command)
    written = b""
    with contextlib.suppress(OSError):  # the end of a terminal, on Linux
        while part := os.read(screen, 65536):
            written += part
    os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.decode()


BARS = """
import sys, time
from SSLRemoteSensing.core.bars import print_line, progress
from SSLRemoteSensing.core.console import command_line, print_summary, warn
from SSLRemoteSensing.core.errors import UserError, run_command
def main():
    for number in progress("counting", range(16), unit="file"):
        time.sleep(float(sys.argv[1]))
        if number == 14:
            print_line("a line")
    warn("odd")
    print_summary({"results": "a b.json"}, [command_line("train.py", "--config_file", "a b.py")])
    raise UserError("nothing: is wrong; mend it")
run_command(main)
"""


LINES = ["a line", "results: a b.json", "next: python train.py --config_file 'a b.py'"]
WARNINGS = ["warning: odd", "error: nothing: is wrong; mend it"]


def test_a_terminal_has_colours_and_a_bar_that_goes_away():
    status, said = on_a_terminal([sys.executable, "-c", BARS, "0.1"])
    assert status == 2
    assert re.search(r"counting: +\d+%\|.*/16 \[.*file", said)
    for word, style in (("warning", 33), ("error", "1;31"), ("results", 1), ("next", 1)):
        assert f"\x1b[{style}m{word}:\x1b[0m " in said
    assert seen(said) == [LINES[0], WARNINGS[0], *LINES[1:], WARNINGS[1]]


def seen(written: str) -> list[str]:
    """The lines that a terminal shows in the end; a carriage return goes back to a line's start."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*[mA-Z]", "", written).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_work_of_less_than_a_second_has_no_bar_and_a_plain_terminal_no_colours(environment):
    status, said = on_a_terminal([sys.executable, "-c", BARS, "0"], **environment)
    assert status == 2
    assert "counting" not in said
    assert ("\x1b[" in said) == (not environment)
    assert "nothing: is wrong" in said


def test_a_pipe_gets_plain_lines_and_errors_apart():
    done = subprocess.run(
        [sys.executable, "-c", BARS, "0.1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout.splitlines() == LINES
    assert done.stderr.splitlines() == WARNINGS
    assert not CONTROL.search(done.stdout + done.stderr)


def test_what_is_kept_in_a_string_stays_plain(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    console.warn("odd")
    assert sys.stderr.getvalue() == "warning: odd\n"


ENDLESS = "[print('line', n) for n in range(100000)]"
SHORT = "(sys.stdin.read(), print('line'), sys.exit(1))"


@pytest.mark.parametrize(("main", "lines"), [(ENDLESS, 1), (SHORT, 0)])
def test_a_closed_pipe_ends_a_command_without_a_word(main, lines):
    """As `| head` does it: status 141, as SIGPIPE would end it. A short output is written at the
    end of the process only, where Python would complain."""
    code = "import sys\nfrom SSLRemoteSensing.core.errors import run_command\n"
    code += f"run_command(lambda: {main})"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as run:
        for _ in range(lines):
            assert run.stdout.readline() == b"line 0\n"
        run.stdout.close()
        run.stdin.close()
        assert run.stderr.read() == b""
    assert run.returncode == 128 + signal.SIGPIPE


def test_a_broken_pipe_of_something_else_is_a_defect():
    def main():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        run_command(main)


def test_an_operation_that_apple_s_device_lacks_is_one_line(capsys):
    def main():
        raise NotImplementedError("The operator 'aten::x' is not implemented for the MPS device.")

    with pytest.raises(SystemExit, match="2"):
        run_command(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert "set PYTORCH_ENABLE_MPS_FALLBACK=1" in line
    with pytest.raises(NotImplementedError, match="ours"):
        run_command(lambda: (_ for _ in ()).throw(NotImplementedError("ours")))


@pytest.mark.parametrize("presses", [True, False])
def test_ctrl_c_that_a_library_makes_another_error_of_is_one_line_too(capsys, presses):
    """As NumPy does while it is imported: a RecursionError."""
    number = signal.SIGINT if presses else 0

    def main():
        signal.signal(signal.SIGINT, note_ctrl_c)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        raise RecursionError("half imported")

    with pytest.raises(SystemExit if presses else RecursionError) as end:
        run_command(main, "stopped; go on")
    assert str(end.value) == ("130" if presses else "half imported")
    assert capsys.readouterr() == ("", "stopped; go on\n" if presses else "")


def test_ctrl_c_while_a_tool_works_is_one_line_and_130(tmp_path):
    scenes = tmp_path / "scenes"
    command = [sys.executable, "tools/make_demo_scenes.py", "--output", str(scenes)]
    command += ["--size", "600", "--scenes", "38"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as run:
        end = time.monotonic() + 60
        while not scenes.exists() and time.monotonic() < end:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (130, b"", b"stopped\n")


def test_the_bar_of_training_fits_eighty_columns():
    values = dict(step=1234, epoch=12, lr=0.0005, loss=123456.7, inpainting=0.123, agr=1.79)
    values |= dict(exemplar=3.2, gradient_norm=1.2, images_per_second=1234.5, data_wait=0.123)
    assert on_the_bar(values) == "epoch 12, loss 1.23e+05, 1.23e+03 images/s"
    del values["images_per_second"]
    assert on_the_bar(values | {"loss": 0.25}) == "epoch 12, loss 0.25"


def summary(text: str) -> list[tuple[str, str]]:
    """The lines `key: value` whose value begins with a file, and `next`."""
    keys = "backbone|card|figures|results|weights|tiles|maps|scenes|config|picture|next"
    return re.findall(rf"^({keys}): (.*)", text, re.M)


def test_the_closing_lines_of_each_command_name_files_and_commands_that_exist(
    run, parser_of, light_pretext_config, seg_config, tiles, tmp_path
):
    """The whole way: each command is told by the one before it what to run."""
    light_pretext_config["train_cfg"] |= dict(num_epoch=None, num_step=1)
    seg_config["train_cfg"] |= dict(num_step=1)
    scene = draw_tiles(tmp_path / "scene", 1) / "images/tile_000.jpg"
    mine, best = tmp_path / "mine", tmp_path / "seg/best.pth"
    predict = f"--checkpoint {best} --input {scene} --output {tmp_path}/map.tif --tile 64"
    export = f"--checkpoint {best} --format timm --output {tmp_path}/out/net.pth"
    prepare = f"folder --source {tiles} --output {mine} --classes other building --tile 64"
    ways = [
        ("tools/doctor.py", light_pretext_config, "--workers 1", "next"),
        ("train.py", light_pretext_config, "", "backbone card figures next"),
        ("finetune_seg.py", seg_config, f"--backbone {tmp_path}/run/backbone.pth",
         "results weights next"),
        ("tools/predict.py", None, predict, "maps"),
        ("tools/export.py", None, export, "weights card"),
        ("tools/prepare.py", None, prepare, "tiles next"),
        ("tools/show_labels.py", None, None, "picture"),
    ]  # fmt: skip
    told = []
    for command, config, flags, keys in ways:
        done = run(command, config, *(told[-2][1] if flags is None else flags.split()))
        assert done.returncode == 0, done.stderr
        assert not CONTROL.search(done.stdout + done.stderr), command
        found = summary(done.stdout)
        assert {key for key, _ in found} == set(keys.split()), done.stdout
        for key, value in found:
            if key == "next":
                _, script, *words = shlex.split(value)
                parser_of(script).parse_args(words)
                told.append((script, words))
            else:
                assert Path(value.partition(",")[0]).exists(), (command, value)
    assert [script for script, _ in told[-2:]] == ["tools/show_labels.py", "tools/doctor.py"]
    assert value == f"{mine}_labels.png"


@pytest.mark.parametrize("folder", ["run 1", "it's", "$HOME; a&b", "Größe (2)", "-x", "a\nb"])
def test_printed_commands_can_be_pasted(tmp_path, folder, monkeypatch):
    """By bash, which gives back the words that the command was made of."""
    monkeypatch.chdir(tmp_path)
    output = Path(folder)
    best = output / "best.pth"
    lines = [
        (shell_line("tensorboard", "--logdir", output / "log"), 2, output / "log"),
        (command_line("tools/predict.py", "--checkpoint", best), 3, best),
    ]
    for line, place, path in lines:
        script = f"for word in {line}; do printf '%s\\0' \"$word\"; done"
        words = subprocess.check_output(["bash", "-c", script], text=True).split("\0")
        assert Path(words[place]) == path
        assert not words[place].startswith("-")
    args = argparse.Namespace(config_file=f"{folder}.py", log_path=folder, set=[[f"a.b={folder}"]])
    words = shlex.split(shlex.join(config_words(args)))
    parsed = Flags("").config().paths().parse_args(words)
    assert (parsed.config_file, parsed.log_path, parsed.set) == (f"{folder}.py", folder, args.set)


def test_a_folder_with_a_blank_is_quoted_in_all_that_a_run_says(
    run, light_pretext_config, tmp_path
):
    light_pretext_config["train_cfg"] |= dict(num_step=1, num_epoch=None)
    flags = ("--checkpoints_path", tmp_path / "my run", "--log_path", tmp_path / "my run/log")
    done = run("train.py", light_pretext_config, *flags)
    assert done.returncode == 0, done.stderr
    said = dict(re.findall(r"^(curves|next): (.*)", done.stdout, re.M))
    assert shlex.split(said["curves"]) == ["tensorboard", "--logdir", str(tmp_path / "my run/log")]
    assert shlex.split(said["next"])[-1] == str(tmp_path / "my run/backbone.pth")
