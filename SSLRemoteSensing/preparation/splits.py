"""Which scene is of train, of val, of test: as published, as named, or by a hash of its name."""

import re
from collections import defaultdict
from collections.abc import Sequence

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.subsets import name_hash
from SSLRemoteSensing.preparation.sources import SourceFile

SHARE = re.compile(r"0?\.\d+|[01](?:\.0*)?")


def files_by_scene(
    files: Sequence[SourceFile], pattern: str, name: str = r"\1"
) -> dict[str, list[SourceFile]]:
    """The files whose path matches `pattern`, by the scene's name.

    Where a scene is there more than once (a folder unzipped twice, one part of a download within
    another), the file in the folder with the most scenes is the first.
    """
    folders: dict[str, dict[str, SourceFile]] = defaultdict(dict)
    for file in files:
        match = re.fullmatch(pattern, file.name, re.IGNORECASE)
        if match:
            folders[file.folder].setdefault(match.expand(name), file)
    matches = defaultdict(list)
    for _, scenes in sorted(folders.items(), key=lambda item: (-len(item[1]), item[0])):
        for scene, file in scenes.items():
            matches[scene].append(file)
    return dict(matches)


def assign_splits(splits: dict[str, Sequence[str]], requests: Sequence[str]) -> dict[str, str]:
    """Scene -> split, as published unless `requests` say otherwise.

    Args:
        splits: the published splits.
        requests: the splits to prepare; 'val=2_10,3_10' names the validation scenes, taken from
            train, 'val=0.2' takes that share of train by a hash of the scene's name.

    Raises:
        UserError: an unknown split, or a scene that is not of train.
    """
    split_of = {scene: split for split, scenes in splits.items() for scene in scenes}
    train = [scene for scene, split in split_of.items() if split in ("train", "val")]
    bare = any("=" not in text for text in requests)  # 'val=0.2' alone leaves train and test
    names = [text.partition("=")[0] for text in requests] if bare else list(splits)
    for text in requests:
        split, equals, which = text.partition("=")
        if split not in splits:
            raise UserError(f"--splits {text}: known are {', '.join(splits)}")
        if equals and split != "val":
            raise UserError(
                f"--splits {text}: only val can be chosen; train and test are published"
            )
        if equals:
            validation = pick_scenes(train, which, text)
            split_of |= {scene: "val" if scene in validation else "train" for scene in train}
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
            "a share such as val=0.1, or names such as val=2_10,3_10"
        )
    return names
