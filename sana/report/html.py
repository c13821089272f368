"""Pages of HTML from the templates beside this module, which quote all that they are given: no name is trusted.

A page loads nothing from anywhere, and its content policy forbids it to: style and script are inside it. Those of the
live view are no single files: `flows/web` serves them, with a policy of its own.
"""

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from sana.report import charts, formatting
from sana.wording import duration


def render(template: str, **values: object) -> str:
    """Fill the template of a page, one that extends `layout.html.j2`."""
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment().get_template(template)
    return page.render(values, style=source("page.css"), script=script, script_digest=digest)


def fragment(template: str, **values: object) -> Markup:
    """Fill a template that is a part of a page, or a page of the live view, whose style and script are files.

    What it returns is not quoted again where it is put into another.
    """
    return Markup(environment().get_template(template).render(values))  # noqa: S704 - the template has quoted


@cache
def environment() -> Environment:
    """Return what templates are compiled in: with the charts, and the ways to write numbers and names as filters."""
    made = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["charts"] = charts
    for write in ("name", "lines", "number", "percent", "size", "hours", "utc", "clock"):
        made.filters[write] = getattr(formatting, write)
    made.filters["duration"] = duration
    return made


@cache
def source(name: str) -> str:
    """Read a file of `templates/`, wherever the package is installed."""
    return (resources.files("sana.report") / "templates" / name).read_text(encoding="utf-8")
