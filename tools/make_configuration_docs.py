"""Write docs/configuration.md: every key of both config trees, from signatures and docstrings.

    python tools/make_configuration_docs.py

A key's type and default are those of the constructor that takes it, its meaning is its entry under
`Args:` or `Attributes:` of the constructor's docstring. A test fails where a key has none, and
where the file is not what this writes.
"""

import functools
import inspect
import re
import textwrap
import types
import typing
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.config import Chain, OneOf, Part, parameters, typed_keys
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.training.schedules import OPTIMIZERS
from SSLRemoteSensing.workflows.finetuning import SegmentationConfig
from SSLRemoteSensing.workflows.pretraining import PretextConfig

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs/configuration.md"
ROOTS = {"train.py": Part(PretextConfig), "finetune_seg.py": Part(SegmentationConfig)}
CHAPTERS = {
    ("train.py",): "Pre-training alone",
    ("finetune_seg.py",): "Fine-tuning alone",
    ("train.py", "finetune_seg.py"): "Both commands",
}
# torch's optimizers have more parameters, which differ from version to version.
TORCH_KEYS = {
    "Adam": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "AdamW": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "SGD": ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
}
# Tables that stand under several keys have a name of their own.
NAMED = {"RandomHorizontalFlip": "The transforms"}
INTRODUCTION = """\
# Every key of a config

Written by `tools/make_configuration_docs.py` from the code; a change by hand does not last.

A config is a Python file that binds `config` to nested dicts; [configs](../configs) has examples
of all kinds. Each dict is the argument list of one constructor, so its keys, types and defaults
are those of the code. Keys that are unknown or missing and values of another type are named, with
the nearest known key, before anything is opened. Any key can be set from the command line, where a
value is a Python literal or else a string:

    python train.py --config_file C \\
        --set train_cfg.optimizer.lr=1e-4 train_cfg.train_data.data_path=my/images

**required** marks what has no default. *optional* marks what may be absent; its description says
what happens then. Where a dict has a `name`, the name chooses what is built, and the other keys are
its own. `train_cfg` holds the keys of the loop, which both commands have, and those of its command
side by side. Keys of the published repository that do nothing are dropped with a line each:
`test_cfg`, `img_size` of backbone and heads, and their `num_classes=None`.

"""


@dataclass
class Section:
    """A dict of the config: the keys of `schema`, met at `paths` (in order) by `commands`."""

    schema: Part | OneOf | Chain
    paths: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    shared: bool = False  # a path that another section has too

    @property
    def title(self) -> str:
        names = getattr(self.schema, "table", ())
        for first, title in NAMED.items():
            if first in names:
                return title
        paths = ", ".join(f"`{path}`" for path in self.paths)
        return f"{paths} of `{self.commands[0]}`" if self.shared else paths

    @property
    def anchor(self) -> str:
        kept = re.sub(r"[^\w\- ]", "", self.title.lower())
        return kept.replace(" ", "-")


def flags() -> ArgumentParser:
    flags = Flags(__doc__)
    told = "the page to write (default: docs/configuration.md)"
    flags.add_argument("--output", type=Path, metavar="FILE", help=told)
    return flags


def main() -> None:
    output = parse(flags()).output or FILE
    write_text(output, page())
    print_summary({"page": output})


def page() -> str:
    """The whole text.

    Raises:
        UserError: naming the keys that no docstring describes, and entries that are no key's.
    """
    sections = find_sections()
    problems = [line for one in sections for line in undescribed(one.schema)]
    if problems:
        raise UserError("; ".join(problems))
    text = INTRODUCTION
    chapters = {key: [s for s in sections if tuple(s.commands) == key] for key in CHAPTERS}
    for key, title in CHAPTERS.items():
        links = "".join(f"- [{one.title}](#{one.anchor})\n" for one in chapters[key])
        text += f"{title}:\n\n{links}\n"
    for key, title in CHAPTERS.items():
        text += f"## {title}\n\n"
        for one in chapters[key]:
            text += f"### {one.title}\n\n{body(one, sections)}\n"
    return text.rstrip() + "\n"


