"""A page of the scenes that were mapped: their previews, what they show, where the files lie.

The pictures are files beside the page, as those of many scenes would be too much for one file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from SSLRemoteSensing.reporting.markup import (
    GENERATOR,
    Markup,
    facts,
    join,
    link,
    percent,
    section,
    swatch,
    table,
    tag,
    write_page,
)
from SSLRemoteSensing.reporting.run_report import NAME


@dataclass(frozen=True)
class MapEntry:
    """A scene with its map.

    Attributes:
        files: all that were made of it, the preview among them.
        counts: pixels of each class; None: mapped by an earlier command.
        pixels: of the whole scene.
    """

    scene: Path
    preview: Path
    files: Sequence[Path]
    counts: Sequence[int] | None = None
    pixels: int = 0


def write_map_page(
    path: Path,
    checkpoint: Path,
    entries: Sequence[MapEntry],
    failed: Sequence[str],
    classes: Sequence[str],
    palette: Sequence,
) -> None:
    """Write the page; `failed` are the errors of scenes that could not be mapped.

    Raises:
        CannotWrite: the disk is full, say.
    """
    report = network_report(checkpoint)
    start = path.parent
    title = "Map of 1 scene" if len(entries) == 1 else f"Maps of {len(entries):,} scenes"
    known = facts(
        [
            ("Network", tag("code", checkpoint)),
            ("Its report", report and link(report, start, "scores, examples and data")),
            ("Failed", f"{len(failed):,}" if failed else None),
        ]
    )
    errors = [tag("ul", *(tag("li", line) for line in failed), class_="told")] if failed else []
    colours = dict(zip(classes, palette, strict=True))
    write_page(
        path,
        title,
        tag("header", tag("h1", title), known, *errors),
        *(scene_section(one, start, colours) for one in entries),
    )


def scene_section(one: MapEntry, start: Path, colours: dict[str, Sequence]) -> Markup:
    source = quote(os.fsencode(os.path.relpath(one.preview, start)))
    alt = f"Scene {one.scene.name} and its map"
    picture = tag("a", tag("img", src=source, alt=alt, loading="lazy"), href=source)
    parts = []
    if one.counts is not None:
        valid = max(1, sum(one.counts))
        rows = [
            [join([swatch(colour), name]), percent(count / valid), f"{count:,}"]
            for (name, colour), count in zip(colours.items(), one.counts, strict=True)
        ]
        empty = one.pixels - sum(one.counts)
        rows += [["no data", "", f"{empty:,}"]] if empty else []
        parts.append(table(["class", "share in %", "pixels"], rows, "Shares of the classes"))
    files = tag("ul", *(tag("li", link(path, start)) for path in one.files), class_="files")
    shown = tag("div", tag("div", picture, class_="map"), tag("div", *parts, files), class_="scene")
    return section(one.scene.name, shown)


def network_report(checkpoint: Path) -> Path | None:
    """The report of the scoring beside a checkpoint, if there is one."""
    beside = checkpoint.parent / NAME
    return beside if beside.is_file() else None


def is_ours(path: Path) -> bool:
    """Whether a page is one that this package wrote."""
    try:
        with open(path, "rb") as file:
            return GENERATOR.encode() in file.read(1000)
    except OSError:
        return False
