"""How fast images are read from tar shards beside single files, and what an index takes.

    python docs/measurements/shards.py rate
    python docs/measurements/shards.py 6 7

`rate`: 10,000 drawn tiles of 256 x 256 as JPEG, read in one random order by one process, from files
and from shards in turn; cold, after the system was asked to forget them (posix_fadvise), and warm;
once their bytes alone, and once decoded. A power of ten: an index of so many drawn names, 10,000 a
shard, in a process of its own: to open it, to draw an epoch's order, to find an image.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.machine import peak_memory
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.image_files import open_image
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.shards import CARD, NAMES, ROWS, find_member, name_hash, open_shards
from SSLRemoteSensing.preparation.shards import write_shards
from SSLRemoteSensing.training.sampler import KeySampler

TILES, ROUNDS, A_SHARD = 10_000, 3, 10_000


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (300, 300, 3), np.uint8), (4000, 4000))
    for number in range(TILES):
        y, x = rng.integers(0, 4000 - 256, 2)
        noise = rng.integers(0, 16, (256, 256, 3), np.uint8)
        tile = cv2.add(ground[y : y + 256, x : x + 256], noise)
        (folder / f"{number // 1000:03d}").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number // 1000:03d}/tile_{number:06d}.jpg"), tile)


def forget(folder: Path) -> None:
    os.sync()  # what is not yet on the disk is not forgotten
    for path in folder.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


def read_bytes(path: str) -> None:
    with open_image(path, buffering=0) as file:
        file.readall()


def rate(paths: list[str], read) -> float:
    """Images a second."""
    start = time.perf_counter()
    for path in paths:
        read(path)
    return len(paths) / (time.perf_counter() - start)


def measure_rate(scratch: Path) -> dict:
    (scratch / "files").mkdir()
    draw(scratch / "files")
    files = find_images(scratch / "files", "**/*.jpg")
    start = time.perf_counter()
    write_shards(files, str(scratch / "files"), scratch / "shards", 10**8, {})
    figures = {"tiles": TILES, "making_s": time.perf_counter() - start}
    members = find_images(scratch / "shards", "**/*.jpg", takes_shards=True)
    figures["shards"] = len(open_shards(str(scratch / "shards")).shards)
    order = np.random.default_rng(1).permutation(TILES).tolist()
    places = {"files": [files[i] for i in order], "shards": [members[i] for i in order]}
    for what, read in (("bytes", read_bytes), ("decoded", read_image)):
        for state in ("cold", "warm"):
            rates = {name: [] for name in places}
            for _ in range(ROUNDS):
                for name, paths in places.items():
                    if state == "cold":
                        forget(scratch / name)
                    rates[name].append(rate(paths, read))
            pairs = zip(rates["shards"], rates["files"], strict=True)
            print(what, state, rates, file=sys.stderr, flush=True)
            figures[f"{what}_{state}"] = {
                **{f"{name}_per_s": statistics.median(values) for name, values in rates.items()},
                "shards_over_files": statistics.median(a / b for a, b in pairs),
            }
    return figures


def write_drawn_index(folder: Path, count: int) -> None:
    places = np.arange(count)
    names = [f"scene_{place // 100:08d}/tile_{place:012d}.jpg".encode() for place in range(A_SHARD)]
    size = len(names[0])
    rows = np.lib.format.open_memmap(folder / ROWS, "w+", np.int64, (5, count))
    rows[0], rows[1], rows[2] = places % A_SHARD * 20_480 + 512, 20_000, (places + 1) * size
    hashes = np.array(list(map(name_hash, names)))
    rows[3] = np.tile(np.sort(hashes), count // A_SHARD)
    rows[4] = np.tile(hashes.argsort(), count // A_SHARD) + places // A_SHARD * A_SHARD
    text = np.lib.format.open_memmap(folder / NAMES, "w+", np.uint8, (count * size,))
    text[:] = np.tile(np.frombuffer(b"".join(names), np.uint8), count // A_SHARD)
    shards = [
        {"name": f"{number:06d}.tar", "bytes": 0, "images": A_SHARD, "sha256": ""}
        for number in range(count // A_SHARD)
    ]
    for shard in shards:
        (folder / shard["name"]).touch()
    card = {"version": 1, "images": count, "endings": {".jpg": count}, "shards": shards}
    (folder / CARD).write_text(json.dumps(card))


def measure_index(folder: Path, count: int) -> dict:
    before, start = peak_memory(), time.perf_counter()
    members = find_images(folder, "**/*.jpg", takes_shards=True)
    opened = time.perf_counter()
    keys = iter(KeySampler(len(members), 64, count // 64, 0, 1, seed=0))
    order = [index for _, index in next(keys)]
    drawn = time.perf_counter()
    paths = [members[index] for index in order * 20]
    named = time.perf_counter()
    found = [find_member(path) for path in paths]
    figures = {"images": count, "open_s": opened - start, "order_s": drawn - opened}
    figures["name_us"] = 1e6 * (named - drawn) / len(paths)
    figures["find_us"] = 1e6 * (time.perf_counter() - named) / len(paths)
    assert all(member.size == 20_000 for member in found)
    size = sum((folder / name).stat().st_size for name in (ROWS, NAMES))
    return figures | {"memory_gb": (peak_memory() - before) / 1e9, "index_gb": size / 1e9}


def rounded(figures: dict) -> dict:
    return {
        key: rounded(value) if isinstance(value, dict) else round(value, 3)
        for key, value in figures.items()
    }


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        print(json.dumps(rounded(measure_index(Path(sys.argv[3]), 10 ** int(sys.argv[2])))))
    elif sys.argv[1] == "write":
        write_drawn_index(Path(sys.argv[3]), 10 ** int(sys.argv[2]))
    else:
        for word in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as scratch:
                if word == "rate":
                    print(json.dumps(rounded(measure_rate(Path(scratch)))), flush=True)
                    continue
                # Each from this process, which is small: a child's peak begins with its parent's.
                for what in ("write", "measure"):
                    subprocess.run([sys.executable, __file__, what, word, scratch], check=True)
