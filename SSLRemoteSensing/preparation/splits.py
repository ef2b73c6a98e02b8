"""Which scenes are of train, val and test: as published, by folders, by name, share or list."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import IMAGE_ENDINGS, stem
from SSLRemoteSensing.data.subsets import name_hash, scene_of
from SSLRemoteSensing.preparation.catalog import listing

SHARE = re.compile(r"0?\.\d+|[01](?:\.0*)?")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
WILD = re.compile(r"[*?[]")  # what makes a pattern of a name
COLUMNS = ("scene", "image", "file", "name")  # of a list, the first that there is


def assign_splits(
    splits: dict[str, Sequence[str]],
    requests: Sequence[str],
    choosable: Sequence[str] = ("val",),
    default: Sequence[str] = (),
) -> dict[str, str]:
    """Scene -> split, as in `splits` unless `requests` say otherwise.

    Args:
        splits: as published.
        requests: the splits to prepare; 'val=2_10,3_*' names the validation scenes, taken from
            train, 'val=0.2' takes that share of train by a hash of the scene's name; with
            'train=...' scenes that are not named are in no split.
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
    choices = dict(text.split("=", 1) for text in choices)
    only = choices.pop("train", None)
    for split, which in choices.items():
        split_of |= {scene: "train" for scene, current in split_of.items() if current == split}
        train = [scene for scene, current in split_of.items() if current == "train"]
        split_of |= dict.fromkeys(pick_scenes(train, which, f"{split}={which}", start), split)
        start += float(which) if SHARE.fullmatch(which) else 0
    if only is not None:
        train = [scene for scene, split in split_of.items() if split == "train"]
        left_out = {*train} - pick_scenes(train, only, f"train={only}", start)
        split_of = {scene: split for scene, split in split_of.items() if scene not in left_out}
    if all("=" in text for text in requests):  # 'val=0.2' alone leaves train and test
        return split_of
    names = {text.partition("=")[0] for text in requests}
    return {scene: split for scene, split in split_of.items() if split in names}


def pick_scenes(scenes: Sequence[str], which: str, text: str, start: float = 0.0) -> set[str]:
    """Of `scenes`, those named in 'a,b*,c', or a share: a hash in [start, start + share)."""
    if which not in scenes and SHARE.fullmatch(which):
        return {scene for scene in scenes if start <= name_hash(scene) < start + float(which)}
    names = {name for name in which.split(",") if name}
    picked = {name: {scene for scene in scenes if matches(scene, name)} for name in sorted(names)}
    strange = [name for name, found in picked.items() if not found]
    if strange or not names:
        raise UserError(
            f"--splits {text}: {strange[0] if strange else 'nothing'} is no scene of train; write "
            f"a share such as val=0.1, or names of these: {listing(sorted(scenes))}"
        )
    return set().union(*picked.values())


def matches(scene: str, name: str) -> bool:
    """Whether `name` is that of the scene, or a pattern of it."""
    return scene == name or fnmatchcase(scene, name)


