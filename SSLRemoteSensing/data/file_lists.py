"""Find the images that a config names."""

import codecs
import fnmatch
import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.path_list import PathList
from SSLRemoteSensing.data.remote import is_remote, remote_name, require_allowed
from SSLRemoteSensing.data.shards import INDEX, forget_shards, has_shards, open_shards

# What systems and their servers put beside files: .DS_Store, ._a.png, previews, waste.
HIDDEN = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")
SPELLINGS = (("jpg", "jpeg"), ("tif", "tiff"))
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".webp"}
NOT_ALLOWED = {
    None: "copy it to a disk, or pre-train by a config with train_data.allow_remote=True",
    False: "set allow_remote=True to have GDAL read it over the network",
    True: "",
}
EVERY_IMAGE = ("**/*.png", "**/*.jpg", "**/*.tif", "**/*.tiff")
IMAGE_FOLDER = re.compile(r"(?:images?|imgs?|img_dir)(?:_(?:png|tif|jpg))?")
LABEL_FOLDER = re.compile(r"(?:labels?|masks?|ann_dir|annotations?|gts?)(?:_(?:png|tif))?")
LABEL_SUFFIX = re.compile(r"(.+)[_-](?:labels?|masks?|gt)", re.IGNORECASE)


def find_images(
    data_path: str | Path,
    data_format: str | Sequence[str],
    exclude: str | Path | None = None,
    keys: tuple[str, str | None] = ("data_path", "data_format"),
    takes_shards: bool = False,
    allow_remote: bool | None = None,
) -> Sequence[str]:
    """Every image of `data_path` that `exclude` does not name, sorted by path, each once.

    Hidden files and folders are passed over. A pattern's ending is meant in any case and spelling:
    '*.jpg' finds a.JPG and a.jpeg too. What its ending alone keeps out is said on stderr.

    Args:
        data_path: a folder, searched with the pattern or patterns of `data_format` (`**` goes into
            sub-folders), or a text file with one path a line, relative to that file's folder.
        exclude: a text file of images to leave out, see `leave_out`.
        keys: what the user calls `data_path` and `data_format`, for errors; None for patterns that
            are not the user's.
        takes_shards: the folder may be one of tar shards; a pattern is then of paths below them.
        allow_remote: the data may be the address of an image, or a list of some, that GDAL reads
            over the network; None: nor can the user allow it.

    Raises:
        UserError: no such folder or file, or nothing found; the message says what is there.
    """
    root, (path_key, format_key) = Path(data_path), keys
    if is_remote(data_path):
        require_allowed(f"{path_key} {data_path}", bool(allow_remote), NOT_ALLOWED[allow_remote])
        return PathList([remote_name(os.fspath(data_path))])
    if os.path.isfile(root):  # which says no to a path that cannot be, where Path raises
        return PathList(
            leave_out(listed_images(root, path_key, allow_remote), root.parent, exclude)
        )
    if not os.path.isdir(root):
        raise UserError(f"{path_key} {root}: no such folder or list file; set {path_key}")
    patterns = [data_format] if isinstance(data_format, str) else list(data_format)
    patterns = [pattern.replace(os.sep, "/").removeprefix("./") for pattern in patterns]
    names_in: dict[tuple[str, ...], list[str]] = {}
    for pattern in patterns:
        if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise UserError(f"{format_key}={pattern!r}: write it like '**/*.jpg', below {path_key}")
        *parents, name = pattern.split("/")
        if os.path.isdir(root.joinpath(*parents)):  # what exists is no pattern
            parents = [glob.escape(part) for part in parents]
        if os.path.isfile(root / pattern):
            name = glob.escape(name)
        names_in.setdefault(tuple(parents), []).append(name)
    rules = [(parents, as_regex(names)) for parents, names in names_in.items()]
    others: list[str] = []
    is_sharded = has_shards(root)
    if is_sharded and not takes_shards:
        raise UserError(
            f"{path_key} {root}: holds tar shards, which pre-training alone reads; name a folder "
            "of images"
        )
    found = (root, rules, others)
    files = matching_members(*found) if is_sharded else PathList(matching_files(*found))
    if not files:
        endings = Counter(
            Path(name).suffix or "none" for _, names in list_folders(root) for name in names
        )
        counts = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(4)) or "no files"
        name, remedy = "", ""
        if format_key:
            if is_sharded:
                endings = Counter(open_shards(root.as_posix()).card["endings"])
            example = next((x for x, _ in endings.most_common() if is_image(x)), ".jpg")
            name = f"{format_key}="
            remedy = f"; set {format_key}, '**/*{example}' searches sub-folders"
        if ".tar" in endings:
            remedy = f"; if these are shards, make their index: {INDEX} {root}"
        raise UserError(
            f"{path_key} {root}: no image matches {name}{data_format!r} (there: {counts}){remedy}"
        )
    if others and format_key == "data_format":
        say_left_out(f"{path_key} {root}", others, files, names_in.values())
    return leave_out(files, root, exclude)


