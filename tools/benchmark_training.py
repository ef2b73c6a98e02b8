"""The part of benchmark.py that measures training, from the machine to the switches, in order."""

import argparse
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmark_ceilings import measure_ceilings
from benchmark_data import measure_samples, open_images
from benchmark_loop import fit_settings, free_memory, run_in_turn, straight_run
from benchmark_published import compare_with_fp32, measure_contrastive
from benchmark_steps import (
    base_setting,
    build_step,
    count_flops,
    ready_batch,
    run_step,
    split_step,
    write_profile,
)
from benchmark_switches import measure_switches
from benchmark_timing import say, wait

from SSLRemoteSensing import load_config
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.pretext import PretextDataset
from SSLRemoteSensing.workflows.pretraining import check_pretext


def measure_training(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """The figures of the config's network and data, as they come; `args` are benchmark.py's."""
    with contextlib.redirect_stderr(io.StringIO()):  # the published configs' idle keys
        config = load_config(args.config_file)
    check_pretext(config)
    dataset = open_images(config, args.images, args.img_size, args.batch_size, scratch)
    device = choose_device(args.device)
    fast = choose_precision("auto", device)
    yield {
        "network": config["backbone_cfg"]["name"],
        "img_size": args.img_size,
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "fast_precision": fast,
        "compiled": args.compile,
    }
    yield measure_ceilings(device, fast, dataset.files)
    yield measure_samples(dataset, config["train_cfg"]["train_data"], args.batch_size)
    # Before the other steps, with the device to itself: this tells the memory of training.
    say(f"fit(), straight, {args.loop_steps} steps")
    settings = fit_settings(config, device, fast, args.batch_size, args.num_workers)
    settings["compile"] = args.compile
    yield straight_run(config, dataset, settings, args.loop_steps, scratch)
    free_memory(device)
    yield from measure_steps(args, config, dataset, settings, scratch)
    free_memory(device)
    say(f"contrastive loss, {args.embeddings} embeddings")
    yield measure_contrastive(device, args.embeddings, args.steps)


def measure_steps(
    args: argparse.Namespace, config: dict, dataset: PretextDataset, settings: dict, scratch: Path
) -> Iterator[dict]:
    """Figures of the fast step, alone and in turn with others.

    Args:
        settings: arguments of fit(), from `fit_settings`.
    """
    device = torch.device(settings["device"])
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    base = base_setting(settings["precision"], args.batch_size) | {"compile": args.compile}
    batch = ready_batch(dataset, args.batch_size, device)
    say("the parts of a step")
    yield {"flops_per_image": flops_of_step(config, device, base, batch) / args.batch_size}
    free_memory(device)
    step = build_step(config, device, base)

    def run_fast() -> None:
        run_step(step, batch)

    def run_bare() -> None:
        run_step(step, batch)
        wait(device)

    yield split_step(step, dataset, args.batch_size, args.num_workers, args.steps)
    yield compare_with_fp32(config, device, batch, run_fast, args.steps)
    say("fit(), in turn with bare steps")
    yield run_in_turn(config, dataset, settings, args.steps, run_bare, scratch)
    if args.profile:
        say("profile")
        write_profile(step, batch, args.profile)
    switches: dict[str, dict] = {}
    yield {"switches": switches}
    measured = measure_switches(config, dataset, step, base, args.switches, args.steps, held)
    for name, entry in measured:
        switches = switches | {name: entry}
        yield {"switches": switches}


def flops_of_step(config: dict, device: torch.device, setting: dict, batch: dict) -> int:
    """Operations of one step, counted on one that is not compiled, where they can be seen."""
    step = build_step(config, device, setting | {"compile": False})
    return count_flops(lambda: run_step(step, batch))


def shares(figures: dict) -> dict:
    """What the measured rates are of the ceiling, and the cores that could feed the fast step."""
    ready = figures["batch_size"] / figures["fast_step_s"]
    flops, ceiling = figures["flops_per_image"], figures["ceiling_matmul_tflops"] * 1e12
    return {
        "mfu": flops * figures["images_per_second"] / ceiling,
        "mfu_bare": flops * ready / ceiling,
        "cores_to_feed": ready * figures["sample_ms"] / 1000,
    }
