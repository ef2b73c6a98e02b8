"""Findings in sections: how they are marked, told, kept as JSON, and what they mean for the run."""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from SSLRemoteSensing.core.errors import UserError, one_line

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
        lines = [f"          {file}" for file in self.files[:MOST_FILES]]
        if len(self.files) > MOST_FILES:
            lines.append(f"          and {len(self.files) - MOST_FILES} more")
        return [f"  {SHOWN[self.mark]}  {self.text}", *lines]


@dataclass
class Section:
    """Findings of one kind."""

    title: str
    findings: list[Finding] = field(default_factory=list)

    def ok(self, text: str, files: Sequence[str] = ()) -> None:
        self.findings.append(Finding(OK, text, tuple(files)))

    def warn(self, text: str, files: Sequence[str] = ()) -> None:
        self.findings.append(Finding(WARNING, text, tuple(files)))

    def fail(self, text: str, files: Sequence[str] = ()) -> None:
        self.findings.append(Finding(FAIL, text, tuple(files)))

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
        return "\n".join(
            [self.title, *(line for finding in self.findings for line in finding.lines())]
        )


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


def as_json(sections: Sequence[Section], complete: bool) -> dict:
    """The report so far in JSON's types, and whether that is all of it."""
    return {
        "complete": complete,
        "would_fail": count(sections, FAIL) > 0,
        "fails": count(sections, FAIL),
        "warnings": count(sections, WARNING),
        "sections": {
            section.title: [
                {"mark": finding.mark, "text": finding.text, "files": list(finding.files)}
                for finding in section.findings
            ]
            for section in sections
        },
    }