def find_sections() -> list[Section]:
    """Each dict of both trees once, in the order in which a reader meets them."""
    found: list[Section] = []

    def visit(schema: Part | OneOf | Chain, path: str, command: str) -> None:
        known = next((one for one in found if same(one.schema, schema)), None)
        if known is None:
            known = Section(schema)
            found.append(known)
        if path not in known.paths:
            known.paths.append(path)
        if command not in known.commands:
            known.commands.append(command)
        for key, below in inside(schema):
            visit(
                below,
                ".".join(part for part in (path.removeprefix("config"), key) if part),
                command,
            )

    for command, root in ROOTS.items():
        visit(root, "config", command)
    for one in found:
        others = [path for other in found if other is not one for path in other.paths]
        one.shared = len(one.commands) == 1 and any(path in others for path in one.paths)
    return found


def same(one: Part | OneOf | Chain, other: Part | OneOf | Chain) -> bool:
    if isinstance(one, Part) and isinstance(other, Part):
        return one.owner is other.owner and set(one.given) == set(other.given)
    return type(one) is type(other) and one.table is other.table


def inside(schema: Part | OneOf | Chain) -> list[tuple[str, Part | OneOf | Chain]]:
    """The dicts in a dict, each with its key; '' where they stand under the same path."""
    if isinstance(schema, Part):
        keys = parameters(Part(schema.owner, schema.given))
        marks = [(key, mark_of(annotation)) for key, (annotation, _) in keys.items()]
        # The keys of the command stand beside those of the loop.
        own = [("", Part(schema.extra))] if schema.extra else []
        return own + [(key, mark) for key, mark in marks if mark is not None]
    owners = unique_owners(schema.table)
    return [
        (key, mark)
        for owner in owners
        for key, (annotation, _) in takes(owner, getattr(schema, "given", ())).items()
        if (mark := mark_of(annotation)) is not None
    ]


def unique_owners(table) -> list:
    """What a table's names build, each once: thirteen backbones are one function."""
    return list({function(owner): owner for owner in table.values()}.values())


def takes(owner, given: Sequence[str] = ()) -> dict[str, tuple[Any, bool]]:
    """The keys that an entry of a table takes; of torch's optimizers none is looked into."""
    return {} if owner in OPTIMIZERS.values() else parameters(Part(owner, given))


def mark_of(annotation) -> Part | OneOf | Chain | None:
    if typing.get_origin(annotation) is not Annotated:
        return None
    marks = typing.get_args(annotation)[1:]
    return next((mark for mark in marks if isinstance(mark, Part | OneOf | Chain)), None)


def function(owner):
    return owner.func if isinstance(owner, functools.partial) else owner


def body(section: Section, sections: list[Section]) -> str:
    schema = section.schema
    if isinstance(schema, Part):
        larger = next((one for one in sections if holds(one.schema, schema)), None)
        if larger is not None:
            keys = ", ".join(f"`{key}`" for key in parameters(schema))
            return f"As [{larger.title}](#{larger.anchor}), of whose keys it takes {keys}.\n"
        return f"{told(schema.owner)}{table(schema.owner, schema.given, sections)}"
    names = list(schema.table)
    if set(schema.table.values()) <= set(OPTIMIZERS.values()):
        return torch_optimizers(names)
    if isinstance(schema, Chain):
        like = next((one for one in sections if offers(one.schema, schema)), None)
        if like is not None:
            chosen = ", ".join(f"`{name}`" for name in names)
            return f"Dicts under any keys, each as [{like.title}](#{like.anchor}): {chosen}.\n"
        paths = ", ".join(f"`{path}`" for path in section.paths)
        text = f"Of {paths}: dicts under any keys, in order, each with a `name`:\n\n"
    elif len(unique_owners(schema.table)) == 1 < len(names):
        text = f"`name` is one of {', '.join(f'`{name}`' for name in names)}. "
        owner = schema.table[names[0]]
        return f"{text}{told(owner)}{table(owner, schema.given, sections)}"
    else:
        text = "" if len(names) == 1 else "`name` is one of:\n\n"
    for name, owner in schema.table.items():
        rows = table(owner, getattr(schema, "given", ()), sections)
        text += f"**`{name}`** {told(owner)}{rows}\n"
    return text.rstrip() + "\n"


def holds(larger: Part | OneOf | Chain, smaller: Part) -> bool:
    """Whether the one has the same keys as the other, and more."""
    same_owner = isinstance(larger, Part) and larger.owner is smaller.owner
    return same_owner and set(larger.given) < set(smaller.given)


