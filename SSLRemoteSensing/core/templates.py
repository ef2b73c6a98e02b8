"""Pages and cards from the templates that lie in a room's folder `templates`."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def render(room: str, name: str, **values: object) -> str:
    """The template `name` of a room, 'reports' say, with its `values` filled in. In a template
    whose name ends with .html every value is escaped, but `markupsafe.Markup`. A name without a
    value is an error."""
    folder = Path(__file__).parents[1] / room / "templates"
    return environment(folder).get_template(name).render(values)


@cache
def environment(folder: Path) -> "Environment":
    """How the templates of `folder` are read; they may extend and include each other."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
