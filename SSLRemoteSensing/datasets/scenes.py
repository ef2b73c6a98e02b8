"""A data set before it is cut into tiles: scenes, their labels, what is known of both."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from SSLRemoteSensing.datasets.fraction import name_hash
from SSLRemoteSensing.datasets.labels import ColourCoding, ValueCoding
from SSLRemoteSensing.datasets.sources import SourceFile
from SSLRemoteSensing.errors import UserError

SHARE = re.compile(r"0?\.\d+|[01](?:\.0*)?")
BAND_NAMES = {
    "rgb": ("red", "green", "blue"),
    "irrg": ("near infrared", "red", "green"),
    "rgbir": ("red", "green", "blue", "near infrared"),
}
UNLABELLED = "test_unlabelled"  # the split of test scenes that come without labels


@dataclass(frozen=True)
class Scene:
    """An image and its labels, by kind ('full', 'eroded')."""

    name: str
    split: str
    image: SourceFile
    labels: dict[str, SourceFile]
    bands: tuple[int, ...] | None = None  # of the file, counted from 1; None: as they are

    @property
    def key(self) -> str:
        """What no other scene of the set has: a folder may use a name again in another split."""
        return f"{self.split}/{self.name}"


@dataclass
class Collection:
    """The scenes of a data set and what is known of them.

    `scale` is the value that becomes 1. `shares` are published class shares by the name of the
    set they are of. `notes` are told, `problems` (scene, what is wrong) keep a set from being used.
    """

    name: str
    classes: Sequence[str]
    palette: Sequence[Sequence[int]] | None
    bands: Sequence[str] | None
    scale: float | None
    coding: ColourCoding | ValueCoding | None
    scenes: list[Scene]
    shares: dict[str, Sequence[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    one_value_is_wrong: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first of `names`, and how many more there are."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def by_scene(
    files: Sequence[SourceFile], pattern: str, name: str = r"\1"
) -> tuple[dict[str, SourceFile], list[str]]:
    """The files whose path matches `pattern`, by the scene's name, and what to tell of doubles.

    Where a scene is there more than once (a folder unzipped twice, one part of a download within
    another), the folder with the most scenes is taken.
    """
    folders: dict[str, dict[str, SourceFile]] = defaultdict(dict)
    for file in files:
        match = re.fullmatch(pattern, file.name, re.IGNORECASE)
        if match:
            folders[file.folder].setdefault(match.expand(name), file)
    found: dict[str, SourceFile] = {}
    notes = []
    for folder, scenes in sorted(folders.items(), key=lambda item: (-len(item[1]), item[0])):
        again = [scene for scene in scenes if scene in found]
        if again:
            other = found[again[0]].folder
            notes.append(f"{folder}: {len(again)} scenes are also in {other}, which is taken")
        found = scenes | found
    return found, notes


def deal(splits: dict[str, Sequence[str]], wanted: Sequence[str]) -> dict[str, str]:
    """Scene -> split, as published unless `wanted` says otherwise.

    Args:
        splits: the published splits.
        wanted: the splits to prepare; 'val=2_10,3_10' names the validation scenes, taken from
            train, 'val=0.2' takes that share of train by a hash of the scene's name.

    Raises:
        UserError: an unknown split, or a scene that is not of train.
    """
    split_of = {scene: split for split, scenes in splits.items() for scene in scenes}
    train = [scene for scene, split in split_of.items() if split in ("train", "val")]
    bare = any("=" not in text for text in wanted)  # 'val=0.2' alone leaves train and test
    chosen = [text.partition("=")[0] for text in wanted] if bare else list(splits)
    for text in wanted:
        split, equals, which = text.partition("=")
        if split not in splits:
            raise UserError(f"--splits {text}: known are {', '.join(splits)}")
        if not equals:
            continue
        if split != "val":
            raise UserError(
                f"--splits {text}: only val can be chosen; train and test are published"
            )
        picked = pick(train, which, text)
        split_of |= {scene: "val" if scene in picked else "train" for scene in train}
    return {scene: split for scene, split in split_of.items() if split in chosen}


def pick(scenes: Sequence[str], which: str, text: str, start: float = 0.0) -> set[str]:
    """Of `scenes`, those named in 'a,b,c', or a share: a hash in [start, start + share)."""
    if which not in scenes and SHARE.fullmatch(which):
        return {s for s in scenes if start <= name_hash(s) < start + float(which)}
    names = {name for name in which.split(",") if name}
    strange = sorted(names - set(scenes))
    if strange or not names:
        raise UserError(
            f"--splits {text}: {strange[0] if strange else 'nothing'} is no scene of train; write "
            "a share such as val=0.1, or names such as val=2_10,3_10"
        )
    return names


def match_up(
    split_of: dict[str, str],
    images: dict[str, SourceFile],
    labels: dict[str, dict[str, SourceFile]],
    bands: dict[str, tuple[int, ...]],
) -> tuple[list[Scene], list[str], list[tuple[str, str]]]:
    """Scenes in the order of `split_of`; what to tell; and (scene, problem).

    Args:
        labels: files by scene, for each kind of label that is asked for.
        bands: which of its file, by scene.

    A test scene without any label goes to the split 'test_unlabelled'.
    """
    scenes, problems, notes = [], [], []
    for name, split in split_of.items():
        if name not in images:
            continue
        found = {kind: files[name] for kind, files in labels.items() if name in files}
        missing = [kind for kind in labels if kind not in found]
        if split == "test" and missing:
            # Only labels of train are needed; those of test come later, or never.
            split = split if found else UNLABELLED
            notes += [f"{name}: no {kind} label" for kind in missing if found]
        elif missing:
            problems.append((name, f"{images[name].name} has no label ({' and '.join(missing)})"))
            continue
        scenes.append(Scene(name, split, images[name], found, bands[name]))
    known = set(images)
    alone = {
        file.name for files in labels.values() for name, file in files.items() if name not in known
    }
    if alone:
        notes.append(f"{listed(sorted(alone))}: a label without a scene; not used")
    absent = [name for name in split_of if name not in images]
    if absent:
        notes.append(
            f"{len(absent)} scenes of the splits are not there: {listed(absent, 40)}; scores will "
            "not compare with published ones"
        )
    foreign = sorted(name for name in images if name not in split_of)
    if foreign:
        notes.append(f"not of the splits asked for, left out: {listed(foreign)}")
    return scenes, notes, problems
