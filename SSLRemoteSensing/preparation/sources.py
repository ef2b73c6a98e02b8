"""The files of a downloaded data set: in folders however deep, or in zip files."""

import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.file_lists import is_hidden, list_folders
from SSLRemoteSensing.data.formats import JPEG, TIFF_BEGINS
from SSLRemoteSensing.data.image_files import require_file
from SSLRemoteSensing.data.images import MAX_PIXELS, decode
from SSLRemoteSensing.data.remote import require_here


@dataclass(frozen=True)
class SourceFile:
    """A file in a folder, or a member of a zip file.

    `name` is its path below the source, `stamp` changes when the file does: size and time of
    writing, or size and check sum. `beside` are the files beside it that GDAL reads with it.
    """

    name: str
    path: Path
    member: str | None
    stamp: tuple[int, int]
    beside: tuple["SourceFile", ...] = ()

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.name).parent)

    @property
    def files(self) -> tuple["SourceFile", ...]:
        """Itself and what lies beside it: what it is made of, as labels have it."""
        return (self, *self.beside)

    @property
    def ending(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    @property
    def address(self) -> str:
        """What GDAL opens; a member it unpacks as it reads, and finds what lies beside it."""
        return str(self.path) if self.member is None else f"/vsizip/{{{self.path}}}/{self.member}"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The contents.

        Raises:
            UnreadableImage: here or while it is read: missing, no regular file, a damaged member.
        """
        try:
            if self.member is None:
                require_file(self.path)
                with self.path.open("rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                    yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UnreadableImage(
                f"{self.name}: cannot be unpacked ({error}); download the zip file again"
            ) from error
        except OSError as error:
            raise UnreadableImage(f"{self.name}: cannot be read ({error.strerror})") from error

    def sha256(self) -> str:
        """Of the contents to their end, where zipfile compares the check sum of a member."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def digests(self) -> dict[str, str]:
        """The SHA-256 of what it is made of, by name."""
        return {file.name: file.sha256() for file in self.files}

    def is_jpeg(self) -> bool:
        with self.open() as file:
            return file.read(len(JPEG)) == JPEG

    def photograph(self) -> np.ndarray:
        """The JPEG as R, G, B uint8 (H, W, 3)."""
        if self.stamp[0] > MAX_PIXELS:
            raise UnreadableImage(f"{self.name}: is of {self.stamp[0]} bytes, as no photograph is")
        with self.open() as file:
            return decode(self.name, file.read())


def list_files(source: str | Path, flag: str = "--source") -> list[SourceFile]:
    """Every file below `source`, sorted by name: a folder, with zip files in it or not, or a zip.

    Raises:
        UserError: no such source, or a damaged zip file.
    """
    require_here(source, flag)
    source = Path(source)
    if source.is_file():
        return linked(sorted(zip_members(source, ""), key=lambda file: file.name))
    if not source.is_dir():
        raise UserError(f"{flag} {source}: no such folder or zip file")
    files = []
    for name in (folder + name for folder, names in list_folders(source) for name in names):
        path = source / name
        try:
            if path.suffix.lower() == ".zip":
                files += zip_members(path, f"{name}/")
            else:
                status = path.stat()
                files.append(SourceFile(name, path, None, (status.st_size, status.st_mtime_ns)))
        except UserError as error:  # what is needed may lie beside it, unzipped
            print(f"left out: {error}", file=sys.stderr)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); mend or remove it"
            ) from error
    return linked(sorted(files, key=lambda file: file.name))


def linked(files: Sequence[SourceFile]) -> list[SourceFile]:
    """`files`, each with those of them that lie beside it and are read with it."""
    file_of = {file.name.lower(): file for file in files}
    names = [[name for name in names_beside(file.name) if name in file_of] for file in files]
    return [
        replace(file, beside=tuple(file_of[name] for name in own)) if own else file
        for file, own in zip(files, names, strict=True)
    ]


def names_beside(name: str) -> list[str]:
    """What the files that tell place, nodata value or mask of an image may be called, in small
    letters. Its overviews (.ovr) are none of them: no tile is made of these."""
    name = name.lower()
    stem, suffix = os.path.splitext(name)
    endings = (f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld", ".tab")  # .tfw, .tifw
    return [f"{name}.aux.xml", f"{name}.msk", *(stem + ending for ending in endings)]


def zip_members(path: Path, prefix: str) -> list[SourceFile]:
    """The files in a zip. Raises a `UserError` for one that GDAL would not, or must not, read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = {member.filename.lower() for member in members}
            for member in members:
                fault = member_fault(archive, member, names)
                if fault:
                    raise UserError(f"{path}: holds {member.filename}, {fault}; unzip it first")
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        raise UserError(f"{path}: no readable zip file ({error}); download it again") from error
    return [
        SourceFile(prefix + member.filename, path, member.filename, (member.file_size, member.CRC))
        for member in members
        if not member.is_dir() and not is_hidden(member.filename)
    ]


def member_fault(archive: zipfile.ZipFile, member: zipfile.ZipInfo, names: set[str]) -> str | None:
    name = member.filename.lower()
    if name.startswith("/") or "//" in name:
        return "whose name is no path"
    if name.endswith(".zip"):
        return "another zip file"
    if member.flag_bits & 1:
        return "which asks for a password"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed by another method than deflate"
    # GDAL opens what is called so with any driver, of which some follow addresses.
    if name.endswith((".msk", ".ovr")) and name[:-4] in names:
        with archive.open(member) as file:
            return None if file.read(4) in TIFF_BEGINS else "a mask or overview that is no TIFF"
    return None
