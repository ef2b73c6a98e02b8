"""A grid from its plan to its report: the cells, the choice of learning rates, what came of it.

Where learning rates are searched, the cells are trained and scored without test tiles. The rate
with the highest mean mIoU on validation is chosen for each initialisation and fraction, by one rule
for all, and only the chosen cells are then scored on the test tiles, once.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from SSLRemoteSensing.core import locks
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json
from SSLRemoteSensing.workflows.label_efficiency.cells import (
    existing_cells,
    main_miou,
    read_cell,
    remaining_cells,
)
from SSLRemoteSensing.workflows.label_efficiency.comparison import format_percent
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid, read_grid, write_grid
from SSLRemoteSensing.workflows.label_efficiency.jobs import noted_signals, run_jobs
from SSLRemoteSensing.workflows.label_efficiency.report import choose_protocol, report

DIVERGED = "not finite"  # in the error of a run whose learning rate was too high
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
            remarks = choose_rates(grid, keep_weights)
            unscored = remaining_cells(grid, ["unscored"])
            run_jobs(grid, unscored, command, slots, signals, keep_weights)
        report(grid, remarks, metric, protocol, final=not signals)
        if signals:
            raise KeyboardInterrupt(signals[0])
        return not remaining_cells(grid)


def choose_rates(grid: Grid, keep_weights: bool = False) -> list[str]:
    """Choose a learning rate for each (init, fraction) whose search is complete; what to say of it.

    The highest mean mIoU (protocol `all`) on validation over the seeds; of equal ones the smaller
    rate. A rate at which a cell diverged is out. Where a cell failed otherwise nothing is chosen:
    it runs again with the next call. A choice stands: test tiles are seen after it.
    """
    remarks = []
    for fraction, init in product(grid.fractions, grid.inits):
        if (init, fraction) in grid.chosen:
            continue
        means = mean_by_rate(grid, init, fraction)
        if means:
            grid.chosen[init, fraction] = max(means, key=lambda lr: (means[lr], -lr))
        else:
            reason = (
                "not all its cells have ended" if means is None else "training diverged with each"
            )
            place = f"{init}, {format_percent(fraction)}"
            remarks.append(f"{place}: no learning rate is chosen, {reason}")
    write_grid(grid)
    for cell in [] if keep_weights else existing_cells(grid):
        is_needed = grid.is_chosen(cell) and grid.split == "test"
        if (cell.init, cell.fraction) in grid.chosen and not is_needed:
            (grid.path(cell) / "best.pth").unlink(missing_ok=True)
    return remarks


def mean_by_rate(grid: Grid, init: str, fraction: float) -> dict[float, float] | None:
    """Mean mIoU on validation of each rate none of whose cells diverged; None if not all ended."""
    places = {(cell.init, cell.fraction, cell.seed) for cell in existing_cells(grid)}
    # Also the seeds of earlier calls: a choice must not rest on those that happen to be asked for.
    seeds = {seed for *place, seed in places if place == [init, fraction]} | {*grid.seeds}
    means = {}
    for lr in grid.lrs:
        values = []
        for seed in sorted(seeds):
            record = read_cell(grid, Cell(init, fraction, seed, lr))
            if record["status"] == "done":
                values.append(main_miou(record.get("val") or {}))
            else:
                values.append(math.nan if DIVERGED in record.get("error", "") else None)
        if None in values:
            return None
        means[lr] = math.fsum(values) / len(values)
    return {lr: mean for lr, mean in means.items() if not math.isnan(mean)}


@contextlib.contextmanager
def locked(grid: Grid) -> Iterator[None]:
    """Keep a second command out of the folder as long as this one, or a cell of it, is running."""
    make_folder(grid.folder, "--output")
    try:
        unlock, grid.lock = locks.take_shared(grid.folder / ".lock")
    except (OSError, locks.Taken) as error:
        reason = f"cannot be locked ({getattr(error, 'strerror', error)})"
        if isinstance(error, locks.Taken):
            reason = "another command, or a cell that it left, is running there"
        raise UserError(f"--output {grid.folder}: {reason}") from error
    try:
        yield
    finally:
        grid.lock = []
        unlock()


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
        report(grid, [], metric, protocol, final=True)
