"""A data set before it is cut into tiles: scenes, their labels, what is known of both."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from SSLRemoteSensing.data.labels import ColourCoding, ValueCoding
from SSLRemoteSensing.preparation.sources import SourceFile

BAND_NAMES = {
    "rgb": ("red", "green", "blue"),
    "irrg": ("near infrared", "red", "green"),
    "rgbir": ("red", "green", "blue", "near infrared"),
}
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
    scenes: list[SourceScene]
    shares: dict[str, Sequence[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    one_value_is_wrong: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def listing(names: Sequence[str], most: int = 6) -> str:
    """The first of `names`, and how many more there are."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def pair_scenes(
    split_of: dict[str, str],
    images: dict[str, SourceFile],
    labels: dict[str, dict[str, SourceFile]],
    bands: dict[str, tuple[int, ...]],
) -> tuple[list[SourceScene], list[str], list[tuple[str, str]]]:
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
        scene_labels = {kind: files[name] for kind, files in labels.items() if name in files}
        missing_kinds = [kind for kind in labels if kind not in scene_labels]
        if split == "test" and missing_kinds:
            # Only labels of train are needed; those of test come later, or never.
            split = split if scene_labels else UNLABELLED
            notes += [f"{name}: no {kind} label" for kind in missing_kinds if scene_labels]
        elif missing_kinds:
            problems.append(
                (name, f"{images[name].name} has no label ({' and '.join(missing_kinds)})")
            )
            continue
        scenes.append(SourceScene(name, split, images[name], scene_labels, bands[name]))
    names = set(images)
    orphans = {
        file.name for files in labels.values() for name, file in files.items() if name not in names
    }
    if orphans:
        notes.append(f"{listing(sorted(orphans))}: a label without a scene; not used")
    absent = [name for name in split_of if name not in images]
    if absent:
        notes.append(
            f"{len(absent)} scenes of the splits are not there: {listing(absent, 40)}; scores will "
            "not compare with published ones"
        )
    foreign = sorted(name for name in images if name not in split_of)
    if foreign:
        notes.append(f"not of the splits asked for, left out: {listing(foreign)}")
    return scenes, notes, problems
