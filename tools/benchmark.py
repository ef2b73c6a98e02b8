"""Measure, within one run: the machine, a sample, a step, what the loop adds, and each switch.

    python tools/benchmark.py --images data/oam_buildings/images --output benchmark.json
    python tools/benchmark.py --config_file configs/demo_oam_pretrain_resnet18_cfg.py --img_size 128

Ratios are of figures taken in turn within this run, so that a machine's drift meets both sides.
    mfu                      share of the largest matmul rate that training from files reaches
    sample_ms                one file to occluded, anchor and transformed, on one core
    speedup_over_fp32        a step in fp32 and contiguous memory as PyTorch does it by default,
                             over the fast step: tuned, and where the hardware has bf16, in bf16 and
                             channels_last
    speedup_over_published   the step as the published method would run it, over the fast step
    loop_efficiency          images a second of the whole loop, over a bare step on a ready batch
    switches                 images a second with one switch turned, over the fast step's
    contrastive_over_matmul  the contrastive loss, over its matrix products alone
    prepare_over_copy        speed of preparing a scene of 6000 x 6000 on one core, over copying its
                             pixels to PNG tiles with rasterio and OpenCV
    watching_share           with --only watching: figures and pictures of a run, by the default
                             log_step and vis_step (and by the config's), over all the time
The table that is printed says what each figure is. It takes minutes; stderr says what is measured.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmark_table import SWITCHES, table

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import device_name, versions

# What loads torch is imported where it is used: it takes seconds that --help need not wait for.
CONFIG = Path(__file__).parents[1] / "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
DEFAULTS = {
    "cuda": {"batch_size": 64, "steps": 30, "loop_steps": 400},
    "cpu": {"batch_size": 4, "steps": 3, "loop_steps": 5},
}


def main() -> None:
    args = arguments()
    figures = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(sys.argv),
        "machine": device_name(),
        "versions": versions(),
        "complete": False,
    }
    with tempfile.TemporaryDirectory() as scratch:
        for part in measure(args, Path(scratch)):
            figures |= part
            if args.output:  # as they come: what was measured outlives an error
                write_text(Path(args.output), json.dumps(figures, indent=2) + "\n")
    if args.only in (None, "training"):
        from benchmark_training import shares

        figures |= shares(figures)
    figures["complete"] = True
    print(table(figures))
    if args.output:
        write_text(Path(args.output), json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """All that is asked for, part by part."""
    if args.only == "watching":
        from benchmark_watching import measure_watching

        yield from measure_watching(args, scratch)
        return
    if args.only != "preparing":
        import torch
        from benchmark_training import measure_training

        try:
            yield from measure_training(args, scratch)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"--batch_size {args.batch_size}: out of memory; set a smaller one"
            ) from error
    if args.only != "training":
        yield measure_preparation(args.only is not None, scratch)


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--config_file", metavar="FILE",
        help=f"of a pre-training (default: configs/{CONFIG.name})")  # fmt: skip
    add("--images", metavar="FOLDER", help="of JPEG images (default: drawn files of 256 x 256)")
    add("--device", default="auto", help="cpu, cuda or auto, which is a GPU if there is one")
    add("--only", choices=("training", "preparing", "watching"),
        help="one part of the measurements")  # fmt: skip
    add("--output", metavar="FILE", help="write the figures to this JSON file")
    add = flags.add_argument_group("training").add_argument
    add("--batch_size", type=int, metavar="N", help="images a step (default: 4, on CUDA 64)")
    add("--img_size", type=int, default=256, metavar="PIXELS", help="side of an image, in pixels")
    add("--steps", type=int, metavar="N",
        help="counted steps of each kind (default: 3, on CUDA 30)")  # fmt: skip
    add("--loop_steps", type=int, metavar="N",
        help="steps of the straight run (default: 5, on CUDA 400)")  # fmt: skip
    add("--num_workers", type=int, metavar="N",
        help="processes that make samples (default: 1, on CUDA one a core, at most "
        "16)")  # fmt: skip
    add("--compile", action="store_true", help="compile the fast step and the straight run")
    add("--embeddings", type=int, default=8192, metavar="N", help="rows of the contrastive loss")
    add("--switches", nargs="*", choices=SWITCHES, default=SWITCHES,
        help="those to turn, none of them without a name")  # fmt: skip
    add("--profile", metavar="FILE", help="write a trace of three fast steps, for ui.perfetto.dev")
    return flags


def arguments() -> argparse.Namespace:
    """The flags, with the defaults of the device filled in, and checked."""
    args = parse(flags())
    from SSLRemoteSensing.core.machine import choose_device

    kind = choose_device(args.device).type
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    args.config_file = args.config_file or str(CONFIG)
    known = DEFAULTS[kind] | {"num_workers": min(16, cores or 1) if kind == "cuda" else 1}
    for name, value in known.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, least in (("batch_size", 2), ("steps", 1), ("loop_steps", 2), ("embeddings", 4)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least {least}")
    if args.num_workers < 0:
        raise UserError(f"--num_workers {args.num_workers}: must be at least 0")
    for name in ("output", "profile"):
        path = getattr(args, name)
        if path and not Path(path).absolute().parent.is_dir():
            raise UserError(f"--{name} {path}: no such folder; make it first")
    if args.profile and args.only in ("preparing", "watching"):
        raise UserError(f"--profile: no trace in --only {args.only}; leave one of them out")
    return args


def measure_preparation(asked: bool, scratch: Path) -> dict:
    """The figures of benchmark_preparing, which needs rasterio."""
    if importlib.util.find_spec("rasterio") is None:
        if asked:
            raise UserError("--only preparing: rasterio is not installed; pip install rasterio")
        return {"preparing": "left out: rasterio is not installed"}
    from benchmark_preparing import measure_opening, measure_preparing
    from benchmark_timing import say

    say("preparing data sets")
    return measure_preparing(scratch) | measure_opening(scratch / "open")


if __name__ == "__main__":
    run_command(main)
