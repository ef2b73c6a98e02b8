"""Commands of the repository, called in this process."""

import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from SSLRemoteSensing.core.errors import run_command


def command(script: str, config: dict, folder: Path, *flags: str) -> int:
    """Run a command in this process; its exit status."""
    file = folder / "config.py"
    file.write_text(f"config = {config!r}\n")
    arguments = [script, "--config_file", str(file), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        try:
            run_command(runpy.run_path(str(ROOT / script))["main"])
        except SystemExit as stop:
            return stop.code or 0
    return 0
