"""Read a config file, override keys, check every key at every depth, build objects from it.

A config file is plain Python that binds `config` to nested dicts. Each sub-dict goes whole to one
constructor, and that constructor's signature is its schema: `check` walks the signatures, so there
is no second list of keys to keep in step. Three marks tell it how to go deeper; they stand in the
annotations (`Annotated[dict, OneOf(BACKBONES)]`):

    Part(owner)    a dict of keyword arguments of `owner`
    OneOf(table)   the same, with `name` choosing the owner from a plain dict
    Chain(table)   a dict of such dicts, in order
"""

import ast
import copy
import difflib
import functools
import inspect
import itertools
import os
import runpy
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from SSLRemoteSensing.core.errors import UserError, about

# The types that a value of a config can be; a Tensor, say, that torch's optimizers take, it cannot.
PLAIN = (int, float, bool, str, dict, list, tuple, Sequence, type(None), Literal)
NOTHING: Mapping = types.MappingProxyType({})
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Part:
    """A dict of keyword arguments of `owner`, less those that the code itself gives it. `owner` may
    also be a TypedDict. `extra` is a TypedDict of further keys that live in the same dict but go
    elsewhere."""

    owner: Callable
    given: Sequence[str] = ()
    extra: type | None = None


@dataclass(frozen=True)
class OneOf:
    """A dict whose `name` chooses the owner from `table`."""

    table: Mapping[str, Callable]
    given: Sequence[str] = ()


@dataclass(frozen=True)
class Chain:
    """An ordered dict of dicts, each with a `name` out of `table`."""

    table: Mapping[str, Callable]


def load_config(
    path: str | Path, overrides: Sequence[str] = (), schemas: Sequence[Any] = ()
) -> dict:
    """Run the config file at `path` and return its `config`, with `a.b.c=VALUE` overrides applied.

    A VALUE is a Python literal, or else a string; it is one as well where the first of `schemas`
    that knows the key wants text: a folder may be called 2024_05_01. Keys of the published
    repository that do nothing are dropped with a line on stderr each.

    Raises:
        UserError: no such file, an error in it, no `config` dict in it, or a malformed override.
    """
    path = Path(path)
    with about(f"config file {path}"):
        if not path.is_file():
            raise UserError("not found; pass --config_file with a file of configs/")
        try:
            names = runpy.run_path(str(path))
        except (Exception, SystemExit) as error:
            raise UserError(f"{type(error).__name__}: {error}") from error
        if not isinstance(names.get("config"), dict):
            raise UserError("binds no dict named 'config'; write config = dict(...)")
        try:
            config = copy.deepcopy(names["config"])
        except TypeError as error:
            raise UserError(f"holds more than plain values ({error})") from error
    for known in ((), schemas):  # a `name` that is set later may say what a key takes
        for text in overrides:
            override(config, text, known)
    for line in drop_idle_keys(config):
        print(line, file=sys.stderr)
    return config


def override(config: dict, text: str, schemas: Sequence[Any] = ()) -> None:
    """Apply one `a.b.c=VALUE` to `config` in place; parents that are missing or None are made."""
    keys, equals, value = text.partition("=")
    *parents, last = path = keys.strip().split(".")
    if not equals or not last or "" in parents:
        raise UserError(f"--set {text!r}: write it as key.key=VALUE")
    annotations = (annotation_at(schema, config, path) for schema in schemas)
    annotation = next((x for x in annotations if x is not None), Any)
    for depth, key in enumerate(parents):
        if config.get(key) is None:
            config[key] = {}
        config = config[key]
        if not isinstance(config, dict):
            parent = ".".join(parents[: depth + 1])
            raise UserError(f"--set {text!r}: {parent} is {config!r} and has no keys")
    config[last] = read_value(value, annotation)


