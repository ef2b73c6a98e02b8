"""What is kept of a run, how it is compared, and with which tolerance.

Figures are compared on every machine, with `TOLERANCE`. Hashes, that is bits, are compared only on
machines that have recorded theirs, see `machine`; on others `same_bits` compares nothing.

The tolerances are measured: against this recording the commands were run with the kernels of other
processors (ATEN_CPU_CAPABILITY=default; that and ONEDNN_MAX_CPU_ISA=SSE41). Each says how far the
figures strayed, and is at least three times that. Steps of Adam take runs apart most, so the rate
is low and the steps are few, see runs.py.
"""

import base64
import hashlib
import json
import math
import re
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from conftest import ROOT
from torch import Tensor

EXPECTED = Path(__file__).parent / "expected"

# (relative, absolute). Strayed: losses 0.1 %, norms of gradients and spread of embeddings 1.5 %.
TOLERANCE = (0.05, 1e-4)
# Of cosines of gradients, some thousand numbers near zero. Strayed: 0.05.
COSINE_TOLERANCE = (0, 0.15)
# Of the norm of each of a network's tensors. Strayed: 0.0001 where it is near zero, else 0.3 %.
NORM_TOLERANCE = (0.01, 1e-3)
# Of an entry of a confusion matrix of 24,000 or 36,864. Strayed: 11.
PIXELS = 200
# The share of a map's pixels that must be of the same class. Strayed: to 0.9993.
AGREEMENT = 0.995
# Figures that are nowhere the same twice: they must be there, and numbers.
TIMES = {"images_per_second", "data_wait", "watching", "memory_gb", "probe_seconds", "probe_share"}
# Of 24 transforms at most: a single prediction that flips is a step of up to one.
COUNTED = re.compile("agr_accuracy.*")
# Which of a processor's abilities choose a kernel of torch, oneDNN or MKL.
ABILITIES = re.compile("sse4_2|avx.*|fma|f16c|amx.*")


def expected(name: str) -> dict:
    return json.loads((EXPECTED / f"{name}.json").read_text())


def store(name: str, value) -> None:
    (EXPECTED / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")


@cache
def machine() -> str:
    """What bits depend on, as one line: versions, the processor, kernels and threads."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    known = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    abilities = (word for word in known.get("flags", "").split() if ABILITIES.fullmatch(word))
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size")
    parts = [f"torch {torch.__version__}", f"numpy {np.__version__}", f"opencv {cv2.__version__}"]
    parts += [f"kernels {torch.backends.cpu.get_cpu_capability()}"]
    parts += [f"threads {torch.get_num_threads()}"]
    parts += [f"{name} {known[name]}" for name in names if name in known]
    return "; ".join([*parts, " ".join(sorted(abilities))])


def same_bits(name: str, digest: str) -> bool:
    """Whether a hash is the one recorded on this machine; True where none was."""
    recorded = expected("hashes").get(machine(), {})
    return recorded.get(name, digest) == digest


def digest_of(tensors: dict[str, Tensor]) -> str:
    """A hash of names, types, shapes and bits of tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of_pixels(pixels: np.ndarray) -> str:
    head = f"{pixels.dtype} {pixels.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def norms_of(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(f"{tensor.double().norm():.6g}") for name, tensor in tensors.items()}


def packed(pixels: np.ndarray) -> str:
    """A map of classes uint8 as text."""
    return base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode()


def unpacked(text: str, shape: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)


def entries_of(log: Path) -> list[dict]:
    """The entries of metrics.jsonl, times and memory as 'measured'."""
    lines = (log / "metrics.jsonl").read_text().splitlines()
    return [
        {key: "measured" if key in TIMES else value for key, value in json.loads(line).items()}
        for line in lines
    ]


def differing(known, now, path: str = "", tolerance=TOLERANCE) -> list[str]:
    """Where `now` is not `known`: types, keys and their order, whole numbers and texts exactly,
    other numbers within `tolerance`. A line for each place."""
    if isinstance(known, dict) and isinstance(now, dict):
        if list(known) != list(now):
            return [f"{path}: keys {list(now)}, expected {list(known)}"]
        pairs = [(known[key], now[key], f"{path}.{key}") for key in known]
    elif isinstance(known, list) and isinstance(now, list):
        if len(known) != len(now):
            return [f"{path}: {len(now)} of them, expected {len(known)}"]
        pairs = [(*pair, f"{path}[{i}]") for i, pair in enumerate(zip(known, now, strict=True))]
    else:
        return [] if alike(known, now, path, tolerance) else [f"{path}: {now!r}, not {known!r}"]
    return [line for one, other, place in pairs for line in differing(one, other, place, tolerance)]


def alike(known, now, path: str, tolerance: tuple[float, float]) -> bool:
    if type(known) is not type(now):
        return False
    if COUNTED.fullmatch(path.rpartition(".")[2]) and known is not None:
        return 0 <= now <= 1
    if "gradient_cosine" in path:
        tolerance = COSINE_TOLERANCE
    if "confusion_matrix" in path:
        return abs(known - now) <= PIXELS
    if isinstance(known, float):
        return math.isclose(known, now, rel_tol=tolerance[0], abs_tol=tolerance[1])
    return known == now


CIRCUMSTANCES = {"started", "made", "sha256"}


def plain(value, folder: Path):
    """A value of JSON, paths of this machine replaced in all its texts; of versions and times only
    that they are there."""
    if isinstance(value, str):
        return value.replace(str(folder), "FOLDER").replace(str(ROOT), "ROOT")
    if isinstance(value, list):
        return [plain(entry, folder) for entry in value]
    if not isinstance(value, dict):
        return value
    entries = {}
    for key, entry in value.items():
        if key in CIRCUMSTANCES or (key == "device" and "versions" in value):
            entry = type(entry).__name__
        entries[plain(key, folder)] = list(entry) if key == "versions" else plain(entry, folder)
    return entries


def card_of(path: Path, folder: Path) -> dict:
    return plain(json.loads(path.read_text()), folder)


ENTRY = re.compile(r"(step \d+/\d+  epoch \d+  )(.*)")
NUMBER = re.compile(r" *(?<![\w.])-?\d+\.\d+(e[-+]?\d+)?(?![\w.])")
# Said or not by how quick the machine is.
BY_SPEED = re.compile(r"warning: .* takes? \d+% of the time.*\n")


def lines_of(text: str, folder: Path) -> list[str]:
    """The lines that a command printed, less what differs from run to run and machine to machine:
    paths as FOLDER, numbers with a point and all figures of the log's entries as #."""
    lines = plain(BY_SPEED.sub("", text), folder).splitlines()
    matches = [ENTRY.fullmatch(line) for line in lines]
    return [
        entry[1] + re.sub(r"(\w+) \S+", r"\1 #", entry[2]) if entry else NUMBER.sub(" #", line)
        for line, entry in zip(lines, matches, strict=True)
    ]


def files_of(files: list[str]) -> list[str]:
    """Names of files; those of TensorBoard have time and machine in them."""
    return [re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in files]
