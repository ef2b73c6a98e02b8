"""A data set before it is cut into tiles: scenes, their labels, their splits, what is known."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import ColourCoding, ValueCoding
from SSLRemoteSensing.data.subsets import name_hash
from SSLRemoteSensing.preparation.sources import SourceFile

BAND_NAMES = {
    "rgb": ("red", "green", "blue"),
    "irrg": ("near infrared", "red", "green"),
    "rgbir": ("red", "green", "blue", "near infrared"),
}
SHARE = re.compile(r"0?\.\d+|[01](?:\.0*)?")
UNLABELLED = "test_unlabelled"  # the split of test scenes that come without labels


@dataclass(frozen=True)
class SourceScene:
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

    @property
    def files(self) -> list[SourceFile]:
        return [self.image, *self.labels.values()]

    @property
    def stamps(self) -> dict[str, list[int]]:
        return {file.name: list(file.stamp) for file in self.files}


@dataclass
class Catalog:
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
    scenes: list[SourceScene] = field(default_factory=list)
    shares: dict[str, Sequence[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    one_value_is_wrong: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def add_scenes(
        self,
        split_of: dict[str, str],
        images: dict[str, list[SourceFile]],
        labels: dict[str, dict[str, list[SourceFile]]],
        bands: dict[str, tuple[int, ...]],
    ) -> None:
        """Pair images and labels, in the order of `split_of`; note what is odd about them.

        Args:
            images: files by scene, the one to take first.
            labels: the same for each kind of label that is asked for.
            bands: which of its file, by scene.
        """
        doubles = Counter(
            (other.folder, group[0].folder)
            for files in (images, *labels.values())
            for group in files.values()
            for other in group[1:]
        )
        for (folder, other), count in doubles.items():
            self.notes.append(f"{folder}: {count} scenes are also in {other}, which is taken")
        for name, split in split_of.items():
            if name in images:
                own = {kind: files[name][0] for kind, files in labels.items() if name in files}
                self.add_scene(SourceScene(name, split, images[name][0], own, bands[name]), labels)
        groups = [files[name] for files in labels.values() for name in files if name not in images]
        orphans = sorted({group[0].name for group in groups})
        absent = [name for name in split_of if name not in images]
        foreign = sorted(name for name in images if name not in split_of)
        if orphans:
            self.notes.append(f"{listing(orphans)}: a label without a scene; not used")
        if absent:
            self.notes.append(
                f"{len(absent)} scenes of the splits are not there: {listing(absent, 40)}; scores "
                "will not compare with published ones"
            )
        if foreign:
            self.notes.append(f"not of the splits asked for, left out: {listing(foreign)}")

    def add_scene(self, scene: SourceScene, kinds: Iterable[str]) -> None:
        """Add a scene, which is to have `kinds` of labels: without any a test scene goes to the
        split 'test_unlabelled', and one of another split is a problem."""
        missing_kinds = [kind for kind in kinds if kind not in scene.labels]
        if missing_kinds and scene.split != "test":
            text = f"{scene.image.name} has no label ({' and '.join(missing_kinds)})"
            self.problems.append((scene.name, text))
            return
        if missing_kinds and not scene.labels:  # they come later, or never
            scene = replace(scene, split=UNLABELLED)
        else:
            self.notes += [f"{scene.name}: no {kind} label" for kind in missing_kinds]
        self.scenes.append(scene)


def listing(names: Sequence[str], most: int = 6) -> str:
    """The first of `names`, and how many more there are."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def files_by_scene(
    files: Sequence[SourceFile], pattern: str, name: str = r"\1"
) -> dict[str, list[SourceFile]]:
    """The files whose path matches `pattern`, by the scene's name.

    Where a scene is there more than once (a folder unzipped twice, one part of a download within
    another), the file in the folder with the most scenes is the first.
    """
    folders: dict[str, dict[str, SourceFile]] = defaultdict(dict)
    for file in files:
        if match := re.fullmatch(pattern, file.name, re.IGNORECASE):
            folders[file.folder].setdefault(match.expand(name), file)
    matches: dict[str, list[SourceFile]] = {}
    for _, scenes in sorted(folders.items(), key=lambda item: (-len(item[1]), item[0])):
        for scene, file in scenes.items():
            matches.setdefault(scene, []).append(file)
    return matches


def assign_splits(
    splits: dict[str, Sequence[str]],
    requests: Sequence[str],
    choosable: Sequence[str] = ("val",),
    default: Sequence[str] = (),
) -> dict[str, str]:
    """Scene -> split, as in `splits` unless `requests` say otherwise.

    Args:
        splits: as published.
        requests: the splits to prepare; 'val=2_10,3_10' names the validation scenes, taken from
            train, 'val=0.2' takes that share of train by a hash of the scene's name.
        choosable: the splits whose scenes may be chosen so.
        default: what is chosen where `requests` choose nothing.

    Raises:
        UserError: an unknown split, or a scene that is not of train.
    """
    for text in requests:
        split, equals, _ = text.partition("=")
        if split not in splits:
            raise UserError(f"--splits {text}: known are {', '.join(splits)}")
        if equals and split not in choosable:
            raise UserError(f"--splits {text}: only val can be chosen; the others are published")
    split_of = {scene: split for split, scenes in splits.items() for scene in scenes}
    choices = [text for text in requests if "=" in text] or default
    for split, count in Counter(text.partition("=")[0] for text in choices).items():
        if count > 1:
            raise UserError(f"--splits {split}=...: stands there twice; write its scenes in a row")
    start = 0.0  # each share has its own part of the hashes
    for split, which in dict(text.split("=", 1) for text in choices).items():
        split_of |= {scene: "train" for scene, current in split_of.items() if current == split}
        train = [scene for scene, current in split_of.items() if current == "train"]
        split_of |= dict.fromkeys(pick_scenes(train, which, f"{split}={which}", start), split)
        start += float(which) if SHARE.fullmatch(which) else 0
    if all("=" in text for text in requests):  # 'val=0.2' alone leaves train and test
        return split_of
    names = {text.partition("=")[0] for text in requests}
    return {scene: split for scene, split in split_of.items() if split in names}


def pick_scenes(scenes: Sequence[str], which: str, text: str, start: float = 0.0) -> set[str]:
    """Of `scenes`, those named in 'a,b,c', or a share: a hash in [start, start + share)."""
    if which not in scenes and SHARE.fullmatch(which):
        return {scene for scene in scenes if start <= name_hash(scene) < start + float(which)}
    names = {name for name in which.split(",") if name}
    strange = sorted(names - set(scenes))
    if strange or not names:
        raise UserError(
            f"--splits {text}: {strange[0] if strange else 'nothing'} is no scene of train; write "
            f"a share such as val=0.1, or names of these: {listing(sorted(scenes))}"
        )
    return names
