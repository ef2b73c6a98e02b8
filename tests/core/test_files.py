"""Small helpers of every room: hashes, JSON files, many files by threads, templates."""

import hashlib
import os
import subprocess
import sys
import threading
import time

import jinja2
import pytest

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.errors import CannotWrite
from SSLRemoteSensing.core.files import atomic_together, is_half_named, read_json, sha256
from SSLRemoteSensing.core.templates import environment


def test_sha256_is_that_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5000)
    assert sha256(tmp_path / "a") == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


def contents(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_together(folder, text: str) -> None:
    names = ("a", "b", "last")
    with atomic_together([folder / name for name in names]) as parts:
        for part in parts:
            part.write_text(text)


def test_files_of_a_group_get_their_names_together(tmp_path):
    for text in ("old", "new"):
        write_together(tmp_path, text)
        assert contents(tmp_path) == dict.fromkeys(("a", "b", "last"), text)


@pytest.mark.parametrize("call", [("fsync", 2), ("replace", 1), ("replace", 3), ("replace", 4)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_group_that_fails_leaves_no_part_of_it(tmp_path, monkeypatch, call, error):
    """Before one has its name, what was there stays; later no old file is left beside a new one."""
    write_together(tmp_path, "old")
    (name, number), done = call, []
    real = getattr(os, name)

    def fails(*arguments):
        done.append(arguments)
        if len(done) == number:
            raise error
        return real(*arguments)

    monkeypatch.setattr(os, name, fails)
    with pytest.raises(CannotWrite if error is OSError else error):
        write_together(tmp_path, "new")
    before = dict.fromkeys(("a", "b", "last"), "old")
    assert contents(tmp_path) == (before if call in (("fsync", 2), ("replace", 1)) else {})


KILLED = """
import os, sys
from pathlib import Path
from SSLRemoteSensing.core import files

folder, number, done, real = Path(sys.argv[1]), int(sys.argv[2]), [], os.replace

def replace(*names):
    done.append(names)
    if len(done) == number:
        os._exit(9)
    real(*names)

os.replace = replace
with files.atomic_together([folder / name for name in sys.argv[3:]]) as parts:
    for part in parts:
        part.write_text("killed")
"""


@pytest.mark.parametrize(("number", "is_half"), [(1, False), (2, True), (4, True)])
def test_a_kill_between_two_names_is_known_until_all_have_theirs(tmp_path, number, is_half):
    words = [str(tmp_path), str(number), "a", "b", "last"]
    assert subprocess.run([sys.executable, "-c", KILLED, *words], check=False).returncode == 9
    assert [(tmp_path / name).exists() for name in "ab"] == [number > 2, number > 3]
    assert is_half_named(tmp_path / "last") == is_half
    write_together(tmp_path, "new")
    assert contents(tmp_path) == dict.fromkeys(("a", "b", "last"), "new")
    assert not is_half_named(tmp_path / "last")


@pytest.mark.parametrize("text", [None, "", "[1]", '{"a": '])
def test_what_is_no_json_object_reads_as_empty(tmp_path, text):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json") == {}
    (tmp_path / "b.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "b.json") == {"a": 1}


def test_results_of_threads_come_in_order_and_the_first_error_ends_them():
    second_is_done, calls = threading.Event(), []

    def square(number: int) -> int:
        calls.append(number)
        if number == 0:
            second_is_done.wait(5)
        if number == 1:
            second_is_done.set()
        if number == 2:
            raise ValueError(number)
        if number > 2:
            time.sleep(0.01)
        return number**2

    results = map_files(square, range(1000), "squaring", workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(results)
    assert len(calls) < 100
    assert list(map_files(square, (), "squaring")) == []


def test_a_page_escapes_its_values_and_a_card_does_not(tmp_path):
    for name in ("a.html", "a.md"):
        (tmp_path / name).write_text("{% if x %}\n<b>{{ x }}</b>\n{% endif %}\n")
    templates = environment(tmp_path)
    assert templates.get_template("a.html").render(x="<&") == "<b>&lt;&amp;</b>\n"
    assert templates.get_template("a.md").render(x="<&") == "<b><&</b>\n"
    with pytest.raises(jinja2.UndefinedError, match="x"):
        templates.get_template("a.html").render()
