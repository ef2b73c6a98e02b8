"""Every key of both config trees, by the walk that the configs themselves are checked by.

The imports of the package stand here alone.
"""

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union

from SSLRemoteSensing.core.config import Chain, OneOf, Part, parameters
from SSLRemoteSensing.training.schedules import OPTIMIZERS
from SSLRemoteSensing.workflows.pretraining import PretextConfig
from SSLRemoteSensing.workflows.segmentation import SegmentationConfig

TREES = {"pretraining": PretextConfig, "finetuning": SegmentationConfig}


def all_keys() -> dict[str, dict[str, dict]]:
    """Tree -> path -> type, whether required, and default as `repr`.

    What a `name` chooses stands in brackets: train_cfg.lr_schedule[cosine].warmup_steps. The keys
    of torch's optimizers are torch's. Where a dict holds dicts of its own kind, it stops.
    """
    return {tree: dict(walk(Part(owner), "", ())) for tree, owner in TREES.items()}


def walk(schema, path: str, above: tuple) -> Iterator[tuple[str, dict]]:
    if isinstance(schema, Part):
        yield from part(schema, path, above)
        return
    place = f"{path}.*" if isinstance(schema, Chain) else path
    yield f"{place}.name", {"names": list(schema.table)}
    if any(schema.table is table for table in above):
        return
    names: dict[Any, list[str]] = {}  # of what they build, each once
    for name, owner in schema.table.items():
        names.setdefault(getattr(owner, "func", owner), []).append(name)
    for alike in names.values():
        owner = schema.table[alike[0]]
        if owner not in OPTIMIZERS.values():
            one = Part(owner, getattr(schema, "given", ()))
            yield from part(one, f"{place}[{'|'.join(alike)}]", (*above, schema.table))


def part(schema: Part, path: str, above: tuple) -> Iterator[tuple[str, dict]]:
    is_dict = typing.is_typeddict(schema.owner)
    defaults = {} if is_dict else inspect.signature(schema.owner).parameters
    for key, (annotation, required) in parameters(schema).items():
        where = f"{path}.{key}" if path else key
        entry = {"type": type_of(annotation), "required": required}
        if not required and key in defaults:
            entry["default"] = repr(defaults[key].default)
        yield where, entry
        for mark in getattr(annotation, "__metadata__", ()):
            if isinstance(mark, Part | OneOf | Chain):
                yield from walk(mark, where, above)


def type_of(annotation) -> str:
    """A type as it is written, without the place of any class."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_of(inside[0])
    if origin in (Union, types.UnionType):
        return " | ".join(type_of(kind) for kind in inside)
    if origin is Literal:
        return f"Literal{list(inside)}"
    names = {type(None): "None", Sequence: "Sequence", Any: "Any", Ellipsis: "..."}
    name = names.get(origin or annotation) or (origin or annotation).__name__
    return f"{name}[{', '.join(type_of(kind) for kind in inside)}]" if inside else name
