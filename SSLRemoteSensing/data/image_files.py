"""Open the file of an image: one of its own, or a member of a tar shard; and how GDAL calls it."""

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from SSLRemoteSensing.core.errors import UnreadableImage
from SSLRemoteSensing.data.remote import is_remote, remote_name
from SSLRemoteSensing.data.shards import MemberFile, find_member


def open_image(path: str | Path, buffering: int = -1) -> BinaryIO:
    """The bytes of the image at `path`, to be read; `buffering` as `open` has it.

    Raises:
        UnreadableImage: missing, or no regular file.
        OSError: it cannot be opened.
    """
    member = find_member(path)
    if member is None:
        require_file(path)
        return open(path, "rb", buffering)
    file = MemberFile(member)
    return io.BufferedReader(file) if buffering else file


def require_file(path: str | Path) -> None:
    """Raise `UnreadableImage` for a pipe, a device or a folder: reading those may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise UnreadableImage(f"image {path}: is no regular file; remove it")


def gdal_path(path: Path) -> str:
    """What GDAL calls the image at `path`.

    >>> gdal_path(Path("a.tif"))
    'a.tif'
    """
    if is_remote(path):
        return remote_name(path.as_posix())
    member = find_member(path)
    return f"/vsisubfile/{member.offset}_{member.size},{member.shard}" if member else str(path)
