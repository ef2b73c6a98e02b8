"""Memory of a training run at step 100 and at step 1,000: what grows would end a run of a week.

    python tests/soak/memory.py --output memory.json

A tiny run on drawn images with no worker and with one, each in a process of its own. Of the process
and of its worker the memory held at each hundredth step is noted. Exit status 1: more than 16 MB
growth from step 100 to the last.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MOST = 16  # MB; the allocator's own ups and downs are some


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--steps", type=int, default=1000)
    flags.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    flags.add_argument("--output", type=Path, default=Path("soak_memory.json"))
    flags.add_argument(
        "--one", action="store_true", help="run here, with the one number of workers"
    )
    args = flags.parse_args()
    if args.one:
        print(json.dumps(measure(args.steps, args.workers[0])))
        return
    found = {}
    for workers in args.workers:
        command = [sys.executable, __file__, "--one", "--steps", str(args.steps)]
        done = subprocess.run(
            [*command, "--workers", str(workers)], capture_output=True, text=True, check=True
        )
        found[f"workers {workers}"] = json.loads(done.stdout.splitlines()[-1])
        args.output.write_text(json.dumps(found, indent=1) + "\n")
    growths = [
        memory[str(args.steps)] - memory["100"] for run in found.values() for memory in run.values()
    ]
    print(json.dumps(found, indent=1))
    print(f"most growth from step 100 to {args.steps}: {max(growths):.1f} MB")
    sys.exit(int(max(growths) > MOST))


def measure(steps: int, workers: int) -> dict[str, dict[str, float]]:
    """MB held by this process, and by its worker, by step."""
    import contextlib
    import multiprocessing

    from conftest import draw_tiles, fit_task
    from tiny_run import TinyNet

    from SSLRemoteSensing.core.config import load_config
    from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate

    memory = {"process": {}, "worker": {}} if workers else {"process": {}}
    with tempfile.TemporaryDirectory() as folder:
        tiles = draw_tiles(Path(folder), 200)
        config = load_config(ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py")
        data = config["train_cfg"]["train_data"] | {"data_path": str(tiles / "images")}
        data |= {"data_format": "*.jpg", "img_size": 32, "crop_size": None}
        settings, model = PretextSettings(**data), TinyNet()
        forward, calls = model.forward, []

        def noting(batch):
            calls.append(1)
            if len(calls) % 100 == 0:
                memory["process"][len(calls)] = held(os.getpid())
                for child in multiprocessing.active_children()[:1]:
                    memory["worker"][len(calls)] = held(child.pid)
            return forward(batch)

        model.forward = noting
        with contextlib.redirect_stdout(sys.stderr):
            fit_task(
                model, PretextDataset(settings), collate, batch_size=4, num_step=steps,
                optimizer={"name": "Adam", "lr": 1e-3}, device="cpu", num_workers=workers,
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
