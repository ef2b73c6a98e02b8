"""What several processes are worth: images a second of train.py under torchrun."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarking.timing import say
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import choose_device

ROOT = Path(__file__).parents[2]


def measure_processes(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """On a CPU N processes of one thread stand against one process of N threads and N times the
    batch; on GPUs against one process, whose rate N processes should have N times. The two are run
    in turn; the first half of each, which warms up, does not count."""
    if not args.images:
        raise UserError("--images: name a folder of JPEG files, which all processes read")
    args.batch_size, args.steps = args.batch_size or 4, args.steps or 5
    args.device = choose_device(args.device).type
    on_cpu, count = args.device == "cpu", args.processes
    if args.num_workers is None:
        args.num_workers = 0 if on_cpu else max(1, min(16, (os.cpu_count() or 1) // count))
    one, several, ideal = [], [], 1 if on_cpu else count
    for number in range(args.rounds):
        one.append(rate(args, 1, count if on_cpu else 1))
        several.append(rate(args, count, 1))
        say(f"round {number + 1}: {one[-1]:.2f} and {several[-1]:.2f} images/s")
    yield {"processes": count, "rounds_one": one, "rounds_all": several}
    ratios = [b / a / ideal for a, b in zip(one, several, strict=True)]
    rates = {"one": one, "all": several}
    yield {f"images_per_second_{name}": statistics.median(each) for name, each in rates.items()}
    yield {"efficiency": statistics.median(ratios)}


def rate(args: argparse.Namespace, processes: int, share: int) -> float:
    """Images a second of train.py: `processes` of them, each with `share` threads and batches."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "device": args.device,
            "batch_size": args.batch_size * share,
            "num_workers": args.num_workers,
            "num_epoch": None,
            "num_step": 2 * args.steps,
            "precision": "auto",
            "channels_last": args.device != "cpu",
            "train_data.data_path": args.images,
            "train_data.data_format": "**/*.jpg",
            "train_data.img_size": args.img_size,
            "train_data.post_transforms_cfg": None,
            "checkpoints.checkpoints_path": f"{folder}/run",
            "log.log_path": f"{folder}/log",
            "log.log_step": args.steps,
        }
        command = [sys.executable, *(launch if processes > 1 else [])]
        command += [str(ROOT / "train.py"), "--config_file", args.config_file, "--set"]
        command += [f"train_cfg.{key}={value}" for key, value in settings.items()]
        threads = {"OMP_NUM_THREADS": str(share)}
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"processes: {processes} of them failed: {done.stderr[-2000:]}")
        lines = Path(folder, "log/metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["images_per_second"]
