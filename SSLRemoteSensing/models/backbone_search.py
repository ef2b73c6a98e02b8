"""Find the backbone in a file of any tool by the shapes of its tensors and the ends of their names.

A candidate is whatever stands before names that are a backbone's, keys of dicts and words of names
alike: `state_dict.module.encoder_q.` in `{"state_dict": {"module.encoder_q.conv1.weight": ...}}`.
"""

import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.foreign_files import DEPTH, Holder, is_safetensors
from SSLRemoteSensing.models.backbones import ARCHITECTURES, Backbone
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

SMALLEST = 16  # entries of a vgg11

# What entries are called after what stands in front. A ResNet's children may be numbered, as in
# nn.Sequential(*children) of lightly's Lightning checkpoints, and a VGG's layers stand in
# `features.`, timm's `features_`, or alone.
SPELLING = re.compile(
    r"(?P<resnet>(?:conv1|bn1|layer[1-4]\.\d+\.\w+(?:\.\d)?)\.\w+)"
    r"|(?P<numbered>[4-7]\.\d+\.\w+(?:\.\d)?\.\w+)"
    r"|(?P<vgg>\d+\.\w+)"
)
BOUNDARY = re.compile(r"[._]")
ENTRY = re.compile(r"(conv1|bn1|layer[1-4]|features)\.")
NUMBERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}

# Of several networks the first in this order is taken: one that was trained by its gradient before
# one without a name of its own, that before a running mean.
KEYS = ("model", "state_dict", "student", "teacher")
TRAINED = (
    "backbone",  # ours, lightly, solo-learn, mmsegmentation
    "encoder",  # segmentation_models_pytorch, SimSiam
    "encoder_q",  # MoCo
    "base_encoder",  # MoCo v3
    "student_backbone",  # lightly
    "student",
)
# encoder_k, momentum_encoder, backbone_momentum, state_dict_ema, target_encoder, swa_model
AVERAGED = {"k", "key", "momentum", "teacher", "ema", "target", "swa", "averaged", "average", "avg"}
AVERAGED |= {"shadow", "slow"}
TOKEN = re.compile(r"(?<![^_])k(?![^_])|[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]{2,}")  # netEMA: net, EMA


@dataclass
class Candidate:
    """The tensors after `prefix`, under torchvision's names; `container` is that of their dict.

    `matched`: entries of the architecture that it has. `fit`: 0, it lacks weights; 1, it has
    entries more; 2, it is whole; 3, it is whole and for the bands of the model.
    """

    prefix: str
    container: str
    state: dict[str, Tensor]
    matched: int = 0
    fit: int = 0

    def preference(self) -> tuple:
        """Of two candidates that fit the lower is taken."""
        words = self.prefix.split(".")[:-1]
        tokens = {token.lower() for word in words for token in TOKEN.findall(word)}
        ranks = [TRAINED.index(word) for word in words if word in TRAINED]
        key = KEYS.index(words[0]) if words and words[0] in KEYS else len(KEYS)
        rank = min(ranks, default=len(TRAINED))
        return self.fit == 1, bool(tokens & AVERAGED), key, rank, -self.fit

    def order(self) -> tuple:
        return *self.preference(), len(self.prefix), self.prefix

    def distance(self) -> tuple:
        """Of candidates that do not fit the lowest comes nearest."""
        matched = self.matched if self.matched >= SMALLEST else 0
        count = sum(ENTRY.match(key) is not None for key in self.state)
        return -matched, architecture_of(self.state) is None, -self.matched, -count, *self.order()


def backbone_weights(
    contents: dict, model: Backbone | None = None, source: str | Path = "the file"
) -> tuple[dict[str, Tensor], list[str], str]:
    """The backbone's tensors in `contents`, under torchvision's names, the other names that stand
    in the same dict, and a note where there was a choice.

    They are those that fill `model`, or an architecture of ours, after any keys and any one prefix,
    whatever else is in the file; else those that come nearest. Where a file holds several such
    networks, the first choice is taken: a student before its teacher, and neither momentum nor
    teacher if another is there.

    Raises:
        UserError: several networks of other values, and none of them the first choice.
    """
    tensors = all_tensors(contents)
    own_names = set(model.state_dict()) if isinstance(model, TimmBackbone) else set()
    places = count_places((container + key for container, key, _ in tensors), own_names)
    large_places = [place for place, count in places.items() if count >= SMALLEST]
    candidates = [candidate_of(tensors, *place, model) for place in large_places]
    fitting = sorted((c for c in candidates if c.fit), key=Candidate.order)
    if not fitting:  # for a message, or a part of it, where that is asked for
        candidates = [candidate_of(tensors, *place, model) for place, _ in places.most_common(50)]
        candidates.append(Candidate("", "", {key: value for _, key, value in tensors}))
        fitting = [min(candidates, key=Candidate.distance)]
    chosen, note = fitting[0], ""
    if others := [other for other in fitting[1:] if are_different(chosen, other)]:
        if others[0].preference() == chosen.preference():
            raise UserError(two_networks(contents, source, chosen, others[0]))
        note = f", of its networks {chosen.prefix or 'the one without a prefix'}"
    other_keys = [
        key
        for container, key, _ in tensors
        if container == chosen.container and not f"{container}{key}".startswith(chosen.prefix)
    ]
    return chosen.state, other_keys, note


