"""The part of benchmark.py that turns one switch at a time and compares with the base setting."""

from collections.abc import Callable, Iterator, Sequence

import torch
from benchmark_loop import free_memory
from benchmark_steps import build_step, ready_batch, run_step
from benchmark_table import SWITCHES
from benchmark_timing import in_turn, say, wait

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import has_fast_bf16
from SSLRemoteSensing.data.pretext import PretextDataset
from SSLRemoteSensing.training.train_step import TrainStep


def measure_switches(
    config: dict,
    dataset: PretextDataset,
    step: TrainStep,
    base: dict,
    names: Sequence[str],
    count: int,
    held: int = 0,
) -> Iterator[tuple[str, dict]]:
    """Each switch alone against the base setting, steps on a ready batch taken in turn.

    An entry has `from` and `to`, and either
        images_per_second_ratio: images a second with the switch turned, over the base's of that
            turn, from step_s and base_step_s,
        peak_memory_gib, base_peak_memory_gib: on CUDA, what the step alone allocates at most,
    or `not_measured`, the reason.

    Args:
        step: the step of the base setting.
        held: bytes on the device before `step` was built.
    """
    device = step.device
    batch = ready_batch(dataset, base["batch_size"], device)

    def run_base() -> None:
        run_step(step, batch)

    free_memory(device)
    run_base()
    base_peak = peak_gib(run_base, device, held)
    for name, change in changes(names, step, base, device):
        key = next(iter(change))
        before = is_fused(step) if key == "fused" else base[key]
        entry = {"from": before, "to": change[key]}
        say(f"switch {key}: {before} -> {change[key]}")
        reason = impossible(change, device)
        if reason is None:
            try:
                entry |= compare(config, dataset, run_base, base | change, base_peak, device, count)
                ratio = entry["base_step_s"] / entry["step_s"]
                ratio *= (base | change)["batch_size"] / base["batch_size"]
                entry["images_per_second_ratio"] = ratio
            except (RuntimeError, UserError) as error:  # out of memory, no compiler, not supported
                reason = in_words(error)
        if reason is not None:
            entry["not_measured"] = reason
        yield name, entry
        if key == "compile":
            torch.compiler.reset()
        free_memory(device)


def changes(names: Sequence[str], step: TrainStep, base: dict, device: torch.device):
    """(name of the result, the one key that is changed and its value), switch by switch."""
    for name in SWITCHES:
        if name not in names:
            continue
        if name == "batch_size":
            # The CPU's memory is shared: running out of it ends more than this command.
            for factor in (2, 4) if device.type == "cuda" else (2,):
                yield f"batch_size_x{factor}", {name: base[name] * factor}
        elif name == "precision":
            yield name, {name: "fp32" if base[name] == "bf16" else "bf16"}
        elif name == "fused":
            yield name, {name: not is_fused(step)}
        else:
            yield name, {name: not base[name]}


def is_fused(step: TrainStep) -> bool:
    return bool(step.optimizer.defaults.get("fused"))


def impossible(change: dict, device: torch.device) -> str | None:
    """Why this is not even to be tried."""
    if change.get("precision") == "bf16" and not has_fast_bf16(device):
        return f"this {device.type} has no bf16 instructions; emulated, a step takes minutes"
    return None


def compare(
    config: dict,
    dataset: PretextDataset,
    run_base: Callable[[], None],
    setting: dict,
    base_peak: float | None,
    device: torch.device,
    count: int,
) -> dict:
    """Seconds and peak memory of a step under `setting` and of the base's, taken in turn."""
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    step = build_step(config, device, setting)
    batch = ready_batch(dataset, setting["batch_size"], device)

    def run_changed() -> None:
        run_step(step, batch)

    run_changed()  # first alone: where it cannot run, it is told at once
    peak = peak_gib(run_changed, device, held)
    base_s, changed_s = in_turn([run_base, run_changed], device, count)
    figures = {"step_s": changed_s, "base_step_s": base_s}
    if device.type == "cuda":
        figures |= {"peak_memory_gib": peak, "base_peak_memory_gib": base_peak}
    return figures


def peak_gib(function: Callable[[], None], device: torch.device, held: int) -> float | None:
    """GiB that CUDA tensors take at most during a call, less the `held` bytes of others."""
    if device.type != "cuda":
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - held) / 2**30


def in_words(error: Exception) -> str:
    """One line of `error`, for a figure that could not be measured."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
