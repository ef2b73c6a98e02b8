"""Images without a label beside those with one: which of them may train beside."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import IMAGE_FOLDER
from SSLRemoteSensing.data.prepared import UNLABELLED
from SSLRemoteSensing.preparation.catalog import SourceScene
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.splits import SPLITS, WILD, named_scenes, names_of


def unlabelled_scenes(
    images: Sequence[SourceFile],
    split_of: Mapping[SourceFile, str],
    requests: Sequence[str],
    bands: tuple[int, ...] | None,
    notes: list[str],
) -> list[SourceScene]:
    """The scenes of `images` without a label that nothing says to be of validation or test, and
    that are no copies; `notes` gets how many they are.

    Args:
        split_of: of the images with a label.
        requests: as --splits has them.
        bands: of a file, counted from 1; None: all.
    """
    others = not_held_out(images, split_of, requests)
    kept = without_copies(others, list(split_of))
    held, copied = len(images) - len(others), len(others) - len(kept)
    text = f"{len(kept)} images have no label and are cut to images/{UNLABELLED}"
    text += f"; {held} others, of validation or test, are left out" if held else ""
    text += f"; {copied} copies of labelled images are left out" if copied else ""
    notes.append(text)
    return [SourceScene(own_name(image), UNLABELLED, image, {}, bands) for image in kept]


def not_held_out(
    images: Sequence[SourceFile], split_of: Mapping[SourceFile, str], requests: Sequence[str]
) -> list[SourceFile]:
    """Those of `images` that neither a folder nor a name or pattern of `requests` puts into
    validation or test, nor a labelled tile there of the same scene."""
    named = [name for split, names in named_scenes(requests) if split != "train" for name in names]
    held = {x for file, split in split_of.items() if split != "train" for x in names_of(file.name)}
    held |= set(named)
    patterns = [name for name in named if WILD.search(name)]

    def is_held(name: str) -> bool:
        folders = {SPLITS.get(part) for part in name.lower().split("/")[:-1]}
        is_named = any(fnmatchcase(x, pattern) for x in names_of(name) for pattern in patterns)
        return is_named or not folders <= {None, "train"} or not held.isdisjoint(names_of(name))

    return [image for image in images if not is_held(image.name)]


def without_copies(
    images: Sequence[SourceFile], labelled: Sequence[SourceFile]
) -> list[SourceFile]:
    """Those of `images` whose bytes are of none of `labelled`. Only files of a size that is on both
    sides are read."""
    sizes = {file.stamp[0] for file in images} & {file.stamp[0] for file in labelled}
    alike = [file for file in (*labelled, *images) if file.stamp[0] in sizes]
    digests = dict(zip(alike, map_files(digest_of, alike, "hashing"), strict=True))
    known = {digests.get(file) for file in labelled} - {None}
    return [file for file in images if digests.get(file) not in known]


def digest_of(file: SourceFile) -> str | None:
    """Its SHA-256; None of one that cannot be read, which is told when it is cut."""
    with suppress(UserError):
        return file.sha256()
    return None


def own_name(image: SourceFile) -> str:
    """The name of an image with those of its folders, as they may use one again."""
    parts = PurePosixPath(image.name).with_suffix("").parts
    return "_".join(part for part in parts if not IMAGE_FOLDER.fullmatch(part.lower()))