def matching_members(
    root: Path, rules: Sequence[tuple[tuple[str, ...], re.Pattern]], others: list[str]
) -> Sequence[str]:
    """As `matching_files`, of the images in the shards of the folder `root`.

    Raises:
        UserError: an index or a shard that is not whole.
    """
    forget_shards()  # the folder may have changed since
    shards = open_shards(root.as_posix())
    shards.require_whole()
    # A pattern that takes an ending alone, and with anything before it, takes all that have it.
    everywhere = [regex.match for parents, regex in rules if parents == ("**",)]
    if all(any(x(end) and x(f"\0{end}") for x in everywhere) for end in shards.card["endings"]):
        return shards

    def is_taken(path: str) -> bool:
        below = path.removeprefix(f"{shards.folder}/")
        *parents, name = below.split("/")[1:]
        if any(in_folder(parents, folders) and regex.match(name) for folders, regex in rules):
            return True
        others.append(below)
        return False

    return PathList(filter(is_taken, shards))


def matching_files(
    root: Path, rules: Sequence[tuple[tuple[str, ...], re.Pattern]], others: list[str]
) -> Iterator[str]:
    """The files below `root` that any of `rules` (folders, names) matches, sorted by path; to
    `others` go the images, as paths below `root`, that only their names keep out."""
    prefix = f"{root.as_posix()}/"
    for folder, names in list_folders(root):
        parts = tuple(folder.split("/")[:-1])
        patterns = [regex.pattern for parents, regex in rules if in_folder(parts, parents)]
        if not patterns:
            continue
        match = re.compile("|".join(patterns)).match
        taken = list(filter(match, names))
        yield from map(f"{prefix}{folder}".__add__, taken)
        if len(taken) < len(names):
            others += [f"{folder}{name}" for name in names if is_image(name) and not match(name)]


def listed_images(file: Path, key: str, allow_remote: bool | None = None) -> list[str]:
    """The images that a text file lists, each once, in its order."""
    lines, root = listing(file, key), file.parent
    if not lines:
        raise UserError(f"{key} {file}: the list is empty; write one image path a line")
    files = [named(root, line) for line in lines]
    for index, path in enumerate(files):
        if is_remote(path):
            what = f"{key} {file}: {lines[index]}"
            require_allowed(what, bool(allow_remote), NOT_ALLOWED[allow_remote])
        elif not os.path.isfile(path):
            files[index] = locate(root, lines[index]) or path
    files = [path for path in files if not is_hidden(os.path.basename(path))]
    missing = [path for path in files if not (is_remote(path) or os.path.isfile(path))]
    if missing or not files:
        first = f", first {missing[0]}" if missing else ""
        raise UserError(
            f"{key} {file}: {len(missing)} of {len(files)} files do not exist{first}; write one "
            f"path a line, absolute or relative to {root}"
        )
    return list(dict.fromkeys(files))


def named(root: Path, line: str) -> str:
    """The path of an image that a line of a list in the folder `root` names."""
    return remote_name(line.strip()) if is_remote(line.strip()) else (root / line).as_posix()


