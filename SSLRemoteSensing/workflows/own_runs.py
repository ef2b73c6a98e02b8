"""A run without a config file: the config that it needs, written to its folder, and kept there.

`RUN/config.py` is what is run, now and by the same command later; `RUN/command.json` says what was
asked for, so that a folder never goes on with another run. What `training.resume` lets change may
be given by --set to the same command, and stands in `RUN/config.py` once the run goes on with it.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.config import Part, differences, load_config
from SSLRemoteSensing.core.console import shell_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json, write_text
from SSLRemoteSensing.training.resume import is_fixed
from SSLRemoteSensing.training.settings import split
from SSLRemoteSensing.workflows.kinds import KINDS
from SSLRemoteSensing.workflows.own_labels import OwnLabels
from SSLRemoteSensing.workflows.own_lengths import length_fact
from SSLRemoteSensing.workflows.own_plans import (
    CONFIG,
    literal,
    plan_finetuning,
    plan_pretraining,
)
from SSLRemoteSensing.workflows.own_requests import Request

COMMAND = "command.json"
STARTS = "run.json"  # the loop adds one to its `runs` each time that it takes up the run
OF_A_RUN = ("latest.pth", STARTS, "pseudo_labels/record.json")  # there from its first step on
FOLDER = "train_cfg.checkpoints.checkpoints_path"  # is --output: another one is another run


@contextlib.contextmanager
def requested_config(request: Request, writes: bool = True) -> Iterator[dict]:
    """The config of a run, read from its folder or made and, if `writes`, kept there; without, what
    it needs is there as long as the block lasts.

    Processes of torchrun wait for the first, which writes; what is there for the block alone must
    be on a disk that all of them see.

    Raises:
        UserError: the folder holds a run of other settings, which cannot be changed; images, tiles
            or weights that cannot be used; a wrong key of `settings`.
    """
    folder, schemas = Path(request.output), [Part(KINDS[request.task].schema)]
    begun = all(distributed.all_gather_object(require_same(request)))
    changes = new_settings(request, schemas) if begun else {}
    with tempfile.TemporaryDirectory() as own_scratch, contextlib.ExitStack() as ends:
        scratch = Path(distributed.all_gather_object(own_scratch)[0])
        if not (begun or writes):
            distributed.require_shared(scratch, "environment variable TMPDIR")
        target = folder if begun or writes else scratch
        if not begun and distributed.rank() == 0:
            make_folder(target, "--output")
            with distributed.alone():
                write_config(request, target, schemas)
        if writes:
            if begun:
                print(
                    f"config: {target / CONFIG}, as this run began{settings_note(request, changes)}"
                )
            else:
                print(f"config: {target / CONFIG}")
            if changes and distributed.rank() == 0:
                ends.enter_context(changed_config(request, changes, schemas))
        distributed.barrier()
        yield load_config(target / CONFIG, [*changes.values()], schemas)
        if not writes:
            distributed.barrier()  # the first takes what is there with it


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
        KINDS[request.task].check(load_config(path, schemas=schemas))
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
        UserError: it holds another one, or one that was moved there. What `settings` say is left to
            `new_settings`.
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
    if changes and not any((folder / name).exists() for name in OF_A_RUN):
        return False
    for key in changes:
        if key != "settings":
            raise refusal(request, f"its {key} is {before.get(key)!r}, now {now.get(key)!r}")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder / CONFIG}: is not there; restore it, or give another --output")
    if any((folder / name).exists() for name in OF_A_RUN):
        require_in_place(request)
    return True


def require_in_place(request: Request) -> None:
    """Raise a `UserError` where the config of the run in the folder of `request` has it elsewhere:
    it would begin anew there."""
    folder = Path(request.output)
    config = load_config(folder / CONFIG)
    KINDS[request.task].check(config)
    place = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    if place.resolve() != folder.resolve():
        words = ("--config_file", folder / CONFIG, "--checkpoints_path", folder)
        again = shell_line("sslrs", request.task, *words, "--log_path", folder / "log")
        raise UserError(
            f"--output {folder}: was moved, its {CONFIG} has the run in {place}; change it there, "
            f"or go on by: {again}"
        )


def refusal(request: Request, what: str) -> UserError:
    """That `request` is no other start of the run in its folder, which differs in `what`."""
    config = Path(request.output) / CONFIG
    again = shell_line("sslrs", request.task, "--config_file", config)
    return UserError(
        f"--output {request.output}: holds a run of other settings, {what}; give another folder, "
        f"or go on with it as it began: {again}"
    )


def by_key(settings: Sequence[str]) -> dict[str, str]:
    """'a.b=VALUE' each, the last of each key."""
    return {text.partition("=")[0].strip(): text for text in settings}


def new_settings(request: Request, schemas: Sequence[object]) -> dict[str, str]:
    """What `settings` says, by key, that the run in the folder of `request` does not have so far.
    A key that is not given any more stays as it is.

    Raises:
        UserError: a wrong key; one that is fixed for a run that has begun, given or left out.
    """
    folder = Path(request.output)
    before, now = by_key(read_json(folder / COMMAND)["settings"]), by_key(request.settings)
    for key, text in before.items():
        if key not in now and is_fixed(key, text):
            raise refusal(request, f"it began with --set {text}, which is not given now")
    changes = {key: text for key, text in now.items() if before.get(key) != text}
    if not changes:
        return {}
    config = load_config(folder / CONFIG, schemas=schemas)
    changed = load_config(folder / CONFIG, [*changes.values()], schemas)
    KINDS[request.task].check(changed)
    split(changed["train_cfg"], KINDS[request.task].keys)
    for key, old, new in differences(config, changed):
        if is_fixed(key, old) or key == FOLDER:
            raise refusal(request, f"its {key} is {old!r}, now {new!r}")
    return changes


def settings_note(request: Request, changes: Mapping[str, str]) -> str:
    """What is said of the --set with which a run goes on."""
    now = by_key(request.settings)
    before = by_key(read_json(Path(request.output) / COMMAND)["settings"])
    kept = [text for key, text in before.items() if key not in now]
    text = f", with {', '.join(kept)} as before" if kept else ""
    return text + (f", now with {', '.join(changes.values())}" if changes else "")


@contextlib.contextmanager
def changed_config(
    request: Request, changes: Mapping[str, str], schemas: Sequence[object]
) -> Iterator[None]:
    """`changes` stand in the config and the record of a run that goes on while the block lasts, and
    later if the run was taken up in it: what was refused, or left nothing to do, is not kept."""
    folder, settings = Path(request.output), [*changes.values()]
    before = {name: (folder / name).read_text("utf-8") for name in (CONFIG, COMMAND)}
    old = load_config(folder / CONFIG)
    lines = assignments(old, load_config(folder / CONFIG, settings, schemas), settings)
    record = read_json(folder / COMMAND)
    record["settings"] = [*(by_key(record["settings"]) | changes).values()]
    starts = read_json(folder / STARTS)
    write_text(folder / CONFIG, before[CONFIG] + lines)
    write_text(folder / COMMAND, json.dumps(record, indent=2) + "\n")
    try:
        yield
    finally:
        if read_json(folder / STARTS) == starts:
            for name, text in before.items():
                write_text(folder / name, text)


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
