"""Findings in sections: how they are marked, told and kept as files, and what they mean."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.core.files import write_bytes, write_text
from SSLRemoteSensing.data.file_lists import as_listed

OK, WARNING, FAIL = "ok", "warning", "fail"
SHOWN = {OK: "ok  ", WARNING: "warn", FAIL: "FAIL"}
MOST_FILES = 5  # named below a finding; doctor.json has all


@dataclass(frozen=True)
class Finding:
    """One sentence, what it means for the run, and the files that it is about."""

    mark: str
    text: str
    files: Sequence[str] = ()

    def lines(self) -> list[str]:
        names = list(self.files[:MOST_FILES])
        if len(self.files) > MOST_FILES:
            names.append(f"and {len(self.files) - MOST_FILES} more")
        return [f"  {SHOWN[self.mark]}  {self.text}", *(f"          {name}" for name in names)]


@dataclass
class Section:
    """Findings of one kind."""

    title: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, mark: str, text: str, files: Sequence[str] = ()) -> None:
        self.findings.append(Finding(mark, text, tuple(files)))

    ok = partialmethod(add, OK)
    warn = partialmethod(add, WARNING)
    fail = partialmethod(add, FAIL)

    def attempt(self, function: Callable, *arguments) -> Any:
        """`function(*arguments)`, or None where it finds a user's mistake, which would fail.

        What it prints is kept as findings, so that the report stays in one piece.
        """
        out, err = io.StringIO(), Excluded()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return function(*arguments)
        except UserError as error:
            self.fail(one_line(error))
            return None
        finally:
            for line in out.getvalue().splitlines():
                self.ok(line)
            for line in err.getvalue().splitlines():
                self.warn(line.removeprefix("warning: "))

    def __str__(self) -> str:
        lines = (line for finding in self.findings for line in finding.lines())
        return "\n".join([self.title, *lines])


class Excluded(io.StringIO):
    """What is printed on stderr, but for the progress bars, which the terminal shows."""

    def __init__(self):
        super().__init__()
        self.shown = sys.stderr

    def isatty(self) -> bool:
        return self.shown.isatty()

    def write(self, text: str) -> int:
        return self.shown.write(text) if "\r" in text else super().write(text)


def count(sections: Sequence[Section], mark: str) -> int:
    return sum(finding.mark == mark for section in sections for finding in section.findings)


def verdict(sections: Sequence[Section]) -> str:
    """The last line of the report."""
    fails, warnings = count(sections, FAIL), count(sections, WARNING)
    meaning = "the run would fail" if fails else "nothing would fail"
    return f"{meaning}: {fails} to mend, {warnings} warnings"


def write_json(sections: Sequence[Section], path: Path, complete: bool) -> None:
    """All findings so far, and whether that is all of them."""
    fails = count(sections, FAIL)
    report = {"complete": complete, "would_fail": fails > 0, "fails": fails}
    report["warnings"] = count(sections, WARNING)
    report["sections"] = {
        section.title: [asdict(finding) for finding in section.findings] for section in sections
    }
    write_text(path, json.dumps(report, indent=2, default=str) + "\n")


def write_list(unusable: Mapping[str, str], path: Path) -> None:
    """The images that training cannot use, each after why, as `exclude` takes them."""
    lines = ["# images that training cannot use, written by tools/doctor.py"]
    for image, reason in unusable.items():
        file = os.path.abspath(image)
        lines.append(f"# {reason}")
        lines.append(file if as_listed(file) else f"# no line can hold {file!r}; rename it")
    text = "\n".join(line if as_listed(line) else repr(line) for line in lines)
    write_bytes(path, f"{text}\n".encode("utf-8", "surrogateescape"))
