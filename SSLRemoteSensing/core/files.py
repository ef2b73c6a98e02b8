"""Write files whole or not at all, into folders that can be written; read and hash small ones."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from SSLRemoteSensing.core.errors import CannotWrite, UserError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write in the block, then flushed and renamed to `path`.

    Where the block fails nothing is left of it, and what was there before is still there.

    Raises:
        CannotWrite: the disk is full, say.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        flush(part)
        os.replace(part, path)
        with contextlib.suppress(OSError):  # some file systems flush no folders
            flush(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


@contextlib.contextmanager
def atomic_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary files beside `paths` to write in the block. When all of them are on the disk they
    get their names, the last one last: where that stands, all others do.

    Where that fails nothing is left of them, and what was there before is still there until the
    first has its name. What a kill leaves between the names is told by `is_half_named`.

    Raises:
        CannotWrite: the disk is full, say.
    """
    *others, last = paths
    parts = [path.with_name(f".{path.name}.part") for path in paths]
    ready = ready_file(last)
    try:
        yield parts
        for part in parts:
            flush(part)
        os.replace(parts[-1], ready)
        if others:  # an old file would vouch for them
            last.unlink(missing_ok=True)
        for path, part in zip(others, parts, strict=False):
            os.replace(part, path)
        os.replace(ready, last)
        with contextlib.suppress(OSError):
            for folder in {path.parent for path in paths}:
                flush(folder)
    except BaseException as error:
        for path in [*(others if is_half_named(last) else ()), *parts, ready]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(error.filename2 or last, error) from error
        raise


def is_half_named(last: Path) -> bool:
    """Whether a run of `atomic_together` was killed before it could name its last file, `last`, so
    that others may stand there that belong to none."""
    return ready_file(last).exists() and not last.exists()


def ready_file(last: Path) -> Path:
    return last.with_name(f".{last.name}.ready")


def cannot_write(path: str | Path, error: OSError) -> CannotWrite:
    reason = error.strerror or error
    return CannotWrite(f"{path}: cannot be written ({reason}); is the disk full?")


def flush(path: Path) -> None:
    """Have the disk keep what was written to a file or folder."""
    # Windows flushes only what may be written to.
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic(path) as part:
        part.write_bytes(data)


def make_folder(path: str | Path, key: str) -> Path:
    """Make the folder `path` and see that files can be written there; `key` is named where not."""
    path = Path(path)
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{key}={str(path)!r}: cannot write there ({error.strerror})") from error
    return path


def require_folder(path: str | Path, key: str) -> None:
    """Raise a `UserError` where `make_folder` would; nothing is made."""
    path = Path(path)
    place = nearest(path)
    longest_name = os.pathconf(place, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) > longest_name for part in path.parts):
        name = f"{str(path)[:40]}..."
        raise UserError(f"{key}={name}: a name of more than {longest_name} bytes; shorten it")
    if not place.is_dir():
        raise UserError(f"{key}={path}: {place} is a file, not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{key}={path}: {place} cannot be written to")


def nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def read_json(path: str | Path) -> dict:
    """The object in the JSON file `path`; empty where there is none, or none that can be read."""
    try:
        contents = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits. Raises an OSError as `open` does."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
