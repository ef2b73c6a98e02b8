"""What a grid says of itself: before it runs, and what came of it."""

import sys
from collections.abc import Sequence

from SSLRemoteSensing.core.console import print_summary, progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.evaluation.scoring import ScoringSettings
from SSLRemoteSensing.reports.grid_report import CellEntry, GridTable, write_grid_report
from SSLRemoteSensing.workflows.label_efficiency.cells import mean_seconds, remaining_jobs, rows_of
from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    METRICS,
    answer_sentence,
    format_percent,
    protocols_of,
)
from SSLRemoteSensing.workflows.label_efficiency.curves import draw_curves
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid
from SSLRemoteSensing.workflows.label_efficiency.runner import format_duration, rehearsed_seconds
from SSLRemoteSensing.workflows.label_efficiency.tables import KEY, csv_text, markdown, score_table


def choose_protocol(config: dict, protocol: str | None) -> str:
    """The protocol of the answer: `protocol`, or the first that the config asks for.

    Raises:
        UserError: one that the config's cells cannot have.
    """
    scoring = ScoringSettings(**config.get("scoring_cfg") or {})
    known = scoring.names(config["classes"])
    if protocol is not None and protocol not in known:
        raise UserError(f"--protocol {protocol}: the cells can have {', '.join(known)}")
    return protocol or ("all" if "all" in known else known[0])


def preview(
    grid: Grid, side_by_side: int, command: Sequence[str], config_arguments: Sequence[str]
) -> None:
    """Print the cells, what is left of them, and how long that will take; write nothing."""
    jobs = remaining_jobs(grid)
    left = {job.cell for job in jobs}
    for cell in grid.cells():
        print(f"{'to do' if cell in left else 'done ':<7}{cell}")
    if not jobs:
        print("nothing is left to do")
        return
    each, basis = mean_seconds(grid), "the mean of the finished cells"
    if each is not None:
        seconds = len(jobs) * each
    else:  # a cell of each initialisation, so that one that does not fit is known now
        cells = {job.cell.init: job.cell for job in jobs}
        bar = progress("rehearsing", cells.items(), unit="cell")
        each = {i: rehearsed_seconds(grid, c, command, config_arguments) for i, c in bar}
        seconds = sum(each[job.cell.init] for job in jobs)
        basis = "a rehearsal on this machine; validation and scoring come on top"
    print(
        f"{len(jobs)} cells of {grid.steps} steps, {side_by_side} at a time: about "
        f"{format_duration(seconds / side_by_side)}, from {basis}. Nothing is written."
    )


def report(grid: Grid, remarks: Sequence[str], metric: str, protocol: str, final: bool) -> None:
    """Write the tables, and at the end the curves; print the answer."""
    rows = rows_of(grid)
    write_text(grid.folder / "table.csv", csv_text(rows))
    remarks = [*warnings_of(grid, rows), *remarks]
    known = protocols_of(rows)
    if known and protocol not in known:
        remarks.append(f"warning: no result has the protocol {protocol}; this is of {known[0]}")
        protocol = known[0]
    told = [*answer_sentence(rows, grid.baseline, metric, protocol), *remarks]
    title = f"{grid.config['name']}, {METRICS[metric]}, protocol {protocol}"
    facts = [f"Config {grid.config['name']}, kept in config.py.", *describe(grid)]
    write_text(grid.folder / "table.md", markdown(title, told, facts, rows, grid.baseline))
    if not final:
        return
    print("\n".join(["", *told, ""]))
    files = {"results": grid.folder / "table.md", "figures": grid.folder / "table.csv"}
    if known:
        head = f"{grid.config['name']}, {grid.split} tiles"
        draw_curves(rows, grid.baseline, metric, protocol, head, grid.folder / "curves.png")
        files["curves"] = grid.folder / "curves.png"
    write_index(grid, rows, title, told, facts, metric, protocol)
    print_summary(files | {"report": grid.folder / "report.html"})
    left = len(remaining_jobs(grid))
    if left:
        cells = "1 cell" if left == 1 else f"{left} cells"
        print(f"{cells} without a result; the same command tries again", file=sys.stderr)


