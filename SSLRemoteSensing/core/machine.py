"""The machine: device, precision, versions of what is installed."""

import contextlib
import ctypes
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError

# torch takes seconds, and what only reads images starts without it: imported where it is used.
if TYPE_CHECKING:
    import torch

# How torch says of a CPU, of MPS and for cuDNN and cuBLAS that memory is full.
FULL = re.compile("can't allocate memory|out of memory|_STATUS_ALLOC_FAILED")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

try:
    import resource
except ImportError:  # Windows
    resource = None


def versions() -> dict[str, str | None]:
    """Versions of Python, this code (with its commit in a checkout) and what it computes with."""
    root, result = Path(__file__).resolve().parents[2], {"python": platform.python_version()}
    packages = ("SSLRemoteSensing", "torch", "torchvision", "numpy", "opencv-python-headless")
    result |= dict.fromkeys(("commit", *packages))
    if (root / ".git").exists():  # installed elsewhere, it has none
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        with contextlib.suppress(OSError):
            process = subprocess.run(command, capture_output=True, text=True)
            result["commit"] = process.stdout.strip() or None
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            result[name] = metadata.version(name)
    return result


def device_name() -> str:
    """The machine's processor, and its GPU where there is one."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    name = model[1] if model else platform.processor() or platform.machine()
    name = f"{name}, {torch.get_num_threads()} threads"
    return f"{gpu_name()} ({name})" if gpu_count() else name


def cores() -> int:
    """How many of the processor's cores this process may use."""
    # macOS and Windows tell only how many there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> float:
    """Bytes of memory that the machine has; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def peak_memory() -> float:
    """The most bytes of memory that this process has had; not a number where the system does not
    tell."""
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gpu_count() -> int:
    """How many CUDA devices this process sees."""
    import torch

    return torch.cuda.device_count()


def gpu_name(device: "torch.device | None" = None) -> str:
    """What the maker calls a GPU, by default the one in use."""
    import torch

    return torch.cuda.get_device_name(device)


def gpu_memory(device: "torch.device") -> tuple[int, int]:
    """Bytes of a GPU's memory that are free, and all that it has."""
    import torch

    return torch.cuda.mem_get_info(device)


def used_memory(device: "torch.device") -> float:
    """The most bytes so far: of a GPU those of this process's tensors, else of the process."""
    import torch

    on_gpu = device.type == "cuda"
    return torch.cuda.max_memory_allocated(device) if on_gpu else peak_memory()


def is_memory_full(error: RuntimeError) -> bool:
    """Whether torch says that its device's memory is full; that of a worker is another's."""
    import torch

    is_said = isinstance(error, torch.OutOfMemoryError) or FULL.search(str(error))
    return bool(is_said) and "DataLoader worker" not in str(error)


@contextlib.contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Raise a `UserError` where the device's memory is too small for the block; it says `what` is
    done there, with the key of the config or the flag that matters, and `remedy`."""
    try:
        yield
    except RuntimeError as error:
        if not is_memory_full(error):
            raise
        raise UserError(f"{what} needs more memory than there is; {remedy}") from error


def wait(device: "torch.device") -> None:
    """Until a GPU has done what it was given; a CPU always has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_state(device: "torch.device") -> dict:
    """The states of torch's generators, which dropout draws from."""
    import torch

    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(device: "torch.device", state: dict) -> None:
    """Go on from what `random_state` gave; one of a CPU leaves a GPU's generator as it is."""
    import torch

    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def keep_freed_memory() -> None:
    """Have glibc keep what a training step on the CPU frees for the next step: given back to the
    system, each page is cleared anew, which takes a fifth of the time. No effect with another C
    library, or where the environment's `MALLOC_` variables say what to do."""
    tuned = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in tuned):
        return
    set_option = ctypes.CDLL(None).mallopt
    for size in (2**30, 2**25):  # glibc before 2.35 takes at most 32 MiB, and answers 0 to more
        if set_option(M_MMAP_THRESHOLD, size):
            break
    set_option(M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(name: str, setting: str = "train_cfg.device=") -> "torch.device":
    """'auto' takes CUDA where there is one, else Apple's MPS, else the CPU; of several processes
    each its own GPU, or the CPU. Raises a `UserError` for a device that is not there; it tells the
    user to set `setting`, a key of the config or a flag."""
    import torch

    from SSLRemoteSensing.core import distributed

    count = gpu_count()
    has_mps, is_distributed = torch.backends.mps.is_available(), distributed.size() > 1
    if name == "auto":
        name = "cuda" if count else "mps" if has_mps and not is_distributed else "cpu"
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if match is None:
        raise UserError(f"{setting}{name!r}: not supported; set auto, cpu, cuda or mps")
    if match[1] == "cpu":
        return torch.device("cpu")
    flag = setting if setting.startswith("--") else f"--set {setting}"
    if match[1] == "mps":
        if not has_mps or is_distributed:
            reason = "one process alone can use it" if has_mps else "this machine or torch has none"
            raise UserError(f"{setting}{name!r}: {reason}; pass {flag}auto (or {setting}cpu)")
        return torch.device("mps")
    # 'cuda:0', as the published configs have it, would be the same GPU for all.
    index = int(os.environ["LOCAL_RANK"] if is_distributed else match[2] or 0)
    if index >= count:
        remedy = "start one process a GPU" if is_distributed else f"pass {flag}auto"
        raise UserError(
            f"{setting}{name!r}: cuda:{index} is asked for, this machine has {count} CUDA "
            f"devices; {remedy} (or {setting}cpu)"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def has_fast_bf16(device: "torch.device") -> bool:
    """Whether bf16 is done in hardware; elsewhere it is emulated, hundreds of times slower."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return False  # fp32 is what is tried there
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def choose_precision(
    precision: str, device: "torch.device", setting: str = "train_cfg.precision="
) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 where the hardware has it. Warns where bf16 is emulated."""
    is_fast = has_fast_bf16(device)
    if precision == "bf16" and not is_fast:
        warn(
            f"{setting}'bf16' is emulated on this {device.type}, hundreds of times slower than "
            f"fp32; set precision='auto'"
        )
    return ("bf16" if is_fast else "fp32") if precision == "auto" else precision
