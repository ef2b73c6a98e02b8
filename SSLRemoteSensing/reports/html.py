"""Pages from templates: what stands in all of them, links, pictures."""

import base64
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from SSLRemoteSensing.core.files import write_bytes
from SSLRemoteSensing.core.templates import render


class Link(NamedTuple):
    text: str
    href: str


def link(target: str | Path, start: Path) -> Link:
    """A link to a file or folder, relative to `start`, the folder of the page."""
    relative = os.path.relpath(target, start).replace(os.sep, "/")
    return Link(relative, quote(os.fsencode(relative)))


def embed(data: bytes) -> str:
    """A PNG or JPEG as the source of an image, which holds all of it."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def write_page(path: Path, template: str, values: Mapping[str, object]) -> None:
    """Write a page whole or not at all.

    Raises:
        CannotWrite: the disk is full, say.
    """
    shared = {"date": time.strftime("%Y-%m-%d %H:%M"), "percent": percent}
    text = render("reports", template, number="{:,}".format, **shared, **values)
    # Names of files may have bytes that are no text.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"
