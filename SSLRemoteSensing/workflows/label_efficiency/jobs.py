"""Run cells of a grid as processes, side by side, and note how each ends."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from SSLRemoteSensing.core import machine
from SSLRemoteSensing.core.bars import print_line, progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json, write_text
from SSLRemoteSensing.workflows.finetuning import LABELLER
from SSLRemoteSensing.workflows.label_efficiency.cells import (
    arguments,
    existing_cells,
    expected_seconds,
    main_miou,
    read_cell,
)
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid
from SSLRemoteSensing.workflows.label_efficiency.starts import weights_hash
from SSLRemoteSensing.workflows.segmentation import PSEUDO_LABELS

# A signal to a whole process group or job reaches the cells too, and a second one of a kind ends
# them without saving: what is passed on is therefore of the other kind.
PASSED_ON = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGINT}
POLL = 0.1  # seconds between two looks at the processes


@dataclass
class Job:
    """A process that trains a cell and scores it, or only scores it."""

    cell: Cell
    scoring: bool
    process: subprocess.Popen
    started: float
    offset: int  # of output.txt, where this process began to write


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The SIGINT and SIGTERM that come in the block, in order."""
    received: list[int] = []
    old_handlers = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in PASSED_ON
    }
    try:
        yield received
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def slots_for(device: str, jobs: int | None) -> list[str | None]:
    """Where cells run side by side: the ids of GPUs, or None for the CPU.

    Args:
        device: the config's; 'cuda:1' takes the second visible GPU alone.
        jobs: how many at a time; default one a GPU, on the CPU one.
    """
    count = 0 if device == "cpu" else machine.gpu_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    gpus = visible.split(",")[:count] or [None]
    if count and device.startswith("cuda:"):
        gpus = [gpus[int(device.removeprefix("cuda:"))]]
    return [gpus[i % len(gpus)] for i in range(jobs or len(gpus))]


def run_jobs(
    grid: Grid,
    cells: Sequence[Cell],
    command: Sequence[str],
    slots: Sequence[str | None],
    signals: Sequence[int],
    keep_weights: bool = False,
) -> None:
    """Run `cells`, as many side by side as there are `slots`; a line for each that ends.

    Args:
        command: what runs a cell, before its flags: Python and `finetune`.
        signals: those that have come, of `noted_signals`. After one no new cell starts; those
            running are passed each of them, and save and end.
    """
    for cell in existing_cells(grid):
        if read_cell(grid, cell)["status"] == "done":
            tidy(grid.path(cell))  # what a crash may have left
    command = [*command, "--config_file", str(grid.folder / "config.py")]
    waiting, running, passed_on = list(cells), {}, 0
    bar = progress("cells", total=len(cells), unit="cell")
    try:
        while running or (waiting and not signals):
            for slot, gpu in enumerate(slots):
                if slot not in running and waiting and not signals:
                    running[slot] = start(grid, waiting.pop(0), command, gpu, len(slots))
            time.sleep(POLL)
            bar.refresh()  # its clock, as cells take minutes
            for number in signals[passed_on:]:
                # A Windows console tells the cells itself, and there any signal ends a process.
                for job in running.values() if os.name == "posix" else ():
                    job.process.send_signal(PASSED_ON[number])
                passed_on += 1
            ended = [slot for slot, job in running.items() if job.process.poll() is not None]
            for job in [running.pop(slot) for slot in ended]:
                text = finish(grid, job, bool(signals), keep_weights)
                bar.update()
                remaining = [*waiting, *(job.cell for job in running.values())]
                seconds = expected_seconds(grid, remaining)
                if seconds and not signals:
                    text += f"; about {format_duration(seconds / len(slots))} left"
                print_line(f"[{len(cells) - len(remaining)} of {len(cells)}] {job.cell}: {text}")
    finally:  # only after an error of our own is any left
        bar.close()
        for job in running.values():
            job.process.terminate()
        for job in running.values():
            job.process.wait()