def read_value(text: str, annotation: Any) -> Any:
    """The value that `text` writes as a Python literal; the text where it is none, or is of a kind
    that `annotation` does not take and text is."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that it raises
        return text
    # None and, where a list would do, a list with a mistake in it are no text.
    if value is None or (isinstance(value, list | tuple) and fits([], annotation)):
        return value
    return text if fits(text, annotation) and not fits(value, annotation) else value


def annotation_at(schema: Any, config: Any, path: Sequence[str]) -> Any:
    """The annotation of the key of `config` at `path`; None where `schema` has no such key."""
    mark = mark_of(schema)
    if not path or mark is None:
        return None if path else schema
    key, *rest = path
    config = config if isinstance(config, dict) else {}
    if isinstance(mark, OneOf):
        owner = str if key == "name" else mark.table.get(str(config.get("name")))
        if owner in (str, None):
            return owner
        mark = Part(owner, mark.given)
    keys = {key: (OneOf(mark.table), False)} if isinstance(mark, Chain) else parameters(mark)
    return annotation_at(keys[key][0], config.get(key), rest) if key in keys else None


def mark_of(schema: Any) -> Part | OneOf | Chain | None:
    """The mark that `schema` is, or that stands in it as an annotation."""
    marks = (schema, *getattr(schema, "__metadata__", ()))
    return next((mark for mark in marks if isinstance(mark, Part | OneOf | Chain)), None)


def drop_idle_keys(config: dict) -> list[str]:
    """Remove the published repository's keys that do nothing; return a line for each."""
    names = ["test_cfg"] if config.pop("test_cfg", NOTHING) is not NOTHING else []
    parts = ("backbone_cfg", "inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
    for key, part in itertools.product(("img_size", "num_classes"), parts):
        owner = config.get(part)
        if not isinstance(owner, dict) or key not in owner:
            continue
        # A network of timm, which names its `model`, may be of one size of images alone.
        if owner[key] is None if key == "num_classes" else "model" not in owner:
            del owner[key]
            names.append(f"{part}.{key}")
    return [f"config: {name} does nothing and is left out" for name in names]


def check(schema: Any, value: Any, path: str = "config") -> list[str]:
    """Compare `value` with `schema` at every depth; return one line a problem, none if it fits.
    `schema` is a mark of this module or any type annotation. Nothing is built or opened."""
    if typing.get_origin(schema) is Annotated:
        kind, mark = typing.get_args(schema)[0], mark_of(schema)
        if mark is None or (not isinstance(value, dict) and fits(value, kind)):
            return check(kind, value, path)
        if not isinstance(value, dict) and (words := words_of(kind)):
            return [f"{path}: expected {words} or a dict, not {value!r}"]
        return check(mark, value, path)
    if not isinstance(schema, Part | OneOf | Chain):
        return [] if fits(value, schema) else [f"{path}: {expectation(schema)}, not {value!r}"]
    if not isinstance(value, dict):
        return [f"{path}: expected a dict, not {value!r}"]
    if isinstance(schema, Chain):
        entry_schema = OneOf(schema.table)
        return [line for key in value for line in check(entry_schema, value[key], f"{path}.{key}")]
    if isinstance(schema, OneOf):
        if "name" not in value:
            return [f"{path}: missing key 'name', one of {', '.join(schema.table)}"]
        if not isinstance(value["name"], str) or value["name"] not in schema.table:
            hint = nearest(value["name"], schema.table)
            return [f"{path}.name: unknown name {value['name']!r}, {hint}"]
        rest = {key: entry for key, entry in value.items() if key != "name"}
        return check(Part(schema.table[value["name"]], schema.given), rest, path)

    keys = parameters(schema)
    problems = [
        f"{path}: unknown key {key!r}, {nearest(key, keys) if keys else 'it takes none'}"
        for key in value
        if key not in keys
    ]
    for key, (annotation, is_required) in keys.items():
        if key in value:
            problems += check(annotation, value[key], f"{path}.{key}")
        elif is_required:
            problems.append(f"{path}: missing key {key!r}")
    return problems


def require(schema: Any, config: dict, path: str = "config") -> None:
    """Raise one `UserError` that names every problem `check` finds in `config`."""
    problems = [line.removeprefix("config.") for line in check(schema, config, path)]
    if problems:
        raise UserError("; ".join(problems))


def plain_value(value: Any) -> Any:
    """What a program hands over, as a config would state it: NumPy's and torch's numbers and arrays
    as Python's, any mapping as a dict, a range as a tuple, a path as text."""
    if isinstance(value, Mapping):
        return {key: plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return (list if isinstance(value, list) else tuple)(map(plain_value, value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def check_fields(settings: Any, given: Sequence[str] = ()) -> None:
    """Make the values of a frozen dataclass plain, but for those `given`, and raise one `UserError`
    that names all of a type that its field has not: a program may hand over anything."""
    values = {key: plain_value(x) for key, x in vars(settings).items() if key not in given}
    require(Part(type(settings), given), values)
    for key, value in values.items():
        object.__setattr__(settings, key, value)


def build(table: Mapping[str, Callable], cfg: dict, path: str, given: Mapping = NOTHING):
    """Call the entry of `table` that `cfg['name']` chooses with the rest of `cfg` and with `given`.
    A `UserError` for unknown or missing keys, or of the constructor, has `path` before it."""
    require(OneOf(table, tuple(given)), cfg, path)
    arguments = {key: value for key, value in cfg.items() if key != "name"}
    with about(path):
        return table[cfg["name"]](**arguments, **given)


def without(config: dict, paths: Iterable[str]) -> dict:
    """A copy of a config without what stands at `paths`, 'a.b.c' each; not all need to be there."""
    config = copy.deepcopy(config)
    for path in paths:
        *parents, last = path.split(".")
        owner = functools.reduce(lambda part, key: part.get(key) or {}, parents, config)
        owner.pop(last, None)
    return config


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two configs differ, at any depth: (path, old value, new value)."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in dict.fromkeys([*old, *new])
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [(path, old, new)]


def with_defaults(table: Mapping[str, Callable], cfg: dict) -> dict:
    """`cfg`, a dict that `build` takes, with the defaults of what it leaves out."""
    options = inspect.signature(table[cfg["name"]]).parameters.values()
    empty = inspect.Parameter.empty
    return {option.name: option.default for option in options if option.default is not empty} | cfg


def parameters(part: Part) -> dict[str, tuple[Any, bool]]:
    """The keys `part` takes: name -> (annotation, whether it must be given)."""
    owner = part.owner
    if typing.is_typeddict(owner):
        keys = {}
        for name, hint in typing.get_type_hints(owner, include_extras=True).items():
            is_marked = typing.get_origin(hint) is typing.NotRequired
            bare = typing.get_args(hint)[0] if is_marked else hint
            keys[name] = bare, name in owner.__required_keys__
    else:
        function = owner.func if isinstance(owner, functools.partial) else owner
        function = function.__init__ if inspect.isclass(function) else function
        hints = typing.get_type_hints(function, include_extras=True)
        keys = {
            name: (hints.get(name, Any), parameter.default is inspect.Parameter.empty)
            for name, parameter in inspect.signature(owner).parameters.items()
            if parameter.kind not in VARIADIC
        }
    if part.extra is not None:
        keys |= parameters(Part(part.extra))
    return {name: entry for name, entry in keys.items() if name not in part.given}


def nearest(word: str, names) -> str:
    matches = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"known: {', '.join(names)}"


def words_of(annotation: Any) -> str:
    """The words that may stand in place of a dict."""
    options = map(typing.get_args, typing.get_args(annotation))
    return ", ".join(repr(word) for words in options for word in words if isinstance(word, str))


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` can stand where `annotation` does; unknown annotations always fit."""
    origin = typing.get_origin(annotation)
    options = typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        kinds = [(option, typing.get_origin(option) or option) for option in options]
        plain = [option for option, kind in kinds if kind in PLAIN or is_dataclass(kind)]
        return any(fits(value, option) for option in plain or options)
    if origin is Literal:
        return any(value is option or value == option for option in options)
    if annotation in (int, float):
        types_of_number = int if annotation is int else int | float
        return isinstance(value, types_of_number) and not isinstance(value, bool)
    if annotation in (bool, str, dict, type(None)) or is_dataclass(annotation):
        return isinstance(value, annotation)
    if (origin or annotation) not in (list, tuple, Sequence):
        return True
    if not isinstance(value, list | tuple):
        return False
    if origin is tuple:
        return len(value) == len(options) and all(map(fits, value, options))
    return not options or all(fits(element, options[0]) for element in value)


def expectation(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return f"expected one of {', '.join(map(repr, typing.get_args(annotation)))}"
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return f"expected {text.replace('collections.abc.', '')}"
