"""tools/version_matrix.py with uv and pytest played: `make test-matrix` takes a network."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import version_matrix
from conftest import ROOT
from packaging.requirements import Requirement

REPORT = """<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1">
<testcase classname="tests.a" name="one"/><testcase classname="tests.a" name="two"/>
<testcase classname="tests.a" name="three"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.b" name="four"><error message="no tmp"/></testcase>
<testcase classname="tests.b" name="five"><skipped/></testcase>
</testsuite></testsuites>"""
PASSED = '<testsuites><testsuite tests="2" failures="0" errors="0" skipped="0"/></testsuites>'


@pytest.fixture
def matrix(tmp_path, monkeypatch, capsys):
    """Calls the tool with a uv that knows 3.11 and 3.12, and a pytest that writes `report`."""

    def call(report: str, *words: str, broken: str = "") -> tuple[int, dict, list[str], str]:
        calls = []

        def run(*command: str) -> subprocess.CompletedProcess:
            line = " ".join(command)
            calls.append(line)
            status, out, error = 0, "", ""
            if "python find" in line:
                status, out = int(command[-1] not in ("3.11", "3.12")), f"/{command[-1]}\n"
                error = f"searching\nNo interpreter found for {command[-1]}" * status
            elif broken and broken in line:
                status, error = 1, "No solution found"
            elif "pip list" in line:
                versions = dict.fromkeys(version_matrix.requirements(), "1.2")
                out = json.dumps([{"name": n, "version": v} for n, v in versions.items()])
            elif "platform" in line:
                out = "3.12.1\n"
            elif "-m pytest" in line:
                status = int("<failure" in report)
                Path(re.search(r"--junitxml=(\S+)", line)[1]).write_text(report)
            return subprocess.CompletedProcess(command, status, out, error)

        output = tmp_path / "of/matrix.json"
        monkeypatch.setattr(version_matrix, "run", run)
        monkeypatch.setattr(version_matrix.shutil, "which", lambda name: name)
        monkeypatch.setattr(sys, "argv", ["version_matrix.py", "--output", str(output), *words])
        try:
            version_matrix.run_command(version_matrix.main)
            status = 0
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, json.loads(output.read_text()), calls, said.out + said.err

    return call


def test_what_was_run_is_kept_beside_what_was_run_before(matrix):
    status, _, calls, _ = matrix(PASSED, "--pythons", "3.12", "--versions", "newest")
    assert status == 0
    installing = [line for line in calls if " install " in line]
    assert " --resolution highest --only-binary " in installing[0]
    assert installing[1].endswith(" --no-deps -e .")
    assert calls[-1].endswith(" ".join(version_matrix.TESTS))
    words = ("--versions", "lowest", "--tests", "tests/core", "--pythons", "3.12")
    status, entries, calls, said = matrix(REPORT, *words)
    assert " --resolution lowest-direct " in calls[2]
    assert calls[-1].endswith(" tests/core")
    assert list(entries) == ["3.12.1 lowest", "3.12.1 newest"]
    found = entries["3.12.1 lowest"]
    assert (found["passed"], found["skipped"], found["outcome"]) == (2, 1, "failed")
    assert found["failures"] == ["tests.a::three: assert 1 == 2", "tests.b::four: no tmp"]
    assert entries["3.12.1 newest"]["outcome"] == "passed"
    assert status == 2
    assert "  tests.b::four: no tmp\n" in said
    assert "error: failed on 3.12 lowest; " in said


def test_what_is_not_to_be_had_is_said_and_the_others_go_on(matrix):
    words = ("--pythons", "3.15", "3.12", "--versions", "newest")
    status, entries, _, said = matrix(PASSED, *words)
    assert status == 0
    assert entries["3.15 newest"]["reason"] == "No interpreter found for 3.15"
    assert entries["3.12.1 newest"]["passed"] == 2
    assert "| 3.15 | newest |  |  |  |  |  |  |  |  | no interpreter |\n" in said
    status, entries, _, said = matrix(PASSED, "--pythons", "3.11", broken="lowest-direct")
    assert entries["3.11 lowest"]["outcome"] == "no versions"
    assert entries["3.11 lowest"]["reason"] == "No solution found"
    assert status == 2
    assert "error: failed on 3.11 lowest; " in said


def test_the_tools_are_pinned_and_no_requirement_of_the_package():
    """Else a tool's pin would keep the package's own bound from being tried."""
    tools = version_matrix.tools_of_tests()
    assert {"pytest", "lightly", "jsonschema"} <= {version_matrix.normal(x) for x in tools}
    assert all("==" in line for line in tools)
    assert version_matrix.requirements().isdisjoint(map(version_matrix.normal, tools))
    assert "segmentation-models-pytorch" in version_matrix.requirements()


def test_the_pinned_versions_are_in_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    ranges = {version_matrix.normal(line): Requirement(line).specifier for line in lines}
    files = (ROOT / f"requirements{which}.txt" for which in ("", "-dev"))
    pins = [line for file in files for line in file.read_text().splitlines() if "==" in line]
    pinned = {version_matrix.normal(line): line.partition("==")[2] for line in pins}
    assert ranges.keys() <= pinned.keys()
    assert [name for name in ranges if pinned[name] not in ranges[name]] == []
    assert "0.7.0" not in ranges["segmentation-models-pytorch"]


def test_the_part_of_the_tests_is_there():
    for name in version_matrix.TESTS:
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (ROOT / file).read_text(), name


def test_the_page_has_the_table_of_what_was_run_and_the_package_says_the_same():
    """A Python is a classifier once its part of the tests has passed, and only then."""
    entries = json.loads((ROOT / "docs/measurements/version_matrix.json").read_text())
    page = (ROOT / "docs/development.md").read_text()
    assert version_matrix.table(entries) in page
    passed = {e["python"] for e in entries.values() if e["outcome"] == "passed"}
    project = (ROOT / "pyproject.toml").read_text()
    classified = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project))
    assert classified == {python.rpartition(".")[0] for python in passed}
    for entry in entries.values():
        assert entry.get("tests", list(version_matrix.TESTS)) == list(version_matrix.TESTS)