def start(
    grid: Grid, cell: Cell, command: Sequence[str], gpu: str | None, side_by_side: int
) -> Job:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    # This package, also where it is not installed.
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    if side_by_side > 1:
        cores = machine.cores()
        # Each would take all of them, and threads that wait for a core slow a step many times over.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // side_by_side)))
    init = grid.known_inits[cell.init]
    if weights_hash(cell.init, init["spec"]) != init["sha256"]:
        raise UserError(f"--init {cell.init}={init['spec']}: changed while the grid ran")
    scoring = read_cell(grid, cell)["status"] == "unscored"
    folder = make_folder(grid.path(cell), "--output")
    with open(folder / "output.txt", "ab") as file:
        offset = file.tell()
        process = subprocess.Popen(
            [*command, *arguments(grid, cell, scoring, gpu)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=grid.lock,
        )
        return Job(cell, scoring, process, time.monotonic(), offset)


def finish(grid: Grid, job: Job, stopping: bool, keep_weights: bool) -> str:
    """Write cell.json of the cell whose process has ended; return what to say of it."""
    cell, folder, code = job.cell, grid.path(job.cell), job.process.returncode
    old_record, results = (read_json(folder / f"{name}.json") for name in ("cell", "results"))
    seconds = time.monotonic() - job.started
    duration = format_duration(seconds)
    good = code == 0 and bool(results)
    error = "" if good or stopping else error_line(folder / "output.txt", job.offset, code)
    record = {"version": 1, **asdict(cell), "status": "done", "returncode": code, "error": error}
    record |= {"tiles": grid.labelled_tiles(cell.fraction), "steps": grid.steps}
    record |= {"seconds": old_record.get("seconds", 0) + seconds, "val": old_record.get("val")}
    if not good:
        is_trained = job.scoring and (folder / "best.pth").exists()
        record["status"] = "unscored" if is_trained else "stopped" if stopping else "failed"
    elif cell.lr is not None and not job.scoring:
        record["val"] = {  # scoring on the test tiles writes another results.json
            protocol: {metric: scores.get(metric) for metric in METRICS}
            for protocol, scores in results["protocols"].items()
        }
    write_text(folder / "cell.json", json.dumps(record, indent=2) + "\n")
    if stopping and not good:
        return f"stopped after {duration}"
    if not good:
        return f"FAILED after {duration}: {error} (see {folder / 'output.txt'})"
    tidy(folder)
    if not keep_weights and (cell.lr is None or job.scoring):
        (folder / "best.pth").unlink(missing_ok=True)
    miou = main_miou(results["protocols"])
    score = "none" if miou is None else f"{100 * miou:.2f} %"
    return f"{results['split']} mIoU {score}, {duration}"


def tidy(folder: Path) -> None:
    """Remove from a finished cell's folder what only going on needs."""
    for file in [folder / "latest.pth", *folder.glob("epoch_*.pth")]:
        file.unlink(missing_ok=True)
    for name in (LABELLER, "labels"):  # its record and picture are for the report
        shutil.rmtree(folder / PSEUDO_LABELS / name, ignore_errors=True)


def error_line(output: Path, offset: int, code: int) -> str:
    """What the process said last: its 'error: ' line, or the end of a traceback."""
    if code < 0:
        memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{memory}"
    text = output.read_bytes()[offset:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["said nothing"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    message = (errors or lines)[-1]
    return message if code else f"wrote no results.json; {message}"


def rehearsed_seconds(
    grid: Grid, cell: Cell, command: Sequence[str], config_arguments: Sequence[str]
) -> float:
    """Seconds that starting a cell and its steps take, by a rehearsal, which writes nothing.

    Raises:
        UserError: what the rehearsal was refused for.
    """
    start_time = time.monotonic()
    flags = [*config_arguments, *arguments(grid, cell, False, None), "--dry_run"]
    result = subprocess.run([*command, *flags], capture_output=True, text=True)
    match = re.search(r"one step: ([\d.]+) s", result.stdout)
    if result.returncode or match is None:
        lines = result.stderr.strip().splitlines() or ["said nothing"]
        raise UserError(f"{cell}: {lines[-1].removeprefix('error: ')}")
    return time.monotonic() - start_time + float(match[1]) * grid.steps


def format_duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
