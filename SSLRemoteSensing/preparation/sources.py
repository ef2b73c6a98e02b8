"""The files of a downloaded data set: in folders however deep, or in zip files."""

import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.file_lists import list_folders


@dataclass(frozen=True)
class SourceFile:
    """A file in a folder, or a member of a zip file.

    `name` is its path below the source, `stamp` changes when the file does: size and time of
    writing, or size and check sum.
    """

    name: str
    path: Path
    member: str | None
    stamp: tuple[int, int]
    beside: tuple[str, ...] = ()  # members with the place on the map of a member

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.name).parent)

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.name).name

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The path of the file; a member of a zip is unpacked for as long as it is used.

        Raises:
            UnreadableImage: the member is damaged, or says that it is larger than the disk.
        """
        if self.member is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="prepare_") as folder:
            copy = Path(folder) / self.file_name
            try:
                with zipfile.ZipFile(self.path) as archive:
                    self.require_room(archive, folder)
                    for member in (self.member, *self.beside):
                        target = Path(folder) / PurePosixPath(member).name
                        with archive.open(member) as contents, target.open("wb") as file:
                            shutil.copyfileobj(contents, file, 1 << 20)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise UnreadableImage(
                    f"{self.name}: cannot be unpacked ({error}); download the zip file again"
                ) from error
            except OSError as error:
                raise UserError(
                    f"{self.name}: cannot be unpacked to {folder} ({error.strerror}); make room "
                    "there, or set TMPDIR"
                ) from error
            yield copy

    def require_room(self, archive: zipfile.ZipFile, folder: str) -> None:
        """Raise `UnreadableImage` where `folder` has no room for what the archive says it holds.

        zipfile unpacks no more of a member than that.
        """
        size = sum(archive.getinfo(name).file_size for name in (self.member, *self.beside))
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UnreadableImage(
                f"{self.name}: unpacked it would take {size} bytes, {folder} has {free}; make room "
                "there, or set TMPDIR; or the zip file is hostile"
            )


def list_files(source: str | Path) -> list[SourceFile]:
    """Every file below `source`, sorted by name: a folder, with zip files in it or not, or a zip.

    Raises:
        UserError: no such source, or a damaged zip file.
    """
    source = Path(source)
    if source.is_file():
        return sorted(zip_members(source, ""), key=lambda file: file.name)
    if not source.is_dir():
        raise UserError(f"--source {source}: no such folder or zip file")
    files = []
    for folder, names in list_folders(source):
        for name in (folder + name for name in names):
            if is_hidden(name):
                continue
            path = source / name
            if path.suffix.lower() == ".zip":
                try:
                    files += zip_members(path, f"{name}/")
                except UserError as error:  # what is needed may lie beside it, unzipped
                    print(f"left out: {error}", file=sys.stderr)
            else:
                try:
                    status = path.stat()
                except OSError as error:
                    raise UserError(
                        f"{path}: cannot be read ({error.strerror}); mend or remove it"
                    ) from error
                stamp = (status.st_size, status.st_mtime_ns)
                files.append(SourceFile(name, path, None, stamp))
    return sorted(files, key=lambda file: file.name)


def zip_members(path: Path, prefix: str) -> list[SourceFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: no readable zip file ({error}); download it again") from error
    inner_zips = [member.filename for member in members if member.filename.lower().endswith(".zip")]
    if inner_zips:
        raise UserError(
            f"{path}: holds another zip file, {inner_zips[0]}; unzip the outer one first"
        )
    locked_members = [member.filename for member in members if member.flag_bits & 1]
    if locked_members:
        raise UserError(f"{path}: {locked_members[0]} asks for a password; unzip it first")
    names = {member.filename for member in members}

    def beside(name: str) -> tuple[str, ...]:
        stem = name.rpartition(".")[0]
        return tuple(n for n in (f"{stem}.tfw", f"{stem}.TFW", f"{name}.aux.xml") if n in names)

    return [
        SourceFile(
            prefix + member.filename,
            path,
            member.filename,
            (member.file_size, member.CRC),
            beside(member.filename),
        )
        for member in members
        if not member.is_dir() and not is_hidden(member.filename)
    ]


def is_hidden(name: str) -> bool:
    """Whether a path leads through what the user did not put there."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
