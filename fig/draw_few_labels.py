"""Draw few_labels.png and print the table of docs/results.md, from the cells in docs/measurements.

python fig/draw_few_labels.py
"""

import csv
from pathlib import Path

from matplotlib.figure import Figure

from SSLRemoteSensing.core.drawing import plain_figures
from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    Results,
    estimate_interval,
    format_percent,
    paired_gap,
)
from SSLRemoteSensing.workflows.label_efficiency.curves import draw_panel

ROOT = Path(__file__).resolve().parents[1]
SETS = {"mumbai": "Mumbai, 0.5 m", "dubai": "Dubai", "sparcs": "SPARCS, Landsat 8"}
STARTS = ("random", "few_labels", "few_labels.frozen", "few_labels.unlabelled", "published")
KINDS = {"fraction": float, "seed": int, "tiles": int, "chosen": lambda text: text == "True"}


def read(name: str) -> Results:
    """The grid of a set, from few_labels_NAME.csv."""
    rows = []
    with open(ROOT / f"docs/measurements/few_labels_{name}.csv", newline="") as file:
        for row in csv.DictReader(file):
            values = {key: type_(row[key]) for key, type_ in KINDS.items()}
            rows.append(row | values | {"protocols": {"all": {"miou": float(row["all.miou"])}}})
    return Results(sorted(rows, key=lambda row: STARTS.index(row["init"])), "random")


def table(grids: dict[str, Results]) -> str:
    """Means of each start; beside the others' their differences to random weights in pairs."""
    lines = []
    for name, results in grids.items():
        for fraction, tiles in results.tiles.items():
            scores = {init: results.scores(init, fraction, "miou", "all") for init in STARTS}
            base = scores.pop("random")
            cells = [f"{estimate_interval(list(base.values())):.1f}"]
            for ours in scores.values():
                gap = paired_gap(ours, base)
                if gap is None:
                    cells.append("")
                    continue
                mean = estimate_interval(list(ours.values())).mean
                bold = "**" if gap.excludes_zero() else ""
                cells.append(f"{100 * mean:.1f}: {bold}{gap:+.1f}{bold}")
            share = f"{name}, {format_percent(fraction)} ({tiles})"
            lines.append(f"| {' | '.join([share, *cells])} |")
    return "\n".join(lines)


@plain_figures()
def draw(grids: dict[str, Results], path: Path) -> None:
    figure = Figure(figsize=(10.5, 3.9), layout="constrained", dpi=110)
    for place, (name, results) in enumerate(grids.items()):
        axes = figure.add_subplot(1, len(grids), place + 1)
        draw_panel(axes, results, "miou", "all")
        axes.set_title(SETS[name], fontsize=10)
        axes.set_xlabel("labels used (tiles)")
        axes.set_ylabel("" if place else "mIoU of test scenes in %")
    handles, labels = max(
        (a.get_legend_handles_labels() for a in figure.axes), key=lambda x: len(x[1])
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    grids = {name: read(name) for name in SETS}
    draw(grids, ROOT / "fig/few_labels.png")
    print(table(grids))
