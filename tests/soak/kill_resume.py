"""Kill training runs at random moments; what comes of them must be what a straight run gives.

    python tests/soak/kill_resume.py --kills 100 --output soak.json
    python tests/soak/kill_resume.py --kills 500 --output soak.json      # goes on from 100

Each scenario is trained once without a stop. Then it is started, ended by SIGKILL, started again by
the same command and so on until it is done, and weights, moments, metrics.jsonl, TensorBoard events
and scores are compared, bit for bit. A third of the kills come at any moment, a third while a
`.part` file is being written, a third just after a checkpoint appears; after each the checkpoints
in the folder are read. Every figure of the JSON is
of all calls so far; it is written after each run. Exit status 1: something differed.
"""

import contextlib
import json
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from harness import ROOT, differing, flags, in_child, require_no_thread, write

# isort: split
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from SSLRemoteSensing.core.checkpoints import read
from SSLRemoteSensing.core.config import load_config, override
from SSLRemoteSensing.core.errors import UserError, run_command

MOMENTS = ("any", "write", "saved")
# Of an entry and of the curves: not the run's doing.
TIMED = {"images_per_second", "data_wait", "watching", "memory_gb"}
TIMED |= {f"course/{key}" for key in TIMED}
WORKERS = (0, 1, 2)

# name -> command, and what it sets. Steps of 4 images of 16, so 4 an epoch.
CHECKPOINTS = "train_cfg.checkpoints."
HALVES = ["train_cfg.batch_size=2", "train_cfg.accumulate_steps=2"]
SCENARIOS = {
    "pretrain": ("train.py", ["train_cfg.num_epoch=3"]),
    "pretrain, accumulated, cosine, saved by the clock": (
        "train.py",
        [
            *(*HALVES, "train_cfg.num_epoch=None", "train_cfg.num_step=9"),
            "train_cfg.lr_schedule={'name': 'cosine', 'warmup_steps': 3}",
            "train_cfg.log.log_step=2",
            *(CHECKPOINTS + "save_minutes=1e-9", CHECKPOINTS + "save_step=2"),
        ],
    ),
    "pretrain, bf16, AdamW": (
        "train.py",
        [
            "train_cfg.precision='bf16'",
            "train_cfg.optimizer={'name': 'AdamW', 'lr': 1e-3}",
            *("train_cfg.num_epoch=None", "train_cfg.num_step=4"),
            CHECKPOINTS + "save_minutes=1e-9",
        ],
    ),
    "finetune, cosine": ("finetune_seg.py", ["train_cfg.num_step=10"]),
    "finetune, accumulated, poly, saved by the clock": (
        "finetune_seg.py",
        [
            *(*HALVES, "train_cfg.num_step=10", "train_cfg.lr_schedule={'name': 'poly'}"),
            CHECKPOINTS + "save_minutes=0.01",
        ],
    ),
}


