"""The tables of a label-efficiency grid: table.csv, a row a cell; table.md, means and intervals.

Rows are as in `comparison`.
"""

import csv
import io
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
    failed_rows = [row for row in rows if row["error"]]
    if failed_rows:
        lines += ["Cells that failed:", ""]
        lines += bullets([f"{name_of(row)}: {row['error']}" for row in failed_rows])
    if any(row["lr"] is not None for row in rows):
        lines += rate_table(rows)
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
    head = [f"{format_percent(f)} ({tiles_of(rows, f)})" for f in fractions_of(rows)]
    table = [["labels", *head]]
    for init in inits_of(rows):
        line = [init]
        for fraction in fractions_of(rows):
            cell_rows = [r for r in rows if (r["init"], r["fraction"]) == (init, fraction)]
            scores = scores_of(rows, init, fraction, metric, protocol)
            line.append(score_text(cell_rows, estimate_interval(list(scores.values()))))
        table.append(line)
    if baseline is None:
        return table
    full_scores = scores_of(rows, baseline, 1.0, metric, protocol)
    for init in inits_of(rows):
        ours = {f: scores_of(rows, init, f, metric, protocol) for f in fractions_of(rows)}
        if init != baseline:
            same_gaps = [
                paired_gap(ours[f], scores_of(rows, baseline, f, metric, protocol)) for f in ours
            ]
            table.append([f"{init} - {baseline}", *map(gap_cell, same_gaps)])
        if full_scores:
            gaps = [paired_gap(ours[f], full_scores) for f in ours]
            if init == baseline:
                gaps[-1] = None  # with itself
            if any(gaps):
                table.append([f"{init} - {baseline} with all", *map(gap_cell, gaps)])
    return table


def score_text(rows: Sequence[dict], value: Interval | None) -> str:
    """A field of the table: '51.2 ± 3.0', with '(2 of 3)' where cells are missing."""
    rows = [row for row in rows if row["chosen"]] or rows
    total = len({row["seed"] for row in rows})
    if value is None:
        failed = any(row["error"] for row in rows)
        return "failed" if failed else "to do" if rows else ""
    text = f"{100 * value.mean:.1f}"
    text += "" if value.half is None else f" ± {100 * value.half:.1f}"
    return text if value.count == total else f"{text} ({value.count} of {total})"


def gap_cell(gap: Interval | None) -> str:
    if gap is None:
        return ""
    text = f"{100 * gap.mean:+.1f}"
    text += "" if gap.half is None else f" ± {100 * gap.half:.1f}"
    return f"**{text}**" if gap.excludes_zero() else text


def rate_table(rows: Sequence[dict]) -> list[str]:
    """Mean validation mIoU of each learning rate, the chosen one bold."""
    rates = sorted({row["lr"] for row in rows})
    table = [["mIoU on validation", *(f"lr {rate:g}" for rate in rates)]]
    for init in inits_of(rows):
        for fraction in fractions_of(rows):
            curve_rows = [r for r in rows if (r["init"], r["fraction"]) == (init, fraction)]
            line = [f"{init}, {format_percent(fraction)}"]
            for rate in rates:
                rate_rows = [row for row in curve_rows if row["lr"] == rate]
                values = [row["val_miou"] for row in rate_rows if row["val_miou"] is not None]
                text = score_text(rate_rows, estimate_interval(values))
                line.append(f"**{text}**" if any(row["chosen"] for row in rate_rows) else text)
            if curve_rows:
                table.append(line)
    return ["## Learning rates", "", "The chosen ones are bold.", "", *align(table)]


def align(table: list[list[str]]) -> list[str]:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |"
        for row in table
    ]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return [lines[0], rule, *lines[1:], ""]


def bullets(texts: Sequence[str]) -> list[str]:
    return [*(f"- {text}" for text in texts), ""]


def tiles_of(rows: Sequence[dict], fraction: float) -> str:
    count = next(row["tiles"] for row in rows if row["fraction"] == fraction)
    return "1 tile" if count == 1 else f"{count} tiles"


def name_of(row: dict) -> str:
    rate = "" if row["lr"] is None else f", lr {row['lr']:g}"
    return f"{row['init']}, {format_percent(row['fraction'])}, seed {row['seed']}{rate}"
