"""The layers of the package."""

import subprocess
import sys

from conftest import ROOT


def test_imports_go_upwards_only():
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as f; f()"]
    done = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
