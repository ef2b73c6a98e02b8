"""A grid from its plan to its report: the cells, the choice of learning rates, what came of it."""

from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.workflows.label_efficiency.cells import existing_cells, remaining_jobs
from SSLRemoteSensing.workflows.label_efficiency.grid import (
    Grid,
    locked,
    read_grid,
    steps_of,
    write_grid,
)
from SSLRemoteSensing.workflows.label_efficiency.jobs import run_jobs, stop_signals
from SSLRemoteSensing.workflows.label_efficiency.rates import choose_rates, warnings_of_rates
from SSLRemoteSensing.workflows.label_efficiency.report import choose_protocol, report

ENOUGH = 5  # seeds: Student's factor falls from 12.7 of two and 4.3 of three to 2.8


def run_grid(
    grid: Grid,
    command: Sequence[str],
    slots: Sequence[str | None],
    metric: str,
    protocol: str,
    keep_weights: bool = False,
) -> tuple[int | None, bool]:
    """Run the cells that are left, choose rates where they are searched, and write the report.

    Args:
        command, slots, keep_weights: as `run_jobs` has them.
        metric, protocol: the score that the answer and the curves are of.

    Returns:
        The signal that stopped it or None, and whether a cell has no result.

    Raises:
        UserError: another command is at work in the folder; a file that changed meanwhile.
    """
    with locked(grid), stop_signals() as stop:
        read_grid(grid)  # as it is now that no other command can change it
        write_grid(grid)
        jobs = remaining_jobs(grid)
        print(f"{len(jobs)} of {len(grid.cells())} cells to do, {len(slots)} at a time", flush=True)
        run_jobs(grid, jobs, command, slots, stop, keep_weights)
        remarks = []
        if grid.lrs is not None and not stop.received:
            remarks = choose_rates(grid, keep_weights) + warnings_of_rates(grid)
            scoring = [job for job in remaining_jobs(grid) if job.scoring]
            run_jobs(grid, scoring, command, slots, stop, keep_weights)
        report(grid, remarks, metric, protocol, final=not stop.received)
        failed = bool(remaining_jobs(grid))
    return (stop.received[0] if stop.received else None), failed


def open_grid(folder: Path, against: str | None = None) -> Grid:
    """The grid of a folder as far as its cells have run; it asks for no other.

    No data is read: the folder may have come from another machine.

    Raises:
        UserError: damaged files, or an initialisation that the grid does not have.
    """
    record = read_json(folder / "grid.json")
    if not record:
        raise UserError(f"{folder / 'grid.json'}: damaged; restore it")
    config = load_config(folder / "config.py")
    tiles = record["train_tiles"]
    grid = Grid(
        folder, config, {}, {}, [], [], record["lrs"], tiles, steps_of(config["train_cfg"], tiles),
        {}, against,
    )  # fmt: skip
    read_grid(grid)
    cells = existing_cells(grid)
    grid.fractions = sorted({cell.fraction for cell in cells})
    grid.seeds = sorted({cell.seed for cell in cells})
    if against is not None and against not in grid.known_inits:
        names = ", ".join(grid.known_inits)
        raise UserError(f"--against {against}: is no initialisation of the grid ({names})")
    if not cells:
        raise UserError(f"{folder}: no cell of this grid has run; start it again")
    return grid


def report_grid(folder: Path, metric: str, protocol: str | None, against: str | None) -> None:
    """Write the tables, curves and pages of a grid's folder again; no cell is run.

    Raises:
        UserError: as `open_grid`, or a command that is at work in the folder.
    """
    grid = open_grid(folder, against)
    protocol = choose_protocol(grid.config, protocol)
    with locked(grid):
        remarks = [] if grid.lrs is None else warnings_of_rates(grid)
        report(grid, remarks, metric, protocol, final=True)


def with_seeds(words: Sequence[str], count: int) -> list[str]:
    """The words of a command with its first `count` seeds in place of those that it names."""
    remaining, dropping = [], False
    for word in words:
        dropping = word == "--seeds" or (dropping and not word.startswith("-"))
        if not dropping:
            remaining.append(word)
    return [*remaining, "--seeds", *map(str, range(count))]
