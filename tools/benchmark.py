"""Measure, within one run: the machine, a sample, a step, what the loop adds, and each switch.

    python tools/benchmark.py --images data/oam_buildings/images --output benchmark.json
    python tools/benchmark.py switches --compile --switches channels_last joint_pass
    python tools/benchmark.py watching --img_size 128 --batch_size 16
    python tools/benchmark.py processes --images data/oam_buildings/images --processes 8
    python tools/benchmark.py prepare --output prepare.json
    python tools/benchmark.py predict --network vgg16_bn --width 1024 --height 1024
    python tools/benchmark.py predict --network pointwise --rounds 0 --width 20000 --height 5000
    python tools/benchmark.py table benchmark.json

Without a name it is `training`: all from `ceilings` to `switches`, and what share of the matmul
rate training reaches. Ratios are of figures taken in turn within one run, so that a machine's drift
meets both sides; what warms up is not counted. The table that is printed says what each figure is;
--output has them as JSON, part by part: what was measured outlives an error.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import device_name, versions

CONFIG = Path(__file__).parents[1] / "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
SWITCHES = ("precision", "channels_last", "compile", "joint_pass", "batch_size", "fused")
# Name -> the module that measures it.
MODULES = {"ceilings": "machine", "data": "machine", "loop": "training", "step": "training"}
MODULES |= dict.fromkeys(("published", "contrastive", "switches"), "variants")
TRAINING = tuple(MODULES)  # what is measured under that name
MODULES |= {"watching": "training", "prepare": "scenes", "predict": "scenes"}
MODULES["processes"] = "processes"
NAMES = ("training", *MODULES, "table")
LEAST = {"steps": 1, "loop_steps": 2, "embeddings": 4, "num_workers": 0, "processes": 2}
LEAST |= {"rounds": 0, "batch_size": 1}


def flags() -> argparse.ArgumentParser:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument
    add("measurement", nargs="?", default="training", choices=NAMES, metavar="MEASUREMENT",
        help=", ".join(NAMES))
    add("file", nargs="?", type=Path, metavar="FILE", help="of table: what --output wrote")
    add("--device", default="auto", help="cpu, cuda or auto, which is a GPU if there is one")
    add("--batch_size", type=int, metavar="N",
        help="images or windows a step (default: 4, training on CUDA 64, mapping 1)")
    add("--rounds", type=int, default=3, metavar="N",
        help="of processes, prepare and predict, in turn; predict 0: its memory alone")
    add("--output", metavar="FILE", help="write the figures to this JSON file")
    add = flags.add_argument_group("training and processes").add_argument
    add("--config_file", metavar="FILE", default=str(CONFIG), help="of a pre-training")
    add("--images", metavar="FOLDER", help="of JPEG files (default: drawn ones of 256 x 256)")
    add("--img_size", type=int, default=256, metavar="PIXELS", help="side of an image")
    add("--steps", type=int, metavar="N", help="counted, of each kind (default: 3, on CUDA 30)")
    add("--loop_steps", type=int, metavar="N", help="of fit() (default: 5, on CUDA 400)")
    add("--num_workers", type=int, metavar="N",
        help="processes that make samples (default: 1, on CUDA one a core, at most 16)")
    add("--compile", action="store_true", help="compile the fast step and the loop")
    add("--embeddings", type=int, default=8192, metavar="N", help="rows of the contrastive loss")
    add("--switches", nargs="*", choices=SWITCHES, default=SWITCHES, help="those to turn")
    add("--profile", metavar="FILE", help="write a trace of three fast steps, for ui.perfetto.dev")
    add("--processes", type=int, default=2, metavar="N", help="compared with one")
    add = flags.add_argument_group("prepare and predict").add_argument
    add("--network", default="vgg16_bn", metavar="NAME",
        help="pointwise, or a backbone (vgg16_bn, resnet18, ...)")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of the network; auto is bf16 where the hardware has it")
    add("--tile", type=int, default=512, metavar="PIXELS", help="side of a window")
    add("--overlap", type=float, default=0.0, metavar="SHARE",
        help="share of its side by which a window overlaps the next")
    add("--workers", type=int, default=1, metavar="N", help="threads that read and compress")
    add("--width", type=int, default=2048, metavar="PIXELS", help="of the scene to map")
    add("--height", type=int, default=2048, metavar="PIXELS", help="of the scene to map")
    add("--side", type=int, default=6000, metavar="PIXELS", help="of the scenes to prepare")
    add("--open_tiles", type=int, default=100_000, metavar="N", help="of the set to open")
    # fmt: on
    return flags


def main() -> None:
    args = parse(flags())
    from benchmarking.table import table

    if args.measurement == "table":
        if args.file is None or not args.file.is_file():
            raise UserError(f"table {args.file}: no such file; name what --output wrote")
        print(table(json.loads(args.file.read_text())))
        return
    check(args)
    circumstances = {"command": " ".join(sys.argv), "machine": device_name()}
    figures = {"date": time.strftime("%Y-%m-%d"), **circumstances, "versions": versions()}
    with tempfile.TemporaryDirectory() as scratch:
        for part in measure(args, Path(scratch)):
            figures |= part | {"complete": False}
            write(args.output, figures)  # as they come
    figures |= shares(figures) | {"complete": True}
    write(args.output, figures)
    print(table(figures))


def write(output: str | None, figures: dict) -> None:
    if output:
        write_text(Path(output), json.dumps(figures, indent=2) + "\n")


def check(args: argparse.Namespace) -> None:
    """Raise a `UserError` for flags that cannot be."""
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    for name in ("output", "profile"):
        path = getattr(args, name)
        if path and not Path(path).absolute().parent.is_dir():
            raise UserError(f"--{name} {path}: no such folder; make it first")


def measure(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """All that is asked for, part by part."""
    import torch
    from benchmarking.bench import Bench

    name = args.measurement
    names = TRAINING if name == "training" else (name,)
    modules = [import_module(f"benchmarking.{MODULES[name]}") for name in names]
    subject = (args, scratch)
    if name in ("training", *TRAINING, "watching"):
        subject = (Bench(args, scratch),)
        yield subject[0].describe()
    try:
        for name, module in zip(names, modules, strict=True):
            yield from getattr(module, f"measure_{name}")(*subject)
    except torch.OutOfMemoryError as error:
        said = f"--batch_size {args.batch_size}: out of memory; set a smaller one"
        raise UserError(said) from error


def shares(figures: dict) -> dict:
    """What the measured rates are of the ceiling, and the cores that could feed the fast step."""
    needed = ("ceiling_matmul_tflops", "flops_per_image", "images_per_second", "sample_ms")
    if not {*needed, "fast_step_s"} <= figures.keys():
        return {}
    ceiling, flops, rate, sample_ms = (figures[key] for key in needed)
    ready, of_ceiling = figures["batch_size"] / figures["fast_step_s"], flops / (ceiling * 1e12)
    cores = ready * sample_ms / 1000
    return {"mfu": rate * of_ceiling, "mfu_bare": ready * of_ceiling, "cores_to_feed": cores}


if __name__ == "__main__":
    run_command(main)
