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

from SSLRemoteSensing.core.files import write_bytes

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1a2129;--soft:#56616d;
--line:#d9dfe5;--link:#0b5cad;--blue:#1f6fb5;--orange:#b34700;--hit:15 70 140;--miss:180 70 0;
--key:#eef1f4}
@media (prefers-color-scheme:dark){:root{--page:#10151a;--card:#182028;--ink:#e8edf2;
--soft:#a3b0bd;--line:#313d49;--link:#7ab8f5;--blue:#5aa5e6;--orange:#f0914a;--hit:35 105 195;
--miss:190 80 10;--key:#232d37}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
overflow-wrap:anywhere;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.5rem 1.25rem}
footer{max-width:1180px;margin:0 auto;padding:0 1.25rem 2rem;color:var(--soft);font-size:.875rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:0 0 .5rem}
h3{font-size:1rem;margin:1.2rem 0 .5rem}
p{margin:.4rem 0}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.box:focus-visible{outline:2px solid var(--link);
outline-offset:2px}
section,header{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1.1rem 1.25rem;margin:0 0 1rem}
.note,figcaption,caption{color:var(--soft);font-size:.9rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;
margin:1rem 0}
.figures>div{background:var(--key);border-radius:8px;padding:.6rem .8rem}
.figures b{display:block;font-size:1.75rem;line-height:1.2;font-variant-numeric:tabular-nums}
.figures span{color:var(--soft);font-size:.9rem}
dl{margin:.5rem 0;display:grid;gap:.3rem 1.5rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
dl div{display:grid;grid-template-columns:8.5rem minmax(0,1fr);gap:.5rem}
dt{color:var(--soft)}
dd{margin:0}
.box{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;min-width:100%;font-size:.95rem;overflow-wrap:break-word}
caption{text-align:left;padding:0 0 .35rem}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;
vertical-align:middle}
th{font-weight:600}
thead th{color:var(--soft);font-size:.875rem;vertical-align:bottom}
th[scope=row]{position:sticky;left:0;background:var(--card);min-width:7.75rem;max-width:22rem}
td.words{min-width:14rem}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.swatch{display:inline-block;width:.9em;height:.9em;border:1px solid var(--soft);
border-radius:3px;margin-right:.45em;vertical-align:-.08em;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
.bar{display:block;height:5px;width:5rem;border-radius:2px;margin:.15rem 0 0 auto;
background:linear-gradient(var(--blue) 0 0) 0/var(--s) 100% no-repeat var(--key);
print-color-adjust:exact;-webkit-print-color-adjust:exact}
table.heat{min-width:0}
table.heat td{text-align:center;min-width:3.6rem;border:1px solid var(--card);
font-variant-numeric:tabular-nums;print-color-adjust:exact;-webkit-print-color-adjust:exact}
table.heat td.hit{background:rgb(var(--hit)/var(--s))}
table.heat td.miss{background:rgb(var(--miss)/var(--s))}
table.heat td.deep{color:#fff}
table.heat thead th{text-align:center;max-width:7rem}
table.heat thead th:first-child{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));
gap:1rem}
figure{margin:0;min-width:0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--soft);font-size:12px;font-family:inherit}
svg .axis{stroke:var(--line);stroke-width:1}
svg .line{fill:none;stroke:var(--blue);stroke-width:2;stroke-linejoin:round}
svg .dot{fill:var(--orange);stroke:var(--card);stroke-width:1.5}
svg .fill{fill:var(--blue)}
svg .other{fill:var(--orange)}
.swatch.fill{background:var(--blue)}
.swatch.other{background:var(--orange)}
h3.group{font-size:1.1rem;margin:1.6rem 0 .2rem}
.tile{border-top:1px solid var(--line);padding:.75rem 0}
.tile:first-of-type{border-top:0}
.tile p{margin:0 0 .4rem}
.pictures{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.6rem}
.pictures figcaption{font-size:.85rem}
.pictures img{display:block;width:100%;height:auto;border-radius:4px;image-rendering:pixelated;
background:var(--key);outline:1px solid var(--line)}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.4rem 0 .8rem;padding:0;
list-style:none;font-size:.9rem}
.map img{display:block;max-width:100%;height:auto;border-radius:4px;outline:1px solid var(--line)}
.scene{display:grid;gap:1.25rem;grid-template-columns:minmax(0,3fr) minmax(0,2fr)}
details{margin:.4rem 0}
summary{cursor:pointer;color:var(--link)}
pre{background:var(--key);border-radius:8px;padding:.7rem .9rem;white-space:pre-wrap;
overflow-wrap:anywhere;font:.85rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,
monospace;margin:.5rem 0}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
ul.files,ul.told{padding-left:1.2rem;margin:.4rem 0}
@media (max-width:900px){.scene{grid-template-columns:minmax(0,1fr)}}
@media (max-width:640px){main{padding:.75rem}section,header{padding:.9rem}
h1{font-size:1.4rem}.pictures{grid-template-columns:repeat(2,minmax(0,1fr))}
.figures{grid-template-columns:repeat(2,1fr)}
dl div{grid-template-columns:minmax(0,1fr);gap:0;padding-bottom:.3rem}
th,td{padding:.35rem .45rem}th[scope=row]{max-width:9rem}
footer{padding:0 .9rem 1.5rem}}
@media print{body{background:#fff;font-size:11pt}section,header{border:0;padding:.4rem 0}
.tile,figure,tr{break-inside:avoid}.box{overflow:visible}}
"""

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
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{text}>{'' if name in VOID else f'{join(contents)}</{name}>'}")


def join(parts: Sequence[object], between: str = "") -> Markup:
    return Markup(between.join(html(part) for part in parts))


def section(title: str, *contents: object, note: object = None) -> Markup:
    """A heading with an anchor of its own, a line of explanation, and what belongs to it."""
    anchor = "".join(char if char.isalnum() else "-" for char in title.lower())
    notes = [] if note is None else [tag("p", note, class_="note")]
    return tag("section", tag("h2", title, id=anchor), *notes, *contents)


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

    heads = [tag("th", text, scope="col", class_=kind(column)) for column, text in enumerate(head)]
    lines = []
    for row in rows:
        cells = [
            tag("td", value, class_=kind(column)) for column, value in enumerate(row) if column
        ]
        lines.append(tag("tr", tag("th", row[0], scope="row"), *cells))
    return boxed(tag("thead", tag("tr", *heads)), lines, caption)


def boxed(
    head: Markup, lines: Sequence[Markup], caption: str, class_: str | None = None
) -> Markup:  # fmt: skip
    """Head and lines as a table, which scrolls in a box of its own where the page is narrower."""
    element = tag("table", tag("caption", caption), head, tag("tbody", *lines), class_=class_)
    return tag("div", element, class_="box", tabindex="0", role="region", aria_label=caption)


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
