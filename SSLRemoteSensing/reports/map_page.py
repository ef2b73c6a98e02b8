"""A page of the scenes that were mapped: their previews, what they show, where the files lie.

The pictures are files beside the page, as those of many scenes would be too much for one file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.inference.mapper import Mapped
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import Outputs
from SSLRemoteSensing.reports.html import (
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
from SSLRemoteSensing.reports.run_report import NAME


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
    failures: Sequence[str],
    classes: Sequence[str],
    palette: Sequence,
) -> None:
    """Write the page; `failures` are the errors of scenes that could not be mapped.

    Raises:
        CannotWrite: the disk is full, say.
    """
    report = network_report(checkpoint)
    start = path.parent
    title = "Map of 1 scene" if len(entries) == 1 else f"Maps of {len(entries):,} scenes"
    network_facts = facts(
        [
            ("Network", tag("code", checkpoint)),
            ("Its report", report and link(report, start, "scores, examples and data")),
            ("Failed", f"{len(failures):,}" if failures else None),
        ]
    )
    errors = [tag("ul", *(tag("li", line) for line in failures), class_="told")] if failures else []
    colours = dict(zip(classes, palette, strict=True))
    write_page(
        path,
        title,
        tag("header", tag("h1", title), network_facts, *errors),
        *(scene_section(entry, start, colours) for entry in entries),
    )


def scene_section(entry: MapEntry, start: Path, colours: dict[str, Sequence]) -> Markup:
    source = quote(os.fsencode(os.path.relpath(entry.preview, start)))
    alt = f"Scene {entry.scene.name} and its map"
    picture = tag("a", tag("img", src=source, alt=alt, loading="lazy"), href=source)
    parts = []
    if entry.counts is not None:
        valid = max(1, sum(entry.counts))
        rows = [
            [join([swatch(colour), name]), percent(count / valid), f"{count:,}"]
            for (name, colour), count in zip(colours.items(), entry.counts, strict=True)
        ]
        empty = entry.pixels - sum(entry.counts)
        rows += [["no data", "", f"{empty:,}"]] if empty else []
        parts.append(table(["class", "share in %", "pixels"], rows, "Shares of the classes"))
    files = tag("ul", *(tag("li", link(path, start)) for path in entry.files), class_="files")
    scene = tag("div", tag("div", picture, class_="map"), tag("div", *parts, files), class_="scene")
    return section(entry.scene.name, scene)


def network_report(checkpoint: Path) -> Path | None:
    """The report of the scoring beside a checkpoint, if there is one."""
    report = checkpoint.parent / NAME
    return report if report.is_file() else None


def is_ours(path: Path) -> bool:
    """Whether a page is one that this package wrote."""
    try:
        with open(path, "rb") as file:
            return GENERATOR.encode() in file.read(1000)
    except OSError:
        return False


def page_of(plan: Sequence[Outputs]) -> Path:
    """`<map>_preview.html` of one scene; of several `maps.html` in the folder of the first."""
    first = plan[0]
    if len(plan) == 1:
        return first.map.with_name(f"{first.map.stem}_preview.html")
    return first.map.with_name("maps.html")


def require_own_page(page: Path) -> None:
    """Raise a `UserError` where `page` is there and no page of ours."""
    if page.exists() and not is_ours(page):
        raise UserError(
            f"--output {page}: is there already, and is not known to be a page of this command; "
            f"name another folder, or pass --overwrite"
        )


def write_page_of(
    page: Path,
    checkpoint: Path,
    network: MapNetwork,
    plan: Sequence[Outputs],
    maps: Sequence[Mapped],
    failures: Sequence[str],
) -> str:
    """Write the page of all planned scenes that have a preview; a line that says where.

    Raises:
        CannotWrite: the disk is full, say.
    """
    map_by_path = {scene_map.outputs.map: scene_map for scene_map in maps}
    entries = []
    for outputs in plan:
        if outputs.preview.exists():
            scene_map = map_by_path.get(outputs.map)
            counts, pixels = (scene_map.counts, scene_map.pixels) if scene_map else (None, 0)
            files = [path for path in reversed(outputs.files) if path.exists()]
            entries.append(MapEntry(outputs.scene, outputs.preview, files, counts, pixels))
    write_map_page(page, checkpoint, entries, failures, network.classes, network.palette)
    report = network_report(checkpoint)
    return f"page: {page}" + (f", with a link to {report}" if report else "")
