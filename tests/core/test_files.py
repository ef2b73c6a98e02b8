"""Small helpers of every room: hashes, JSON files, many files by threads, templates."""

import hashlib
import threading
import time

import jinja2
import pytest

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.files import read_json, sha256
from SSLRemoteSensing.core.templates import environment


def test_sha256_is_that_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5000)
    assert sha256(tmp_path / "a") == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


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
