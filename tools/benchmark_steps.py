"""The part of benchmark.py that builds training steps and takes one apart."""

import time
from collections.abc import Callable

import torch
from benchmark_timing import wait
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from SSLRemoteSensing import build_pretext
from SSLRemoteSensing.core.workers import end_workers, one_thread
from SSLRemoteSensing.data.pretext import PretextDataset, collate
from SSLRemoteSensing.models.pretext import PretextNet
from SSLRemoteSensing.training.train_step import TrainStep

PARTS = ("data_wait", "transfer", "forward", "backward", "optimizer")


def base_setting(fast: str, batch_size: int) -> dict:
    """What the fast step is; each switch changes one of these."""
    return {
        "precision": fast,
        "channels_last": fast == "bf16",  # in fp32 a CPU is faster without
        "compile": False,
        "joint_pass": False,
        "batch_size": batch_size,
        "fused": None,  # as the config's optimizer comes out
    }


def build_step(config: dict, device: torch.device, setting: dict) -> TrainStep:
    """The config's network and optimizer under `setting`, with the keys of `base_setting`."""
    train_cfg = config["train_cfg"]
    fused = {} if setting["fused"] is None else {"fused": setting["fused"]}
    return TrainStep(
        build_network(config, setting["joint_pass"]),
        train_cfg["optimizer"] | fused,
        device,
        setting["precision"],
        setting["channels_last"],
        setting["compile"],
        train_cfg.get("clip_grad_norm"),
    )


def build_network(config: dict, joint_pass: bool = False) -> PretextNet:
    """The config's network, always with the same weights; `joint_pass` in place of the config's."""
    torch.manual_seed(0)
    return build_pretext(config | {"train_cfg": config["train_cfg"] | {"joint_pass": joint_pass}})


def run_step(step: TrainStep, batch: dict) -> None:
    """One whole training step on a ready batch; does not wait for the device."""
    step.forward_backward(batch)
    step.update()


def ready_batch(dataset: PretextDataset, size: int, device: torch.device) -> dict:
    """A batch of `size` samples as the loader hands it over: pinned where there is a GPU."""
    batch = collate([dataset[(0, i % len(dataset))] for i in range(size)])
    if device.type == "cuda":
        return {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}
    return batch


def count_flops(function: Callable[[], object]) -> int:
    """Operations of the products and convolutions in a call, a multiplication and an addition each.

    Counted from shapes: forward and, where the function does one, backward. All else (batch
    normalization, interpolation, the optimizer) counts as none.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def split_step(
    step: TrainStep, dataset: PretextDataset, batch_size: int, num_workers: int, count: int
) -> dict:
    """Mean seconds of the parts of a step, fed by a loader, over `count` steps after two.

    The device is waited for after each part. So the parts add up to this step, which is slower than
    one that is not interrupted where launching or loading could have overlapped with computing.
    """
    keys = [(0, i % len(dataset)) for i in range((count + 2) * batch_size)]
    batches = iter(
        DataLoader(
            dataset,
            batch_sampler=[keys[i : i + batch_size] for i in range(0, len(keys), batch_size)],
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=step.device.type == "cuda",
            worker_init_fn=one_thread,
        )
    )
    sums, wall = dict.fromkeys(PARTS, 0.0), 0.0
    step.model.train()
    try:
        for number in range(count + 2):
            wait(step.device)
            times = [time.perf_counter()]
            batch = next(batches)
            times.append(time.perf_counter())
            batch = mark(times, step.device, lambda batch=batch: step.to_device(batch))
            losses = mark(times, step.device, lambda batch=batch: step.forward(batch))
            mark(times, step.device, lambda losses=losses: sum(losses.values()).backward())
            mark(times, step.device, step.update)
            if number >= 2:
                wall += times[-1] - times[0]
                for part, start, end in zip(PARTS, times, times[1:], strict=False):
                    sums[part] += end - start
    finally:
        end_workers(batches)
    return {
        "step_split_s": {part: total / count for part, total in sums.items()},
        "step_split_share": {part: total / wall for part, total in sums.items()},
        "step_split_total_s": wall / count,
    }


def mark(times: list[float], device: torch.device, function: Callable):
    """The function's result, once the device has it; appends the time to `times`."""
    result = function()
    wait(device)
    times.append(time.perf_counter())
    return result


def write_profile(step: TrainStep, batch: dict, path: str, count: int = 3) -> None:
    """A Chrome trace (chrome://tracing, ui.perfetto.dev) of `count` steps, after two others."""
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if step.device.type == "cuda" else []
    for _ in range(2):
        run_step(step, batch)
    wait(step.device)
    with profile(activities=activities, record_shapes=True) as trace:
        for _ in range(count):
            run_step(step, batch)
        wait(step.device)
    trace.export_chrome_trace(path)
