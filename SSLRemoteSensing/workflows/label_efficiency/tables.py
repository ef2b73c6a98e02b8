"""The tables of a label-efficiency grid: table.csv, a row a cell; table.md, means and intervals.

Rows are as in `comparison`.
"""

import csv
import io
import itertools
from collections.abc import Sequence

from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    METRICS,
    Interval,
    estimate_interval,
    format_percent,
    fractions_of,
    inits_of,
    paired_gap,
    protocols_of,
    scores_of,
)
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell

KEY = (
    "Means over seeds with half their 95 % intervals; (2 of 3): so many of the seeds have finished."
    " Rows 'a - b' are differences in points, paired by seed, bold where the interval excludes 0."
)


def csv_text(rows: Sequence[dict]) -> str:
    """table.csv: a row a cell, its scores as shares of one."""
    columns = ["init", "fraction", "seed", "lr", "chosen", "status", "error", "tiles", "steps"]
    columns += ["seconds", "split", "val_miou", "commit", "device"]
    entries = []
    for row in rows:
        entry = {key: row[key] for key in columns}
        for name, scores in row["protocols"].items():
            entry |= {f"{name}.{metric}": scores.get(metric) for metric in METRICS}
            for label, class_scores in scores.get("per_class", {}).items():
                entry[f"{name}.iou.{label}"] = class_scores["iou"]
        entries.append(entry)
    file = io.StringIO()
    columns = list(dict.fromkeys([*columns, *(key for entry in entries for key in entry)]))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return file.getvalue()


def markdown(
    title: str,
    answer: Sequence[str],
    facts: Sequence[str],
    rows: Sequence[dict],
    baseline: str | None,
) -> str:
    """table.md: the answer, what was run, then the tables of each protocol and metric."""
    lines = [f"# Label efficiency: {title}", "", *bullets(answer), "## What was run", ""]
    lines += bullets(facts)
    failures = [f"{Cell.of(row)}: {row['error']}" for row in rows if row["error"]]
    if failures:
        lines += ["Cells that failed:", "", *bullets(failures)]
    if any(row["lr"] is not None for row in rows):
        lines += [
            "## Learning rates",
            "",
            "The chosen ones are bold.",
            "",
            *align(rate_table(rows)),
        ]
    lines += ["## Scores", "", KEY, ""]
    for protocol in protocols_of(rows):
        for metric, heading in METRICS.items():
            # That protocol changes means over classes alone: these two are those of `all`.
            if not (protocol.startswith("mean_of_foreground") and metric in ("oa", "kappa")):
                lines += [f"### {heading} in %, protocol `{protocol}`", ""]
                lines += align(score_table(rows, baseline, metric, protocol))
    return "\n".join(lines).rstrip() + "\n"


def score_table(
    rows: Sequence[dict], baseline: str | None, metric: str, protocol: str
) -> list[list[str]]:
    """Fields of a table: means in per cent, below them paired differences in points, bold where
    they exclude 0."""
    fractions = fractions_of(rows)
    table = [["labels", *(f"{format_percent(f)} ({tiles_of(rows, f)})" for f in fractions)]]
    scores = {
        (init, f): scores_of(rows, init, f, metric, protocol)
        for init in inits_of(rows)
        for f in fractions
    }
    for init in inits_of(rows):
        line = [init]
        for f in fractions:
            cell_rows = [row for row in rows if (row["init"], row["fraction"]) == (init, f)]
            line.append(score_text(cell_rows, list(scores[init, f].values())))
        table.append(line)
    full_scores = scores.get((baseline, 1.0))
    for init in inits_of(rows) if baseline is not None else []:
        if init != baseline:
            gaps = [paired_gap(scores[init, f], scores.get((baseline, f), {})) for f in fractions]
            table.append([f"{init} - {baseline}", *map(gap_text, gaps)])
        if full_scores:
            gaps = [paired_gap(scores[init, f], full_scores) for f in fractions]
            if init == baseline:
                gaps[-1] = None  # with itself
            if any(gaps):
                table.append([f"{init} - {baseline} with all", *map(gap_text, gaps)])
    return table


def score_text(rows: Sequence[dict], values: Sequence[float]) -> str:
    """A field of the table: '51.2 ± 3.0', with '(2 of 3)' where cells are missing."""
    rows = [row for row in rows if row["chosen"]] or rows
    if not values:
        return "failed" if any(row["error"] for row in rows) else "to do" if rows else ""
    total = len({row["seed"] for row in rows})
    text = f"{estimate_interval(values):.1f}"
    return text if len(values) == total else f"{text} ({len(values)} of {total})"


def gap_text(gap: Interval | None) -> str:
    if gap is None:
        return ""
    return f"**{gap:+.1f}**" if gap.excludes_zero() else f"{gap:+.1f}"


def rate_table(rows: Sequence[dict]) -> list[list[str]]:
    """Fields of a table: mean validation mIoU of each learning rate, the chosen one bold."""
    rates = sorted({row["lr"] for row in rows})
    table = [["mIoU on validation", *(f"lr {rate:g}" for rate in rates)]]
    for init, fraction in itertools.product(inits_of(rows), fractions_of(rows)):
        curve_rows = [row for row in rows if (row["init"], row["fraction"]) == (init, fraction)]
        line = [f"{init}, {format_percent(fraction)}"]
        for rate in rates:
            rate_rows = [row for row in curve_rows if row["lr"] == rate]
            values = [row["val_miou"] for row in rate_rows if row["val_miou"] is not None]
            text = score_text(rate_rows, values)
            line.append(f"**{text}**" if any(row["chosen"] for row in rate_rows) else text)
        if curve_rows:
            table.append(line)
    return table


def align(table: list[list[str]]) -> list[str]:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [
        f"| {' | '.join(map(str.ljust, row, widths))} |" for row in (table[0], rule, *table[1:])
    ]
    return [*lines, ""]


def bullets(texts: Sequence[str]) -> list[str]:
    return [*(f"- {text}" for text in texts), ""]


def tiles_of(rows: Sequence[dict], fraction: float) -> str:
    count = next(row["tiles"] for row in rows if row["fraction"] == fraction)
    return "1 tile" if count == 1 else f"{count} tiles"