def all_tensors(contents: dict) -> list[tuple[str, str, Tensor]]:
    """Each tensor at any depth of `contents`: the keys that lead to its dict, as `a.b.`, its own
    key, and the tensor."""
    tensors, parts = [], deque([("", 0, contents)])
    while parts:
        container, depth, part = parts.popleft()
        part = part.state if isinstance(part, Holder) else part
        if isinstance(part, list | tuple):
            part = dict(enumerate(part))
        for key, value in part.items() if isinstance(part, dict) and depth < DEPTH else ():
            if isinstance(value, Tensor):
                tensors.append((container, str(key), value))
            elif isinstance(value, dict | list | tuple | Holder):
                parts.append((f"{container}{key}.", depth + 1, value))
    return tensors


def count_places(names: Iterable[str], own_names: Set[str] = frozenset()) -> Counter:
    """How many of `names` may be a backbone's after each (spelling, prefix); where a network has
    names of its own, how many are those."""
    places = Counter()
    for name in names:
        for end in (0, *(match.end() for match in BOUNDARY.finditer(name))):
            if name[end:] in own_names:
                places["own", name[:end]] += 1
            elif not own_names and (match := SPELLING.fullmatch(name, end)):
                places[match.lastgroup, name[:end]] += 1
    return places


def candidate_of(
    tensors: list[tuple[str, str, Tensor]], spelling: str, prefix: str, model: Backbone | None
) -> Candidate:
    """What stands after `prefix`, in the dict of its first entry or, a dict a module, all of it."""
    container = next(
        at
        for at, key, _ in tensors
        if f"{at}{key}".startswith(prefix)
        and (spelling == "own" or SPELLING.fullmatch(f"{at}{key}", len(prefix)))
    )
    is_flat = prefix.startswith(container)
    if spelling == "vgg":  # what stands beside `features` is of the same network
        prefix = re.sub(r"(^|(?<=\.))features[._]$", "", prefix)
    state = {}
    for at, key, value in tensors:
        if f"{at}{key}".startswith(prefix) and (at == container or not is_flat):
            name = f"{at}{key}"[len(prefix) :]
            if spelling == "numbered":
                first, dot, rest = name.partition(".")
                name = NUMBERS.get(first, first) + dot + rest
            elif spelling == "vgg":
                name = re.sub(r"^(features[._])?(?=\d+\.)", "features.", name)
            state[name] = value
    name = architecture_of(state) if model is None else model.name
    expected = architecture_shapes(name) if name and not model else {}
    if model:
        expected = shapes_of(model.state_dict(), model)
    matched_keys, missing_keys, surplus_keys = compare(expected, shapes_of(state, model))
    if model:
        missing_keys = without_optional(missing_keys, model)
    fit = 0
    if expected and not missing_keys:
        is_exact = model is not None and bands_of(state, model) == model.in_channels
        fit = 1 if surplus_keys else 2 + is_exact
    return Candidate(prefix, container if is_flat else prefix, state, len(matched_keys), fit)


def are_different(chosen: Candidate, other: Candidate) -> bool:
    """Whether two networks differ in architecture, bands or values."""
    sides = [
        {key: value for key, value in c.state.items() if ENTRY.match(key) and not is_counter(key)}
        for c in (chosen, other)
    ]
    return sides[0].keys() != sides[1].keys() or not all(
        torch.equal(value.float().nan_to_num(), sides[1][key].float().nan_to_num())
        for key, value in sides[0].items()
    )


