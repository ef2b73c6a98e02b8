"""Measure what several processes are worth: images a second of train.py under torchrun.

    python tools/benchmark_processes.py --images data/oam_buildings/images --device cpu \\
        --img_size 128
    python tools/benchmark_processes.py --images data/oam_buildings/images --device cuda \\
        --processes 8 --batch_size 64

On a CPU N processes of one thread stand against one process of N threads and N times the batch; on
GPUs against one process, whose rate N processes should have N times. The two are run in turn, so
that a machine's drift meets both; the first half of each, which warms up, does not count.
    images_per_second_one, images_per_second_all     medians over the rounds
    efficiency    images_per_second_all over that of one process (on GPUs over N times that)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import device_name, versions

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--config_file", metavar="FILE",
        help=f"of a pre-training (default: configs/{CONFIG.name})")  # fmt: skip
    add("--images", required=True, metavar="FOLDER", help="of images, JPEG files in it")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"),
        help="where to train; auto is a GPU if there is one")  # fmt: skip
    add("--processes", type=int, default=2, metavar="N", help="compared with one, at least 2")
    add("--batch_size", type=int, default=4, metavar="N", help="images a step, of each process")
    add("--img_size", type=int, default=256, metavar="PIXELS", help="side of an image, in pixels")
    add("--num_workers", type=int, metavar="N",
        help="processes that make samples, of each process (default: 0, on CUDA its share of "
        "cores)")  # fmt: skip
    add("--steps", type=int, default=5, metavar="N", help="counted steps of each run")
    add("--rounds", type=int, default=3, metavar="N", help="how often both are run, in turn")
    add("--output", metavar="FILE", help="write the figures to this JSON file")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: it loads torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.core.machine import choose_device

    if min(args.processes - 1, args.batch_size, args.steps, args.rounds) < 1:
        raise UserError("benchmark: --processes must be at least 2, the other counts 1")
    args.device = choose_device(args.device).type
    on_cpu = args.device == "cpu"
    if args.num_workers is None:
        args.num_workers = 0 if on_cpu else max(1, min(16, os.cpu_count() // args.processes))
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise UserError(f"--output {args.output}: no such folder; make it first")
    one, several = [], []
    for number in range(args.rounds):
        one.append(rate(args, 1, args.processes if on_cpu else 1))
        several.append(rate(args, args.processes, 1))
        print(f"round {number + 1}: {one[-1]:.2f} and {several[-1]:.2f} images/s", file=sys.stderr)
    ideal = 1 if on_cpu else args.processes
    figures = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(sys.argv),
        "machine": device_name(),
        "versions": versions(),
        "processes": args.processes,
        "images_per_second_one": statistics.median(one),
        "images_per_second_all": statistics.median(several),
        "rounds_one": one,
        "rounds_all": several,
        "efficiency": statistics.median(b / a / ideal for a, b in zip(one, several, strict=True)),
    }
    for key, value in figures.items():
        print(f"{key:<24}{value:.4g}" if isinstance(value, float) else f"{key:<24}{value}")
    if args.output:
        write_text(Path(args.output), json.dumps(figures, indent=2) + "\n")


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
        config_file = args.config_file or str(CONFIG)
        command += [str(ROOT / "train.py"), "--config_file", config_file, "--set"]
        command += [f"train_cfg.{key}={value}" for key, value in settings.items()]
        threads = {"OMP_NUM_THREADS": str(share)}
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"benchmark: {processes} processes failed: {done.stderr[-2000:]}")
        lines = Path(folder, "log/metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["images_per_second"]


if __name__ == "__main__":
    run_command(main)