def write_index(
    grid: Grid, rows: Sequence[dict], title: str, told: Sequence[str], facts: Sequence[str],
    metric: str, protocol: str,
) -> None:  # fmt: skip
    """Write report.html: the answer, curves, tables, and a link to each cell's own report."""
    known = protocols_of(rows)
    asked = [(protocol, metric)] if known else []
    asked += [(p, m) for p in known for m in METRICS if (p, m) != (protocol, metric)]
    tables = [
        GridTable(
            f"{METRICS[m]} in %, protocol {p}", score_table(rows, grid.baseline, m, p), p
        )
        for p, m in asked
        if not (p.startswith("mean_of_foreground") and m in ("oa", "kappa"))
    ]  # fmt: skip
    cells = []
    for row in rows:
        cell = Cell(row["init"], row["fraction"], row["seed"], row["lr"])
        score = row["protocols"].get(protocol, {}).get(metric)
        entry = CellEntry(str(cell), grid.path(cell), row["status"], score, row["error"])
        cells.append(entry)
    head = f"{METRICS[metric]} in %, protocol {protocol}"
    write_grid_report(grid.folder, title, told, facts, KEY, tables, cells, head)


def describe(grid: Grid) -> list[str]:
    """What is run and how it is compared, a sentence or some an entry."""
    told = [
        f"{grid.steps} steps in every cell, whatever its fraction, of {grid.per_step} tiles each."
    ]
    kept = {fraction: grid.kept(fraction) for fraction in grid.fractions}
    counts = (f"{format_percent(f)} = {n} ({grid.draws / n:.3g} passes)" for f, n in kept.items())
    told.append(f"Tiles with labels, of {grid.tiles} train tiles: {', '.join(counts)}.")
    none = [format_percent(f) for f in grid.fractions if round(f * grid.tiles) == 0]
    if none:
        told.append(f"{' and '.join(none)} would be less than one tile: at least one is kept.")
    for count in sorted({count for count in kept.values() if list(kept.values()).count(count) > 1}):
        same = " and ".join(
            format_percent(f) for f, kept_there in kept.items() if kept_there == count
        )
        told.append(f"{same} keep the same number of tiles: their cells are the same.")
    for name, entry in grid.known_inits.items():
        of_file = f" (SHA-256 {entry['sha256'][:12]}...)" if entry["sha256"] else ""
        own = f", with {' '.join(entry['set'])}" if entry["set"] else ""
        told.append(f"Initialisation {name}: {entry['spec']}{of_file}{own}.")
    if grid.split == "test":
        told.append(
            f"Scores are of test, by the checkpoint that was best on validation, of "
            f"{validations(grid)} a cell. Validation has all its labels at every fraction."
        )
    else:
        told.append(
            "Scores are of the validation tiles, which also chose the checkpoint, and so a little "
            "too high: the config has no test_data."
        )
    if grid.lrs is not None:
        told.append(
            f"Learning rates searched: {', '.join(f'{lr:g}' for lr in grid.lrs)}. For each "
            f"initialisation and fraction the one with the highest mean mIoU on validation over "
            f"the seeds is chosen; test tiles are read after that, for the chosen cells only."
        )
    told.append(
        "± is half the 95 % interval of a mean over seeds (Student's t). Differences are taken "
        "seed by seed; those of two fractions share the decoder's start, not the tiles. Each "
        "interval is 95 % by itself: of twenty, one misses by chance. They cover the draw of tiles "
        "and the fine-tuning, not another pre-training or other test scenes. A deficit that cannot "
        "be told from 0 may still be there."
    )
    return told


def warnings_of(grid: Grid, rows: Sequence[dict]) -> list[str]:
    """What keeps the grid from telling what it is meant to tell."""
    told = []
    most = max(grid.fractions)
    if grid.draws < grid.kept(most):
        told.append(
            f"warning: {grid.steps} steps see {grid.draws} of the {grid.kept(most)} tiles that "
            f"{format_percent(most)} of the labels are, and none twice: what so many labels are "
            f"worth does not show; set more steps"
        )
    commits = {row["commit"] for row in rows if row["commit"]}
    devices = {row["device"] for row in rows if row["device"]}
    if len(commits) > 1:
        told.append(f"warning: the cells are of several versions of the code: {listing(commits)}")
    if len(devices) > 1:
        told.append(f"warning: the cells ran on several devices: {listing(devices)}")
    return told


def listing(names: set[str]) -> str:
    return ", ".join(sorted(names))


def validations(grid: Grid) -> str:
    """How often a cell is validated, and so has a checkpoint to choose."""
    every = grid.config["train_cfg"]["checkpoints"].get("save_step", 1)
    every *= grid.tiles // grid.per_step
    count = -(-grid.steps // every)
    return "the only one" if count == 1 else str(count)
