"""Write docs/configuration.md: every key of both config trees, from signatures and docstrings.

    python tools/make_configuration_docs.py

A key's type and default are those of the constructor that takes it, its meaning is its entry under
`Args:` or `Attributes:` of the constructor's docstring. A test fails where a key has none, and
where the file is not what this writes. Its words stand in templates/configuration.md.
"""

import functools
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.config import Chain, OneOf, Part, parameters
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.templates import environment
from SSLRemoteSensing.training.schedules import OPTIMIZERS
from SSLRemoteSensing.workflows.pretraining import PretextConfig
from SSLRemoteSensing.workflows.segmentation import SegmentationConfig

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs/configuration.md"
ROOTS = {"train.py": Part(PretextConfig), "finetune_seg.py": Part(SegmentationConfig)}
CHAPTERS = {
    ("train.py",): "Pre-training alone",
    ("finetune_seg.py",): "Fine-tuning alone",
    ("train.py", "finetune_seg.py"): "Both commands",
}
TRANSFORMS = "RandomHorizontalFlip"  # of the table that stands under several keys
Schema = Part | OneOf | Chain


@dataclass(eq=False)
class Section:
    """A dict of the config: the keys of `schema`, met at `paths` (in order) by `commands`."""

    schema: Schema
    paths: dict[str, None] = field(default_factory=dict)
    commands: dict[str, None] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(getattr(self.schema, "table", ()))

    @property
    def title(self) -> str:
        if TRANSFORMS in self.names:
            return "The transforms"
        others = (section.paths for section in sections().values() if section is not self)
        is_shared = not self.paths.keys().isdisjoint(itertools.chain(*others))
        of_command = f" of {ticked(self.commands)}" if is_shared and len(self.commands) == 1 else ""
        return ticked(self.paths) + of_command

    @property
    def anchor(self) -> str:
        return "#" + re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")

    @property
    def like(self) -> "Section | None":
        """A section with the same keys, or the same names, and more."""
        return next((s for held, s in sections().items() if held > choices(self.schema)), None)

    @property
    def entries(self) -> list[dict]:
        """What is built: its names, what it is, and (key, default, values, meaning) of its keys."""
        return [
            {"names": names, "text": summary(part.owner), "rows": list(rows(part))}
            for names, part in parts(self.schema)
        ]


def main() -> None:
    parse(Flags(__doc__))
    write_text(FILE, page())
    print_summary({"page": FILE})


def page() -> str:
    """The whole text.

    Raises:
        UserError: naming the keys that no docstring describes, and entries that are no key's.
    """
    problems = [line for section in sections().values() for line in undescribed(section.schema)]
    if problems:
        raise UserError("; ".join(problems))
    chapters = {
        title: [section for section in sections().values() if tuple(section.commands) == commands]
        for commands, title in CHAPTERS.items()
    }
    template = environment(ROOT / "tools/templates").get_template("configuration.md")
    text = template.render(chapters=chapters, parameters=parameters, ticked=ticked)
    return text.rstrip() + "\n"


@functools.cache
def sections() -> dict[frozenset, Section]:
    """Each dict of both trees once, in the order in which a reader meets them."""
    found: dict[frozenset, Section] = {}

    def visit(schema: Schema, path: str, command: str) -> None:
        section = found.setdefault(choices(schema), Section(schema))
        section.paths[path] = section.commands[command] = None
        for key, below in inside(schema):
            visit(below, ".".join(filter(None, (path.removeprefix("config"), key))), command)

    for command, root in ROOTS.items():
        visit(root, "config", command)
    return found


def choices(schema: Schema) -> frozenset[tuple]:
    """What a dict can hold, the keys of its owner or the names of its table; marks of the same
    dict, be they given twice, have the same."""
    if isinstance(schema, Part):
        own_keys = parameters(Part(schema.owner, schema.given))
        return frozenset((schema.owner, key) for key in own_keys)
    return frozenset(schema.table.items())


