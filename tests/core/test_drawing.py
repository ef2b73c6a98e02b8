"""Figures are ours alone: a user's matplotlib settings neither stop nor change them."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

DRAWS = """
import hashlib, sys, warnings
warnings.simplefilter("error")
from SSLRemoteSensing.core.classes import default_palette
from SSLRemoteSensing.reports.charts import line_chart
default_palette(3)
chart = line_chart("loss", [(0, 1.0), (10, 0.5)], "")
digest = hashlib.sha256(str(chart.svg).encode())
import matplotlib
backend = matplotlib.rcParams._get("backend")  # an object where none is chosen yet
name = backend if isinstance(backend, str) else "none"
print(digest.hexdigest(), name, matplotlib.rcParams["font.size"])
"""
STRANGE = "text.usetex: True\nfont.size: 40\nbackend: TkAgg\nfigure.dpi: 3\nsavefig.format: pdf\n"


def drawn(folder, rc: str = "", **variables: str) -> list[str]:
    """Digest of the figures drawn in `folder`, and the user's own backend and font size after."""
    folder.mkdir()
    (folder / "matplotlibrc").write_text(rc)
    given = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    given |= {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", DRAWS],
        capture_output=True, text=True, cwd=folder, env=given,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_users_backend_and_style_do_not_matter_and_stay(tmp_path):
    plain = drawn(tmp_path / "plain")
    inline = "module://matplotlib_inline.backend_inline"
    for name, rc, backend, kept in (
        ("notebook", "", inline, plain[1:]),  # this Python has no such module
        ("unknown", "", "no such backend", plain[1:]),
        ("svg", STRANGE, "svg", ["svg", "40.0"]),
    ):
        assert drawn(tmp_path / name, rc, MPLBACKEND=backend) == [plain[0], *kept], name


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stdout_that_cannot_spell_a_class_gets_its_code(tmp_path, encoding):
    code = """if True:
        from SSLRemoteSensing.core.errors import run_command
        from SSLRemoteSensing.core.files import read_json, write_text
        def main():
            print("straße \\u6797")
            write_text("classes.json", '{"name": "straße"}')
            assert read_json("classes.json") == {"name": "straße"}
        run_command(main)
    """
    (tmp_path / "command.py").write_text(code, encoding="utf-8")
    words = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, tmp_path / "command.py"],
        capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)} | words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "straße \u6797\n".encode(encoding, "backslashreplace")
    assert "straße".encode() in (tmp_path / "classes.json").read_bytes()
