"""The page of the scenes that a command mapped, beside their previews."""

from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.mapping.network import MapNetwork
from SSLRemoteSensing.mapping.outputs import Outputs
from SSLRemoteSensing.mapping.run import Mapped
from SSLRemoteSensing.reporting.map_page import MapEntry, is_ours, network_report, write_map_page


def page_of(planned: Sequence[Outputs]) -> Path:
    """`<map>_preview.html` of one scene; of several `maps.html` in the folder of the first."""
    first = planned[0]
    if len(planned) == 1:
        return first.map.with_name(f"{first.map.stem}_preview.html")
    return first.map.with_name("maps.html")


def require_own_page(page: Path) -> None:
    """Raise a `UserError` where `page` is there and no page of ours."""
    if page.exists() and not is_ours(page):
        raise UserError(
            f"--output {page}: is there already, and is not known to be a page of this command; "
            f"name another folder, or pass --overwrite"
        )


def write_page(
    page: Path,
    checkpoint: Path,
    network: MapNetwork,
    planned: Sequence[Outputs],
    done: Sequence[Mapped],
    failed: Sequence[str],
) -> str:
    """Write the page of all planned scenes that have a preview; a line that says where.

    Raises:
        CannotWrite: the disk is full, say.
    """
    mapped = {one.outputs.map: one for one in done}
    entries = []
    for outputs in planned:
        if outputs.preview.exists():
            one = mapped.get(outputs.map)
            counts, pixels = (one.counts, one.pixels) if one else (None, 0)
            files = [path for path in reversed(outputs.files) if path.exists()]
            entries.append(MapEntry(outputs.scene, outputs.preview, files, counts, pixels))
    write_map_page(page, checkpoint, entries, failed, network.classes, network.palette)
    report = network_report(checkpoint)
    return f"page: {page}" + (f", with a link to {report}" if report else "")
