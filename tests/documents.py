"""What stands in Markdown files: commands, Python blocks, links and anchors; running commands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

# A line of a code block that begins with one of these is a command.
PROGRAMS = ("python", "torchrun", "pip", "make", "git", "source", "tensorboard")
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


def markdown_files() -> list[str]:
    """All Markdown files of the repository, relative to its root."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    return sorted(str(file.relative_to(ROOT)) for file in found)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each code block; '' for those without one and for indented ones."""
    found = [(match.start(), match[2], match[3]) for match in FENCE.finditer(text)]
    rest = FENCE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text)
    lines, place, inside = rest.splitlines(keepends=True), 0, None
    before = ""
    for line in [*lines, "end"]:
        indented = re.match(r" {4,}\S", line) is not None
        if inside is None and indented and not before.strip():
            inside = (place, [])
        elif inside is not None and not indented and line.strip():
            found.append((inside[0], "", "".join(inside[1])))
            inside = None
        if inside is not None:
            inside[1].append(line)
        before, place = line, place + len(line)
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
    found = []
    for match in FENCE.finditer((ROOT / file).read_text()):
        if match[2] == "python":
            before = match.string[: match.start()].rstrip().splitlines()[-1]
            name = re.search(r"`(\w+\.py)`:$", before)
            found.append((name[1] if name else None, match[3]))
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


# Loads what the commands load, once; then each command is a copy of that process.
SERVER = """
import atexit, json, os, runpy, sys, traceback
import cv2, rasterio, torch, torchvision, tqdm, matplotlib.figure
import torch.utils.tensorboard
import SSLRemoteSensing.workflows.doctor.examine, SSLRemoteSensing.workflows.finetuning
import SSLRemoteSensing.inference.mapper, SSLRemoteSensing.models.pretext
for line in sys.stdin:
    words, folder, output = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2), os.close(0)
            sys.argv, sys.path[0] = words, os.path.dirname(os.path.realpath(words[0]))
            runpy.run_path(words[0], run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    _, ended = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(ended), flush=True)
"""


class Runner:
    """Runs `python SCRIPT ...` commands in a folder, each in a process of its own.

    `temporary` is the folder that they have for temporary files.
    """

    def __init__(self, folder: Path):
        self.temporary = Path(tempfile.mkdtemp(prefix="reader_"))
        self.folder, self.output = folder, folder / "output.txt"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        environment |= {"TMPDIR": str(self.temporary)}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self, words: list[str]) -> tuple[int, str]:
        """Exit status, and what was printed."""
        request = json.dumps([words, str(self.folder), str(self.output)])
        print(request, file=self.server.stdin, flush=True)
        status = int(self.server.stdout.readline())
        return status, self.output.read_text(errors="replace")

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=60)
        self.server.stdout.close()
        shutil.rmtree(self.temporary)
