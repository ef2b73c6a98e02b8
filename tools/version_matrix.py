"""Run a part of the tests on several Pythons, with the newest and the lowest versions allowed.

    make test-matrix
    python tools/version_matrix.py --pythons 3.11 3.13 --versions lowest
    python tools/version_matrix.py --pythons 3.12 --tests tests
    python tools/version_matrix.py --table docs/measurements/version_matrix.json

Each Python and each end of the ranges in pyproject.toml gets an environment of its own, which uv
makes and which is removed after its tests. `newest` is what the resolver gives; `lowest` are the
lower bounds of what the package itself asks for or, where a bound has no wheel for that Python, the
next that has one. Both with all extras, and with the tools of the tests from requirements-dev.txt.
What was run is written after each environment, in place of an earlier run of the same.

An environment takes 6 GB, most of it CUDA, in the folder for temporary files (TMPDIR); where uv's
cache is on the same disk, they are links to it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
VERSIONS = {"newest": "highest", "lowest": "lowest-direct"}  # -> what uv calls it
# What calls each library, in some minutes: every module imported, and both trainings as commands;
# OpenCV and Pillow; rasterio, pyogrio and shapely; smp and timm; onnx, onnxruntime and onnxscript.
# The whole suite is for the pinned versions, whose figures it holds.
TESTS = (
    "tests/core/test_other_systems.py::test_all_is_imported_and_both_trainings_run_without_posix",
    "tests/data/test_images.py",
    "tests/inference/test_polygons.py",
    "tests/models/test_decoders.py::test_decoders_of_the_library_give_what_its_own_networks_give",
    "tests/models/test_timm_backbones.py::test_maps_are_those_of_timm_s_own_features",
    "tests/export/test_export.py::test_a_roll_by_more_than_the_length_is_one_in_the_graph_too",
)
SHOWN = ("torch", "torchvision", "numpy", "opencv-python-headless", "rasterio", "timm")
SHOWN += ("segmentation-models-pytorch", "onnx")


def flags() -> Flags:
    flags = Flags(__doc__)
    add = flags.add_argument
    text = "versions, or paths of interpreters"
    add("--pythons", nargs="+", default=PYTHONS, metavar="PYTHON", help=text)
    add("--versions", nargs="+", default=tuple(VERSIONS), choices=VERSIONS, help="which ends")
    text = "what pytest is given (default: a part that meets each library)"
    add("--tests", nargs="+", default=None, metavar="TEST", help=text)
    text = "of what was run, as JSON"
    add("--output", type=Path, default=Path("runs/version_matrix.json"), metavar="FILE", help=text)
    text = "print the table of such a file, as docs/development.md has it, and end"
    add("--table", type=Path, default=None, metavar="FILE", help=text)
    return flags


def main() -> None:
    args = parse(flags())
    if args.table is not None:
        if not args.table.is_file():
            raise UserError(f"--table {args.table}: no such file; name what --output wrote")
        print(table(json.loads(args.table.read_text())))
        return
    if shutil.which("uv") is None:
        raise UserError("uv is not installed; pip install -r requirements-dev.txt")
    failed = []
    for python in args.pythons:
        for versions in args.versions:
            entry = environment(python, versions, args.tests or TESTS)
            entries = read_json(args.output) | {f"{entry['python']} {versions}": entry}
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_text(args.output, json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
            print(f"{entry['python']} {versions}: {outcome(entry)}", flush=True)
            for name in entry.get("failures", ()):
                print(f"  {name}", flush=True)
            if entry["outcome"] in ("failed", "no versions"):
                failed.append(f"{python} {versions}")
    print(table(read_json(args.output)))
    print_summary({"figures": args.output})
    if failed:
        raise UserError(f"failed on {', '.join(failed)}; {args.output} says of each what")


def environment(python: str, versions: str, tests: tuple[str, ...]) -> dict:
    """Make the environment, run `tests` in it, remove it; what came of it.

    Args:
        python: as `uv venv --python` takes it.
        versions: a key of VERSIONS.
    """
    found = run("uv", "python", "find", "--no-project", python)
    if found.returncode:
        return {"python": python, "outcome": "no interpreter", "reason": last(found.stderr)}
    entry = {"date": time.strftime("%Y-%m-%d"), "tests": list(tests)}
    with tempfile.TemporaryDirectory(prefix="version_matrix_") as folder:
        interpreter = f"{folder}/env/bin/python"
        begin = time.monotonic()
        for words in installation(found.stdout.strip(), interpreter, versions):
            done = run(*words)
            if done.returncode:
                number = ".".join(re.findall(r"\d+", python)[:2])
                text = done.stderr.strip()
                return entry | {"python": number, "outcome": "no versions", "reason": text}
        entry |= {"install_s": round(time.monotonic() - begin), "outcome": "failed"}
        code = "import platform; print(platform.python_version())"
        entry["python"] = run(interpreter, "-c", code).stdout.strip()
        listed = json.loads(
            run("uv", "pip", "list", "--format", "json", "--python", interpreter).stdout
        )
        known = {package["name"]: package["version"] for package in listed}
        entry["versions"] = {name: known[name] for name in sorted(requirements())}
        begin = time.monotonic()
        report = f"{folder}/report.xml"
        words = ["-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
        if versions == "lowest":  # old libraries warn of what they have since mended
            words += ["-W", "ignore::DeprecationWarning"]
        done = run(interpreter, *words, *tests)
        entry["tests_s"] = round(time.monotonic() - begin)
        if not Path(report).exists():
            return entry | {"reason": last(done.stdout + done.stderr)}
        entry |= counts(Path(report))
        entry["outcome"] = "failed" if done.returncode else "passed"
    return entry


def installation(python: str, interpreter: str, versions: str) -> list[list[str]]:
    """The commands that make an environment: the interpreter, the libraries, this checkout."""
    install = ["uv", "pip", "install", "--python", interpreter]
    # Only these: what they bring may have no wheel, as a library of lightly's has none.
    wheels = [word for name in requirements() for word in ("--only-binary", name)]
    wanted = ["-r", "pyproject.toml", "--all-extras", *tools_of_tests()]
    return [
        ["uv", "venv", "--python", python, str(Path(interpreter).parents[1])],
        [*install, "--resolution", VERSIONS[versions], *wheels, *wanted],
        [*install, "--no-deps", "-e", "."],
    ]


def requirements() -> set[str]:
    """The names of what pyproject.toml asks for, extras among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    return {normal(line) for line in lines}


def tools_of_tests() -> list[str]:
    """The pinned lines of requirements-dev.txt for what is no requirement of the package."""
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pins = [line for line in lines if re.match(r"\w", line)]
    return [line for line in pins if normal(line) not in requirements()]


def normal(line: str) -> str:
    """The name in a line of requirements, as a package index spells it."""
    return re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")


def counts(report: Path) -> dict:
    """What a JUnit file of pytest counts, and of the tests that failed the name and first line."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failures = [
        f"{case.get('classname')}::{case.get('name')}: {first_line(part.get('message', ''))}"
        for case in suite.iter("testcase")
        for part in case
        if part.tag in ("failure", "error")
    ]
    passed = total - skipped - int(suite.get("failures")) - int(suite.get("errors"))
    return {"passed": passed, "skipped": skipped, "failures": failures}


def run(*words: str) -> subprocess.CompletedProcess:
    # PYTHONPATH may name libraries of another environment.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)


def last(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def first_line(text: str) -> str:
    return text.partition("\n")[0]


def outcome(entry: dict) -> str:
    if "passed" in entry:
        said = f"{entry['passed']} passed"
        return f"{said}, {len(entry['failures'])} failed" if entry["failures"] else said
    return entry["outcome"]


def table(entries: dict[str, dict]) -> str:
    """The rows of docs/development.md: what was run, with which versions, and what came of it."""
    rows = [["Python", "versions", *SHOWN, "tests"]]
    rows.append(["---"] * len(rows[0]))
    for name, entry in entries.items():
        versions = [entry.get("versions", {}).get(library, "") for library in SHOWN]
        rows.append([entry["python"], name.split()[-1], *versions, outcome(entry)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    run_command(main)
