"""What a grid says of itself: before it runs, and what came of it."""

import sys
from collections.abc import Sequence

from SSLRemoteSensing.core.console import print_summary, progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
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

INTERVALS = (
    "± is half the 95 % interval of a mean over seeds (Student's t). Differences are taken seed by "
    "seed; those of two fractions share the decoder's start, not the tiles. Each interval is 95 % "
    "by itself: of twenty, one misses by chance. They cover the draw of tiles and the fine-tuning, "
    "not another pre-training or other test scenes. A deficit that cannot be told from 0 may still "
    "be there."
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
    jobs = remaining_jobs(grid)
    remaining_cells = {job.cell for job in jobs}
    for cell in grid.cells():
        print(f"{'to do' if cell in remaining_cells else 'done ':<7}{cell}")
    if not jobs:
        print("nothing is left to do")
        return
    mean, basis = mean_seconds(grid), "the mean of the finished cells"
    seconds = dict.fromkeys(grid.inits, mean)
    if mean is None:  # a cell of each initialisation, so that one that does not fit is known now
        bar = progress("rehearsing", {job.cell.init: job.cell for job in jobs}.items(), unit="cell")
        for init, cell in bar:
            seconds[init] = rehearsed_seconds(grid, cell, command, config_arguments)
        basis = "a rehearsal on this machine; validation and scoring come on top"
    duration = format_duration(sum(seconds[job.cell.init] for job in jobs) / side_by_side)
    print(
        f"{len(jobs)} cells of {grid.steps} steps, {side_by_side} at a time: about {duration}, "
        f"from {basis}. Nothing is written."
    )


def report(grid: Grid, remarks: Sequence[str], metric: str, protocol: str, final: bool) -> None:
    """Write the tables, and at the end curves and page; print the answer."""
    rows, folder, name = rows_of(grid), grid.folder, grid.config["name"]
    write_text(folder / "table.csv", csv_text(rows))
    remarks = [*warnings_of(grid, rows), *remarks]
    protocols = protocols_of(rows)
    if protocols and protocol not in protocols:
        remarks.append(f"warning: no result has the protocol {protocol}; this is of {protocols[0]}")
        protocol = protocols[0]
    answer = [answer_sentence(rows, grid.baseline, metric, protocol), *remarks]
    title = f"{name}, {METRICS[metric]}, protocol {protocol}"
    facts = [f"Config {name}, kept in config.py.", *describe(grid)]
    write_text(folder / "table.md", markdown(title, answer, facts, rows, grid.baseline))
    if not final:
        return
    print("\n".join(["", *answer, ""]))
    files = {"results": folder / "table.md", "figures": folder / "table.csv"}
    if protocols:
        files["curves"] = folder / "curves.png"
        head = f"{name}, {grid.split} tiles"
        draw_curves(rows, grid.baseline, metric, protocol, head, files["curves"])
    cells = []
    for row in rows:
        cell = Cell.of(row)
        score = row["protocols"].get(protocol, {}).get(metric)
        status = f"{row['status']} {row['error']}".strip()
        cells.append(CellEntry(str(cell), grid.path(cell), status, score))
    tables = score_tables(rows, grid.baseline, metric, protocol)
    head = f"{METRICS[metric]} in %, protocol {protocol}"
    write_grid_report(folder, title, answer, facts, KEY, tables, cells, head)
    print_summary(files | {"report": folder / "report.html"})
    missing = len(remaining_jobs(grid))
    if missing:
        cell_text = "1 cell" if missing == 1 else f"{missing} cells"
        print(f"{cell_text} without a result; the same command tries again", file=sys.stderr)


def score_tables(
    rows: Sequence[dict], baseline: str | None, metric: str, protocol: str
) -> list[GridTable]:
    """The table of each protocol and metric, first that of the answer."""
    pairs = [(name, key) for name in protocols_of(rows) for key in METRICS]
    pairs.sort(key=lambda pair: pair != (protocol, metric))
    tables = []
    for name, key in pairs:
        if not (name.startswith("mean_of_foreground") and key in ("oa", "kappa")):
            head, *texts = score_table(rows, baseline, key, name)
            tables.append(GridTable(f"{METRICS[key]} in %, protocol {name}", head, texts, name))
    return tables


def describe(grid: Grid) -> list[str]:
    """What is run and how it is compared, a sentence or some an entry."""
    tiles = {format_percent(fraction): grid.labelled_tiles(fraction) for fraction in grid.fractions}
    passes = ", ".join(
        f"{share} = {count} ({grid.draws / count:.3g} passes)" for share, count in tiles.items()
    )
    sentences = [
        f"{grid.steps} steps in every cell, whatever its fraction, of {grid.per_step} tiles each.",
        f"Tiles with labels, of {grid.tiles} train tiles: {passes}.",
    ]
    empty = [format_percent(part) for part in grid.fractions if round(part * grid.tiles) == 0]
    if empty:
        sentences.append(
            f"{' and '.join(empty)} would be less than one tile: at least one is kept."
        )
    for count in sorted(set(tiles.values())):
        shares = [share for share in tiles if tiles[share] == count]
        if len(shares) > 1:
            sentences.append(
                f"{' and '.join(shares)} keep the same number of tiles: their cells are the same."
            )
    for name, entry in grid.known_inits.items():
        hash_text = f" (SHA-256 {entry['sha256'][:12]}...)" if entry["sha256"] else ""
        settings = f", with {' '.join(entry['set'])}" if entry["set"] else ""
        sentences.append(f"Initialisation {name}: {entry['spec']}{hash_text}{settings}.")
    if grid.split == "test":
        interval = grid.config["train_cfg"]["checkpoints"].get("save_step", 1)
        count = -(-grid.steps // (interval * (grid.tiles // grid.per_step)))
        sentences.append(
            f"Scores are of test, by the checkpoint that was best on validation, of "
            f"{'the only one' if count == 1 else count} a cell. Validation has all its labels at "
            f"every fraction."
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
    return [*sentences, INTERVALS]


def warnings_of(grid: Grid, rows: Sequence[dict]) -> list[str]:
    """What keeps the grid from telling what it is meant to tell."""
    warnings = []
    largest = max(grid.fractions)
    tiles = grid.labelled_tiles(largest)
    if grid.draws < tiles:
        warnings.append(
            f"warning: {grid.steps} steps see {grid.draws} of the {tiles} tiles that "
            f"{format_percent(largest)} of the labels are, and none twice: what so many labels are "
            f"worth does not show; set more steps"
        )
    for key, text in (
        ("commit", "the cells are of several versions of the code"),
        ("device", "the cells ran on several devices"),
    ):
        names = sorted({row[key] for row in rows if row[key]})
        if len(names) > 1:
            warnings.append(f"warning: {text}: {', '.join(names)}")
    return warnings
