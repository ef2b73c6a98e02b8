"""Images as tar shards, and an index of shards that are there."""

import hashlib
import json
import os
import posixpath
import re
import tarfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SSLRemoteSensing.core import locks
from SSLRemoteSensing.core.bars import map_files, progress
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.files import atomic, make_folder, read_json, sha256, write_text
from SSLRemoteSensing.data.file_lists import is_hidden, is_image
from SSLRemoteSensing.data.geotiff import has_sidecar
from SSLRemoteSensing.data.images import read_header
from SSLRemoteSensing.data.path_list import CODEC
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.shards import (
    CARD,
    NAMES,
    ROWS,
    STATE,
    forget_shards,
    has_shards,
    name_hash,
    open_shards,
)
from SSLRemoteSensing.preparation.samples import other_parts, say_parts

BLOCK = tarfile.BLOCKSIZE
OWN = re.compile(r"\d{6,}\.tar")  # what shards are called here
# Of a prepared set's card, what shards of its images have not.
WITHOUT_LABELS = {"classes": [], "palette": None, "labels": [], "class_shares": None}


class Indexed(NamedTuple):
    """The images of a shard: `names` of them, and int64 (2, images), offset and size of each. How
    many were left out, and how many are of samples with several, is counted by part (.seg.png)."""

    names: list[bytes]
    places: np.ndarray
    sha256: str
    left_out: Counter[str]
    several: Counter[str]


def write_shards(
    files: Sequence[str], root: str, output: Path, shard_bytes: int, made_by: Mapping
) -> int:
    """Copy images, byte for byte and in their order, into shards of about so many bytes; how many.

    A shard that is finished is noted in `shards.jsonl`; called again for the same files, this goes
    on after it. In the end the index is made.

    Args:
        files: paths; one below `root` is the name of an image in its shard.
        made_by: what to keep of the command and versions.

    Raises:
        UserError: an image that cannot be read, or only together with what lies beside it; a folder
            that holds something else.
        CannotWrite: the disk is full, say.
    """
    make_folder(output, "--output")
    if os.path.isdir(root) and os.path.samefile(root, output):
        raise UserError(
            f"--output {output}: is the folder of the images; name another, of the shards alone"
        )
    with locks.alone(output, "--output"):
        return go_on(files, root, output, shard_bytes, made_by)


def go_on(files: Sequence[str], root: str, output: Path, shard_bytes: int, made_by: Mapping) -> int:
    """As `write_shards`, in a folder that no other process writes to."""
    is_begun = (output / STATE).is_file()
    if not is_begun and has_shards(output):
        return require_same(files, root, output)
    records = read_records(output) if is_begun else []
    known = {record["name"] for record in records}
    for path in sorted(output.glob("*.tar")):
        if not is_begun:
            raise UserError(
                f"--output {output}: has {path.name}, but not by this command; name another "
                "folder, or make the index of what is there: tools/prepare.py shards --index "
                f"{output}"
            )
        if not OWN.fullmatch(path.name):
            raise UserError(f"--output {output}: has {path.name} of somebody else; move it away")
        if path.name not in known:  # whose record was not written before the end
            path.unlink()
    done = sum(record["images"] for record in records)
    digest = digest_of(files[:done], root)
    if records and (done > len(files) or records[-1]["digest"] != digest.hexdigest()):
        raise UserError(
            f"--output {output}: was begun with other images; name another folder, or remove it"
        )
    if records:
        print(f"going on: {done:,} of {len(files):,} images are done")
    with progress("writing shards", total=len(files), unit="image") as bar:
        bar.update(done)
        write_text(output / STATE, "".join(f"{json.dumps(record)}\n" for record in records))
        while done < len(files):
            path = output / f"{len(records):06d}.tar"
            with atomic(path) as part:
                count = write_shard(part, files, done, root, shard_bytes, digest, bar)
            done += count
            record = {"name": path.name, "bytes": path.stat().st_size, "images": count}
            records.append(record | {"sha256": sha256(path), "digest": digest.hexdigest()})
            with (output / STATE).open("a") as state:
                state.write(f"{json.dumps(records[-1])}\n")
    if (card := read_card(root)) is not None:
        card = {key: value for key, value in card.items() if key != "root"}
        card |= WITHOUT_LABELS | {"tiles": {"train": len(files)}}
        write_text(output / "dataset.json", json.dumps(card, indent=1) + "\n")
    hashes = {record["name"]: record["sha256"] for record in records}
    made_by = {**made_by, "source": root, "digest": digest.hexdigest()}
    write_index(output, made_by, hashes, every_part=True)
    (output / STATE).unlink()
    return len(files)


