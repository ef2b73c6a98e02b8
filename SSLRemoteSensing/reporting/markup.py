"""Small pieces of HTML. Every text that is handed in is escaped here, so that none is elsewhere.

`Markup` is what need not be escaped any more; all else is text.
"""

import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from SSLRemoteSensing.reporting.style import STYLE
from SSLRemoteSensing.writing import write_bytes

VOID = {"br", "img"}  # elements without an end
GENERATOR = '<meta name="generator" content="SSLRemoteSensing">'
PAGE = Template(f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{GENERATOR}
<title>$title</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
$body
</main>
<footer>Made $date by SSLRemoteSensing. Links lead to files beside this page.</footer>
</body>
</html>
""")


class Markup(str):
    """HTML that is ready: nothing in it is to be escaped."""


def html(value: object) -> Markup:
    """`value` as HTML: markup as it is, anything else escaped."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def tag(name: str, *contents: object, **attributes: object) -> Markup:
    """An element with escaped attributes and contents; `class_` is class, None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{'' if name in VOID else f'{join(contents)}</{name}>'}")


def join(parts: Sequence[object], between: str = "") -> Markup:
    return Markup(between.join(html(part) for part in parts))


def section(title: str, *contents: object, note: object = None) -> Markup:
    """A heading with an anchor of its own, a line of explanation, and what belongs to it."""
    anchor = "".join(c if c.isalnum() else "-" for c in title.lower())
    said = [] if note is None else [tag("p", note, class_="note")]
    return tag("section", tag("h2", title, id=anchor), *said, *contents)


def table(
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    caption: str,
    words: int = 0,
) -> Markup:
    """A table in a box of its own. The first field of a row names it, the last `words` are text,
    those between are numbers."""

    def kind(place: int) -> str | None:
        return "words" if place >= len(head) - words else "number" if place else None

    heads = [tag("th", text, scope="col", class_=kind(i)) for i, text in enumerate(head)]
    lines = []
    for row in rows:
        cells = [tag("td", value, class_=kind(i)) for i, value in enumerate(row) if i]
        lines.append(tag("tr", tag("th", row[0], scope="row"), *cells))
    return boxed(tag("thead", tag("tr", *heads)), lines, caption)


def boxed(
    head: Markup, lines: Sequence[Markup], caption: str, class_: str | None = None
) -> Markup:  # fmt: skip
    """Head and lines as a table, which scrolls in a box of its own where the page is narrower."""
    inside = tag("table", tag("caption", caption), head, tag("tbody", *lines), class_=class_)
    return tag("div", inside, class_="box", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Sequence[tuple[str, object]]) -> Markup:
    """Names with what is known of each; those of which nothing is are left out."""
    rows = [
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in pairs
        if value not in (None, "")
    ]
    return tag("dl", *rows)


def fold(summary: object, *contents: object, open_: bool = False) -> Markup:
    """What is shown when its summary is clicked."""
    return tag("details", tag("summary", summary), *contents, open="" if open_ else None)


def link(target: str | Path, start: Path, text: object = None) -> Markup:
    """A link to a file or folder, relative to `start`, the folder of the page."""
    relative = os.path.relpath(target, start)
    return tag("a", relative if text is None else text, href=quote(os.fsencode(relative)))


def write_page(path: Path, title: str, *body: object) -> None:
    """Write a page whole or not at all.

    Raises:
        CannotWrite: the disk is full, say.
    """
    date = time.strftime("%Y-%m-%d %H:%M")
    text = PAGE.substitute(title=html(title), body=join(body, "\n"), date=date)
    # Names of files may have bytes that are no text.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"


def swatch(colour: Sequence[int]) -> Markup:
    """A small square of a colour (R, G, B)."""
    red, green, blue = colour
    return tag("span", class_="swatch", style=f"background:rgb({red},{green},{blue})")
