"""A page of the scenes that were mapped: their previews, what they show, where the files lie.

The pictures are files beside the page, as those of many scenes would be too much for one file.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.inference.mapper import Mapped
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import Outputs, scene_name, without_queries
from SSLRemoteSensing.reports.html import link, percent, write_page
from SSLRemoteSensing.reports.run_report import NAME

GENERATOR = b'<meta name="generator" content="SSLRemoteSensing">'  # as in page.html
PICTURE = re.compile(r'<img src="([^"]*)"')  # as in maps.html


def page_of(plan: Sequence[Outputs]) -> Path:
    """`<map>_preview.html` of one scene; of several `maps.html` in the folder of the first."""
    first = plan[0].map
    return first.with_name(f"{first.stem}_preview.html" if len(plan) == 1 else "maps.html")


def require_own_page(page: Path, plan: Sequence[Outputs]) -> None:
    """Raise a `UserError` where `page` is there and no page of ours, or one that shows the map of
    another scene than the new one of `plan` will."""
    if not page.exists():
        return
    text = page.read_bytes() if page.is_file() else b""
    if GENERATOR not in text[:1000]:
        raise UserError(
            f"--output {page}: is there already, and is not known to be a page of this command; "
            f"name another folder, or pass --overwrite"
        )
    pictures = {link(x.preview, page.parent).href for x in plan if x.preview is not None}
    others = [x for x in PICTURE.findall(text.decode(errors="replace")) if x not in pictures]
    if others:
        raise UserError(
            f"--output {page}: is there already and shows other maps, {unquote(others[0])} first; "
            f"name another folder, or all scenes with --skip_existing, or pass --overwrite"
        )


def write_map_page(
    page: Path,
    checkpoint: Path,
    network: MapNetwork,
    plan: Sequence[Outputs],
    remaining: Sequence[Outputs],
    maps: Sequence[Mapped],
    failures: Sequence[str],
) -> str:
    """Write the page of all planned scenes that have a preview; a line that says where.

    Args:
        remaining: those of `plan` that were to be mapped. What is there of one that was not is of
            an earlier map, and not shown.
        maps: those that were made now; of the others the shares of the classes are not known.
        failures: the errors of scenes that could not be mapped.

    Raises:
        CannotWrite: the disk is full, say.
    """
    map_by_path = {scene_map.outputs.map: scene_map for scene_map in maps}
    scenes = []
    for outputs in plan:
        is_old = outputs in remaining and outputs.map not in map_by_path
        if is_old or not outputs.preview.exists():
            continue
        files = [path for path in reversed(outputs.files) if path.exists()]
        scene_map, preview = map_by_path.get(outputs.map), link(outputs.preview, page.parent).href
        scene = {"name": scene_name(outputs.scene), "preview": preview}
        scene["rows"] = share_rows(scene_map, network.classes) if scene_map else []
        scenes.append(scene | {"files": [link(path, page.parent) for path in files]})
    report = checkpoint.with_name(NAME)
    has_report = report.is_file()
    values = {
        "title": "Map of 1 scene" if len(scenes) == 1 else f"Maps of {len(scenes):,} scenes",
        "checkpoint": checkpoint,
        "report": link(report, page.parent).href if has_report else None,
        "failures": [without_queries(text, [x.scene for x in plan]) for text in failures],
        "scenes": scenes,
        "colours": dict(zip(network.classes, network.palette, strict=True)),
    }
    write_page(page, "maps.html", values)
    return f"page: {page}" + (f", with a link to {report}" if has_report else "")


def share_rows(scene_map: Mapped, classes: Sequence[str]) -> list[list[str]]:
    """Class, share in per cent, pixels; without data at the end."""
    total = sum(scene_map.counts)
    rows = [
        [name, percent(count / (total or 1)), f"{count:,}"]
        for name, count in zip(classes, scene_map.counts, strict=True)
    ]
    empty = scene_map.pixels - total
    return [*rows, ["no data", "", f"{empty:,}"]] if empty else rows
