"""Does training on this device do what training on the CPU does? Both tasks, some steps each.

    python -m gpu_parts.smoke --output smoke.json --work FOLDER --device cuda --steps 20

Each case is a whole run of `fit` from drawn files, and its losses stand beside those of the same
run on the CPU in fp32. Dropout is off, as its numbers differ by device, and so is TF32. Of a case
are written

    first       largest relative difference of a loss in the first step: of the same weights
    all         largest relative difference of a loss's mean over all steps: rounding grows on the
                way, as each step starts from another's weights
    passes      whether both are within `TOLERANCES`; of `resume`, whose run stops half-way and goes
                on, beside the same run on the same device; `equal` is whether that is to the bit

Exit status 1: a case does not pass, or raised an error.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from benchmarking.presets import draw_labelled
from benchmarking.timing import free_memory, say

from SSLRemoteSensing import load_config
from SSLRemoteSensing.core.files import read_json, write_text
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.workflows.pretraining import open_pretraining
from SSLRemoteSensing.workflows.segmentation import open_finetuning

ROOT = Path(__file__).resolve().parents[2]
OPENINGS = {"pretrain": open_pretraining, "finetune": open_finetuning}
# Case -> relative difference in the first step, and of the means over all steps. Beside the CPU's
# runs the same ones in channels_last differ by 7e-7 and 0.003.
TOLERANCES = {"fp32": (1e-4, 0.02), "bf16": (0.05, 0.1), "compiled": (1e-4, 0.02)}
TOLERANCES["resume"] = (1e-4, 0.02)  # cuDNN may choose other algorithms after a new start
MODES = {"fp32": {}, "bf16": {"precision": "bf16", "channels_last": True}}
MODES |= {"resume": {}, "compiled": {"compile": True}}


def flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--output", type=Path, required=True)
    flags.add_argument("--work", type=Path, required=True)
    flags.add_argument("--device", default="auto")
    flags.add_argument("--steps", type=int, default=20)
    flags.add_argument("--side", type=int, default=128)
    flags.add_argument("--batch_size", type=int, default=8)
    flags.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    return flags


def main() -> None:
    args = flags().parse_args()
    figures = read_json(args.output) or {"cases": {}}
    cases = figures["cases"]
    torch.backends.cudnn.allow_tf32 = False
    if args.device == "cpu":  # at toy size: inductor takes minutes
        torch.compile = partial(torch.compile, backend="eager")
    for mode in args.modes:
        for task in OPENINGS:
            name = f"{task} {mode}"
            if cases.get(name, {}).get("passes"):
                continue
            say(name)
            try:
                cases[name] = case(args, task, mode)
            except (RuntimeError, ValueError) as error:
                text = " ".join(str(error).split())[:300]
                cases[name] = {"passes": False, "error": f"{type(error).__name__}: {text}"}
            passed = [entry["passes"] for entry in cases.values()]
            worst = [name for name, entry in cases.items() if not entry["passes"]]
            figures["headline"] = f"{sum(passed)} of {len(passed)} pass" + (
                f"; not {', '.join(worst)}" if worst else ""
            )
            write_text(args.output, json.dumps(figures, indent=1) + "\n")
            free_memory()
    sys.exit(0 if all(entry["passes"] for entry in cases.values()) else 1)


def case(args: argparse.Namespace, task: str, mode: str) -> dict:
    """The differences of one mode from its reference, and whether they are within tolerance."""
    reference = args.device if mode == "resume" else "cpu"
    theirs = losses(args, task, f"{task}_reference_{reference}", {"device": reference})
    settings = {"device": args.device} | MODES[mode]
    name = f"{task}_{mode}"
    if mode == "resume":
        losses(args, task, name, settings, args.steps // 2)
    ours = losses(args, task, name, settings, anew=mode != "resume")
    first, means = difference(ours[0], theirs[0]), difference(mean(ours), mean(theirs))
    found = {"first": first, "all": means, "tolerances": TOLERANCES[mode]}
    allowed = TOLERANCES[mode]
    found |= {"passes": first <= allowed[0] and means <= allowed[1], "steps": len(ours)}
    return found | ({"equal": ours == theirs} if mode == "resume" else {})


def losses(
    args: argparse.Namespace,
    task: str,
    name: str,
    settings: dict,
    steps: int | None = None,
    anew: bool = True,
) -> list[dict]:
    """The losses of each step of a run, by name: as its log has them. One that is there and whole
    is not repeated where it is a reference."""
    steps, folder = steps or args.steps, args.work / name
    log = folder / "log/metrics.jsonl"
    if "reference" in name and log.exists():
        anew = False
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    data = args.work / "drawn"
    if not data.exists():
        draw_labelled(data, 2 * args.batch_size, args.side)
    opened, loop = OPENINGS[task](small_config(args, task, folder, settings | {"num_step": steps}))
    for module in opened.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # The losses alone: no look at samples, no scores, no weights for others.
    fit(replace(opened, monitors=(), evaluate=None, export=None), loop)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    names = ("inpainting", "agr", "exemplar", "cross_entropy")
    rows = [{key: entry[key] for key in names if key in entry} for entry in entries]
    return [row for row in rows if row]  # scores have lines of their own


def small_config(args: argparse.Namespace, task: str, folder: Path, settings: dict) -> dict:
    """The demo's config of a task, on the drawn tiles, logging each step."""
    config = load_config(ROOT / f"configs/demo_town_{task}_resnet18_cfg.py")
    train_cfg, data = config["train_cfg"], args.work / "drawn"
    size = {"crop_size": args.side // 2}
    if task == "pretrain":
        size |= {"img_size": args.side // 2, "data_path": str(data / "images")}
    else:
        size |= {f"{kind}_path": str(data / f"{kind}s") for kind in ("image", "label")}
        train_cfg["val_data"] = {key: size[key] for key in ("image_path", "label_path")}
        train_cfg.pop("test_data")
        size["fraction"] = 1.0
    train_cfg["train_data"] |= size
    # With Adam the first steps go by signs of gradients, which rounding turns; at a rate ten times
    # as high rounding alone moves the means by 0.05.
    optimizer = {"name": "SGD", "lr": 0.0001}
    schedule = {"name": "stepLR", "step_size": 100, "gamma": 0.95}
    train_cfg |= {"batch_size": args.batch_size, "num_workers": 0, "optimizer": optimizer}
    train_cfg |= {"precision": "fp32", "channels_last": False, "lr_schedule": schedule}
    train_cfg |= {"log": {"log_path": str(folder / "log"), "log_step": 1}}
    train_cfg |= {"checkpoints": {"checkpoints_path": str(folder), "save_step": 10**6}}
    train_cfg |= settings
    return config


def mean(rows: list[dict]) -> dict:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def difference(ours: dict, theirs: dict) -> float:
    """The largest relative difference of two losses of one name."""
    return max(abs(ours[key] - value) / abs(value) for key, value in theirs.items())


if __name__ == "__main__":
    main()