def main() -> None:
    parser = flags(__doc__, "soak_kills.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100, help="in all, those in OUTPUT included")
    parser.add_argument("--most", type=int, default=6, help="kills of one run")
    args = parser.parse_args()
    require_no_thread()
    runs = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
    commands = {name: runpy.run_path(str(ROOT / SCENARIOS[name][0]))["main"] for name in SCENARIOS}
    with tempfile.TemporaryDirectory(prefix="kill_", ignore_cleanup_errors=True) as folder:
        folder, straight = Path(folder), {}
        in_child(draw, folder / "tiles")
        while sum(len(run["kills"]) for run in runs) < args.kills:
            number = len(runs)
            name = list(SCENARIOS)[number % len(SCENARIOS)]
            if name not in straight:
                started = time.monotonic()
                config = write_config(name, folder, "straight")
                status = run_to_end(commands[name], config, 0)
                assert status == 0, (config.parent / "said.txt").read_text()
                straight[name] = time.monotonic() - started
            draws = random.Random(f"{args.seed} {number}")
            run = {"scenario": name, "number": number, "kills": [], "outcome": "unfinished"}
            runs.append(run)
            attempt(run, commands[name], name, folder, straight[name], draws, args.most)
            report(args.output, args.seed, runs)
            kills, outcome = len(run["kills"]), run["outcome"]
            print(f"run {number}, {name}: {kills} kills, {outcome}", flush=True)
            remains = run_folder(folder, "killed", name)
            if outcome != "identical":
                shutil.move(remains, args.output.absolute().with_suffix(f".run_{number}"))
            shutil.rmtree(remains, ignore_errors=True)
    print(json.dumps(report(args.output, args.seed, runs), indent=1))
    sys.exit(int(any(run["outcome"] != "identical" for run in runs)))


def run_folder(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / name.replace(",", "").replace(" ", "_")


def draw(folder: Path) -> None:
    from conftest import draw_tiles

    draw_tiles(folder, 24, size=48)


def write_config(name: str, folder: Path, kind: str) -> Path:
    """The config of a scenario: the demo's, small, on drawn tiles, in `folder`/`kind`."""
    script, overrides = SCENARIOS[name]
    run, tiles = run_folder(folder, kind, name), folder / "tiles"
    pretrains = script == "train.py"
    which = "pretrain" if pretrains else "finetune"
    config = load_config(ROOT / f"configs/demo_oam_{which}_resnet18_cfg.py")
    train = config["train_cfg"]
    train |= {"batch_size": 4, "device": "cpu", "precision": "fp32", "channels_last": False}
    train["checkpoints"] = {"checkpoints_path": str(run), "save_step": 1, "max_keep": 2}
    train["log"] = {"log_path": str(run / "log"), "log_step": 1}
    first = ["tile_00*.jpg", "tile_01[0-5].jpg"]
    if pretrains:
        config["examplar_head_cfg"]["out_channels"] = 64
        train["optimizer"] = {"name": "SGD", "lr": 0.01, "momentum": 0.9}  # smaller than Adam's
        train["train_data"] |= {"data_path": str(tiles / "images"), "data_format": first}
        train["train_data"] |= {"img_size": 32, "crop_size": None}
    else:
        paths = {"image_path": str(tiles / "images"), "label_path": str(tiles / "labels")}
        train["train_data"] |= paths | {"data_format": first, "crop_size": 32, "hash_range": (0, 1)}
        train["val_data"] = paths | {"data_format": "tile_01[6-9].jpg"}
        train["test_data"] = paths | {"data_format": "tile_02*.jpg"}
    for text in overrides:
        override(config, text)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    file = run / "config.py"
    file.write_text(f"config = {config!r}\n")
    return file


def start(command, config: Path, workers: int) -> int:
    """Start a command as `python train.py --config_file CONFIG` would; its process number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        said = os.open(config.parent / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.chdir(config.parent)
        sys.argv = [str(ROOT / "train.py"), "--config_file", str(config), "--set"]
        sys.argv += [f"train_cfg.num_workers={workers}"]
        run_command(command)
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run_to_end(command, config: Path, workers: int) -> int:
    _, status = os.waitpid(start(command, config, workers), 0)
    return os.waitstatus_to_exitcode(status)


def attempt(run: dict, command, name: str, folder: Path, whole: float, draws, most: int) -> None:
    """Kill a run up to `most` times, let it end, compare it; all that is found goes to `run`."""
    config = write_config(name, folder, "killed")
    at = config.parent
    for _ in range(draws.randint(1, most)):
        next_second()
        workers, moment = draws.choice(WORKERS), draws.choice(MOMENTS)
        before = saved_step(at)
        child = start(command, config, workers)
        if moment == "any":
            wait(child, lambda: False, draws.uniform(0, 1.1 * whole))
        else:
            skipped, seen = draws.randint(0, 3), set()

            def there(moment=moment, seen=seen, skipped=skipped) -> bool:
                """Whether as many files of the kind have been written as shall be let pass."""
                seen |= set(parts(at)) if moment == "write" else {(at / "latest.pth", stamp(at))}
                return len(seen) > skipped + (moment == "saved")

            wait(child, there, 60)
            wait(child, lambda: False, draws.uniform(0, 0.2 if moment == "write" else 0.05))
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:  # it was done before
            run["ended_before_kill"] = os.waitstatus_to_exitcode(status)
            break
        alone = draws.random() < 0.5  # workers find out by themselves, after seconds
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reached, saved = last_step(at), saved_step(at)
        finished = {file.name: file.stat().st_size for file in at.glob("*.pth")}
        damaged = in_child(unreadable, str(at))
        kill = {"moment": moment, "workers": workers, "workers_too": not alone}
        kill |= {"saved_before": before, "reached": reached, "saved": saved}
        kill["steps_lost"] = max(0, reached - saved)
        kill["bytes_of_checkpoints"] = sum(finished.values())
        kill["bytes_lost"] = sum(finished[name] for name in damaged)
        kill["parts_left"] = {part.name: part.stat().st_size for part in parts(at)}
        run["kills"].append(kill)
    next_second()
    status = run_to_end(command, config, draws.choice(WORKERS))
    run["status"] = status
    run["parts_in_the_end"] = [part.name for part in parts(at)]
    if status:
        said = (at / "said.txt").read_text()
        run["outcome"] = f"ended with status {status}: {said[-1500:]}"
        return
    different = in_child(compare, str(run_folder(folder, "straight", name)), str(at))
    different += [f"{part} is left over" for part in run["parts_in_the_end"]]
    run["outcome"] = "; ".join(different) or "identical"


def next_second() -> None:
    """The names of two event files of one second would not tell which came first."""
    time.sleep(1 - time.time() % 1)


def wait(child: int, until, seconds: float) -> None:
    """Wait until `until()` or the end of the child, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def parts(folder: Path) -> list[Path]:
    return [*folder.glob(".*.part"), *folder.glob("log/.*.part")]


def stamp(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "latest.pth").stat().st_mtime_ns
    return 0


def last_step(folder: Path) -> int:
    """The last step that metrics.jsonl has; log_step - 1 more may be done."""
    try:
        lines = (folder / "log/metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (FileNotFoundError, ValueError):
        return 0


def unreadable(folder: str) -> list[str]:
    """The checkpoints that are not what was written to them."""
    found = []
    for file in Path(folder).glob("*.pth"):
        try:
            read(file)
        except UserError:
            found.append(file.name)
    return found


def saved_step(folder: Path) -> int:
    """The step of latest.pth."""
    if not (folder / "latest.pth").exists():
        return 0
    return in_child(lambda: torch.load(folder / "latest.pth", weights_only=True)["step"])


def compare(straight: str, killed: str) -> list[str]:
    """What differs between two runs' folders."""
    ours, theirs = contents_of(Path(straight)), contents_of(Path(killed))
    others = sorted(ours.keys() ^ theirs.keys())
    return [f"only one has {', '.join(others)}"] if others else differing(ours, theirs)


def contents_of(folder: Path) -> dict:
    """What a run leaves, by file, less what is not its doing: paths and times."""
    files = sorted(folder.glob("*.pth"))
    found = {file.name: torch.load(file, weights_only=True) for file in files}
    for checkpoint in found.values():
        checkpoint.pop("card", None)
    lines = (folder / "log/metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = [
        {k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines
    ]
    events = EventAccumulator(str(folder / "log"))
    events.Reload()
    for tag in sorted(events.Tags()["scalars"]):  # as TensorBoard shows them
        found[tag] = [(e.step, tag in TIMED or e.value) for e in events.Scalars(tag)]
    if (folder / "results.json").exists():
        found["protocols"] = json.loads((folder / "results.json").read_text())["protocols"]
    json.loads((folder / "run.json").read_text())
    return found


def report(path: Path, seed: int, runs: list[dict]) -> dict:
    """Write all that is known, whole or not at all; the figures alone come back."""
    kills = [kill for run in runs for kill in run["kills"]]
    lost = [kill["steps_lost"] for kill in kills]
    ends = [run for run in runs if run["outcome"] != "unfinished"]
    alive = [kill for kill in kills if kill["workers"] and not kill["workers_too"]]
    found = {
        "kills": len(kills),
        "by_moment": {m: sum(kill["moment"] == m for kill in kills) for m in MOMENTS},
        "during_a_write": sum(bool(kill["parts_left"]) for kill in kills),
        "during_a_write_of": sorted({name for kill in kills for name in kill["parts_left"]}),
        "with_workers_left_alive": len(alive),
        "steps_lost": {"sum": sum(lost), "most": max(lost, default=0)},
        "bytes_of_parts_left": sum(sum(kill["parts_left"].values()) for kill in kills),
        "bytes_of_checkpoints": sum(kill["bytes_of_checkpoints"] for kill in kills),
        "bytes_of_checkpoints_lost": sum(kill["bytes_lost"] for kill in kills),
        "runs": len(ends),
        "runs_identical_to_the_straight_one": sum(run["outcome"] == "identical" for run in ends),
        "by_scenario": {
            name: {"runs": len(own), "kills": sum(len(run["kills"]) for run in own)}
            for name in SCENARIOS
            for own in [[run for run in runs if run["scenario"] == name]]
        },
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }
    write(path, {"figures": found, "seed": seed, "runs": runs})
    return found


if __name__ == "__main__":
    main()