def say_left_out(
    where: str, others: Sequence[str], files: Iterable[str], names: Iterable[Sequence[str]]
) -> None:
    """Say which of `others`, images that no pattern matches, are kept out by their ending alone.

    A label is none, nor is what has the name of an image that is taken: its label, or a preview.
    """
    heads = {name.rpartition(".")[0] for group in names for name in group}
    head = re.compile("|".join(map(fnmatch.translate, heads)))
    stems = {stem(file) for file in files}
    images = [
        file
        for file in others
        if stem(file) not in stems and head.match(stem(file))
        and not LABEL_SUFFIX.fullmatch(stem(file))
        and not any(LABEL_FOLDER.fullmatch(part) for part in file.lower().split("/")[:-1])
    ]  # fmt: skip
    if images:
        endings = sorted({os.path.splitext(file)[1] for file in images})
        what = (
            f"ending {endings[0]} is" if len(endings) == 1 else f"endings {', '.join(endings)} are"
        )
        total = len(images) + len(files)
        warn(f"{where}: {len(images)} of {total} images left out: {what} not in data_format")


def leave_out(files: Sequence[str], root: Path, exclude: str | Path | None) -> Sequence[str]:
    """`files` without those that the text file `exclude` names; None leaves out nothing.

    A line is a path, absolute or relative to `root`; empty lines and lines that begin with # are
    passed over. One list may serve several splits, so a line may name a file that is not among
    `files`; one that names no file at all is probably misspelt, and is said on stderr.

    Raises:
        UserError: no such list, no text, or nothing is left.
    """
    if exclude is None:
        return files
    lines = listing(Path(exclude), "exclude")
    # Folders are compared as they really are, so that a link to one changes nothing; asking that
    # of each file of 100,000 would take seconds.
    real_folder = cache(os.path.realpath)

    def real_path(file: str) -> str:
        folder, name = os.path.split(file)
        return f"{real_folder(folder)}/{name}"

    line_of = {real_path(named(root, line)): line for line in lines}
    others = line_of.keys() - {path for path in map(real_path, files) if path in line_of}
    wrong_lines = [line_of[path] for path in sorted(others) if not os.path.exists(path)]
    for line in list(wrong_lines):
        if file := locate(root, line):
            line_of[real_path(file)] = line
            wrong_lines.remove(line)
    if wrong_lines:
        warn(
            f"exclude {exclude}: {len(wrong_lines)} of {len(lines)} lines name no file, first "
            f"{wrong_lines[0]}; write paths absolute, or relative to {root}"
        )
    remaining = PathList(file for file in files if real_path(file) not in line_of)
    if not remaining:
        raise UserError(f"exclude {exclude}: leaves none of the {len(files)} images of {root}")
    return remaining


