"""Dockerfile, .dockerignore and tools/install.sh, without docker: `make test-install` installs."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
]
# What stands in for python3, and for the programs of the environment that it makes: each call is a
# line of $CALLS, and nothing is installed.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    for name in python uv sslrs; do cp "$0" "$3/bin/$name"; done
fi
"""


def copied() -> set[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {name for line in lines for name in line.split()}


def is_sent(path: str) -> bool:
    """Whether docker gets `path` of the checkout: the last line of .dockerignore that matches it,
    or a folder that it is in, decides."""
    sent = True
    folders = [path, *map(str, Path(path).parents[:-1])]
    for line in IGNORED:
        pattern = line.removeprefix("!")
        anywhere = pattern.startswith("**/")
        names = [Path(name).name for name in folders] if anywhere else folders
        pattern = pattern.removeprefix("**/")
        if any(fnmatch(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


def test_what_the_image_copies_is_tracked_and_sent():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no clone")
    tracked = done.stdout.splitlines()
    for name in copied():
        files = [file for file in tracked if file == name or file.startswith(f"{name}/")]
        assert files, f"COPY {name}"
        assert all(map(is_sent, files))
    assert {file.partition("/")[0] for file in tracked if is_sent(file)} == {
        name.partition("/")[0] for name in copied()
    }


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "data/oam_buildings/images/a.jpg",
        "runs/mine/latest.pth",
        "weights.pth",
        "SSLRemoteSensing/weights.pth",
        "SSLRemoteSensing/core/__pycache__/errors.pyc",
        "docs/results.md",
        "tools/benchmark.py",
    ],
)
def test_data_runs_weights_and_environments_stay_out(path):
    assert not is_sent(path)


def test_the_image_runs_as_a_user_without_rights():
    stage = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\S+)$", stage, re.MULTILINE)[1]
    assert user == re.search(r"^RUN useradd --uid (\d+) ", stage, re.MULTILINE)[1]
    assert int(user) >= 1000


def install(tmp_path: Path, *words: str) -> subprocess.CompletedProcess:
    stub = tmp_path / "bin/python3"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    env = {"PATH": f"{stub.parent}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
    command = ["sh", str(ROOT / "tools/install.sh"), *words]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("build", "words"),
    [([], ""), (["cuda"], ""), (["cpu"], "--torch-backend cpu ")],
)
def test_the_steps_take_the_build_that_was_asked_for(tmp_path, build, words):
    done = install(tmp_path, "env", *build)
    assert done.returncode == 0, done.stderr
    source = f"{ROOT}/tools/.."
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "python3 -m venv env"
    assert calls[2] == (
        f"uv pip install --python env/bin/python {words}-r {source}/requirements.txt {source}"
    )
    assert calls[4:] == ["python -I -c import SSLRemoteSensing.workflows.calls", "sslrs --version"]
    default = re.search(r"^ARG BUILD=(\w+)$", DOCKERFILE, re.MULTILINE)[1]
    assert default in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env", "rocm"], "there is no build rocm of torch; take cpu or cuda"),
        (["bin"], "bin is there already; name a new folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_installs_nothing(tmp_path, words, said):
    done = install(tmp_path, *words)
    assert (done.returncode, done.stderr) == (2, f"error: tools/install.sh: {said}\n")
    assert not (tmp_path / "calls").exists()
