"""The tables of a label-efficiency grid: table.csv, a row a cell; table.md, means and intervals.

Rows are as in `comparison`.
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from itertools import chain, product

from SSLRemoteSensing.core.templates import render
from SSLRemoteSensing.reports.grid_report import GridTable
from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    METRICS,
    Interval,
    Results,
    equal_share,
    estimate_interval,
    format_percent,
    paired_gap,
    rows_at,
)
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell
from SSLRemoteSensing.workflows.label_efficiency.scene_bootstrap import (
    METRIC,
    PROTOCOL,
    Range,
    scene_gap,
)

KEY = (
    "Means over seeds with half their 95 % intervals; (2 of 3): so many of the seeds have finished."
    " Rows 'a - b' are differences in points, paired by seed, bold where the interval excludes 0;"
    " 'other scenes' is their 95 % range over draws of the test scenes with replacement. Rows"
    " 'a: as b with' are the share of the labels with which the mean of b is as high, on a line"
    " between the shares measured."
)
COLUMNS = ("init", "fraction", "seed", "lr", "chosen", "status", "error", "tiles", "steps")
COLUMNS += ("seconds", "step_ms", "split", "val_miou", "weights", "commit", "device")


def csv_text(rows: Sequence[dict]) -> str:
    """table.csv: a row a cell, its scores as shares of one."""
    entries = []
    for row in rows:
        entry = {key: row[key] for key in COLUMNS}
        for name, scores in row["protocols"].items():
            entry |= {f"{name}.{metric}": scores.get(metric) for metric in METRICS}
            for label, class_scores in scores.get("per_class", {}).items():
                entry[f"{name}.iou.{label}"] = class_scores["iou"]
        entries.append(entry)
    file = io.StringIO()
    columns = list(dict.fromkeys(chain(COLUMNS, *entries)))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return file.getvalue()


def markdown(
    title: str,
    answer: Sequence[str],
    facts: Sequence[str],
    results: Results,
    tables: Sequence[GridTable],
    networks: list[list[str]],
) -> str:
    """table.md: the answer, what was run, `networks`, then `tables`."""
    values = {"title": title, "answer": answer, "facts": facts, "tables": tables, "key": KEY}
    values["networks"] = networks
    values["failures"] = [f"{Cell.of(row)}: {row['error']}" for row in results.rows if row["error"]]
    values["rates"] = rate_table(results)
    return render("workflows", "table.md", align=align, **values)


def network_table(results: Results, sizes: dict[str, tuple[str, int, float]]) -> list[list[str]]:
    """What each start's network is, costs and takes: `sizes` as of `network_size`."""
    table = [["start", "backbone", "parameters", "GMACs a tile", "ms a step"]]
    for init, (name, parameters, macs) in sizes.items():
        times = [row["step_ms"] for row in results.rows if row["init"] == init and row["step_ms"]]
        time = f"{statistics.median(times):,.0f}" if times else ""
        table.append([init, name, f"{parameters / 1e6:.3g} M", f"{macs / 1e9:.3g}", time])
    return table


def score_tables(results: Results, metric: str, protocol: str) -> list[GridTable]:
    """The table of each protocol and metric, first that of the answer."""
    pairs = list(product(results.protocols, METRICS))
    pairs.sort(key=lambda pair: pair != (protocol, metric))
    return [
        GridTable(f"{METRICS[key]} in %, protocol {name}", *score_table(results, key, name), name)
        for name, key in pairs
        # That protocol changes means over classes alone: these two are those of `all`.
        if not (name.startswith("mean_of_foreground") and key in ("oa", "kappa"))
    ]


def score_table(results: Results, metric: str, protocol: str) -> tuple[list[str], list[list[str]]]:
    """Head and fields: means in per cent, below them paired differences in points, bold where they
    exclude 0."""
    inits = results.inits
    head, table = ["labels"], [[init] for init in inits]
    for fraction, count in results.tiles.items():
        head.append(f"{format_percent(fraction)} ({count} {'tile' if count == 1 else 'tiles'})")
        for line in table:
            scores = results.scores(line[0], fraction, metric, protocol)
            line.append(score_text(rows_at(results.rows, line[0], fraction), [*scores.values()]))
    for init in inits:
        baseline = results.baseline_of(init)
        if baseline is None:
            continue
        for name, full in ((baseline, None), (f"{baseline} with all", 1.0)):
            gaps = []
            for fraction in results.tiles:
                place, other = (init, fraction), (baseline, full or fraction)
                ours, theirs = (results.scores(*p, metric, protocol) for p in (place, other))
                gaps.append(None if other == place else paired_gap(ours, theirs))
            if any(gaps):
                table.append([f"{init} - {name}", *map(gap_text, gaps)])
        if init != baseline:
            shares = shares_text(results, init, metric, protocol)
            table.append([f"{init}: as {baseline} with", *shares])
        ranges = scene_ranges(results, init) if (metric, protocol) == (METRIC, PROTOCOL) else []
        if any(ranges):
            table.append([f"{init} - {baseline}, other scenes", *map(range_text, ranges)])
    return head, table


def shares_text(results: Results, init: str, metric: str, protocol: str) -> list[str]:
    """By fraction, the share of the labels with which the baseline's mean is that of `init`."""
    means, baseline = {}, results.baseline_of(init)
    for name in (init, baseline):
        scores = {f: results.scores(name, f, metric, protocol).values() for f in results.tiles}
        means[name] = {f: math.fsum(s) / len(s) for f, s in scores.items() if s}
    curve, texts = means[baseline], []
    for fraction in results.tiles:
        score = means[init].get(fraction)
        share = None if score is None else equal_share(score, curve)
        if share is None:
            texts.append("" if score is None or not curve else f"> {format_percent(max(curve))}")
        else:
            texts.append(("< " if score < curve[min(curve)] else "") + f"{100 * share:.2g} %")
    return texts


def scene_ranges(results: Results, init: str) -> list[Range | None]:
    """By fraction, what other test scenes would make of the difference to the baseline."""
    ranges, baseline = [], results.baseline_of(init)
    for fraction in results.tiles if init != baseline else ():
        sides = [results.scene_counts(name, fraction) for name in (init, baseline)]
        seeds = sorted(sides[0].keys() & sides[1].keys())
        ranges.append(scene_gap(*([side[seed] for seed in seeds] for side in sides)))
    return ranges


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


def range_text(limits: Range | None) -> str:
    if limits is None:
        return ""
    text = f"{100 * limits.low:+.1f} to {100 * limits.high:+.1f}"
    return f"**{text}**" if limits.excludes_zero() else text


def rate_table(results: Results) -> list[list[str]] | None:
    """Fields of a table: mean validation mIoU of each learning rate, the chosen one bold; None
    where none was searched."""
    rates = sorted({row["lr"] for row in results.rows} - {None})
    if not rates:
        return None
    table = [["mIoU on validation", *(f"lr {rate:g}" for rate in rates)]]
    for init, fraction in product(results.inits, results.tiles):
        line = [f"{init}, {format_percent(fraction)}"]
        for rate in rates:
            rows = [row for row in rows_at(results.rows, init, fraction) if row["lr"] == rate]
            values = [row["val_miou"] for row in rows if row["val_miou"] is not None]
            text = score_text(rows, values)
            line.append(f"**{text}**" if any(row["chosen"] for row in rows) else text)
        if any(line[1:]):
            table.append(line)
    return table


def align(table: list[list[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [table[0], ["-" * width for width in widths], *table[1:]]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
