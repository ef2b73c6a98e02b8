"""What a program does is the same, whether preloaded.py starts it or sys.executable."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from preloaded import LIBRARIES, python

SAYS = """
import os, sys
print(sys.argv, sys.path[0], os.getcwd(), os.environ["WORD"], __name__, sys.stdin.read())
print("to stderr", file=sys.stderr)
"""
WAITS = """
import os, signal, sys, time
if sys.argv[1:] == ["handles"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
child = os.fork()
print(os.getpid() if child else "", flush=True)
time.sleep(100)
"""


def both(arguments, **options) -> list[subprocess.CompletedProcess]:
    """The same program as sys.executable runs it and as python() does."""
    options |= dict(capture_output=True, text=True)
    return [subprocess.run([start, *arguments], **options) for start in (sys.executable, python())]


@pytest.mark.parametrize("kind", ["-c", "-m", "file", "-u"])
def test_streams_arguments_environment_and_folder_are_the_programs(tmp_path, kind):
    (tmp_path / "says.py").write_text(SAYS)
    given = {"-c": ["-c", SAYS], "-m": ["-m", "says"]}.get(kind, [str(tmp_path / "says.py")])
    given = ["-u", *given] if kind == "-u" else given
    env = os.environ | dict(WORD="a word", PYTHONPATH=str(tmp_path))
    real, ours = both([*given, "x", "-y"], env=env, cwd=tmp_path, input="from stdin")
    assert "from stdin" in real.stdout
    assert (ours.stdout, ours.stderr, ours.returncode) == (real.stdout, real.stderr, 0)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('error: in words')",
        "import sys; sys.exit(None)",
        "raise SystemExit(-1)",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import atexit; atexit.register(print, 'at exit'); 1 / 0",
        "raise KeyboardInterrupt",
        "def broken(:",
        "import threading; threading.Timer(0.1, print, ['of a thread']).start()",
        "import sys; sys.stdout.write('not flushed')",
    ],
)
def test_a_program_ends_as_it_would(code):
    real, ours = both(["-c", code])
    assert (ours.stdout, ours.returncode) == (real.stdout, real.returncode)
    assert ours.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_libraries_are_there_at_once_and_none_of_our_code_also_in_what_a_program_starts():
    code = "import subprocess, sys; print([m for m in sys.modules if 'SSLRemoteSensing' in m])\n"
    code += f"assert set({LIBRARIES}) <= set(sys.modules)\n"
    again = f"subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    done = subprocess.run([python(), "-c", code + again], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n[]\n"), done.stderr


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("how", "number", "status"),
    [
        ("", signal.SIGTERM, -signal.SIGTERM),
        ("", signal.SIGINT, -signal.SIGINT),
        ("", signal.SIGKILL, -signal.SIGKILL),
        ("handles", signal.SIGTERM, 7),
    ],
)
@pytest.mark.parametrize("session", [False, True])
def test_signals_reach_the_program(how, number, status, session):
    """Sent to the group of a session, as Ctrl-C is, they reach the program's children as well."""
    line = [python(), "-c", WAITS, how]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(line, **pipes, start_new_session=session) as run:
        (pid,) = {run.stdout.readline().strip() for _ in range(2)} - {""}
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == 1
        (os.killpg if session else os.kill)(run.pid, number)
        assert run.wait(20) == status
        deadline = time.monotonic() + 20
        while not ended(int(pid)) or (session and not ended(int(children[0]))):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if not session:
            assert not ended(int(children[0]))
            os.kill(int(children[0]), signal.SIGKILL)
