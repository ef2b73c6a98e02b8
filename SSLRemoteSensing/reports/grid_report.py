"""report.html of a label-efficiency grid: what it says in words, curves, tables, its cells."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing.reports.html import (
    Markup,
    boxed,
    fold,
    html,
    link,
    percent,
    section,
    table,
    tag,
    write_page,
)
from SSLRemoteSensing.reports.pictures import img
from SSLRemoteSensing.reports.run_report import NAME

BESIDE = ("table.md", "table.csv", "curves.png", "grid.json", "config.py")


@dataclass(frozen=True)
class GridTable:
    """A table of texts, the first row its heads; `**bold**` as in Markdown."""

    title: str
    rows: Sequence[Sequence[str]]
    protocol: str


@dataclass(frozen=True)
class CellEntry:
    """A cell: its name in words, folder, status, score 0..1 or None, what failed."""

    name: str
    folder: Path
    status: str
    score: float | None
    error: str


def write_grid_report(
    folder: Path,
    title: str,
    answer: Sequence[str],
    facts: Sequence[str],
    key: str,
    tables: Sequence[GridTable],
    cells: Sequence[CellEntry],
    metric: str,
) -> None:
    """Write `report.html` to `folder`, with a link to each cell's own.

    Args:
        answer, facts: the answer, and what was run, a sentence or some an entry.
        key: how to read the tables, of which the first stays open.
        metric: what the cells' score is, the head of its column.

    Raises:
        CannotWrite: the disk is full, say.
    """
    parts = [tag("header", tag("h1", "Label efficiency"), tag("p", title), sentences(answer))]
    curves = folder / "curves.png"
    if curves.is_file():
        picture = img(curves.read_bytes(), f"Curves: {title}, against the share of labels")
        parts.append(section("Curves", tag("div", link(curves, folder, picture), class_="map")))
    if tables:
        folds = [
            fold(f"Protocol {protocol}", *(markdown_table(grid_table) for grid_table in group))
            for protocol, group in itertools.groupby(tables[1:], lambda entry: entry.protocol)
        ]
        parts.append(section("Scores", markdown_table(tables[0]), *folds, note=key))
    has_weights = any((cell.folder / "best.pth").is_file() for cell in cells)
    note = (
        None
        if has_weights
        else "The weights of these cells were removed; --keep_weights keeps those of new ones."
    )
    parts.append(section("Cells", cell_table(folder, cells, metric), note=note))
    paths = [folder / name for name in BESIDE if (folder / name).is_file()]
    files = tag("ul", *(tag("li", link(path, folder)) for path in paths), class_="files")
    parts.append(section("What was run", sentences(facts), tag("h3", "Files beside it"), files))
    write_page(folder / NAME, f"Label efficiency: {title}", *parts)


def sentences(texts: Sequence[str]) -> Markup:
    return tag("ul", *(tag("li", text) for text in texts), class_="told")


def markdown_table(grid_table: GridTable) -> Markup:
    head, *rows = grid_table.rows
    heads = tag("tr", *(tag("th", text, scope="col", class_="number" if i else None)
                        for i, text in enumerate(head)))  # fmt: skip
    lines = [
        tag("tr", tag("th", row[0], scope="row"), *(field(text) for text in row[1:]))
        for row in rows
    ]
    return boxed(tag("thead", heads), lines, grid_table.title)


def field(text: str) -> Markup:
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    return tag("td", tag("b", text[2:-2]) if bold else html(text), class_="number")


def cell_table(folder: Path, cells: Sequence[CellEntry], metric: str) -> Markup:
    rows = []
    for cell in cells:
        page = cell.folder / NAME
        name = link(page, folder, cell.name) if page.is_file() else html(cell.name)
        rows.append([name, percent(cell.score), f"{cell.status} {cell.error}".strip()])
    return table(["cell", metric, "status"], rows, "Each cell and its report", words=1)
