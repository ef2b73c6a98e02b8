"""curves.png: a metric against the share of labels, for each initialisation and protocol."""

from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    METRICS,
    counts,
    estimate_interval,
    format_percent,
    fractions_of,
    inits_of,
    protocols_of,
    scores_of,
)

# Okabe and Ito's colours, told apart with any colour vision; the baseline is grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"
MARKERS = "osD^vP"
PANELS = 6
NEAREST = 1.25  # fractions closer than by this factor share a label on the axis


def draw_curves(
    rows: Sequence[dict], baseline: str | None, metric: str, protocol: str, title: str, path: Path
) -> None:
    """Means with markers, 95 % intervals shaded, and `baseline` with all labels as a dashed line.

    A panel a protocol, `protocol` first, at most six. Rows are as in `comparison`.
    """
    from matplotlib.figure import Figure

    protocols = [protocol, *(name for name in protocols_of(rows) if name != protocol)][:PANELS]
    columns = min(3, len(protocols))
    lines = -(-len(protocols) // columns)
    size = (6.4, 4.6) if len(protocols) == 1 else (4.1 * columns + 0.4, 3.5 * lines + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    grid = figure.subplots(lines, columns, squeeze=False)
    panels = list(grid.flat)
    for axes, name in zip(panels, protocols, strict=False):
        draw_panel(axes, rows, baseline, metric, name)
        if len(protocols) > 1:
            axes.set_title(name, fontsize=9)
    for axes in panels[len(protocols) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel(f"{METRICS[metric]} in %")
    for place, axes in enumerate(panels[: len(protocols)]):
        if place + columns >= len(protocols):
            axes.set_xlabel("labels used (tiles)")
    many_seeds = len({row["seed"] for row in rows if counts(row)}) > 1
    what = "mean over seeds and its 95 % interval" if many_seeds else "one seed"
    figure.suptitle(f"{title}, {what}", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        # A legend wider than the figure would be cut off at both sides.
        most_columns = int(12 * size[0] / (max(map(len, labels)) + 7))
        legend_columns = max(1, min(4, len(labels), most_columns))
        place = "outside lower center"
        figure.legend(handles, labels, loc=place, ncols=legend_columns, frameon=False, fontsize=9)
    figure.savefig(path)


def draw_panel(
    axes, rows: Sequence[dict], baseline: str | None, metric: str, protocol: str
) -> None:
    fractions = fractions_of(rows)
    other_inits = [init for init in inits_of(rows) if init != baseline]
    # From the seventh on a colour comes again, with another marker.
    styles = {
        init: (COLOURS[i % 6], MARKERS[(i + i // 6) % 6]) for i, init in enumerate(other_inits)
    }
    lowest = 0.0
    for init in inits_of(rows):
        colour, marker = styles.get(init, (GREY, "X"))
        scores = {
            fraction: scores_of(rows, init, fraction, metric, protocol) for fraction in fractions
        }
        points = {
            fraction: estimate_interval(list(values.values()))
            for fraction, values in scores.items()
            if values
        }
        if not points:
            continue
        means = [100 * point.mean for point in points.values()]
        lowest = min(lowest, *means)
        halves = [100 * (point.half or 0) for point in points.values()]
        low = [mean - half for mean, half in zip(means, halves, strict=True)]
        high = [mean + half for mean, half in zip(means, halves, strict=True)]
        axes.plot(
            list(points), means, color=colour, marker=marker, markersize=5, lw=1.6, label=init
        )
        axes.fill_between(list(points), low, high, color=colour, alpha=0.16, lw=0)
        if init == baseline and 1.0 in points:
            label = f"{init}, all labels"
            axes.axhline(means[-1], color=GREY, ls=(0, (4, 3)), lw=1.1, label=label, zorder=1)
    # The interval of two seeds can be wider than the metric's range.
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(0, lowest)), min(high, 100))
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks = []
    for fraction in sorted(fractions, reverse=True):
        if not ticks or ticks[-1] / fraction >= NEAREST:
            ticks.append(fraction)
    tiles = {row["fraction"]: row["tiles"] for row in rows}
    axes.set_xticks(
        ticks,
        [f"{format_percent(fraction)}\n({tiles[fraction]})" for fraction in ticks],
        fontsize=8,
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
