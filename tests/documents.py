"""What stands in Markdown files: commands, Python blocks, links and anchors; running commands."""

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from preloaded import python

# A line of a code block that begins with one of these is a command.
PROGRAMS = ("python", "sslrs", "torchrun", "pip", "make", "git", "source", "tensorboard", "docker")
CONTROL = ("for", "done")  # a loop around commands
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command as a reader would type it, and the file in which it stands."""

    file: str
    text: str

    @property
    def words(self) -> list[str]:
        """Without what marks choices in a synopsis, '...', and what comes after a #."""
        words = shlex.split(self.text.replace("[--set ...]", ""), comments=True)
        words = [word for word in words if word not in ("...", "|")]
        words = [word[1:] if word.startswith("[-") else word for word in words]
        return [word.removesuffix("]") if "[" not in word else word for word in words]

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each code block; '' for those without one and for indented ones."""
    found = [(match.start(), match[2], match[3]) for match in FENCE.finditer(text)]
    rest = FENCE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text) + "\n"
    # After an empty line, or at the beginning; on to the last indented line.
    indented = re.compile(r"(?:(?<=\n\n)|\A\n*)( {4,}\S.*\n(?:(?: {4,}.*)?\n)*)", re.MULTILINE)
    for match in indented.finditer(rest):
        found.append((match.start(1), "", match[1].rstrip("\n") + "\n"))
    return [(language, content) for _, language, content in sorted(found)]


def commands(file: str, text: str | None = None) -> list[Command]:
    """The commands in the blocks and in the `code` of a file, in order.

    Raises:
        AssertionError: a block that mixes commands with other lines, so that one might be missed.
    """
    text = (ROOT / file).read_text() if text is None else text
    found = []
    for language, content in blocks(text):
        if language not in ("", "sh", "bash"):
            continue
        joined = re.sub(r" *\\\n\s*", " ", content)
        lines = [line.strip() for line in joined.splitlines() if line.strip()]
        parts = [part.strip() for line in lines for part in line.split(" && ")]
        kinds = {part.split()[0].strip("(") in (*PROGRAMS, *CONTROL, "cd") for part in parts}
        assert kinds in ({True}, {False}), (
            f"{file}: a block of commands and other lines:\n{content}"
        )
        if kinds == {True}:
            found += [Command(file, p) for p in parts if p.split()[0] not in (*CONTROL, "cd")]
    inline = FENCE.sub("", text)
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", inline):
        if code.split() and code.split()[0] in PROGRAMS and len(code.split()) > 1:
            found.append(Command(file, " ".join(code.split())))
    return found


def python_blocks(file: str) -> list[tuple[str | None, str]]:
    """(name, code) of each Python block; the name of the file that the line before says it is."""
    text, found = (ROOT / file).read_text(), []
    for match in FENCE.finditer(text):
        if match[2] == "python":
            name = re.search(r"`(\w+\.py)`:\s*\Z", text[: match.start()])
            found.append((name and name[1], match[3]))
    return found


def links(file: str) -> list[str]:
    """The targets of a file's links and pictures, those in code left out."""
    text = FENCE.sub("", (ROOT / file).read_text())
    text = re.sub(r"(?<!`)`[^`]+`(?!`)", "code", text)
    return re.findall(r"\]\(([^()\s]+)\)", text)


def anchors(file: Path) -> list[str]:
    """The anchors that GitHub gives the headings of a file."""
    text, found = FENCE.sub("", file.read_text()), []
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        again = sum(anchor == re.sub(r"-\d+$", "", other) for other in found)
        found.append(f"{anchor}-{again}" if again else anchor)
    return found


def run(words: list[str], folder: Path, temporary: Path) -> tuple[int, str]:
    """Exit status and output of `python WORDS` in a folder; `temporary` is for its own files."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [python(), *words], cwd=folder, env=environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout
