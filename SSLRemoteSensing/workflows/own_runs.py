"""A run without a config file: the config that it needs, written to its folder, and kept there.

`RUN/config.py` is what is run, now and by the same command later; `RUN/command.json` says what was
asked for, so that a folder never goes on with other settings than it began with.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.config import Part, load_config
from SSLRemoteSensing.core.console import shell_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json, write_text
from SSLRemoteSensing.workflows.own_labels import OwnLabels
from SSLRemoteSensing.workflows.own_lengths import length_fact
from SSLRemoteSensing.workflows.own_plans import (
    CONFIG,
    TREES,
    literal,
    plan_finetuning,
    plan_pretraining,
)
from SSLRemoteSensing.workflows.own_requests import Request

COMMAND = "command.json"
OF_A_RUN = ("latest.pth", "run.json", "pseudo_labels/record.json")  # there from its first step on


@contextlib.contextmanager
def requested_config(request: Request, writes: bool = True) -> Iterator[dict]:
    """The config of a run, read from its folder or made and, if `writes`, kept there; without, what
    it needs is there as long as the block lasts.

    Processes of torchrun wait for the first, which writes.

    Raises:
        UserError: the folder holds a run of other settings; images, tiles or weights that cannot be
            used; a wrong key of `settings`.
    """
    folder, schemas = Path(request.output), [Part(TREES[request.task].schema)]
    begun = require_same(request)
    with tempfile.TemporaryDirectory() as scratch:
        target = folder if begun or writes else Path(scratch)
        if not begun and distributed.rank() == 0:
            make_folder(target, "--output")
            with distributed.alone():
                write_config(request, target, schemas)
        if writes:
            print(f"config: {target / CONFIG}{', as this run began' if begun else ''}")
            distributed.barrier()
        yield load_config(target / CONFIG, schemas=schemas)


def write_config(request: Request, folder: Path, schemas: Sequence[object]) -> None:
    """Write the config that `request` plans, and last what was asked for, to `folder`; neither
    where a key of `settings` is wrong."""
    plan = plan_pretraining if request.task == "pretrain" else plan_finetuning
    planned = plan(request, folder)
    text = planned.text
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG
        write_text(path, text)
        config = load_config(path)
        if request.settings:
            before, config = config, load_config(path, request.settings, schemas)
            text += assignments(before, config, request.settings)
            write_text(path, text)
        TREES[request.task].check(load_config(path, schemas=schemas))
    write_text(folder / CONFIG, text)
    write_text(folder / COMMAND, json.dumps(record_of(request), indent=2) + "\n")
    print(*planned.facts, length_fact(request, config["train_cfg"], planned.samples), sep="\n")


def record_of(request: Request) -> dict:
    """A request as command.json keeps it; where it lies may change."""
    record = {"task": request.task} | asdict(request)
    del record["output"]
    if request.task == "finetune":
        is_own = isinstance(request.tiles, OwnLabels)
        own = request.tiles if is_own else OwnLabels((), None)
        record |= asdict(own) | {"tiles": None if is_own else request.tiles}
    return json.loads(json.dumps(record))


def require_same(request: Request) -> bool:
    """Whether the folder holds a run of `request`; one that never began, since something was wrong
    with it, makes room for another.

    Raises:
        UserError: it holds another one.
    """
    folder = Path(request.output)
    if not (folder / COMMAND).is_file():
        for name in (CONFIG, *OF_A_RUN):
            if (folder / name).exists():
                raise UserError(
                    f"--output {folder}: holds {name} of another run; give another folder, or go "
                    f"on with that run's own config"
                )
        return False
    before, now = read_json(folder / COMMAND), record_of(request)
    if not before:
        raise UserError(f"{folder / COMMAND}: damaged; restore it, or give another --output")
    changes = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if changes:
        if not any((folder / name).exists() for name in OF_A_RUN):
            return False
        key = changes[0]
        again = shell_line("sslrs", request.task, "--config_file", folder / CONFIG)
        raise UserError(
            f"--output {folder}: holds a run of other settings, its {key} is {before.get(key)!r}, "
            f"now {now.get(key)!r}; give another folder, or go on with it as it began: {again}"
        )
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder / CONFIG}: is not there; restore it, or give another --output")
    return True


def assignments(before: dict, after: dict, settings: Sequence[str]) -> str:
    """What `settings` made of a config, as lines of Python to stand below it."""
    lines = ["", "# As --set has it."]
    for setting in settings:
        keys = setting.partition("=")[0].strip().split(".")
        place, old, value = "config", before, after
        for key in keys[:-1]:
            place += f"[{json.dumps(key)}]"
            old, value = old.get(key), value[key]
            if not isinstance(old, dict):
                lines.append(f"{place} = {{}}")
                old = {}
        lines.append(f"{place}[{json.dumps(keys[-1])}] = {literal(value[keys[-1]])}")
    return "\n".join(dict.fromkeys(lines)) + "\n"
