"""What the soaks share: work in forked children, results written whole.

A process that has loaded torch takes 5 seconds to start, one that is forked from it none. It must
have started no thread, as those are not forked: so all work is done in children.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

# Before torch and OpenCV are loaded, which start threads otherwise.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def flags(document: str, output: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(output))
    return parser


def require_no_thread() -> None:
    assert len(os.listdir("/proc/self/task")) == 1, "a thread runs: forked children would lack it"


def in_child(function, *args):
    """What `function(*args)` gives, of plain values, in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = json.dumps([True, function(*args)])
        except BaseException:
            result = json.dumps([False, traceback.format_exc()])
        with os.fdopen(writer, "w") as file:
            file.write(result)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    fine, result = json.loads(text)
    if not fine:
        raise RuntimeError(result)
    return result


def write(path: Path, results: dict) -> None:
    """Write all that is known, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, path)


def differing(a, b, path: str = "") -> list[str]:
    """Where two nests of dicts, lists and tensors differ, bit by bit."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
        return [] if alike and a.numpy().tobytes() == b.numpy().tobytes() else [path]
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [line for key in a for line in differing(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [line for i, (x, y) in pairs for line in differing(x, y, f"{path}[{i}]")]
    return [] if type(a) is type(b) and a == b else [path]
