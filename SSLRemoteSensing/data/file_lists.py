"""Find the images that a config names."""

import fnmatch
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError


def find_images(
    data_path: str | Path,
    data_format: str | Sequence[str],
    exclude: str | Path | None = None,
    keys: tuple[str, str | None] = ("data_path", "data_format"),
) -> list[str]:
    """Every image of `data_path` that `exclude` does not name, sorted by path, each once.

    Paths are strings: for 100,000 files, Path objects alone would take a second to make.

    Args:
        data_path: a folder, searched with the pattern or patterns of `data_format` (`**` goes into
            sub-folders), or a text file with one path a line, relative to that file's folder.
        exclude: a text file of images to leave out, see `leave_out`.
        keys: what the user calls `data_path` and `data_format`, for errors; None for patterns that
            are not the user's.

    Raises:
        UserError: no such folder or file, or nothing found; the message says what is there.
    """
    root, (path_key, format_key) = Path(data_path), keys
    if os.path.isfile(root):  # which says no to a path that cannot be, where Path raises
        files = [str(root.parent / line) for line in listing(root, path_key)]
        if not files:
            raise UserError(f"{path_key} {root}: the list is empty; write one image path a line")
        missing = [file for file in files if not os.path.isfile(file)]
        if missing:
            raise UserError(
                f"{path_key} {root}: {len(missing)} of {len(files)} files do not exist, first "
                f"{missing[0]}"
            )
        return leave_out(list(dict.fromkeys(files)), root.parent, exclude)
    if not os.path.isdir(root):
        raise UserError(f"{path_key} {root}: no such folder or list file; set {path_key}")
    patterns = [data_format] if isinstance(data_format, str) else list(data_format)
    patterns = [pattern.removeprefix("./") for pattern in patterns]
    for pattern in patterns:
        if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise UserError(f"{format_key}={pattern!r}: write it like '**/*.jpg', below {path_key}")
    folders = list_folders(root)
    files = sorted(
        {
            f"{folder}{name}"
            for pattern in patterns
            for folder, names in folders
            if in_folder(folder.split("/")[:-1], pattern.split("/")[:-1])
            for name in fnmatch.filter(names, pattern.rpartition("/")[2])
        }
    )
    if not files:
        endings = Counter(Path(name).suffix or "none" for _, names in folders for name in names)
        counts = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(4)) or "no files"
        name, remedy = "", ""
        if format_key:
            name, remedy = f"{format_key}=", f"; set {format_key}, '**/*.jpg' searches sub-folders"
        raise UserError(
            f"{path_key} {root}: no image matches {name}{data_format!r} (there: {counts}){remedy}"
        )
    return leave_out([f"{root}/{file}" for file in files], root, exclude)


def leave_out(files: list[str], root: Path, exclude: str | Path | None) -> list[str]:
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

    line_of = {real_path(os.path.join(root, line)): line for line in lines}
    paths = [real_path(file) for file in files]
    others = sorted(line_of.keys() - set(paths))
    wrong_lines = [line_of[path] for path in others if not os.path.exists(path)]
    if wrong_lines:
        warn(
            f"exclude {exclude}: {len(wrong_lines)} of {len(lines)} lines name no file, first "
            f"{wrong_lines[0]}; write paths absolute, or relative to {root}"
        )
    remaining = [file for file, path in zip(files, paths, strict=True) if path not in line_of]
    if not remaining:
        raise UserError(f"exclude {exclude}: leaves none of the {len(files)} images of {root}")
    return remaining


def list_folders(root: Path) -> list[tuple[str, list[str]]]:
    """(folder below `root` with a '/' at its end, its files' names), `root` itself as ''; links to
    folders are followed, each real folder once."""
    folders, real_folders = [], set()
    for folder, sub_folders, names in os.walk(root, followlinks=True):
        real_folder = os.path.realpath(folder)
        if real_folder in real_folders:
            sub_folders.clear()
            continue
        real_folders.add(real_folder)
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        folders.append(("" if below == "." else f"{below}/", names))
    return folders


def in_folder(parts: list[str], pattern: list[str]) -> bool:
    """Whether the folders `parts` match those of a pattern, in which '**' is any number of them."""
    if pattern[:1] == ["**"]:
        return any(in_folder(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    if not pattern or not parts:
        return pattern == parts
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and in_folder(parts[1:], pattern[1:])


def listing(path: Path, key: str) -> list[str]:
    """The lines of a text file that are neither empty nor comments.

    Names that are no UTF-8 come back as Python has them from the system. Blanks belong to a name.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        reason = "no text file" if "\0" in text else None
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(
            f"{key} {path}: cannot be read ({reason}); expected a text file of one path a line"
        )
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def as_listed(path: str) -> bool:
    """Whether a line of such a file can hold `path`."""
    return "\n" not in path and not path.endswith("\r")


def stem(path: str) -> str:
    """The name of a file without its ending, faster than by a Path."""
    return path.rpartition("/")[2].rpartition(".")[0]