def write_shard(
    part: Path, files: Sequence[str], first: int, root: str, most: int, digest, bar
) -> int:
    """Write files from number `first` on to one shard, until it has `most` bytes; how many."""
    place, size = first, 0
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        while place < len(files) and size < most:
            file, name = files[place], name_of(files[place], root)
            if not is_image(name) or is_hidden(name):
                raise UserError(
                    f"image {file}: is not called like an image (.jpg, .tif, ...) or is hidden, "
                    "and would not be found in a shard; rename it, or leave it out"
                )
            read_header(file)  # an error here is seen long before one in training
            if has_sidecar(Path(file)):
                raise UserError(
                    f"image {file}: has a mask or metadata file beside it (.msk, .aux.xml), which "
                    "no shard takes; remove that, or leave this image a file"
                )
            with closing(Original(file)) as source:
                # Nothing of the time or the user, so that the same images make the same shards.
                member = tarfile.TarInfo(name)
                member.size = source.size
                tar.addfile(member, source)
                source.require_unchanged()
            size += BLOCK + -(-member.size // BLOCK) * BLOCK
            digest.update(entry_of(file, root))
            place += 1
            bar.update()
    return place - first


class Original:
    """An image that is copied to a shard. What is wrong with it is an `UnreadableImage`, here or
    when it is read: an OSError would be taken for one of the shard, whose disk is full."""

    def __init__(self, path: str):
        self.path = path
        try:
            self.file = open(path, "rb")  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise UnreadableImage(f"image {path}: cannot be opened ({error.strerror})") from error
        self.size, self.written = self.stamp()

    def stamp(self) -> tuple[int, int]:
        """What changes where the file does."""
        status = os.fstat(self.file.fileno())
        return status.st_size, status.st_mtime_ns

    def read(self, count: int) -> bytes:
        """So many bytes, of which `size` has told."""
        try:
            data = self.file.read(count)
        except OSError as error:
            raise UnreadableImage(
                f"image {self.path}: cannot be read ({error.strerror})"
            ) from error
        if len(data) < count:
            raise self.changed()
        return data

    def changed(self) -> UnreadableImage:
        return UnreadableImage(
            f"image {self.path}: was changed while it was copied; wait until nothing writes to it, "
            "and run the command again, which goes on"
        )

    def require_unchanged(self) -> None:
        if self.stamp() != (self.size, self.written):
            raise self.changed()

    def close(self) -> None:
        self.file.close()


def name_of(file: str, root: str) -> str:
    """The name of a file's image in its shard."""
    return file.removeprefix("/" if root == "/" else f"{root}/").lstrip("/")


def entry_of(file: str, root: str) -> bytes:
    """By which a file is told from another one: its name and its size, in bytes; -1 of none."""
    try:
        size = os.stat(file).st_size
    except FileNotFoundError:
        size = -1
    return b"%s %d\n" % (name_of(file, root).encode(*CODEC), size)


def digest_of(files: Sequence[str], root: str):
    """The hash of all entries, to which those of further files can be added."""
    digest = hashlib.blake2b(digest_size=16)
    for file in progress("reading the list", files):
        digest.update(entry_of(file, root))
    return digest


def require_same(files: Sequence[str], root: str, output: Path) -> int:
    """How many images the finished shards of `output` have, which must be `files`."""
    shards = open_shards(output.as_posix())
    if shards.card.get("digest") != digest_of(files, root).hexdigest():
        raise UserError(f"--output {output}: has shards of other images; name another folder")
    shards.require_whole()
    print(f"{output} is made already, nothing left to do")
    return len(shards)


def read_records(output: Path) -> list[dict]:
    """The shards that an earlier run finished, from the first to one that is not there any more."""
    records = []
    try:
        # What follows the last line was being written when the run was stopped.
        for line in (output / STATE).read_text().split("\n")[:-1]:
            record = json.loads(line)
            path = output / record["name"]
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                break
            records.append(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--output {output}: what an earlier run left there is damaged ({error}); remove it"
        ) from error
    return records


def write_index(
    folder: Path,
    made_by: Mapping,
    hashes: Mapping[str, str] | None = None,
    every_part: bool = False,
) -> int:
    """Write the index of the images in all shards (*.tar) of a folder; how many there are.

    Args:
        made_by: goes to the card as it is.
        hashes: SHA-256 of shards by name, of those whose hash is known.
        every_part: take also images that `other_parts` leaves out. They are taken of shards that
            `write_shards` made, whose names are those of files.

    Raises:
        UserError: no shard, none with an image, or one that is cut, compressed, or has two images
            of one name.
    """
    paths = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"--index {folder}: no *.tar is there; name the folder of the shards")
    before = read_json(folder / CARD)
    every_part = every_part or "source" in before
    index = partial(index_shard, hashes=hashes or {}, every_part=every_part)
    text, rows, shards, endings = bytearray(), [], [], Counter()
    left_out, several = Counter(), Counter()
    for path, indexed in zip(
        paths, map_files(index, paths, "indexing shards", unit="shard"), strict=True
    ):
        names, first = indexed.names, sum(shard["images"] for shard in shards)
        own_ends = len(text) + np.cumsum(list(map(len, names)), dtype=np.int64)
        hashes_of_names = np.array(list(map(name_hash, names)), np.int64)
        order = hashes_of_names.argsort()
        rows.append(np.stack([*indexed.places, own_ends, hashes_of_names[order], first + order]))
        text += b"".join(names)
        endings.update(os.path.splitext(name)[1].decode(*CODEC) for name in names)
        left_out += indexed.left_out
        several += indexed.several
        facts = {"name": path.name, "bytes": path.stat().st_size, "images": len(names)}
        shards.append(facts | {"sha256": indexed.sha256})
    total = sum(shard["images"] for shard in shards)
    if not total:
        raise UserError(f"--index {folder}: no image in {len(paths)} shards; images end in .jpg")
    say_parts(folder, left_out, several)
    card = {"version": 1, "images": total, "endings": dict(endings), "shards": shards}
    card |= {"left_out": dict(left_out)} if left_out else {}
    if before.get("shards") == shards:  # so they are still those of the images that it names
        card |= {key: before[key] for key in ("source", "digest") if key in before}
    card |= made_by
    (folder / CARD).unlink(missing_ok=True)
    for name, values in (
        (ROWS, np.concatenate(rows, axis=1)),
        (NAMES, np.frombuffer(text, np.uint8)),
    ):
        with atomic(folder / name) as part, part.open("wb") as file:
            np.save(file, values)
    card["made"] = time.strftime("%Y-%m-%d %H:%M:%S %z")
    write_text(folder / CARD, json.dumps(card, indent=1) + "\n")
    forget_shards()
    return total


