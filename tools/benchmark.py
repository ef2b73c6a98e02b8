"""Measure, within one run: the machine, a sample, a step, what the loop adds, and each switch.

    python tools/benchmark.py --images data/oam_buildings/images --output benchmark.json
    python tools/benchmark.py switches --compile --switches channels_last joint_pass
    python tools/benchmark.py watching --img_size 128 --batch_size 16
    python tools/benchmark.py processes --images data/oam_buildings/images --processes 8
    python tools/benchmark.py prepare --output prepare.json
    python tools/benchmark.py predict --network vgg16_bn --width 1024 --height 1024
    python tools/benchmark.py predict --network pointwise --rounds 0 --width 20000 --height 5000
    python tools/benchmark.py windows --img_size 256 --rounds 5
    python tools/benchmark.py presets --presets small quick --rounds 3
    python tools/benchmark.py flops --img_size 256
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
MODULES |= {"processes": "machine", "windows": "windows", "presets": "presets"}
MODULES["flops"] = "counts"
NAMES = ("training", *MODULES, "table")
# Flag -> its least value, its default and its meaning.
NUMBERS = {
    "batch_size": (1, None, "images or windows (default: 4, training on CUDA 64, mapping 1)"),
    "rounds": (0, 3, "of processes, prepare, predict, windows, presets; predict 0: memory alone"),
    "img_size": (1, 256, "side of an image in training, or of a window, in pixels"),
    "steps": (1, None, "counted, of each kind (default: 3, on CUDA 30)"),
    "loop_steps": (2, None, "of fit(), whose second half counts (default: 5, on CUDA 400)"),
    "num_workers": (0, None, "that make samples (default: 1, on CUDA one a core, at most 16)"),
    "embeddings": (4, 8192, "rows of the contrastive loss"),
    "processes": (2, 2, "compared with one"),
    "tile": (1, 512, "of predict: side of a window, in pixels"),
    "workers": (1, 1, "of predict: threads that read and compress"),
    "width": (1, 2048, "of predict: the scene's, in pixels"),
    "height": (1, 2048, "of predict: the scene's, in pixels"),
    "side": (1, 6000, "of prepare and windows: the scenes', in pixels"),
    "windows": (5, 1000, "of windows: read in each round"),
    "open_tiles": (1, 100_000, "of prepare: tiles of the set to open"),
}
# What a figure's name does not say by itself.
MEANINGS = {
    "fast_precision": "what this machine does in hardware; bf16 with channels_last",
    "matmul_tflops": "by precision and side of the square matrices",
    "sample_ms": "file to occluded, anchor and transformed, one core",
    "cores_to_feed": "cores that make samples as fast as the fast step takes them",
    "step_split_s": "the device is waited for after each part",
    "counted_steps": "of fit() from files, after the warm-up",
    "data_wait": "share of the time the loop waited for data",
    "peak_memory_gib": "CUDA: of this run's tensors; CPU: of the process",
    "flops_per_image": "products and convolutions, forward and backward",
    "mfu": "flops_per_image x images_per_second / ceiling_matmul_tflops",
    "mfu_bare": "the same with batch_size / fast_step_s, on a ready batch",
    "loop_efficiency": "images_per_second of fit() / bare steps on a ready batch",
    "published_step_s": "as published: also its contrastive loss, no fused optimizer",
    "switches": "each alone: images a second over the fast step's, in turn",
    "watching_step_s": "a training step (CPU: seconds of this process)",
    "watching_entry_s": "figures of an entry of the log",
    "watching_look_s": "figures and pictures of the fixed samples; the first reads them",
    "watching_share": "of the time, by the default log_step and vis_step",
    "window_ms": "CPU time of a worker, drawn from a scene",
    "tile_ms": "the same pixels from a PNG file",
    "window_rate_over_tile": "windows a second over tiles a second, in turn",
    "prepare_scene_s": "one core; copied are its pixels, by rasterio and OpenCV",
    "presets": "samples of a ready batch (CPU: a second of this process)",
    "networks": "of some configs; operations of a sample in training, counted",
    "images_per_second_one": "one process, on a CPU with as many threads and batches",
    "efficiency": "all over one, on GPUs over so many times one",
}


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add, names = flags.add_argument, ", ".join(NAMES)
    add("measurement", nargs="?", default="training", choices=NAMES, metavar="NAME", help=names)
    add("file", nargs="?", type=Path, metavar="FILE", help="of table: what --output wrote")
    add("--output", metavar="FILE", help="write the figures to this JSON file")
    add("--device", default="auto", help="cpu, cuda or auto, which is a GPU if there is one")
    add("--config_file", metavar="FILE", default=str(CONFIG), help="of a pre-training")
    add("--images", metavar="FOLDER", help="of JPEG files (default: drawn ones of 256 x 256)")
    text = "of presets: those to measure (default: all)"
    add("--presets", nargs="+", metavar="NAME", help=text)
    add("--compile", action="store_true", help="compile the fast step and the loop")
    add("--switches", nargs="*", choices=SWITCHES, default=SWITCHES, help="those to turn")
    add("--profile", metavar="FILE", help="write a trace of three fast steps, for ui.perfetto.dev")
    text = "of predict: pointwise, or a backbone (vgg16_bn, resnet18, ...)"
    add("--network", default="vgg16_bn", metavar="NAME", help=text)
    text = "of predict; auto is bf16 where the hardware has it"
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"), help=text)
    text = "of predict: share of its side by which a window overlaps the next"
    add("--overlap", type=float, default=0.0, metavar="SHARE", help=text)
    for name, (_, default, text) in NUMBERS.items():
        add(f"--{name}", type=int, default=default, metavar="N", help=text)
    return flags


def main() -> None:
    args = parse(flags())
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
        write_text(output, json.dumps(figures, indent=2) + "\n")


def check(args: argparse.Namespace) -> None:
    """Raise a `UserError` for flags that cannot be."""
    for name, (least, *_) in NUMBERS.items():
        value = getattr(args, name)
        if name in ("batch_size", "rounds") and args.measurement != "predict":
            least += 1  # batch normalization and the contrastive loss need two images
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

    names = TRAINING if args.measurement == "training" else (args.measurement,)
    subject = (args, scratch)
    if names[0] in (*TRAINING, "watching"):
        subject = (Bench(args, scratch),)
        yield subject[0].description
    try:
        for name in names:
            module = import_module(f"benchmarking.{MODULES[name]}")
            yield from getattr(module, f"measure_{name}")(*subject)
    except torch.OutOfMemoryError as error:
        text = f"--batch_size {args.batch_size}: out of memory; set a smaller one"
        raise UserError(text) from error


def shares(figures: dict) -> dict:
    """What the measured rates are of the ceiling, and the cores that could feed the fast step."""
    needed = ("ceiling_matmul_tflops", "flops_per_image", "images_per_second", "sample_ms")
    if not {*needed, "fast_step_s"} <= figures.keys():
        return {}
    ceiling, flops, rate, sample_ms = (figures[key] for key in needed)
    ready, of_ceiling = figures["batch_size"] / figures["fast_step_s"], flops / (ceiling * 1e12)
    cores = ready * sample_ms / 1000
    return {"mfu": rate * of_ceiling, "mfu_bare": ready * of_ceiling, "cores_to_feed": cores}


def table(figures: dict, depth: int = 1) -> str:
    """A line for each figure, its name ending with its unit, where it is no share or ratio; a dict
    among them is a line for each of its entries."""
    lines = []
    for key, value in figures.items():
        text = "" if isinstance(value, dict) else readable(value)
        lines.append(f"{'  ' * depth + key:<40}{text:<22} {MEANINGS.get(key, '')}".rstrip())
        if isinstance(value, dict) and value:
            lines.append(table(value, depth + 1))
    return "\n".join(lines)


def readable(value) -> str:
    if isinstance(value, list):
        return ", ".join(map(readable, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_command(main)