def offers(larger: Part | OneOf | Chain, smaller: Chain) -> bool:
    """Whether the one has all names of the other, and more."""
    return isinstance(larger, OneOf) and larger.table.items() > smaller.table.items()


def torch_optimizers(names: Sequence[str]) -> str:
    link = "https://docs.pytorch.org/docs/stable/generated/torch.optim.{0}.html"
    text = "torch's own, with all their parameters; `fused` is on where nothing else is asked for."
    text += "\n\n| `name` | most used parameters |\n|---|---|\n"
    for name in names:
        shown = ", ".join(f"`{key}`" for key in TORCH_KEYS[name])
        text += f"| [`{name}`]({link.format(name)}) | {shown} |\n"
    return text


def told(owner) -> str:
    """The first paragraph of a docstring, unless it says no more than the heading."""
    text = " ".join((inspect.getdoc(function(owner)) or "").split("\n\n")[0].split())
    return "" if re.fullmatch(r"The `\w+` of a config\.", text) else f"{text}\n\n"


def table(owner, given: Sequence[str], sections: list[Section]) -> str:
    keys, entries = takes(owner, given), descriptions(owner)
    if not keys:
        return ""
    defaults = {} if typing.is_typeddict(owner) else inspect.signature(owner).parameters
    text = "| key | default | values | meaning |\n|---|---|---|---|\n"
    for key, (annotation, required) in keys.items():
        default = "**required**"
        if not required:
            default = code(defaults[key].default) if key in defaults else "*optional*"
        text += f"| `{key}` | {default} | {values(annotation, sections)} | {entries[key]} |\n"
    return text


def code(value) -> str:
    """A default as it is written in a config."""
    if isinstance(value, float) and len(repr(value)) > 8:  # 1 / 3
        value = Fraction(value).limit_denominator(100)
        return f"`{value}`"
    return f"`{value!r}`"


def values(annotation, sections: list[Section]) -> str:
    """A type in words; a dict as a link to its keys."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        mark = mark_of(annotation)
        if mark is None:
            return values(inner[0], sections)
        section = next(one for one in sections if same(one.schema, mark))
        none = ", or None" if type(None) in typing.get_args(inner[0]) else ""
        own = getattr(mark, "extra", None)
        beside = next((one for one in sections if own and same(one.schema, Part(own))), None)
        more = f" and its [own keys](#{beside.anchor})" if beside else ""
        return f"[dict](#{section.anchor}){more}{none}"
    if origin in (Union, types.UnionType):
        return " or ".join(values(one, sections) for one in inner)
    if origin is Literal:
        return ", ".join(f"`{one!r}`" for one in inner)
    if origin is tuple:
        return f"({', '.join(values(one, sections) for one in inner)})"
    if inner:
        return f"list of {values(inner[0], sections)}"
    names = {type(None): "None", Sequence: "list", Any: "any"}
    return names.get(annotation) or annotation.__name__


def descriptions(owner) -> dict[str, str]:
    """Each key's entry under `Args:` or `Attributes:` of a docstring, in one line."""
    text = inspect.getdoc(function(owner)) or ""
    match = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    if match is None:
        return {}
    found = {}
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(match[1]).strip()):
        names, colon, meaning = entry.partition(":")
        if not colon:
            raise UserError(f"{function(owner).__name__}: {entry!r} under Args names no key")
        meaning = " ".join(meaning.split()).replace("|", "\\|")
        found |= {name.strip(): meaning for name in names.split(",")}
    return found


def undescribed(schema: Part | OneOf | Chain) -> list[str]:
    """A line for each key without an entry, and for each entry that is no parameter's."""
    owners = [schema.owner] if isinstance(schema, Part) else unique_owners(schema.table)
    lines = []
    for owner in owners:
        if owner in OPTIMIZERS.values():
            continue
        name, entries = function(owner).__name__, descriptions(owner)
        if typing.is_typeddict(owner):
            known = set(typed_keys(owner))
        else:
            known = set(inspect.signature(function(owner)).parameters)
        for key in takes(owner, getattr(schema, "given", ())):
            if key not in entries:
                lines.append(f"{name}: {key!r} has no entry under Args of its docstring; add it")
        strange = sorted(entries.keys() - known)
        lines += [f"{name}: {key!r} is described, but no parameter" for key in strange]
    return lines


if __name__ == "__main__":
    run_command(main)
