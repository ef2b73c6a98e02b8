"""The scripts of tests/soak do what docs/reliability.md says of them; there they run for longer."""

import json
import subprocess

from conftest import ROOT
from preloaded import python


def run(script: str, output, *flags: str) -> dict:
    line = [python(), str(ROOT / "tests/soak" / script), "--output", str(output), *flags]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(output.read_text())


def test_a_killed_run_ends_as_a_straight_one(tmp_path):
    found = run("kill_resume.py", tmp_path / "kills.json", "--kills", "1", "--most", "1")
    assert found["figures"]["kills"] >= 1
    assert found["figures"]["bytes_of_checkpoints_lost"] == 0
    assert {one["outcome"] for one in found["runs"]} == {"identical"}


def test_damaged_inputs_are_read_or_refused(tmp_path):
    figures = run("fuzz.py", tmp_path / "fuzz.json", "--cases", "80")["figures"]
    assert figures["cases"] == 80