def two_networks(contents: dict, source: str | Path, chosen: Candidate, other: Candidate) -> str:
    """The message for two networks of which none comes first."""
    place, part, prefix = "", contents, chosen.prefix
    while isinstance(part, dict):
        keys = (key for key in part if not isinstance(part[key], Tensor))
        key = next((key for key in keys if prefix.startswith(f"{key}.")), None)
        if key is None:
            break
        place, part, prefix = f"{place}[{key!r}]", part[key], prefix[len(f"{key}.") :]
    load, library = "torch.load", "torch"
    if Path(source).is_file() and is_safetensors(Path(source)):
        load, library = "safetensors.torch.load_file", "safetensors.torch, torch"
    alone = "contents"
    if prefix:
        alone = f"{{key: contents[key] for key in contents if key.startswith({prefix!r})}}"
    return (
        f"weights {source}: hold two networks, {chosen.prefix or 'the one without a prefix'} and "
        f"{other.prefix}; save the one that you want alone: import {library}; contents = "
        f"{load}({str(source)!r}){place}; torch.save({alone}, 'weights.pth')"
    )


def outline(contents: dict) -> str:
    """What is in a file that holds no backbone, and what to do."""
    tensors = all_tensors(contents)
    beginnings = dict.fromkeys(".".join(key.split(".")[:2]) for _, key, _ in tensors)
    return (
        f"it has the keys {first_of(contents)}, and tensors whose names begin with "
        f"{first_of(beginnings)}; where the network is at hand, save its backbone alone: "
        f"torch.save(backbone.state_dict(), 'weights.pth')"
    )


def first_of(names: Iterable) -> str:
    """The first names, as text."""
    first = [str(name)[:40] for name in itertools.islice(names, 6)]
    return ", ".join([*first[:5], *(["..."] if len(first) > 5 else [])]) or "none"


def without_optional(missing_keys: list[str], model: Backbone) -> list[str]:
    """`missing_keys` without what files of other tools lack: the pyramid that a plain ViT gets."""
    is_timm = isinstance(model, TimmBackbone)
    return [key for key in missing_keys if not (is_timm and key.startswith("pyramid."))]


def is_counter(key: str) -> bool:
    """Of batches seen: older files lack them, and nothing depends on them."""
    return key.endswith("num_batches_tracked")


def compare(expected: dict[str, tuple], shapes: dict[str, tuple]) -> tuple[list, list, list]:
    """The names of `expected` that are in `shapes` alike, the weights that are not, and those that
    are in `shapes` besides: a deeper ResNet has every entry of a shallower one, and more blocks."""
    matched_keys = [key for key, shape in expected.items() if shapes.get(key) == shape]
    matched, parts = set(matched_keys), tuple({f"{key.split('.')[0]}." for key in expected})
    missing_keys = [key for key in expected if key not in matched and not is_counter(key)]
    others = (key for key in shapes if key not in matched and not is_counter(key))
    return matched_keys, missing_keys, [key for key in others if parts and key.startswith(parts)]


def first_convolution(state: dict[str, Tensor], model: Backbone | None = None) -> str:
    if isinstance(model, TimmBackbone):
        return model.first_convolution
    return "conv1.weight" if "conv1.weight" in state else "features.0.weight"


def bands_of(state: dict[str, Tensor], model: Backbone | None = None) -> int | None:
    kernel = state.get(first_convolution(state, model))
    return kernel.shape[1] if kernel is not None and kernel.dim() == 4 else None


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """The name of the architecture whose every weight is in `state`, for any bands, or None."""
    shapes = shapes_of(state).items()
    names = (n for n in reversed(ARCHITECTURES) if architecture_shapes(n).items() <= shapes)
    return next(names, None)


def exact_shapes(state: dict[str, Tensor]) -> dict[str, tuple]:
    """The shapes of weights; whole numbers, as quantized files have them, are none."""
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if value.is_floating_point() or is_counter(key)
    }


def shapes_of(state: dict[str, Tensor], model: Backbone | None = None) -> dict[str, tuple]:
    """`exact_shapes`, the number of bands left open in that of the first convolution."""
    first_key, shapes = first_convolution(state, model), exact_shapes(state)
    if len(shapes.get(first_key, ())) == 4:
        shapes[first_key] = (shapes[first_key][0], None, *shapes[first_key][2:])
    return shapes


@cache
def architecture_shapes(name: str) -> dict[str, tuple]:
    """`shapes_of` an architecture, counters left out, without memory for its weights."""
    with torch.device("meta"):
        shapes = shapes_of(ARCHITECTURES[name]().state_dict())
    return {k: shape for k, shape in shapes.items() if not is_counter(k)}