def inside(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The dicts in a dict, each with its key; '' where they stand under the same path."""
    if getattr(schema, "extra", None):  # the keys of the command stand beside those of the loop
        yield "", Part(schema.extra)
    for _, part in parts(schema):
        for key, (annotation, _) in parameters(part).items():
            if (mark := mark_of(annotation)) is not None:
                yield key, mark


def parts(schema: Schema) -> list[tuple[list[str], Part]]:
    """What a dict builds, each once, with its names: thirteen backbones are one function. Of
    torch's optimizers none is looked into."""
    if isinstance(schema, Part):
        return [([], Part(schema.owner, schema.given))]
    names: dict[Any, list[str]] = {}
    for name, owner in ({} if schema.table is OPTIMIZERS else schema.table).items():
        names.setdefault(function(owner), []).append(name)
    given = getattr(schema, "given", ())
    return [(several, Part(schema.table[several[-1]], given)) for several in names.values()]


def mark_of(annotation) -> Schema | None:
    marks = getattr(annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Schema)), None)


def function(owner):
    return owner.func if isinstance(owner, functools.partial) else owner


def summary(owner) -> str:
    """The first paragraph of a docstring, unless it says no more than the heading."""
    text = " ".join((inspect.getdoc(function(owner)) or "").split("\n\n")[0].split())
    return "" if re.fullmatch(r"The `\w+` of a config\.", text) else text


def rows(part: Part) -> Iterator[tuple[str, str, str, str]]:
    """Each key with its default, values and meaning."""
    owner, entries = part.owner, descriptions(part.owner)
    defaults = {} if typing.is_typeddict(owner) else inspect.signature(owner).parameters
    for key, (annotation, required) in parameters(part).items():
        default = code(defaults[key].default) if key in defaults else "*optional*"
        yield key, "**required**" if required else default, values(annotation), entries[key]


def ticked(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def code(value) -> str:
    """A default as it is written in a config."""
    if isinstance(value, float) and len(repr(value)) > 8:  # 1 / 3
        return f"`{Fraction(value).limit_denominator(100)}`"
    return f"`{value!r}`"


def values(annotation) -> str:
    """A type in words; a dict as a link to its keys."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        mark = mark_of(annotation)
        if mark is None:
            return values(inner[0])
        text = f"[dict]({sections()[choices(mark)].anchor})"
        if getattr(mark, "extra", None):
            text += f" and its [own keys]({sections()[choices(Part(mark.extra))].anchor})"
        others = [x for x in typing.get_args(inner[0]) if typing.get_origin(x) is Literal]
        text += "".join(f", or {values(other)}" for other in others)
        return text + (", or None" if type(None) in typing.get_args(inner[0]) else "")
    if origin in (Union, types.UnionType):
        return " or ".join(map(values, inner))
    if origin is Literal:
        return ", ".join(map(code, inner))
    if origin is tuple:
        return f"({', '.join(map(values, inner))})"
    if inner:
        return f"list of {values(inner[0])}"
    names = {type(None): "None", Sequence: "list", Any: "any"}
    return names.get(annotation) or annotation.__name__


def descriptions(owner) -> dict[str, str]:
    """Each key's entry under `Args:` or `Attributes:` of a docstring, in one line."""
    text = inspect.getdoc(function(owner)) or ""
    match = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    entries: dict[str, str] = {}
    lines = textwrap.dedent(match[1]).strip() if match else ""
    for text in filter(None, re.split(r"\n(?=\S)", lines)):
        names, colon, meaning = text.partition(":")
        if not colon:
            raise UserError(f"{function(owner).__name__}: {text!r} under Args names no key")
        meaning = " ".join(meaning.split()).replace("|", "\\|")
        entries |= {name.strip(): meaning for name in names.split(",")}
    return entries


def undescribed(schema: Schema) -> list[str]:
    """A line for each key without an entry, and for each entry that is no parameter's."""
    lines = []
    for _, part in parts(schema):
        plain, entries = function(part.owner), descriptions(part.owner)
        has_hints = typing.is_typeddict(plain)
        known = typing.get_type_hints(plain) if has_hints else inspect.signature(plain).parameters
        missing = [key for key in parameters(part) if key not in entries]
        strange = sorted(entries.keys() - known.keys())
        problems = [f"{key!r} has no entry under Args of its docstring; add it" for key in missing]
        problems += [f"{key!r} is described, but no parameter" for key in strange]
        lines += [f"{plain.__name__}: {problem}" for problem in problems]
    return lines


if __name__ == "__main__":
    run_command(main)
