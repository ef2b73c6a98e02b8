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
from collections.abc import Iterator, Mapping, Sequence
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
TORCH_KEYS = dict.fromkeys(("Adam", "AdamW"), ("lr", "betas", "eps", "weight_decay", "amsgrad"))
TORCH_KEYS["SGD"] = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
TORCH_PAGE = "https://docs.pytorch.org/docs/stable/generated/torch.optim.{0}.html"
# Tables that stand under several keys have a name of their own.
NAMED = {"RandomHorizontalFlip": "The transforms"}
Schema = Part | OneOf | Chain


@dataclass(eq=False)
class Section:
    """A dict of the config: the keys of `schema`, met at `paths` (in order) by `commands`."""

    schema: Schema
    paths: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    shared: bool = False  # a path that another section has too
    text: str = ""

    @property
    def title(self) -> str:
        names = getattr(self.schema, "table", ())
        named = [title for first, title in NAMED.items() if first in names]
        paths = ticked(self.paths) + (f" of `{self.commands[0]}`" if self.shared else "")
        return named[0] if named else paths

    @property
    def anchor(self) -> str:
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")


def main() -> None:
    parse(Flags(__doc__))
    write_text(FILE, page())
    print_summary({"page": FILE})


def page() -> str:
    """The whole text.

    Raises:
        UserError: naming the keys that no docstring describes, and entries that are no key's.
    """
    sections = find_sections()
    problems = [line for section in sections for line in undescribed(section.schema)]
    if problems:
        raise UserError("; ".join(problems))
    for section in sections:
        section.text = body(section, sections).rstrip()
    chapters = [
        {"title": title, "sections": [s for s in sections if tuple(s.commands) == commands]}
        for commands, title in CHAPTERS.items()
    ]
    template = environment(ROOT / "tools/templates").get_template("configuration.md")
    return template.render(chapters=chapters).rstrip() + "\n"


def find_sections() -> list[Section]:
    """Each dict of both trees once, in the order in which a reader meets them."""
    sections: list[Section] = []

    def visit(schema: Schema, path: str, command: str) -> None:
        section = next((s for s in sections if same(s.schema, schema)), Section(schema))
        for items, item in (sections, section), (section.paths, path), (section.commands, command):
            if item not in items:
                items.append(item)
        for key, below in inside(schema):
            visit(below, ".".join(filter(None, (path.removeprefix("config"), key))), command)

    for command, root in ROOTS.items():
        visit(root, "config", command)
    for section in sections:
        others = {path for other in sections if other is not section for path in other.paths}
        section.shared = len(section.commands) == 1 and not others.isdisjoint(section.paths)
    return sections


def same(schema: Schema, other: Schema) -> bool:
    if isinstance(schema, Part) and isinstance(other, Part):
        return schema.owner is other.owner and set(schema.given) == set(other.given)
    return type(schema) is type(other) and schema.table is other.table


def inside(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The dicts in a dict, each with its key; '' where they stand under the same path."""
    if getattr(schema, "extra", None):  # the keys of the command stand beside those of the loop
        yield "", Part(schema.extra)
    for owner in owners(schema):
        for key, (annotation, _) in takes(owner, schema).items():
            if (mark := mark_of(annotation)) is not None:
                yield key, mark


def owners(schema: Schema) -> list:
    """What a dict's names build, each once: thirteen backbones are one function."""
    table = {"": schema.owner} if isinstance(schema, Part) else schema.table
    return list({function(owner): owner for owner in table.values()}.values())


def takes(owner, schema: Schema) -> dict[str, tuple[Any, bool]]:
    """The keys of a schema's entry for `owner`; of torch's optimizers none is looked into."""
    given = getattr(schema, "given", ())
    return {} if owner in OPTIMIZERS.values() else parameters(Part(owner, given))


def mark_of(annotation) -> Schema | None:
    marks = getattr(annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Schema)), None)


def function(owner):
    return owner.func if isinstance(owner, functools.partial) else owner


def signature_of(owner) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(owner).parameters


