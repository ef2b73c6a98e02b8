"""What the list of images and the order of an epoch take, of 10^6 to 10^8 images.

    python docs/measurements/many_images.py 6 7 8

A line of JSON for each power of ten, from a process of its own. The names are drawn, 10,000 a
folder, in place of a disk with as many files; reading a folder is measured of 300,000 real ones.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from SSLRemoteSensing.core.machine import peak_memory
from SSLRemoteSensing.data import file_lists
from SSLRemoteSensing.training.sampler import KeySampler

FOLDER = 10_000


def drawn_folders(count: int):
    for first in range(0, count, FOLDER):
        names = [f"tile_{place:012d}.tif" for place in range(first, first + FOLDER)]
        yield f"scene_{first // FOLDER:06d}/", names


def measure(count: int) -> dict:
    before = peak_memory()
    file_lists.list_folders = lambda root: drawn_folders(count)
    start = time.process_time()
    files = file_lists.find_images("/", "**/*.tif")
    listed = time.process_time()
    first = next(iter(KeySampler(len(files), 64, count // 64, 0, 1, seed=0)))
    drawn = time.process_time()
    assert len(files) == count
    assert all(files[index].startswith("//scene_") for _, index in first)
    figures = {"images": count, "list_s": listed - start, "order_s": drawn - listed}
    return figures | {"memory_gb": (peak_memory() - before) / 1e9}


def measure_reading(count: int = 300_000) -> dict:
    """Seconds of the processor for the list of files that are there."""
    with tempfile.TemporaryDirectory() as root:
        for folder, names in drawn_folders(count):
            (Path(root) / folder).mkdir()
            source = Path(root) / folder / names[0]
            source.touch()
            for name in names[1:]:
                (Path(root) / folder / name).hardlink_to(source)
        start = time.process_time()
        files = file_lists.find_images(root, "**/*.tif")
        return {"images": len(files), "list_of_real_files_s": time.process_time() - start}


if __name__ == "__main__":
    if sys.argv[1] == "one":
        power = int(sys.argv[2])
        figures = measure(10**power) if power else measure_reading()
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}))
    else:
        for power in ("0", *sys.argv[1:]):
            subprocess.run([sys.executable, __file__, "one", power], check=True)
