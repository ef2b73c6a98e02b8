"""Charts inside a page, with the numbers behind them: lines over steps, a histogram, bars."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from SSLRemoteSensing.core.drawing import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 360  # points, about pixels of the page
MOST = 240  # points of a line
STEPS = [1, 2, 5, 10]  # between two numbers of an axis, times a power of ten
# Those of the light page; the page's variables take their place, so that it can be dark.
SOFT, LINE, BLUE, ORANGE = "#56616d", "#d9dfe5", "#1f6fb5", "#b34700"
VARIABLES = {SOFT: "var(--soft)", LINE: "var(--line)", BLUE: "var(--blue)", ORANGE: "var(--orange)"}
STYLE = {
    "svg.fonttype": "none",  # text as text, in the page's font
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    "axes.ymargin": 0,
    "axes.autolimit_mode": "round_numbers",
}


@dataclass(frozen=True)
class Chart:
    """A chart for a page.

    Attributes:
        note: the unit, or what is marked.
        colours: of the series, by their names, where they are told apart.
        svg: the element `<svg>`.
        head, rows: the numbers, as texts.
    """

    title: str
    note: str
    svg: Markup
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    colours: Mapping[str, str] = field(default_factory=dict)


def line_chart(
    title: str, points: Sequence[tuple[float, float]], unit: str, dot_step: float | None = None
) -> Chart:
    """Values over steps; a dot at the step `dot_step`. Many points are drawn as means of some."""
    value_at, size = dict(points), -(-len(points) // MOST)
    groups = (points[start : start + size] for start in range(0, len(points), size))
    curve = [tuple(np.mean(group, axis=0).tolist()) for group in groups]
    if len(points) == 1:
        dot_step = points[0][0]
    dot = ""
    with chart_axes() as axes:
        axes.plot(*zip(*curve, strict=True), color=BLUE, lw=2)
        if dot_step in value_at:
            value = value_at[dot_step]
            dot = f"dot: {value:.4g} at step {dot_step:,}"
            axes.plot([dot_step] * 2, [value] * 2, color=ORANGE, lw=10, solid_capstyle="round")
        axes.set_xlim(0, max(value_at) or 1)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}" if step else "step 0")
        (_, first), (last, value) = points[0], points[-1]
        course = f"{title}: from {first:.4g} to {value:.4g} over {last:,} steps"
        svg = svg_text(axes, "; ".join(filter(None, [course, dot])))
    rows = [[f"{step:,.1f}".removesuffix(".0"), f"{value:.4g}"] for step, value in curve]
    head = ["step" if len(curve) == len(points) else "mean of steps about", title]
    return Chart(title, "; ".join(filter(None, [unit, dot])), svg, head, rows)


def histogram(title: str, shares: Sequence[float], unit: str) -> Chart:
    """How many of `shares` (0..1) lie in each twentieth."""
    counts = np.bincount([min(19, int(share * 20)) for share in shares], minlength=4)
    with chart_axes(counts=True) as axes:
        axes.bar(5 * np.arange(len(counts)) + 2.5, counts, width=4.6, color=BLUE)
        axes.set_xlim(0, 5 * len(counts))
        axes.xaxis.set_major_formatter("{x:.0f} %")
        median = 100 * sorted(shares)[len(shares) // 2]
        svg = svg_text(axes, f"{title}: {len(shares)} tiles, median {median:.1f} %")
    rows = [[f"{5 * number} to {5 * number + 5} %", f"{n}"] for number, n in enumerate(counts)]
    return Chart(title, unit, svg, ["wrong pixels", unit], rows)


def share_bars(title: str, names: Sequence[str], series: dict[str, Sequence[float]]) -> Chart:
    """Horizontal bars of shares (0..1), for each name one of each of at most two series."""
    row_height = 26 + 14 * len(series)
    height, tops = row_height * max(1, len(names)), row_height * np.arange(len(names))
    high = max(itertools.chain.from_iterable(series.values()), default=1) or 1
    texts = {key: [f"{100 * value:.2f} %" for value in values] for key, values in series.items()}
    with chart_axes(height) as axes:
        axes.set_axis_off()
        axes.set(position=(0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        for name, top in zip(names, tops, strict=True):
            text = "".join(char if char.isprintable() else "?" for char in name)  # else no XML
            axes.text(0, top + 13, text if len(text) <= 40 else f"{text[:39]}…")
        for place, (key, colour) in enumerate(zip(series, (BLUE, ORANGE), strict=False)):
            widths = np.maximum(1, (WIDTH - 66) * np.array(series[key]) / high)
            y = tops + 18 + 14 * place
            bars = axes.barh(y, widths, height=10, align="edge", color=colour)
            axes.bar_label(bars, texts[key], padding=6)
        svg = svg_text(axes, f"{title}: " + "; ".join(
            f"{key} " + ", ".join(map(" ".join, zip(names, texts[key], strict=True)))
            for key in series
        ))  # fmt: skip
    rows = [list(row) for row in zip(names, *texts.values(), strict=True)]
    colours = dict(zip(series, (VARIABLES[BLUE], VARIABLES[ORANGE]), strict=False))
    return Chart(title, "", svg, ["class", *series], rows, colours)


@contextlib.contextmanager
def chart_axes(height: float = 210, counts: bool = False) -> Iterator["Axes"]:
    """Axes in the style of the page, `WIDTH` by `height` points, a line at each number of y, which
    are whole ones of `counts`."""
    with plain_figures(STYLE):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure((WIDTH / 72, height / 72), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.tick_params(length=0, pad=6)
        axes.yaxis.grid(True)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS, integer=counts))
        axes.yaxis.set_major_formatter("{x:.6g}")
        yield axes


def svg_text(axes: "Axes", label: str) -> Markup:
    """The figure of `axes` as an element of a page: without what stands in an SVG file alone, and
    without ids, which would be those of the next chart too."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts may have it
        axes.figure.savefig(file, format="svg", facecolor="none")
    root = ElementTree.fromstring(file.getvalue())
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": label}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element[:] = [child for child in element if not child.tag.endswith(("metadata", "defs"))]
        for key in ("id", "clip-path"):
            element.attrib.pop(key, None)
        for colour, variable in VARIABLES.items():
            if colour in element.get("style", ""):
                element.set("style", element.get("style").replace(colour, variable))
    return Markup(ElementTree.tostring(root, encoding="unicode"))
