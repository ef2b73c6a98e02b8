"""The learning rate of each initialisation and fraction, chosen on validation, test unseen.

The cells are trained and scored without test tiles. The rate with the highest mean mIoU on
validation is chosen, by one rule for all initialisations, and only the chosen cells are then scored
on the test tiles, once.
"""

import math
from itertools import product

from SSLRemoteSensing.workflows.label_efficiency.cells import existing_cells, main_miou, read_cell
from SSLRemoteSensing.workflows.label_efficiency.comparison import format_percent
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid, write_grid

DIVERGED = "not finite"  # in the error of a run whose learning rate was too high


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


def warnings_of_rates(grid: Grid) -> list[str]:
    """Name the choices at an end of the list, beyond which there may be a better rate."""
    at_ends = {}
    for (init, fraction), lr in grid.chosen.items():
        if lr in (grid.lrs[0], grid.lrs[-1]):
            at_ends.setdefault((init, lr), []).append(fraction)
    return [
        f"warning: the learning rate chosen for {init} at "
        f"{', '.join(map(format_percent, sorted(fractions)))} is {lr:g}, at the "
        f"{'lower' if lr == grid.lrs[0] else 'upper'} end of the list; a better one may lie "
        f"beyond (another list of --lrs needs another --output)"
        for (init, lr), fractions in at_ends.items()
    ]