def index_shard(path: Path, hashes: Mapping[str, str], every_part: bool) -> Indexed:
    """The images in a shard, in their order; its SHA-256 is read where `hashes` has it not."""
    names, places, end = [], [], 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # each of which would be kept
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                name = posixpath.normpath(member.name).lstrip("/")
                is_plain = member.isreg() and not member.issparse() and member.size
                if is_plain and is_image(name) and not is_hidden(name):
                    names.append(name.encode(*CODEC))
                    places.append((member.offset_data, member.size))
        with path.open("rb") as file:
            file.seek(end)
            ends_well = file.read(2 * BLOCK) == bytes(2 * BLOCK)
    except (tarfile.TarError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"shard {path}: cannot be read as a plain tar ({reason}); copy it again, or make it "
            "anew without compression"
        ) from error
    if not ends_well:
        raise UserError(f"shard {path}: has no end, so it was cut; copy it again")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"shard {path}: has two images {twice.decode(*CODEC)}; make it anew with one of them"
        )
    left_out, several = ({}, Counter()) if every_part else other_parts(names)
    kept = [place for place in range(len(names)) if place not in left_out]
    known = np.array(places, np.int64).reshape(-1, 2)[kept]
    digest = hashes.get(path.name) or sha256(path)
    names = [names[place] for place in kept]
    return Indexed(names, known.T, digest, Counter(left_out.values()), several)


def check_shards(folder: str) -> int:
    """Read all shards of a folder and compare them with their hashes; how many there are.

    Raises:
        UserError: no shards, or the first that has changed.
    """
    if not has_shards(folder):
        raise UserError(f"--check {folder}: no {CARD} is there; name a folder of shards")
    shards = open_shards(Path(folder).as_posix())
    shards.require_whole()
    paths = [f"{shards.folder}/{name}" for name in shards.shards]
    hashes = map_files(sha256, paths, "reading shards", unit="shard")
    for path, known, found in zip(paths, shards.card["shards"], hashes, strict=True):
        if found != known["sha256"]:
            raise UserError(
                f"shard {path}: has changed since its index was made (SHA-256); copy it again"
            )
    return len(paths)
