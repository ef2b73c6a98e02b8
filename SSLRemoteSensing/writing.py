"""Write text files whole or not at all, into folders that can be written."""

import contextlib
import os
from pathlib import Path

from SSLRemoteSensing.errors import CannotWrite, UserError


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CannotWrite(f"{path}: cannot be written ({error.strerror})") from error


def make_folder(path: str | Path, key: str) -> Path:
    """Make the folder `path` and see that files can be written there.

    Raises:
        UserError: it cannot; `key` names the config key to change.
    """
    path = Path(path)
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{key}={str(path)!r}: cannot write there ({error.strerror})") from error
    return path
