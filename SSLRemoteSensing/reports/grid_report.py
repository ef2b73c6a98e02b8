"""report.html of a label-efficiency grid: what it says in words, curves, tables, its cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from SSLRemoteSensing.reports.html import embed, link, write_page
from SSLRemoteSensing.reports.run_report import NAME

BESIDE = ("table.md", "table.csv", "curves.png", "grid.json", "config.py")


class GridTable(NamedTuple):
    """A table of texts; `**bold**` as in Markdown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    protocol: str


class CellEntry(NamedTuple):
    """A cell: its name in words, folder, status and what failed, score 0..1 or None."""

    name: str
    folder: Path
    status: str
    score: float | None


def write_grid_report(
    folder: Path,
    heading: str,
    answer: Sequence[str],
    facts: Sequence[str],
    key: str,
    tables: Sequence[GridTable],
    cells: Sequence[CellEntry],
    metric: str,
) -> None:
    """Write `report.html` to `folder`, with a link to each cell's own.

    Args:
        heading: of config, metric and protocol.
        answer, facts: the answer, and what was run, a sentence or some an entry.
        key: how to read the tables, of which the first stays open.
        metric: what the cells' score is, the head of its column.

    Raises:
        CannotWrite: the disk is full, say.
    """
    curves = folder / "curves.png"
    pages = [cell.folder / NAME for cell in cells]
    hrefs = [link(page, folder).href if page.is_file() else None for page in pages]
    values = {
        "title": f"Label efficiency: {heading}",
        "heading": heading,
        "answer": answer,
        "curves": embed(curves.read_bytes()) if curves.is_file() else None,
        "key": key,
        "tables": tables,
        "has_weights": any((cell.folder / "best.pth").is_file() for cell in cells),
        "metric": metric,
        "cells": zip(cells, hrefs, strict=True),
        "facts": facts,
        "files": [link(folder / name, folder) for name in BESIDE if (folder / name).is_file()],
    }
    write_page(folder / NAME, "grid.html", values)
