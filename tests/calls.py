"""Commands of the repository, called in this process."""

import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from SSLRemoteSensing.core.errors import run_command


def command(script: str, config: dict | None, folder: Path, *flags: object) -> int:
    """Run a command in this process; its exit status."""
    arguments = [script, *map(str, flags)]
    if config is not None:
        file = folder / "config.py"
        file.write_text(f"config = {config!r}\n")
        arguments += ["--config_file", str(file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        try:
            run_command(runpy.run_path(str(ROOT / script))["main"])
        except SystemExit as stop:
            return stop.code or 0
    return 0
