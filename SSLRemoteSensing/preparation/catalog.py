"""A data set before it is cut into tiles: scenes, their labels, their splits, what is known."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import ColourCoding, ValueCoding
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.preparation.burning import BurntLabel
from SSLRemoteSensing.preparation.sources import SourceFile

BAND_NAMES = {
    "rgb": ("red", "green", "blue"),
    "irrg": ("near infrared", "red", "green"),
    "rgbir": ("red", "green", "blue", "near infrared"),
}
TEST_UNLABELLED = "test_unlabelled"  # the split of test scenes that come without labels


@dataclass(frozen=True)
class SourceScene:
    """An image and its labels, by kind ('full', 'eroded'): files, or what polygons give."""

    name: str
    split: str
    image: SourceFile
    labels: dict[str, SourceFile | BurntLabel]
    bands: tuple[int, ...] | None = None  # of the file, counted from 1; None: as they are
    rows: tuple[int, int] | None = None  # first row and end of the part that this is; None: whole

    @property
    def key(self) -> str:
        """What no other scene of the set has: a folder may use a name again in another split."""
        return f"{self.split}/{self.name}"

    @property
    def files(self) -> list[SourceFile]:
        return [
            *self.image.files,
            *(file for label in self.labels.values() for file in label.files),
        ]

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file, by name."""
        digests = self.image.digests()
        for label in self.labels.values():
            digests |= label.digests()
        return digests

    @property
    def stamps(self) -> dict[str, list[int]]:
        return {file.name: list(file.stamp) for file in self.files}


@dataclass
class Catalog:
    """The scenes of a data set and what is known of them.

    `scale` is that of its images; None: 255 becomes 1. `shares` are published class shares by the
    name of the set they are of. `notes` are told, `problems` (scene, what is wrong) keep a set from
    being used. `polygons` are what the card says of the file of polygons that labels are made of.
    """

    name: str
    classes: Sequence[str]
    palette: Sequence[Sequence[int]] | None
    bands: Sequence[str] | None
    scale: Scale | None
    coding: ColourCoding | ValueCoding | None
    scenes: list[SourceScene] = field(default_factory=list)
    shares: dict[str, Sequence[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    one_value_is_wrong: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    polygons: dict[str, object] | None = None

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
            scene = replace(scene, split=TEST_UNLABELLED)
        else:
            self.notes += [f"{scene.name}: no {kind} label" for kind in missing_kinds]
        self.scenes.append(scene)

    def require_own_names(self) -> None:
        """Raise a `UserError` where two scenes of a split have one name."""
        image_of: dict[str, str] = {}
        for scene in self.scenes:
            other = image_of.setdefault(scene.key, scene.image.name)
            if other != scene.image.name:
                raise UserError(
                    f"{other} and {scene.image.name} are of one name, as their tiles would be; "
                    "rename one"
                )


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
