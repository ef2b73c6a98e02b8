"""A grid from its plan to its report: the cells, the choice of learning rates, what came of it."""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path

from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json
from SSLRemoteSensing.workflows.label_efficiency.cells import existing_cells, remaining_cells
from SSLRemoteSensing.workflows.label_efficiency.grid import Grid, read_grid, write_grid
from SSLRemoteSensing.workflows.label_efficiency.jobs import noted_signals, run_jobs
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
) -> bool:
    """Run the cells that are left, choose rates where they are searched, and write the report.

    Args:
        command, slots, keep_weights: as `run_jobs` has them.
        metric, protocol: the score that the answer and the curves are of.

    Returns:
        Whether all cells have a result.

    Raises:
        UserError: another command is at work in the folder; a file that changed meanwhile.
        KeyboardInterrupt: a signal came; the cells that ran have saved.
    """
    with locked(grid), noted_signals() as signals:
        read_grid(grid)  # as it is now that no other command can change it
        write_grid(grid)
        cells = remaining_cells(grid)
        todo = f"{len(cells)} of {len(grid.cells())} cells to do"
        print(f"{todo}, {len(slots)} at a time", flush=True)
        run_jobs(grid, cells, command, slots, signals, keep_weights)
        remarks = []
        if grid.lrs is not None and not signals:
            remarks = choose_rates(grid, keep_weights) + warnings_of_rates(grid)
            unscored = remaining_cells(grid, ["unscored"])
            run_jobs(grid, unscored, command, slots, signals, keep_weights)
        report(grid, remarks, metric, protocol, final=not signals)
        if signals:
            raise KeyboardInterrupt(signals[0])
        return not remaining_cells(grid)


@contextlib.contextmanager
def locked(grid: Grid) -> Iterator[None]:
    """Keep a second command out of the folder as long as this one, or a cell of it, is running."""
    make_folder(grid.folder, "--output")
    with open(grid.folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            reason = f"no locks here ({error.strerror})"
            if isinstance(error, BlockingIOError):
                reason = "another command, or a cell that it left, is running there"
            raise UserError(f"--output {grid.folder}: {reason}") from error
        grid.lock = file.fileno()
        yield
        grid.lock = None


def report_grid(folder: Path, metric: str, protocol: str | None, against: str | None) -> None:
    """Write the tables, curves and pages of a grid's folder again; no cell is run.

    No data is read: the folder may have come from another machine.

    Raises:
        UserError: damaged files, an initialisation or a protocol that the grid does not have, or a
            command that is at work in the folder.
    """
    record = read_json(folder / "grid.json")
    if not record:
        raise UserError(f"{folder / 'grid.json'}: damaged; restore it")
    config, lrs, tiles = load_config(folder / "config.py"), record["lrs"], record["train_tiles"]
    grid = Grid(folder, config, [], {}, [], [], lrs, tiles, against)
    read_grid(grid)
    cells = existing_cells(grid)
    if not cells:
        raise UserError(f"{folder}: no cell of this grid has run; start it again")
    grid.fractions = sorted({cell.fraction for cell in cells})
    grid.seeds = sorted({cell.seed for cell in cells})
    protocol = choose_protocol(config, protocol)
    with locked(grid):
        remarks = [] if lrs is None else warnings_of_rates(grid)
        report(grid, remarks, metric, protocol, final=True)
