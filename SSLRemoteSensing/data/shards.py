"""Images in tar shards, each found by an index and read at its offset.

A shard is a POSIX tar as WebDataset writes them; an image in it has the path that it would have
were the shard a folder: DIR/000003.tar/a.jpg. A folder is of shards if `shards.json` lies in it.
"""

import hashlib
import io
import json
import os
import re
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.path_list import CODEC

CARD, STATE = "shards.json", "shards.jsonl"
ROWS, NAMES = "shards_rows.npy", "shards_names.npy"
MOST_OPEN = 128  # shards that a process keeps open
ENDING = re.compile(r"\.tar(?=/)")
INDEX = "tools/prepare.py shards --index"


def name_hash(name: bytes) -> int:
    """By which an image is found; of 64 bits, with a sign."""
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class Member(NamedTuple):
    """Where an image lies: `size` bytes from `offset` of the file `shard`."""

    shard: str
    offset: int
    size: int


class Shards(Sequence):
    """The paths of all images in a folder of shards, in the order of shards and of their members.

    The index is mapped, not read: processes have it in common, and one that is started by `spawn`
    opens it anew. A slice is a list.

    Attributes:
        card: shards.json. `shards` in it has name, bytes, images and sha256 of each.
        rows: int64 (5, images), of each image: offset and size of its bytes, where its name ends in
            `names`; and of each shard the hashes of its names in order, and which image has each.
        names: uint8 (bytes,), the names one after the other.

    Raises:
        UserError: an index that is not whole, or of another version.
        FileNotFoundError: the folder is none of shards.
    """

    def __init__(self, folder: str):
        text = Path(folder, CARD).read_bytes()
        try:
            self.card = json.loads(text)
            if self.card["version"] != 1:
                raise UserError(
                    f"{folder}/{CARD}: of version {self.card['version']}, known is 1; make the "
                    f"index anew: {INDEX} {folder}"
                )
            # As plain arrays, of which numpy reads a single value in half the time.
            self.rows, self.names = (
                np.load(Path(folder, name), mmap_mode="r").view(np.ndarray)
                for name in (ROWS, NAMES)
            )
            shards = self.card["shards"]
            self.folder, self.shards = folder, [shard["name"] for shard in shards]
            self.ends = np.cumsum([shard["images"] for shard in shards])
            is_whole = self.rows.shape == (5, self.ends[-1])
            is_whole &= len(self.names) == self.rows[2, -1]
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            is_whole = False
        if not is_whole:
            raise UserError(f"{folder}: its index is damaged; make it anew: {INDEX} {folder}")
        self.numbers = {name: number for number, name in enumerate(self.shards)}

    def __len__(self) -> int:
        return self.rows.shape[1]

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        shard = self.shards[int(self.ends.searchsorted(place, side="right"))]
        return f"{self.folder}/{shard}/{self.name(place).decode(*CODEC)}"

    def __reduce__(self):
        return open_shards, (self.folder,)

    def name(self, place: int) -> bytes:
        """Of an image, within its shard."""
        return self.names[self.rows[2, place - 1] if place else 0 : self.rows[2, place]].tobytes()

    def find(self, shard: str, name: str) -> Member | None:
        """Where the image `name` of a shard lies; None where there is none."""
        number, text = self.numbers.get(shard), name.encode(*CODEC)
        if number is None:
            return None
        last = int(self.ends[number])
        first, key = last - self.card["shards"][number]["images"], name_hash(text)
        at = first + int(self.rows[3, first:last].searchsorted(key))
        while at < last and self.rows[3, at] == key:  # once, but for names that have one hash
            place = int(self.rows[4, at])
            if self.name(place) == text:
                return Member(f"{self.folder}/{shard}", *self.rows[:2, place].tolist())
            at += 1
        return None

    def require_whole(self) -> None:
        """Raise a `UserError` where a shard is not as long as when the index was made."""
        for shard in self.card["shards"]:
            path, known = f"{self.folder}/{shard['name']}", shard["bytes"]
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise UserError(f"shard {path}: cannot be opened ({error.strerror})") from error
            if size != known:
                raise UserError(
                    f"shard {path}: has {size} bytes, and had {known} when its index was made; "
                    f"copy it again, or, if it was meant to change: {INDEX} {self.folder}"
                )


@lru_cache(maxsize=8)
def open_shards(folder: str) -> Shards:
    """The index of a folder, opened once a process; raises as `Shards`."""
    return Shards(folder)


def has_shards(folder: str | Path) -> bool:
    """Whether a folder is one of shards.

    Raises:
        UserError: its shards are not finished.
    """
    is_there, begun = (os.path.isfile(os.path.join(folder, name)) for name in (CARD, STATE))
    if begun and not is_there:
        raise UserError(
            f"{folder}: its shards are not finished; run tools/prepare.py shards again, it goes on"
        )
    return is_there


def find_member(path: str | Path) -> Member | None:
    """Where the image at `path` lies in a shard; None of one that is a file of its own."""
    text = path.as_posix() if isinstance(path, Path) else path
    for match in ENDING.finditer(text):
        folder, _, shard = text[: match.end()].rpartition("/")
        try:
            shards = open_shards(folder or ".")
        except FileNotFoundError:
            continue
        return shards.find(shard, text[match.end() + 1 :])
    return None


class OpenShard:
    """A shard that is open for reading by any thread; its last user closes it."""

    def __init__(self, path: str):
        # Windows would change line ends.
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.lock = threading.Lock()
        weakref.finalize(self, os.close, self.number)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer where the file ends before."""
        parts = []
        while size > 0 and (part := self.read_some(offset, size)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_some(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # which moves no place that threads and forked processes share
            return os.pread(self.number, size, offset)
        with self.lock:
            os.lseek(self.number, offset, os.SEEK_SET)
            return os.read(self.number, size)


open_shard = lru_cache(maxsize=MOST_OPEN)(OpenShard)


def forget_shards() -> None:
    """Open indices and shards anew: others may lie at the same paths by now."""
    open_shards.cache_clear()
    open_shard.cache_clear()


class MemberFile(io.RawIOBase):
    """A member of a shard as a file of its own; raises an OSError where the shard is not there."""

    def __init__(self, member: Member):
        self.shard, (_, self.first, self.size), self.at = open_shard(member.shard), member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, (0, self.at, self.size)[whence] + offset)
        return self.at

    def readall(self) -> bytes:
        data = self.shard.read(self.first + self.at, self.size - self.at)
        self.at += len(data)
        return data

    def readinto(self, buffer) -> int:
        most = min(len(buffer), self.size - self.at)
        data = self.shard.read(self.first + self.at, most)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
