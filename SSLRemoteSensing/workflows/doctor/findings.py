"""Findings in sections: how they are marked, told and kept as files, and what they mean."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

from SSLRemoteSensing.core.bars import print_line
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
        out, err = io.StringIO(), Excluded(sys.stderr)
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
        lines = [self.title]
        for finding in self.findings:
            names, further = list(finding.files[:MOST_FILES]), len(finding.files) - MOST_FILES
            names += [f"and {further} more"] if further > 0 else []
            lines += [f"  {SHOWN[finding.mark]}  {finding.text}"]
            lines += [f"          {name}" for name in names]
        return "\n".join(lines)


class Excluded(io.StringIO):
    """What is printed on stderr, but for the progress bars, which the terminal shows."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal, self.isatty = terminal, terminal.isatty

    def write(self, text: str) -> int:
        return self.terminal.write(text) if "\r" in text else super().write(text)


@dataclass
class Report:
    """What was found so far; printed after each section, and written where there is an `output`.

    Attributes:
        output: the folder of doctor.json and exclude.txt; None: they are not written.
        sections: in order.
        bad_images: those that training cannot use, and why.
        misled: whether a fault of most files says that the config is what is wrong.
    """

    output: Path | None = None
    sections: list[Section] = field(default_factory=list)
    bad_images: dict[str, str] = field(default_factory=dict)
    misled: bool = False

    @contextlib.contextmanager
    def section(self, title: str) -> Iterator[Section]:
        """A section to fill in the block, told after it but for what others have told."""
        section = Section(title)
        yield section
        earlier = {finding.text for section in self.sections for finding in section.findings}
        section.findings = [x for x in section.findings if x.text not in earlier]
        self.sections.append(section)
        print_line(f"{section}\n")
        self.write(complete=False)  # what crashes later must not lose what is known

    def note(self, bad_images: dict[str, str] | None) -> None:
        """Keep bad images and why they are, None where the config is what is wrong."""
        self.misled |= bad_images is None
        self.bad_images = (bad_images or {}) | self.bad_images

    def count(self, mark: str) -> int:
        return sum(
            finding.mark == mark for section in self.sections for finding in section.findings
        )

    def verdict(self) -> str:
        """The last line of the report."""
        fails, warnings = self.count(FAIL), self.count(WARNING)
        meaning = "the run would fail" if fails else "nothing would fail"
        return f"{meaning}: {fails} to mend, {warnings} warnings"

    def write(self, complete: bool) -> None:
        """All findings so far, and whether that is all of them, to doctor.json."""
        if self.output is None:
            return
        counts = {"fails": self.count(FAIL), "warnings": self.count(WARNING)}
        report = {"complete": complete, "would_fail": counts["fails"] > 0} | counts
        report["sections"] = {x.title: [asdict(f) for f in x.findings] for x in self.sections}
        text = json.dumps(report, indent=2, default=str)
        write_text(self.output / "doctor.json", f"{text}\n")

    def write_list(self, earlier: Sequence[str] = ()) -> None:
        """`earlier`, which a config leaves out already, and the bad images, each after why it is
        one, to exclude.txt, as `exclude` takes them."""
        if self.output is None:
            return
        lines = ["# images that training cannot use, written by tools/doctor.py"]
        lines += earlier
        for image, reason in self.bad_images.items():
            file = os.path.abspath(image)
            lines.append(f"# {reason}")
            lines.append(file if as_listed(file) else f"# no line can hold {file!r}; rename it")
        text = "\n".join(line if as_listed(line) else repr(line) for line in lines)
        data = f"{text}\n".encode("utf-8", "surrogateescape")
        write_bytes(self.output / "exclude.txt", data)
