"""Memory of a training run at step 100 and at step 1,000: what grows would end a run of a week.

    python tests/soak/memory.py --output memory.json

A tiny run on drawn images with no worker and with one, each in a process of its own. Of the process
and of its worker the memory held at each hundredth step is noted. Exit status 1: more than 16 MB
growth from step 100 to the last.
"""

import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
from pathlib import Path

from harness import ROOT, flags, in_child, write

MOST = 16  # MB; the allocator's own ups and downs are some


def main() -> None:
    parser = flags(__doc__, "soak_memory.json")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    results = {}
    for workers in args.workers:
        results[f"workers {workers}"] = in_child(measure, args.steps, workers)
        write(args.output, results)
    held_by = [memory for run in results.values() for memory in run.values()]
    growth = max(memory[str(args.steps)] - memory["100"] for memory in held_by)
    print(json.dumps(results, indent=1))
    print(f"most growth from step 100 to {args.steps}: {growth:.1f} MB")
    sys.exit(int(growth > MOST))


def measure(steps: int, workers: int) -> dict[str, dict[int, float]]:
    """MB held by this process, and by its worker, by step."""
    from conftest import draw_tiles
    from tiny_run import changing, train

    from SSLRemoteSensing.core.config import load_config

    memory = {"process": {}, "worker": {}} if workers else {"process": {}}

    def note(number, losses, model):
        if number % 100 == 0:
            memory["process"][number] = held(os.getpid())
            for child in multiprocessing.active_children()[:1]:
                memory["worker"][number] = held(child.pid)
        return losses

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        tiles = draw_tiles(Path(folder), 200)
        config = load_config(ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py")
        data = {"data_path": str(tiles / "images"), "data_format": "*.jpg"}
        config["train_cfg"]["train_data"] |= data | {"img_size": 32, "crop_size": None}
        train(
            config, changing(note), batch_size=4, num_epoch=None, num_step=steps, device="cpu",
            precision="fp32", channels_last=False, num_workers=workers, lr_schedule=None,
            optimizer={"name": "Adam", "lr": 1e-3},
            checkpoints={"checkpoints_path": f"{folder}/run", "save_step": 1, "max_keep": 2},
            log={"log_path": f"{folder}/run/log", "log_step": 10},
        )  # fmt: skip
    return memory


def held(process: int) -> float:
    """What a process holds for itself in MB (files and shared memory left out)."""
    status = Path(f"/proc/{process}/status").read_text()
    return round(int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024, 1)


if __name__ == "__main__":
    main()