def assign_folders(
    images: Sequence[str], requests: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """Image -> split, by sub-folder, or by a hash of the scene that a tile is of. Splits that have
    no folder may be chosen of what is in none, or in train."""
    folder_of = {
        image: SPLITS[part]
        for image in images
        for part in image.lower().split("/")[:-1]
        if part in SPLITS
    }
    for image in images if folder_of else ():
        if image not in folder_of:
            raise UserError(f"{image}: lies in no folder train, val or test as others do")
    for text in requests:
        split, equals, which = text.partition("=")
        if equals and split in folder_of.values():
            raise UserError(
                f"--splits {text}: the folders say the split already; write {split} alone"
            )
    pool = [image for image in images if folder_of.get(image, "train") == "train"]
    scenes = {image: scene_of(stem(image)) or stem(image) for image in pool}
    names = {name for text in requests for name in text.partition("=")[2].split(",")}
    known = set(scenes.values())
    tiles = [name for name in names if not any(matches(scene, name) for scene in known)]
    scenes |= {
        image: stem(image) for image in pool if any(matches(stem(image), name) for name in tiles)
    }
    splits = {"train": list(dict.fromkeys(scenes.values())), "val": [], "test": []}
    default = [] if folder_of else ["val=0.1"]
    split_by_scene = assign_splits(splits, requests, tuple(splits), default)
    for text in requests:
        split, _, which = text.partition("=")
        is_share = SHARE.fullmatch(which) and float(which) > 0
        if is_share and split not in split_by_scene.values():
            raise UserError(f"--splits {text}: no scene falls to it; name some")
    is_whole = all("=" in text for text in requests)  # as `assign_splits` has it
    wanted = set(splits) if is_whole else {text.partition("=")[0] for text in requests}
    split_of = {
        image: split_by_scene[scene] for image, scene in scenes.items() if scene in split_by_scene
    }
    split_of |= {
        image: split
        for image, split in folder_of.items()
        if image not in scenes and split in wanted
    }
    if not folder_of and len({*split_of.values()}) > 1:
        counts = sorted(Counter(split_of.values()).items())
        is_hashed = not requests or any(map(SHARE.fullmatch, names))
        how = "by a hash of their names" if is_hashed else "as --splits says"
        notes.append(
            f"no folders train, val, test, so scenes are dealt {how}: "
            f"{len(images)} images of {len(splits['train'])} scenes, "
            f"{', '.join(f'{split} {count}' for split, count in counts)}"
        )
    return split_of


def of_labelled(
    requests: Sequence[str], images: Sequence[str], others: Sequence[str]
) -> Sequence[str]:
    """`requests` without the names that are of `others` alone, images without labels: a list may
    hold all images.

    Raises:
        UserError: of a split no image of `images`, which have labels, is named.
    """
    own, strange = ({name for x in files for name in names_of(x)} for files in (images, others))

    def are_of(name: str, scenes: set[str]) -> bool:
        return name in scenes or bool(WILD.search(name) and any(matches(x, name) for x in scenes))

    results = dict(zip(requests, requests, strict=True))
    for text, (split, names) in zip(requests, named_scenes(requests), strict=True):
        kept = [name for name in names if are_of(name, own) or not are_of(name, strange)]
        if names and not kept:
            raise UserError(f"--splits {split}: none of its {len(names)} scenes has a label")
        if len(kept) < len(names):
            results[text] = f"{split}={','.join(kept)}"
    return list(results.values())


def named_scenes(requests: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The split of each of `requests`, and the names and patterns of scenes that it has, if any."""
    choices = [text.partition("=")[::2] for text in requests]
    return [
        (split, [] if SHARE.fullmatch(which) else [name for name in which.split(",") if name])
        for split, which in choices
    ]


def names_of(image: str) -> set[str]:
    """What an image may be called in `--splits`: itself, and the scene that it is a tile of."""
    return {stem(image), scene_of(stem(image))} - {""}


def listed_splits(requests: Sequence[str]) -> list[str]:
    """`requests` with the scenes that a CSV file among them lists, 'train=a,b' and so on, for it.

    The file has a head with `split` and one of `scene`, `image`, `file` or `name`; a name may have
    folders and an ending.

    Raises:
        UserError: a file that cannot be read or has other columns, an unknown split, a scene that
            is listed twice.
    """
    texts = []
    for text in requests:
        if "=" in text or not text.lower().endswith(".csv"):
            texts.append(text)
            continue
        scenes: dict[str, list[str]] = {}
        for scene, split in read_list(Path(text)).items():
            scenes.setdefault(split, []).append(scene)
        texts += [f"{split}={','.join(names)}" for split, names in scenes.items()]
    return texts


def read_list(path: Path) -> dict[str, str]:
    """Scene -> split of a CSV file; see `listed_splits`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows, columns = list(reader), [name.strip().lower() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--splits {path}: cannot be read ({reason})") from error
    names = [name for name in COLUMNS if name in columns]
    if "split" not in columns or not names or not rows:
        raise UserError(
            f"--splits {path}: expected rows below a head with the columns scene and split, found "
            f"{', '.join(columns) or 'none'}"
        )
    split_of: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        values = dict(zip(columns, map(str, row.values()), strict=False))
        file, word = PurePath(values[names[0]].strip()), values["split"].strip()
        scene = file.stem if file.suffix.lower() in IMAGE_ENDINGS else file.name
        if scene in split_of:
            raise UserError(f"--splits {path}: line {number}: {scene} stands there twice")
        if word.lower() not in SPLITS:
            raise UserError(f"--splits {path}: line {number}: {word!r} is not train, val or test")
        split_of[scene] = SPLITS[word.lower()]
    return split_of