def list_folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder below `root` with a '/' at its end, names of files in it), `root` itself as ''; in
    the order of their paths, for which a folder comes in parts where others lie between its files.
    Links to folders are followed, each real folder once. What is hidden is left out."""
    real_folders: set[str] = set()

    def walk(below: str) -> Iterator[tuple[str, list[str]]]:
        real_folder = os.path.realpath(root / below)
        if real_folder in real_folders:
            return
        real_folders.add(real_folder)
        try:
            with os.scandir(root / below) as entries:
                names = [
                    f"{entry.name}/" if is_folder(entry) else entry.name
                    for entry in entries if not entry.name.startswith(HIDDEN)
                ]  # fmt: skip
        except OSError:  # not to be opened
            return
        names.sort()
        first = 0
        for place, name in enumerate(names):
            if name.endswith("/"):
                yield below, names[first:place]
                yield from walk(f"{below}{name}")
                first = place + 1
        yield below, names[first:]

    yield from walk("")


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that is not to be entered
        return False


def is_hidden(path: str) -> bool:
    """Whether a path leads through what the user did not put there."""
    return any(part.startswith(HIDDEN) for part in path.split("/"))


def is_image(name: str) -> bool:
    """Whether a file is called as images are, or an ending is one of theirs."""
    return f".{name.rpartition('.')[2].lower()}" in IMAGE_ENDINGS


def in_folder(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the folders `parts` match those of a pattern, in which '**' is any number of them."""
    if pattern and pattern[0] == "**":
        return any(in_folder(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    if not pattern or not parts:
        return len(pattern) == len(parts)
    is_match = fnmatch.fnmatchcase(parts[0], pattern[0]) or parts[0] == pattern[0]
    return is_match and in_folder(parts[1:], pattern[1:])


def as_regex(names: Iterable[str]) -> re.Pattern:
    """What matches the file names that any of the patterns `names` stands for."""
    options = dict.fromkeys(option for name in names for option in spellings(name))
    return re.compile("|".join(map(fnmatch.translate, options)))


def spellings(name: str) -> list[str]:
    """The patterns that the pattern of a file's name stands for: its ending in any case, .jpeg and
    .jpg alike; and with brackets, which may also be those of a name, as they are written.

    >>> spellings("a*.TIF")
    ['a*.[tT][iI][fF]', 'a*.[tT][iI][fF][fF]']
    """
    patterns = []
    for option in dict.fromkeys([name, name.replace("[", "[[]")]):
        head, dot, ending = option.rpartition(".")
        group = next((group for group in SPELLINGS if ending.lower() in group), [ending])
        any_case = [
            re.sub("[a-z]", lambda match: f"[{match[0]}{match[0].upper()}]", spelling.lower())
            for spelling in group
        ]
        is_plain = dot and "[" not in ending
        patterns += [f"{head}.{ending}" for ending in any_case] if is_plain else [option]
    return patterns


def as_spelled(name: str) -> str:
    """`name` with its ending in small letters and its shorter spelling."""
    head, dot, ending = name.rpartition(".")
    ending = ending.lower()
    shortest = next((group[0] for group in SPELLINGS if ending in group), ending)
    return f"{head}{dot}{shortest}"


def find_labels(labels: Iterable[str]) -> dict[str, str | None]:
    """Those of `labels` that are not there -> the file that is called so but for the case and the
    spelling of its ending, or None. Each folder is listed once."""
    folders = {label.rpartition("/")[0] for label in labels}
    files = [
        f"{folder}/{name}"
        for folder in folders if os.path.isdir(folder)
        for name in sorted(os.listdir(folder))
    ]  # fmt: skip
    absent = set(labels).difference(files)
    others = {as_spelled(file): file for file in files} if absent else {}
    return {label: others.get(as_spelled(label)) for label in absent}


def match_paths(text: str) -> list[str]:
    """The files that a path with wildcards (`*`, `?`, `[...]`, `**`) names, sorted. Folders that
    exist are none of its wildcards, and endings are as in `find_images`."""
    parts = text.replace(os.sep, "/").split("/")
    depth = len(parts) - 1
    while depth and not os.path.isdir("/".join(parts[:depth]) + "/"):
        depth -= 1
    root, rest = "".join(f"{part}/" for part in parts[:depth]), parts[depth:-1]
    patterns = {
        f"{glob.escape(root)}{'/'.join([*parents, name])}"
        for parents in (rest, [part.replace("[", "[[]") for part in rest])
        for name in spellings(parts[-1])
    }
    paths = {path for pattern in patterns for path in glob.glob(pattern, recursive=True)}
    return sorted(x for x in paths if os.path.isfile(x) and not is_hidden(x.removeprefix(root)))


def listing(path: Path, key: str) -> list[str]:
    """The lines of a text file that are neither empty nor comments.

    It may be UTF-8 or UTF-16, as editors of Windows write it, with the line ends of any system.
    Names that are no UTF-8 come back as Python has them from the system. Blanks belong to a name.
    """
    try:
        data = path.read_bytes()
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_wide else "utf-8-sig", "surrogateescape")
        reason = "no text file" if "\0" in text else None
    except OSError as error:
        reason = error.strerror
    except UnicodeError:
        reason = "no text file"
    if reason:
        raise UserError(
            f"{key} {path}: cannot be read ({reason}); expected a text file of one path a line"
        )
    lines = [line.removesuffix("\r") for line in text.split("\n" if "\n" in text else "\r")]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def locate(root: Path, line: str) -> str | None:
    """The file that a line of a list means where there is none of just that name: with blanks or
    quotes around it, backslashes for slashes, or letters as another system has them."""
    bare = line.strip().strip("\"'")
    names = [line.strip(), bare, bare.replace("\\", "/")]
    names += [unicodedata.normalize(form, names[-1]) for form in ("NFC", "NFD")]
    names.append(os.fsencode(bare).decode("cp1252", "replace"))
    paths = (os.path.join(root, name) for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)


def as_listed(path: str) -> bool:
    """Whether a line of such a file can hold `path`."""
    return "\n" not in path and not path.endswith("\r")


def stem(path: str) -> str:
    """The name of a file without its ending, faster than by a Path."""
    return path.rpartition("/")[2].rpartition(".")[0]


def spread_evenly(count: int, most: int = 8) -> list[int]:
    """The places of at most `most` of `count` files, from the first to the last."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()
