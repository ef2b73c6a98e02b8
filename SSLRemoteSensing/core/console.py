"""What a command says: colours on a terminal, plain lines in a pipe, where results lie."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

STYLES = {"bold": "1", "red": "1;31", "yellow": "33"}
PROGRAMS = ("sslrs", "python -m SSLRemoteSensing")
# The scripts that users know, and the commands of `sslrs` that do the same.
COMMANDS = {"train.py": "pretrain", "finetune_seg.py": "finetune"}
TOOLS = ("predict", "prepare", "doctor", "label_efficiency", "probe", "export")
COMMANDS |= {f"tools/{name}.py": name for name in TOOLS}
COMMANDS |= {f"tools/show_{what}.py": f"show {what}" for what in ("pretext", "labels")}


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """`text` in a style of `STYLES` where `stream` (stdout) is a terminal, else as it is. Plain as
    well with NO_COLOR (https://no-color.org) or TERM=dumb, and where the stream is a stand-in that
    keeps what is printed."""
    stream = stream or sys.stdout
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if is_plain or stream not in (sys.__stdout__, sys.__stderr__) or not stream.isatty():
        return text
    return f"\033[{STYLES[style]}m{text}\033[0m"


def warn(text: str) -> None:
    """A line on stderr of what does not stop the command."""
    print(styled("warning:", "yellow", sys.stderr), text, file=sys.stderr, flush=True)


def print_summary(facts: Mapping[str, object], commands: Sequence[str] = ()) -> None:
    """The end of what a command says: results, a `key: value` a line, and what to run next."""
    for name, value in facts.items():
        print(styled(f"{name}:", "bold"), value)
    for command in commands:
        print(styled("next:", "bold"), command)


def command_line(script: str, *arguments: object) -> str:
    """A command of this repository, quoted so that it can be copied into a shell; of `sslrs` or
    `python -m SSLRemoteSensing`, where that started this program."""
    words = [*program().split(), *COMMANDS[script].split()] if program() else ["python", script]
    return shell_line(*words, *arguments)


def shell_line(*words: object) -> str:
    """A command that can be copied into a shell; a path that begins with a dash is no flag."""
    texts = (f"./{x}" if isinstance(x, Path) and str(x).startswith("-") else str(x) for x in words)
    return shlex.join(texts)


def this_command(words: Sequence[str] | None = None) -> str:
    """The command that runs now as it was typed, or with `words` in place of its own."""
    if os.path.basename(sys.argv[0]) == "ipykernel_launcher.py":
        return "a notebook"  # whose kernel's own command line tells nothing
    start = sys.argv[0].split() if program() else ["python", sys.argv[0]]
    return shlex.join([*start, *(sys.argv[1:] if words is None else words)])


def as_started(text: str) -> str:
    """`text` with the scripts that it names as this program was started: a wheel has none."""
    if not program():
        return text
    for script, command in COMMANDS.items():
        name = re.escape(script)
        text = re.sub(rf"(torchrun .*) {name} ", rf"\1 -m SSLRemoteSensing {command} ", text)
        text = text.replace(f"python {script}", f"{program()} {command}")
        text = re.sub(rf"(?<![\w/.]){name}(?!\w)", f"sslrs {command}", text)  # in a sentence
    return text


def program() -> str:
    """What started this program and takes a command: 'sslrs', say; '' where a script did."""
    return next((name for name in PROGRAMS if sys.argv[0].startswith(f"{name} ")), "")
