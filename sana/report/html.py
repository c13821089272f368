"""Pages of HTML from the templates beside this module, which quote all that they are given: no name is trusted.

A page loads nothing from anywhere, and its content policy forbids it to: style and script are inside it.
"""

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from sana.report import charts, formatting


def render(template: str, **values: object) -> str:
    """Fill the template of a page, one that extends `layout.html.j2`."""
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment().get_template(template)
    return page.render(values, style=_source("page.css"), script=script, script_digest=digest)


@cache
def environment() -> Environment:
    """Return what templates are compiled in: with the charts, and the ways to write numbers and names as filters."""
    made = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["charts"] = charts
    for write in ("name", "number", "percent", "size", "duration", "utc"):
        made.filters[write] = getattr(formatting, write)
    return made


def _source(name: str) -> str:
    """Read a file of `templates/`, wherever the package is installed."""
    return (resources.files("sana.report") / "templates" / name).read_text(encoding="utf-8")
