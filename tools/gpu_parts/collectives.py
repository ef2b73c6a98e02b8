"""Does training by several processes, one a GPU, give the losses of one process?

    torchrun --standalone --nproc_per_node=N -m gpu_parts.collectives --output nccl.json

The same steps of pre-training on the same drawn batch, by the first process alone and then by all,
each with its part, gradients over NCCL (on CPUs gloo) and statistics of batch normalization over
all. With one process DistributedDataParallel is put around the network all the same, so that NCCL
is tried where there is a single GPU. Exit status 1: the losses differ by more than `TOLERANCES`.
"""

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from SSLRemoteSensing import build_pretext, load_config
from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import gpu_count, wait
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.train_step import TrainStep

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/demo_town_pretrain_resnet18_cfg.py"
TOLERANCES = (1e-4, 0.02)  # of the first step, of the means over all: relative
EACH, PATIENCE = 8, datetime.timedelta(seconds=60)  # images of a process; of a collective


def flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--output", type=Path, required=True)
    flags.add_argument("--device", default="auto")
    flags.add_argument("--steps", type=int, default=10)
    flags.add_argument("--side", type=int, default=64)
    return flags


def main() -> None:
    args = flags().parse_args()
    torch.backends.cudnn.allow_tf32 = False
    on_gpu = args.device != "cpu" and gpu_count() > 0
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    rank, size = dist.get_rank(), dist.get_world_size()
    batch = draw_batch(EACH * size, args.side)
    alone, alone_s = [], 0.0
    if rank == 0:
        with distributed.alone():
            alone, alone_s = train(args, make_step(args, False), batch)
    distributed.barrier()
    step = make_step(args, on_gpu and size > 1)
    if size == 1:
        ids = [step.device] if on_gpu else None
        step.net = DistributedDataParallel(step.model, ids, gradient_as_bucket_view=True)
    part = {key: value.chunk(size)[rank] for key, value in batch.items()}
    together, together_s = train(args, step, part)
    together = [distributed.all_mean(losses) for losses in together]
    if rank == 0:
        first = difference(together[:1], alone[:1])
        means, backend = difference(together, alone), "NCCL" if on_gpu else "gloo"
        passes = first <= TOLERANCES[0] and means <= TOLERANCES[1]
        told = f"{size} processes, {backend}: {'equal' if passes else 'OTHER'} losses"
        figures = {"processes": size, "backend": backend, "first": first, "all": means}
        figures |= {"tolerances": TOLERANCES, "passes": passes, "steps": args.steps}
        figures |= {"step_s": together_s, "alone_step_s": alone_s}
        figures["headline"] = f"{told} (first {first:.1e}, all {means:.1e})"
        write_text(args.output, json.dumps(figures, indent=1) + "\n")
        print(figures["headline"])
    distributed.barrier()
    dist.destroy_process_group()
    if rank == 0 and not passes:
        sys.exit(1)


def draw_batch(count: int, side: int) -> dict[str, torch.Tensor]:
    """A batch of pre-training as the loader gives it; images of their own brightness each."""
    generator = torch.Generator().manual_seed(0)
    light = torch.linspace(0.2, 1.0, count).view(-1, 1, 1, 1)
    batch = {
        key: (torch.randint(256, (count, 3, side, side), generator=generator) * light).byte()
        for key in ("occluded", "anchor", "transformed")
    }
    return batch | {"transform_label": torch.arange(count) % 6}


def make_step(args: argparse.Namespace, sync_bn: bool) -> TrainStep:
    """A step in fp32 on this process's device, always from the same weights, without dropout."""
    config = load_config(CONFIG)
    torch.manual_seed(0)
    net = build_pretext(config)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = {"name": "SGD", "lr": 0.001, "momentum": 0.9}
    keys = {"batch_size": EACH, "num_step": args.steps, "device": args.device, "sync_bn": sync_bn}
    keys |= {"optimizer": optimizer, "checkpoints": {"checkpoints_path": os.devnull}}
    return TrainStep(net, LoopSettings(**keys, log={"log_path": os.devnull}))


def train(args: argparse.Namespace, step: TrainStep, batch: dict) -> tuple[list[dict], float]:
    """The losses of each step on `batch`, and seconds of a step after the first."""
    rows, start = [], 0.0
    for number in range(args.steps):
        if number == 1:
            wait(step.device)
            start = time.perf_counter()
        losses, _ = step.forward_backward(batch)
        step.update()
        rows.append(losses)
    wait(step.device)
    taken = (time.perf_counter() - start) / max(1, args.steps - 1)
    return [{key: float(loss) for key, loss in losses.items()} for losses in rows], taken


def difference(ours: list[dict], theirs: list[dict]) -> float:
    """The largest relative difference of a loss's mean over the steps."""
    means = [{key: sum(row[key] for row in rows) for key in rows[0]} for rows in (ours, theirs)]
    return max(abs(means[0][key] - value) / abs(value) for key, value in means[1].items())


if __name__ == "__main__":
    main()
