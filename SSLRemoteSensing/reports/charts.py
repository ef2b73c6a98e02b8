"""Charts as SVG in the page, in its colours: lines over steps, bars of shares, a histogram."""

import itertools
import math
from collections.abc import Sequence

from SSLRemoteSensing.reports.html import Markup, join, tag

WIDTH, HEIGHT = 360, 210  # units, about pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 30
MOST = 240  # points of a line
KINDS = ("fill", "other")  # of bars, by their colour


def line_chart(
    title: str, points: Sequence[tuple[float, float]], unit: str, dot_step: float | None = None
) -> Markup:
    """Values over steps; a dot at the step `dot_step`. Many points are drawn as means of some."""
    curve = thinned(points)
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]
    last = max(x for x, _ in points) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / last,
            TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low),
        )

    parts = [*y_axis(ticks, place), *x_axis(step_ticks(last), place, low)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
    parts.append(tag("polyline", points=path, class_="line"))
    value_at = dict(points)
    dot = ""
    if len(points) == 1:
        dot_step = points[0][0] if dot_step is None else dot_step
    if dot_step in value_at:
        x, y = place(dot_step, value_at[dot_step])
        words = f"{value_at[dot_step]:.4g} at step {dot_step:,}"
        parts.append(tag("circle", tag("title", words), cx=f"{x:.1f}", cy=f"{y:.1f}", r=5,
                         class_="dot"))  # fmt: skip
        dot = f"; dot: {words}"
    label = f"{title}: from {points[0][1]:.4g} to {points[-1][1]:.4g} over {last:,} steps{dot}"
    return figure(title, unit + dot, label, parts, HEIGHT)


def histogram(title: str, shares: Sequence[float], unit: str) -> Markup:
    """How many of `shares` (0..1) lie in each twentieth."""
    counts = [0] * 20
    for share in shares:
        counts[min(19, int(share * 20))] += 1
    bins = max(place for place, count in enumerate(counts) if count) + 1
    bins = min(20, -(-bins // 4) * 4)
    ticks = [tick for tick in nice_ticks(0, max(counts)) if tick == int(tick)]
    high = ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / bins,
            TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / high,
        )

    parts = y_axis(ticks, place)
    for number in range(0, bins + 1, 4 if bins > 8 else 2):
        x, y = place(number, 0)
        parts.append(text(x, y + 16, f"{5 * number} %", "end" if number == bins else "middle"))
    for number, count in enumerate(counts[:bins]):
        if count:
            (x, y), (right, bottom) = place(number, count), place(number + 1, 0)
            words = f"{5 * number} to {5 * number + 5} %: {count} tiles"
            parts.append(rectangle(x + 1, y, right - x - 2, bottom - y, "fill", words))
    label = f"{title}: {len(shares)} tiles, median {100 * sorted(shares)[len(shares) // 2]:.1f} %"
    return figure(title, unit, label, parts, HEIGHT)


def share_bars(title: str, names: Sequence[str], series: dict[str, Sequence[float]]) -> Markup:
    """Horizontal bars of shares (0..1), for each name one of each of at most two series."""
    thick = 10
    row_height = 18 + len(series) * (thick + 4) + 8
    high = max((value for values in series.values() for value in values), default=1) or 1
    parts = []
    for number, name in enumerate(names):
        y = number * row_height
        parts.append(text(0, y + 13, short(name), "start", name))
        for place, (series_name, values) in enumerate(series.items()):
            top = y + 18 + place * (thick + 4)
            width = max(1.0, (WIDTH - 62) * values[number] / high)
            words = f"{name}, {series_name}: {100 * values[number]:.2f} %"
            parts.append(rectangle(0, top, width, thick, KINDS[place], words))
            parts.append(text(width + 6, top + thick - 0.5, f"{100 * values[number]:.1f} %"))
    summary = "; ".join(
        f"{series_name} "
        + ", ".join(
            f"{name} {100 * value:.1f} %" for name, value in zip(names, values, strict=True)
        )
        for series_name, values in series.items()
    )
    key = [
        join([tag("span", class_=f"swatch {kind}"), series_name, " "])
        for kind, series_name in zip(KINDS, series, strict=False)
    ]
    return figure(title, join(key), f"{title}: {summary}", parts, max(1, len(names)) * row_height)


def figure(title: str, unit: object, label: str, parts: Sequence[Markup], height: int) -> Markup:
    box = f"0 0 {WIDTH} {height}"
    drawing = tag("svg", *parts, viewBox=box, role="img", aria_label=label)
    caption = tag("figcaption", tag("b", title), " ", unit)
    return tag("figure", caption, drawing)


def y_axis(ticks: Sequence[float], place) -> list[Markup]:
    parts = []
    digits = decimals(ticks)
    for tick in ticks:
        _, y = place(0, tick)
        parts.append(line(LEFT, y, WIDTH - RIGHT, y))
        label = f"{tick:g}" if digits > 4 else f"{tick:,.{digits}f}"
        parts.append(text(LEFT - 6, y + 4, label, "end"))
    return parts


def x_axis(ticks: Sequence[int], place, low: float) -> list[Markup]:
    x, y = place(0, low)
    parts = [text(x - 12, y + 16, "step", "end")]
    for tick in ticks:
        x, y = place(tick, low)
        parts.append(text(x, y + 16, f"{tick:,}", "end" if tick == ticks[-1] else "middle"))
    return parts


def text(x: float, y: float, words: str, anchor: str = "start", title: str = "") -> Markup:
    more = [tag("title", title)] if title and title != words else []
    return tag("text", words, *more, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", class_="axis", **{key: f"{value:.1f}" for key, value in ends.items()})


def rectangle(
    x: float, y: float, width: float, height: float, class_: str, title: str
) -> Markup:  # fmt: skip
    sides = {"x": x, "y": y, "width": max(0.5, width), "height": max(0.5, height)}
    attributes = {key: f"{value:.1f}" for key, value in sides.items()}
    return tag("rect", tag("title", title), class_=class_, **attributes)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST` points, each the mean of as many that follow each other."""
    size = -(-len(points) // MOST)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(sum(values) / len(group) for values in zip(*group, strict=True))
            for group in groups]  # fmt: skip


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`.

    >>> nice_ticks(0.13, 0.92)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high - low <= abs(high) * 1e-6:
        low, high = (0, high) if high > 0 else (low - 1, high + 1)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def step_ticks(last: float) -> list[int]:
    ticks = [int(tick) for tick in nice_ticks(0, last, 3) if tick <= last]
    if last - ticks[-1] < 0.2 * last:
        ticks.pop()
    return [*ticks, int(last)] if ticks else [int(last)]


def decimals(ticks: Sequence[float]) -> int:
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1)
    return max(0, -math.floor(math.log10(step) + 1e-9))


def short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
