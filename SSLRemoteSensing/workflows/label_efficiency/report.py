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
from SSLRemoteSensing.workflows.label_efficiency.jobs import format_duration, rehearsed_seconds
from SSLRemoteSensing.workflows.label_efficiency.tables import KEY, csv_text, markdown, score_table


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
    jobs = remaining_jobs(grid)
    remaining_cells = {job.cell for job in jobs}
    for cell in grid.cells():
        print(f"{'to do' if cell in remaining_cells else 'done ':<7}{cell}")
    if not jobs:
        print("nothing is left to do")
        return
    cell_seconds, basis = mean_seconds(grid), "the mean of the finished cells"
    if cell_seconds is not None:
        seconds = len(jobs) * cell_seconds
    else:  # a cell of each initialisation, so that one that does not fit is known now
        cells = {job.cell.init: job.cell for job in jobs}
        bar = progress("rehearsing", cells.items(), unit="cell")
        cell_seconds = {
            init: rehearsed_seconds(grid, cell, command, config_arguments) for init, cell in bar
        }
        seconds = sum(cell_seconds[job.cell.init] for job in jobs)
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
    protocols = protocols_of(rows)
    if protocols and protocol not in protocols:
        remarks.append(f"warning: no result has the protocol {protocol}; this is of {protocols[0]}")
        protocol = protocols[0]
    answer = [answer_sentence(rows, grid.baseline, metric, protocol), *remarks]
    title = f"{grid.config['name']}, {METRICS[metric]}, protocol {protocol}"
    facts = [f"Config {grid.config['name']}, kept in config.py.", *describe(grid)]
    write_text(grid.folder / "table.md", markdown(title, answer, facts, rows, grid.baseline))
    if not final:
        return
    print("\n".join(["", *answer, ""]))
    files = {"results": grid.folder / "table.md", "figures": grid.folder / "table.csv"}
    if protocols:
        head = f"{grid.config['name']}, {grid.split} tiles"
        draw_curves(rows, grid.baseline, metric, protocol, head, grid.folder / "curves.png")
        files["curves"] = grid.folder / "curves.png"
    write_index(grid, rows, title, answer, facts, metric, protocol)
    print_summary(files | {"report": grid.folder / "report.html"})
    missing_results = len(remaining_jobs(grid))
    if missing_results:
        cells = "1 cell" if missing_results == 1 else f"{missing_results} cells"
        print(f"{cells} without a result; the same command tries again", file=sys.stderr)


def write_index(
    grid: Grid, rows: Sequence[dict], title: str, answer: Sequence[str], facts: Sequence[str],
    metric: str, protocol: str,
) -> None:  # fmt: skip
    """Write report.html: the answer, curves, tables, and a link to each cell's own report."""
    protocols = protocols_of(rows)
    pairs = [(protocol, metric)] if protocols else []
    pairs += [(p, m) for p in protocols for m in METRICS if (p, m) != (protocol, metric)]
    tables = [
        GridTable(
            f"{METRICS[m]} in %, protocol {p}", score_table(rows, grid.baseline, m, p), p
        )
        for p, m in pairs
        if not (p.startswith("mean_of_foreground") and m in ("oa", "kappa"))
    ]  # fmt: skip
    cells = []
    for row in rows:
        cell = Cell(row["init"], row["fraction"], row["seed"], row["lr"])
        score = row["protocols"].get(protocol, {}).get(metric)
        entry = CellEntry(str(cell), grid.path(cell), row["status"], score, row["error"])
        cells.append(entry)
    head = f"{METRICS[metric]} in %, protocol {protocol}"
    write_grid_report(grid.folder, title, answer, facts, KEY, tables, cells, head)


def describe(grid: Grid) -> list[str]:
    """What is run and how it is compared, a sentence or some an entry."""
    sentences = [
        f"{grid.steps} steps in every cell, whatever its fraction, of {grid.per_step} tiles each."
    ]
    tile_counts = {fraction: grid.labelled_tiles(fraction) for fraction in grid.fractions}
    counts = (
        f"{format_percent(fraction)} = {tiles} ({grid.draws / tiles:.3g} passes)"
        for fraction, tiles in tile_counts.items()
    )
    sentences.append(f"Tiles with labels, of {grid.tiles} train tiles: {', '.join(counts)}.")
    empty_fractions = [
        format_percent(fraction) for fraction in grid.fractions if round(fraction * grid.tiles) == 0
    ]
    if empty_fractions:
        sentences.append(
            f"{' and '.join(empty_fractions)} would be less than one tile: at least one is kept."
        )
    for count in sorted(
        {count for count in tile_counts.values() if list(tile_counts.values()).count(count) > 1}
    ):
        equal_fractions = " and ".join(
            format_percent(fraction) for fraction, tiles in tile_counts.items() if tiles == count
        )
        sentences.append(
            f"{equal_fractions} keep the same number of tiles: their cells are the same."
        )
    for name, entry in grid.known_inits.items():
        hash_text = f" (SHA-256 {entry['sha256'][:12]}...)" if entry["sha256"] else ""
        settings = f", with {' '.join(entry['set'])}" if entry["set"] else ""
        sentences.append(f"Initialisation {name}: {entry['spec']}{hash_text}{settings}.")
    if grid.split == "test":
        sentences.append(
            f"Scores are of test, by the checkpoint that was best on validation, of "
            f"{validations(grid)} a cell. Validation has all its labels at every fraction."
        )
    else:
        sentences.append(
            "Scores are of the validation tiles, which also chose the checkpoint, and so a little "
            "too high: the config has no test_data."
        )
    if grid.lrs is not None:
        sentences.append(
            f"Learning rates searched: {', '.join(f'{lr:g}' for lr in grid.lrs)}. For each "
            f"initialisation and fraction the one with the highest mean mIoU on validation over "
            f"the seeds is chosen; test tiles are read after that, for the chosen cells only."
        )
    sentences.append(
        "± is half the 95 % interval of a mean over seeds (Student's t). Differences are taken "
        "seed by seed; those of two fractions share the decoder's start, not the tiles. Each "
        "interval is 95 % by itself: of twenty, one misses by chance. They cover the draw of tiles "
        "and the fine-tuning, not another pre-training or other test scenes. A deficit that cannot "
        "be told from 0 may still be there."
    )
    return sentences


def warnings_of(grid: Grid, rows: Sequence[dict]) -> list[str]:
    """What keeps the grid from telling what it is meant to tell."""
    warnings = []
    largest = max(grid.fractions)
    if grid.draws < grid.labelled_tiles(largest):
        warnings.append(
            f"warning: {grid.steps} steps see {grid.draws} of the {grid.labelled_tiles(largest)} "
            f"tiles that {format_percent(largest)} of the labels are, and none twice: what so many "
            f"labels are worth does not show; set more steps"
        )
    commits = {row["commit"] for row in rows if row["commit"]}
    devices = {row["device"] for row in rows if row["device"]}
    if len(commits) > 1:
        warnings.append(
            f"warning: the cells are of several versions of the code: {listing(commits)}"
        )
    if len(devices) > 1:
        warnings.append(f"warning: the cells ran on several devices: {listing(devices)}")
    return warnings


def listing(names: set[str]) -> str:
    return ", ".join(sorted(names))


def validations(grid: Grid) -> str:
    """How often a cell is validated, and so has a checkpoint to choose."""
    interval = grid.config["train_cfg"]["checkpoints"].get("save_step", 1)
    interval *= grid.tiles // grid.per_step
    count = -(-grid.steps // interval)
    return "the only one" if count == 1 else str(count)
