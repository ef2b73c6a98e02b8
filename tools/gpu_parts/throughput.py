"""Samples a second of pre-training, beside what the device can do at most.

    python -m gpu_parts.throughput --output throughput.json --images FOLDER --work FOLDER

The measuring is that of tools/benchmark.py. In order of worth: the rate of matrix products; the
fast step of VGG16-BN and ResNet-50 with 64 images; the published step; the loop from files; larger
batches, where out of memory is a result; further numbers of workers; the compiled step. Each is an
entry of `measured` once it is there; what a file has already is not measured again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from benchmark import flags as benchmark_flags
from benchmarking.bench import Bench, run_step
from benchmarking.machine import SIZES, measure_ceilings
from benchmarking.timing import allocated_bytes, free_memory, in_turn, peak_gib, say
from benchmarking.training import count_flops, measure_loop
from benchmarking.variants import measure_published

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "vgg16_bn": "configs/vr_vgg16_inapinting_agr_examplar_cfg.py",
    "resnet50": "configs/vr_resnet50_inapinting_agr_examplar_cfg.py",
}
SMALLEST, LARGER, WORKERS = 64, (128, 256, 512), (8, 4, 16)


def flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--output", type=Path, required=True)
    flags.add_argument("--work", type=Path, required=True)
    flags.add_argument("--images", required=True)
    flags.add_argument("--toy", action="store_true", help="on the CPU, as small as can be")
    return flags


def main() -> None:
    args = flags().parse_args()
    figures = read_json(args.output) or {"measured": {}}
    args.work.mkdir(parents=True, exist_ok=True)
    for name, measure in measurements(args):
        if name in figures["measured"]:
            continue
        say(name)
        found: dict = {}
        try:
            with tempfile.TemporaryDirectory(dir=args.work) as scratch:
                for part in measure(Path(scratch)):
                    found |= part
        except torch.OutOfMemoryError:
            found["out_of_memory"] = True
        except (RuntimeError, UserError) as error:  # no compiler, too few images, say
            found["not_measured"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        free_memory()
        figures["measured"][name] = found
        add_shares(figures)
        write_text(args.output, json.dumps(figures, indent=1) + "\n")


def measurements(args: argparse.Namespace) -> Iterator[tuple[str, Callable]]:
    """Names, and what measures them: given a folder, it gives figures as they come."""
    networks, first = list(CONFIGS), SMALLEST
    larger, workers = LARGER, WORKERS
    if args.toy:
        networks, first, larger, workers = ["vgg16_bn"], 2, (4,), (0,)
        SIZES["cpu"] = (256, 512)

    def of(function: Callable, network: str, batch_size: int, *words: str) -> Callable:
        return lambda scratch: function(bench(args, scratch, network, batch_size, *words))

    yield "matmul", of(measure_ceilings, networks[0], first)
    for network in networks:
        yield f"{network} batch {first}", of(measure_fast, network, first)
    for network in networks:
        yield f"{network} published", of(measure_published, network, first)
        count = workers[0]
        yield (
            f"{network} loop, {count} workers",
            of(measure_loop, network, first, "--num_workers", str(count)),
        )
    for size in larger:
        for network in networks:
            yield f"{network} batch {size}", of(measure_fast, network, size)
    for count in workers[1:]:
        for network in networks:
            yield (
                f"{network} loop, {count} workers",
                of(measure_loop, network, first, "--num_workers", str(count)),
            )
    for network in networks if not args.toy else ():  # inductor takes minutes on a CPU
        yield f"{network} compiled", of(measure_fast, network, first, "--compile")


def bench(
    args: argparse.Namespace, scratch: Path, network: str, batch_size: int, *words: str
) -> Bench:
    """A network and its images, as tools/benchmark.py has them."""
    line = ["--config_file", str(ROOT / CONFIGS[network]), "--images", args.images]
    line += ["--batch_size", str(batch_size), "--steps", "12", "--loop_steps", "60"]
    if args.toy:
        line += ["--device", "cpu", "--img_size", "32", "--steps", "1", "--loop_steps", "2"]
    return Bench(benchmark_flags().parse_args([*line, *words]), scratch)


def measure_fast(bench: Bench) -> Iterator[dict]:
    """Operations of an image, seconds of the fast step, and the most memory that it takes."""
    size, others = bench.args.batch_size, allocated_bytes(bench.device)
    step, batch = bench.step(), bench.batch()
    if not bench.args.compile:  # which hides them
        counted = count_flops(partial(run_step, step, batch))
        yield {"batch_size": size, "flops_per_image": counted / size}
    run = partial(run_step, step, batch)
    (step_s,) = in_turn([run], bench.device, bench.args.steps)
    yield {"batch_size": size, "step_s": step_s, "images_per_second": size / step_s}
    yield {"peak_memory_gib": peak_gib(run, bench.device, others)}


def add_shares(figures: dict) -> None:
    """`mfu` of each entry, the share of the measured matmul rate; and the line of the summary."""
    measured = figures["measured"]
    ceiling = measured["matmul"].get("ceiling_matmul_tflops", 0) * 1e12
    flops = {
        name.split()[0]: entry["flops_per_image"]
        for name, entry in measured.items()
        if "flops_per_image" in entry
    }
    told = [f"matmul {ceiling / 1e12:.3g} TFLOP/s"]
    for name, entry in measured.items():
        rate = entry.get("images_per_second")
        if rate and ceiling and (network := name.split()[0]) in flops:
            entry["mfu"] = rate * flops[network] / ceiling
            told.append(f"{name}: {rate:.4g} images/s, {100 * entry['mfu']:.0f} %")
        elif "speedup_over_published" in entry:
            told.append(f"{name}: {entry['speedup_over_published']:.3g} times as fast")
        elif "out_of_memory" in entry:
            told.append(f"{name}: out of memory")
    figures["headline"] = "; ".join(told)


if __name__ == "__main__":
    sys.exit(main())
