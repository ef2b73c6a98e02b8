"""Run cells of a grid as processes, side by side, and note how each ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from SSLRemoteSensing.core.console import print_line, progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json, write_text
from SSLRemoteSensing.workflows.label_efficiency.cells import (
    CellJob,
    arguments,
    existing_cells,
    main_miou,
    mean_seconds,
    read_cell,
)
from SSLRemoteSensing.workflows.label_efficiency.comparison import METRICS
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid

# A signal to a whole process group or job reaches the cells too, and a second one of a kind ends
# them without saving: what is passed on is therefore of the other kind.
PASSED_ON = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGINT}
POLL = 0.1  # seconds between two looks at the processes


@dataclass
class Running:
    job: CellJob
    process: subprocess.Popen
    started: float
    offset: int  # of output.txt, where this process began to write


@dataclass
class Stop:
    """The signals received so far, and the processes that they are passed on to."""

    received: list[int] = field(default_factory=list)
    running: dict[int, Running] = field(default_factory=dict)

    def note(self, number: int, frame) -> None:
        self.received.append(number)
        for cell_run in list(self.running.values()):
            cell_run.process.send_signal(PASSED_ON[number])


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """A `Stop` that SIGINT and SIGTERM go to; a second one of a kind reaches the cells as well."""
    stop = Stop()
    old_handlers = {number: signal.signal(number, stop.note) for number in PASSED_ON}
    try:
        yield stop
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def slots_for(device: str, jobs: int | None) -> list[str | None]:
    """Where cells run side by side: the ids of GPUs, or None for the CPU.

    Args:
        device: the config's; 'cuda:1' takes the second visible GPU alone.
        jobs: how many at a time; default one a GPU, on the CPU one.
    """
    count = torch.cuda.device_count() if device != "cpu" else 0
    if count == 0:
        return [None] * (jobs or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
    if device.startswith("cuda:"):
        gpus = [gpus[int(device.removeprefix("cuda:"))]]
    return [gpus[i % len(gpus)] for i in range(jobs or len(gpus))]


def run_jobs(
    grid: Grid,
    jobs: Sequence[CellJob],
    command: Sequence[str],
    slots: Sequence[str | None],
    stop: Stop,
    keep_weights: bool = False,
) -> None:
    """Run `jobs`, as many side by side as there are `slots`; a line for each that ends.

    After a signal no new one starts, and those running save and end.

    Args:
        command: what runs a cell, before its flags: Python and `finetune`.
    """
    for cell in existing_cells(grid):
        if read_cell(grid, cell)["status"] == "done":
            tidy(grid.path(cell))  # what a crash may have left
    command = [*command, "--config_file", str(grid.folder / "config.py")]
    files = {name: stamp(spec) for name, spec in grid.inits.items()}
    waiting_jobs, ended_count = list(jobs), 0
    bar = progress("cells", total=len(jobs), unit="cell")
    try:
        while stop.running or (waiting_jobs and not stop.received):
            for number, gpu in enumerate(slots):
                if number not in stop.running and waiting_jobs and not stop.received:
                    job = waiting_jobs.pop(0)
                    name, spec = job.cell.init, grid.inits[job.cell.init]
                    if stamp(spec) != files[name]:
                        raise UserError(f"--init {name}={spec}: changed while the grid ran")
                    stop.running[number] = start(grid, job, command, gpu, len(slots))
                    if stop.received:  # while it started; the others were told
                        stop.running[number].process.terminate()
            time.sleep(POLL)
            bar.refresh()  # its clock, as cells take minutes
            for number, cell_run in list(stop.running.items()):
                code = cell_run.process.poll()
                if code is not None:
                    del stop.running[number]
                    text = finish(grid, cell_run, code, bool(stop.received), keep_weights)
                    ended_count += 1
                    remaining = len(waiting_jobs) + len(stop.running)
                    bar.update()
                    seconds = mean_seconds(grid)
                    has_estimate = bool(remaining and seconds and not stop.received)
                    estimate = (
                        f"; about {format_duration(remaining * seconds / len(slots))} left"
                        if has_estimate
                        else ""
                    )
                    print_line(
                        f"[{ended_count} of {len(jobs)}] {cell_run.job.cell}: {text}{estimate}"
                    )
    finally:  # only after an error of our own is any left
        bar.close()
        for cell_run in stop.running.values():
            cell_run.process.terminate()
        for cell_run in stop.running.values():
            cell_run.process.wait()


def stamp(spec: str) -> tuple[int, int] | None:
    """What changes with a file; None where `spec` names none."""
    if not os.path.isfile(spec):
        return None
    status = os.stat(spec)
    return status.st_size, status.st_mtime_ns


def start(
    grid: Grid, job: CellJob, command: Sequence[str], gpu: str | None, side_by_side: int
) -> Running:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # This package, also where it is not installed.
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    if side_by_side > 1:
        cores = len(os.sched_getaffinity(0))
        # Each would take all of them, and threads that wait for a core slow a step many times over.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // side_by_side)))
    output = grid.path(job.cell) / "output.txt"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        file = open(output, "ab")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error
    with file:
        offset = file.tell()
        process = subprocess.Popen(
            [*command, *arguments(grid, job, gpu)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
            pass_fds=[] if grid.lock is None else [grid.lock],
        )  # fmt: skip
    return Running(job, process, time.monotonic(), offset)


def finish(grid: Grid, cell_run: Running, code: int, stopping: bool, keep_weights: bool) -> str:
    """Write cell.json of the cell whose process ended with `code`; return what to say of it."""
    cell, folder = cell_run.job.cell, grid.path(cell_run.job.cell)
    old_record = read_json(folder / "cell.json")
    seconds = time.monotonic() - cell_run.started
    results = read_json(folder / "results.json")
    good = code == 0 and bool(results)
    error = "" if good else error_line(folder / "output.txt", cell_run.offset, code)
    record = {"version": 1, **asdict(cell), "status": "done", "returncode": code, "error": error}
    record |= {"tiles": grid.labelled_tiles(cell.fraction), "steps": grid.steps}
    record |= {"seconds": old_record.get("seconds", 0) + seconds, "val": old_record.get("val")}
    if not good and stopping:
        record |= {"status": "stopped", "error": ""}
    elif not good:
        record["status"] = "failed"
    elif cell.lr is not None and not cell_run.job.scoring:
        record["val"] = {  # scoring on the test tiles writes another results.json
            protocol: {metric: scores.get(metric) for metric in METRICS}
            for protocol, scores in results["protocols"].items()
        }
    if cell_run.job.scoring and not good and (folder / "best.pth").exists():
        record["status"] = "unscored"  # trained it is
    write_text(folder / "cell.json", json.dumps(record, indent=2) + "\n")
    if good:
        tidy(folder)
        if not keep_weights and (cell.lr is None or cell_run.job.scoring):
            (folder / "best.pth").unlink(missing_ok=True)
        miou = main_miou(results["protocols"])
        score = "none" if miou is None else f"{100 * miou:.2f} %"
        return f"{results['split']} mIoU {score}, {format_duration(seconds)}"
    if record["status"] == "stopped":
        return f"stopped after {format_duration(seconds)}"
    return f"FAILED after {format_duration(seconds)}: {error} (see {folder / 'output.txt'})"


def tidy(folder: Path) -> None:
    """Remove from a finished cell's folder what only going on needs."""
    for file in [folder / "latest.pth", *folder.glob("epoch_*.pth")]:
        file.unlink(missing_ok=True)


def error_line(output: Path, offset: int, code: int) -> str:
    """What the process said last: its 'error: ' line, or the end of a traceback."""
    with open(output, "rb") as file:
        file.seek(offset)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if code < 0:
        memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{memory}"
    messages = errors or [line for line in lines if line] or ["said nothing"]
    return f"{messages[-1]}" if code else f"wrote no results.json; {messages[-1]}"


def rehearsed_seconds(
    grid: Grid, cell: Cell, command: Sequence[str], config_arguments: Sequence[str]
) -> float:
    """Seconds that starting a cell and its steps take, by a rehearsal, which writes nothing.

    Raises:
        UserError: what the rehearsal was refused for.
    """
    start_time = time.monotonic()
    flags = [*config_arguments, *arguments(grid, CellJob(cell), None), "--dry_run"]
    result = subprocess.run([*command, *flags], capture_output=True, text=True)
    match = re.search(r"one step: ([\d.]+) s", result.stdout)
    if result.returncode or match is None:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["said nothing"]
        raise UserError(f"{cell}: {lines[-1].removeprefix('error: ')}")
    return time.monotonic() - start_time + float(match[1]) * grid.steps


def format_duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
