"""Run the commands of a GPU day in order of worth, each stopped in time, and keep what they find.

What was found of a part stands in OUT/PART.json: {part, text, commands: {name: {status, seconds,
figures, error}}}, written while its commands run. The status of a command is

    to do       it was not begun, or waits for what another one makes
    running     it was when this program was killed; counts as stopped
    stopped     the day was over; it goes on from what it wrote
    done        it is not run again, unless what it made is gone and still needed
    failed, timed out    it is tried again by the next call, after all others
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from SSLRemoteSensing.core.files import read_json, write_text

GRACE = 10.0  # seconds from SIGTERM to SIGKILL, in which a training saves
LEAST = 5.0  # seconds that must be left for a command to be begun
POLL = 0.2  # seconds between two looks at a process
SAVE = 3.0  # seconds between two writings of a part
LAST = ("failed", "timed out")


@dataclass(frozen=True)
class Command:
    """A process of a part.

    Attributes:
        name: of its entry in PART.json.
        words: the command line.
        limit: seconds after which it is stopped as one that hangs.
        figures: gives what it has found so far, a dict; its 'headline' stands in the summary.
        makes: a file that later commands need.
        needs: names of commands of this part whose `makes` it takes.
    """

    name: str
    words: Sequence[str]
    limit: float
    figures: Callable[[], dict]
    makes: Path | None = None
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """Commands that find out one thing, in order."""

    name: str
    text: str
    commands: Sequence[Command]


@dataclass
class Day:
    """What is to be run, and what was found, in this call and in those before.

    Attributes:
        out: folder of PART.json and summary.md; may be all that outlives the machine.
        work: folder of what the commands write, and of what they say.
        deadline: `time.monotonic()` at which the day is over.
        environment: variables of the commands.
    """

    parts: Sequence[Part]
    out: Path
    work: Path
    deadline: float
    environment: dict[str, str]
    records: dict[str, dict[str, dict]] = field(default_factory=dict)
    signals: list[int] = field(default_factory=list)

    def __post_init__(self):
        for part in self.parts:
            known = read_json(self.out / f"{part.name}.json").get("commands", {})
            self.records[part.name] = {
                command.name: {"status": "to do"} | known.get(command.name, {})
                for command in part.commands
            }

    def run(self) -> None:
        """Run what is left, until all is done, the time is over or a signal comes."""
        commands = [(part, command) for part in self.parts for command in part.commands]
        # What failed in a call before must not keep others from their turn.
        commands.sort(key=lambda pair: self.record(*pair)["status"] in LAST)
        with self.noted_signals():
            for part, command in commands:
                if self.is_due(part, command):
                    self.run_command(part, command)
        for part in self.parts:
            self.keep(part)

    def record(self, part: Part, command: Command) -> dict:
        """The entry of a command in PART.json."""
        return self.records[part.name][command.name]

    def is_due(self, part: Part, command: Command) -> bool:
        """Whether a command is left, can be run, and there is time for it."""
        if self.signals or self.deadline - time.monotonic() < LEAST + GRACE:
            return False
        record = self.record(part, command)
        if record["status"] == "done":
            lost = command.makes is not None and not command.makes.exists()
            return lost and any(
                command.name in other.needs and self.record(part, other)["status"] != "done"
                for other in part.commands
            )
        makers = [other for other in part.commands if other.name in command.needs]
        return all(self.has_made(part, maker) for maker in makers)

    def has_made(self, part: Part, command: Command) -> bool:
        """Whether what others need of a command is there, and whole."""
        is_done = self.record(part, command)["status"] == "done"
        return is_done and (command.makes is None or command.makes.exists())

    def run_command(self, part: Part, command: Command) -> None:
        """Run one command to its end, or until it must end; what it found is kept on the way."""
        record = self.record(part, command)
        earlier = record.get("seconds", 0.0)
        record |= {"status": "running", "command": " ".join(command.words)}
        record.pop("error", None)
        said = self.work / f"{part.name}/{command.name}.txt"
        said.parent.mkdir(parents=True, exist_ok=True)
        self.keep(part)
        start = time.monotonic()
        print(f"{part.name} {command.name} ...", flush=True)
        with open(said, "ab") as output:
            offset = output.tell()
            try:
                # A group of its own, so that its workers end with it.
                process = subprocess.Popen(
                    command.words, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=self.environment, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                status, failure = "failed", str(error)
            else:
                status = self.watch(part, command, process, earlier)
                failure = last_line(said, offset) or f"exit status {process.returncode}"
        record |= {"status": status, "seconds": round(earlier + time.monotonic() - start, 1)}
        if status in LAST:
            record["error"] = failure
        self.update(part, command)
        print(f"{part.name} {command.name}: {status}, {record['seconds']} s", flush=True)

    def watch(self, part: Part, command: Command, process: subprocess.Popen, earlier: float) -> str:
        """The status with which a process ends, by itself or because its time is over."""
        start = saved = time.monotonic()
        hangs = start + command.limit
        end, status = min(hangs, self.deadline - GRACE), ""
        while process.poll() is None and not status:
            time.sleep(POLL)
            now = time.monotonic()
            if now - saved > SAVE:
                saved = now
                self.record(part, command)["seconds"] = round(earlier + now - start, 1)
                self.update(part, command)
            if self.signals or now >= end:
                status = "timed out" if now >= hangs and not self.signals else "stopped"
                end_group(process)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left running
        return status or ("failed" if process.returncode else "done")

    def update(self, part: Part, command: Command) -> None:
        """Take over what a command has found; what is not there yet, or not whole, is left as it
        was: whatever is wrong with it, the day goes on."""
        with contextlib.suppress(Exception):
            found = command.figures()
            if found:
                self.record(part, command)["figures"] = found
        self.keep(part)

    def keep(self, part: Part) -> None:
        contents = {"part": part.name, "text": part.text, "commands": self.records[part.name]}
        write_text(self.out / f"{part.name}.json", json.dumps(contents, indent=1) + "\n")

    @contextlib.contextmanager
    def noted_signals(self) -> Iterator[None]:
        """In the block Ctrl-C and SIGTERM end the running command, and no other is begun."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        note = lambda number, frame: self.signals.append(number)  # noqa: E731
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def has_failed(self) -> bool:
        """Whether a command failed, or hung."""
        found = [record for records in self.records.values() for record in records.values()]
        return any(record["status"] in LAST for record in found)

    def summary(self) -> str:
        """A table of all commands, as Markdown."""
        lines = [
            "| part | command | status | seconds | what came of it |",
            "|---|---|---|---:|---|",
        ]
        for part in self.parts:
            for name, record in self.records[part.name].items():
                told = record.get("error") or record.get("figures", {}).get("headline", "")
                told = " ".join(str(told).split()).replace("|", "/")[:300]
                cells = (part.name, name, record["status"], str(record.get("seconds", "")), told)
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def end_group(process: subprocess.Popen) -> None:
    """Ask a process to save and end; after a while end it and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(said: Path, offset: int) -> str:
    """What a process said last."""
    text = said.read_bytes()[offset:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "RuntimeError", "E  "))]
    return (errors or lines or [""])[-1][:300]
