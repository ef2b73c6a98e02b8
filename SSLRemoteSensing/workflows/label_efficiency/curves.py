"""curves.png: a metric against the share of labels, for each initialisation and protocol."""

from pathlib import Path

from SSLRemoteSensing.core.drawing import plain_figures
from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    FROZEN,
    METRICS,
    UNLABELLED,
    Results,
    estimate_interval,
    format_percent,
    plain_name,
)

# Okabe and Ito's colours, told apart with any colour vision; the baseline is grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"
MARKERS = "osD^vP"
PANELS = 6
NEAREST = 1.25  # fractions closer than by this factor share a label on the axis


@plain_figures()
def draw_curves(results: Results, metric: str, protocol: str, title: str, path: Path) -> None:
    """Means with markers, 95 % intervals shaded, and the baseline with all labels as a dashed line.

    A panel a protocol, `protocol` first, at most six.
    """
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys([protocol, *results.protocols]))[:PANELS]
    columns = min(3, len(protocols))
    lines = -(-len(protocols) // columns)
    size = (6.4, 4.6) if len(protocols) == 1 else (4.1 * columns + 0.4, 3.5 * lines + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    panels = [figure.add_subplot(lines, columns, place + 1) for place in range(len(protocols))]
    for place, (axes, name) in enumerate(zip(panels, protocols, strict=True)):
        draw_panel(axes, results, metric, name)
        axes.set_title(name if len(protocols) > 1 else "", fontsize=9)
        axes.set_ylabel("" if place % columns else f"{METRICS[metric]} in %")
        axes.set_xlabel("labels used (tiles)" if place + columns >= len(protocols) else "")
    many_seeds = len({row["seed"] for row in results.finished}) > 1
    what = "mean over seeds and its 95 % interval" if many_seeds else "one seed"
    figure.suptitle(f"{title}, {what}", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        # A legend wider than the figure would be cut off at both sides.
        most = int(12 * size[0] / (max(map(len, labels)) + 7))
        place, columns = "outside lower center", max(1, min(4, len(labels), most))
        figure.legend(handles, labels, loc=place, ncols=columns, frameon=False, fontsize=9)
    figure.savefig(path)


def draw_panel(axes, results: Results, metric: str, protocol: str) -> None:
    """The curves of one protocol, on an axis of shares that is logarithmic."""
    others = [init for init in results.inits if init != results.baseline_of(init)]
    starts = [name for name in dict.fromkeys(map(plain_name, others)) if name != results.baseline]
    for init in results.inits:
        colour, marker = GREY, "X"
        # From the seventh on a colour comes again, with another marker.
        if plain_name(init) in starts:
            place = starts.index(plain_name(init))
            colour, marker = COLOURS[place % 6], MARKERS[(place + place // 6) % 6]
        # Hollow too, since one fraction alone has no line.
        style, fill = (":", "white") if init.endswith(FROZEN) else ("-", colour)
        style = "--" if init.endswith(UNLABELLED) else style
        points = {
            fraction: estimate_interval(
                [*results.scores(init, fraction, metric, protocol).values()]
            )
            for fraction in results.tiles
        }
        points = {fraction: point for fraction, point in points.items() if point is not None}
        if not points:
            continue
        values = [100 * point.mean for point in points.values()]
        halves = [100 * (point.half or 0) for point in points.values()]
        low, high = zip(*((v - h, v + h) for v, h in zip(values, halves, strict=True)), strict=True)
        line = {"color": colour, "ls": style, "lw": 1.6, "marker": marker, "ms": 5, "mfc": fill}
        axes.plot(list(points), values, label=init, **line)
        axes.fill_between(list(points), low, high, color=colour, alpha=0.16, lw=0)
        if init == results.baseline and 1.0 in points:
            label = f"{init}, all labels"
            axes.axhline(values[-1], color=GREY, ls=(0, (4, 3)), lw=1.1, label=label, zorder=1)
    # The interval of two seeds can be wider than the metric's range.
    lowest = min([0.0, *(value for line in axes.lines for value in line.get_ydata())])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, lowest), min(high, 100))
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks = []
    for fraction in reversed(results.tiles):
        if not ticks or ticks[-1] / fraction >= NEAREST:
            ticks.append(fraction)
    texts = [f"{format_percent(fraction)}\n({results.tiles[fraction]})" for fraction in ticks]
    axes.set_xticks(ticks, texts, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
