"""What a grid says of itself: before it runs, and what came of it."""

import sys
from collections.abc import Sequence

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.templates import render
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
from SSLRemoteSensing.reports.grid_report import CellEntry, GridTable, write_grid_report
from SSLRemoteSensing.workflows.label_efficiency.cells import (
    expected_seconds,
    remaining_cells,
    rows_of,
)
from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    METRICS,
    Results,
    answer_sentence,
    format_percent,
)
from SSLRemoteSensing.workflows.label_efficiency.curves import draw_curves
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid
from SSLRemoteSensing.workflows.label_efficiency.jobs import format_duration, rehearsed_seconds
from SSLRemoteSensing.workflows.label_efficiency.starts import network_size, of_start
from SSLRemoteSensing.workflows.label_efficiency.tables import (
    KEY,
    csv_text,
    markdown,
    network_table,
    score_tables,
)


def choose_protocol(config: dict, protocol: str | None) -> str:
    """The protocol of the answer: `protocol`, or the first that the config asks for.

    Raises:
        UserError: one that the config's cells cannot have.
    """
    scoring = ScoringSettings(**config.get("scoring_cfg") or {})
    protocols = scoring.names(config["classes"])
    if protocol is not None and protocol not in protocols:
        raise UserError(f"--protocol {protocol}: the cells can have {', '.join(protocols)}")
    return protocol or ("all" if "all" in protocols else protocols[0])


def preview(
    grid: Grid, side_by_side: int, command: Sequence[str], config_arguments: Sequence[str]
) -> None:
    """Print the cells, what is left of them, and how long that will take; write nothing."""
    cells = remaining_cells(grid)
    for cell in grid.cells():
        print(f"{'to do' if cell in cells else 'done ':<7}{cell}")
    if not cells:
        print("nothing is left to do")
        return
    seconds, basis = expected_seconds(grid, cells), "the mean of the finished cells"
    if seconds is None:  # a cell of each initialisation, so that one that does not fit is known now
        bar = progress("rehearsing", {cell.init: cell for cell in cells}.items(), unit="cell")
        times = {
            init: rehearsed_seconds(grid, cell, command, config_arguments) for init, cell in bar
        }
        seconds = sum(times[cell.init] for cell in cells)
        basis = "a rehearsal on this machine; validation and scoring come on top"
        configs = [of_start(grid.config, grid.known_inits[init]) for init in times]
        if any(config["train_cfg"].get("unlabelled") for config in configs):
            basis += ", and of unlabelled tiles the training of the network that labels them"
    noun = "cell" if len(cells) == 1 else "cells"
    print(
        f"{len(cells)} {noun} of {grid.steps} steps, {side_by_side} at a time: about "
        f"{format_duration(seconds / side_by_side)}, from {basis}. Nothing is written."
    )


def report(grid: Grid, remarks: Sequence[str], metric: str, protocol: str, final: bool) -> None:
    """Write the tables, and at the end curves and page; print the answer."""
    results, folder, name = Results(rows_of(grid), grid.baseline), grid.folder, grid.config["name"]
    remarks, protocols = [*warnings_of(grid, results.rows), *remarks], results.protocols
    if protocols and protocol not in protocols:
        remarks.append(f"warning: no result has the protocol {protocol}; this is of {protocols[0]}")
        protocol = protocols[0]
    answer = [answer_sentence(results, metric, protocol), *remarks]
    title = f"{name}, {METRICS[metric]}, protocol {protocol}"
    facts = [f"Config {name}, kept in config.py.", *describe(grid)]
    tables = score_tables(results, metric, protocol)
    files = {"results": folder / "table.md", "figures": folder / "table.csv"}
    write_text(files["figures"], csv_text(results.rows))
    sizes = {name: network_size(grid.config, grid.known_inits[name]) for name in results.inits}
    networks = network_table(results, sizes)
    write_text(files["results"], markdown(title, answer, facts, results, tables, networks))
    if not final:
        return
    print("\n".join(["", *answer, ""]))
    if protocols:
        files["curves"] = folder / "curves.png"
        draw_curves(results, metric, protocol, f"{name}, {grid.split} tiles", files["curves"])
    cells = []
    for row in results.rows:
        cell, status = Cell.of(row), f"{row['status']} {row['error']}".strip()
        score = row["protocols"].get(protocol, {}).get(metric)
        cells.append(CellEntry(str(cell), grid.path(cell), status, score))
    head = f"{METRICS[metric]} in %, protocol {protocol}"
    tables.append(GridTable("Networks, with their decoder", networks[0], networks[1:], ""))
    write_grid_report(folder, title, answer, facts, KEY, tables, cells, head)
    print_summary(files | {"report": folder / "report.html"})
    missing = len(remaining_cells(grid))
    if missing:
        noun = "cell" if missing == 1 else "cells"
        print(f"{missing} {noun} without a result; the same command tries again", file=sys.stderr)


def describe(grid: Grid) -> list[str]:
    """What is run and how it is compared, a sentence or some an entry."""
    tiles = {format_percent(part): grid.labelled_tiles(part) for part in grid.fractions}
    interval = grid.config["train_cfg"]["checkpoints"].get("save_step", 1)
    values = {
        "tiles": tiles,
        "passes": [f"{share} = {n} ({grid.draws / n:.3g} passes)" for share, n in tiles.items()],
        "empty": [format_percent(p) for p in grid.fractions if round(p * grid.tiles) == 0],
        "checkpoints": -(-grid.steps // (interval * (grid.tiles // grid.per_step))),
    }
    return render("workflows", "grid_facts.txt", grid=grid, **values).splitlines()


def warnings_of(grid: Grid, rows: Sequence[dict]) -> list[str]:
    """What keeps the grid from telling what it is meant to tell, and choices of learning rates at
    an end of the list, beyond which there may be a better one."""
    at_ends = {}
    for (init, fraction), lr in sorted(grid.chosen.items(), key=lambda choice: choice[0][1]):
        if lr in (grid.lrs[0], grid.lrs[-1]):
            at_ends.setdefault((init, lr), []).append(format_percent(fraction))
    largest = max(grid.fractions)
    values = {"largest": format_percent(largest), "tiles": grid.labelled_tiles(largest)}
    for key in ("commit", "device"):
        values[f"{key}s"] = sorted({row[key] for row in rows if row[key]})
    text = render("workflows", "grid_warnings.txt", grid=grid, at_ends=at_ends, **values)
    return text.splitlines()