def body(section: Section, sections: list[Section]) -> str:
    schema = section.schema
    like = next((other for other in sections if covers(other.schema, schema)), None)
    if isinstance(schema, Part):
        if like is None:
            return entry("", schema.owner, schema, sections)
        keys = ticked(parameters(schema))
        return f"As [{like.title}](#{like.anchor}), of whose keys it takes {keys}."
    names = ticked(schema.table)
    if set(schema.table.values()) <= set(OPTIMIZERS.values()):
        return torch_optimizers(schema.table)
    if like is not None:
        return f"Dicts under any keys, each as [{like.title}](#{like.anchor}): {names}."
    if len(owners(schema)) == 1 < len(schema.table):
        return entry(f"`name` is one of {names}. ", owners(schema)[0], schema, sections)
    text = "`name` is one of:\n\n" if len(schema.table) > 1 else ""
    if isinstance(schema, Chain):
        text = (
            f"Of {ticked(section.paths)}: dicts under any keys, in order, each with a `name`:\n\n"
        )
    rows = [entry(f"**`{k}`** ", owner, schema, sections) for k, owner in schema.table.items()]
    return text + "\n".join(rows)


def covers(larger: Schema, smaller: Schema) -> bool:
    """Whether the one has the same keys, or the same names, as the other, and more."""
    if isinstance(larger, Part) and isinstance(smaller, Part):
        return larger.owner is smaller.owner and set(larger.given) < set(smaller.given)
    tables = isinstance(larger, OneOf) and isinstance(smaller, Chain)
    return tables and larger.table.items() > smaller.table.items()


def torch_optimizers(names) -> str:
    text = "torch's own, with all their parameters; `fused` is on where nothing else is asked for."
    text += "\n\n| `name` | most used parameters |\n|---|---|\n"
    rows = (f"| [`{k}`]({TORCH_PAGE.format(k)}) | {ticked(TORCH_KEYS[k])} |\n" for k in names)
    return text + "".join(rows)


def entry(head: str, owner, schema: Schema, sections: list[Section]) -> str:
    """What one constructor is and takes: the first paragraph of its docstring, unless it says no
    more than the heading, and a table of its keys."""
    text = " ".join((inspect.getdoc(function(owner)) or "").split("\n\n")[0].split())
    text = head + ("" if re.fullmatch(r"The `\w+` of a config\.", text) else f"{text}\n\n")
    keys, entries = takes(owner, schema), descriptions(owner)
    defaults = {} if typing.is_typeddict(owner) else signature_of(owner)
    text += "| key | default | values | meaning |\n|---|---|---|---|\n" if keys else ""
    for key, (annotation, required) in keys.items():
        default = code(defaults[key].default) if key in defaults else "*optional*"
        default = "**required**" if required else default
        text += f"| `{key}` | {default} | {values(annotation, sections)} | {entries[key]} |\n"
    return text


def ticked(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def code(value) -> str:
    """A default as it is written in a config."""
    if isinstance(value, float) and len(repr(value)) > 8:  # 1 / 3
        return f"`{Fraction(value).limit_denominator(100)}`"
    return f"`{value!r}`"


def values(annotation, sections: list[Section]) -> str:
    """A type in words; a dict as a link to its keys."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        mark = mark_of(annotation)
        if mark is None:
            return values(inner[0], sections)
        section = next(s for s in sections if same(s.schema, mark))
        none = ", or None" if type(None) in typing.get_args(inner[0]) else ""
        extra = getattr(mark, "extra", None)
        beside = next((s for s in sections if extra and same(s.schema, Part(extra))), None)
        more = f" and its [own keys](#{beside.anchor})" if beside else ""
        return f"[dict](#{section.anchor}){more}{none}"
    if origin in (Union, types.UnionType):
        return " or ".join(values(kind, sections) for kind in inner)
    if origin is Literal:
        return ", ".join(map(code, inner))
    if origin is tuple:
        return f"({', '.join(values(kind, sections) for kind in inner)})"
    if inner:
        return f"list of {values(inner[0], sections)}"
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
    for owner in (owner for owner in owners(schema) if owner not in OPTIMIZERS.values()):
        plain, entries = function(owner), descriptions(owner)
        known = typing.get_type_hints(plain) if typing.is_typeddict(plain) else signature_of(plain)
        missing = [key for key in takes(owner, schema) if key not in entries]
        strange = sorted(entries.keys() - known.keys())
        problems = [f"{key!r} has no entry under Args of its docstring; add it" for key in missing]
        problems += [f"{key!r} is described, but no parameter" for key in strange]
        lines += [f"{plain.__name__}: {problem}" for problem in problems]
    return lines


if __name__ == "__main__":
    run_command(main)
