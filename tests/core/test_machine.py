"""What the package asks of the machine."""

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

HELD = """
import resource, sys
from pathlib import Path
from SSLRemoteSensing.core.machine import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
bytearray(2**26)  # more than glibc ever keeps by itself
print(resident() - before)
"""


def held_bytes(word: str, **variables: str) -> int:
    """What a process still has of 64 MiB that it took and freed."""
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    kept |= {"PYTHONPATH": str(ROOT)} | variables
    words = [sys.executable, "-c", HELD, word]
    return int(subprocess.run(words, env=kept, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is set")
def test_memory_that_a_step_frees_serves_the_next():
    assert held_bytes("leave") < 2**24
    assert held_bytes("keep") > 2**25


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is set")
def test_the_environment_has_the_last_word_on_memory():
    assert held_bytes("keep", MALLOC_MMAP_THRESHOLD_="1048576") < 2**24
