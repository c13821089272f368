"""Whole pages of the live view: a frame around the parts, and the style and script that all of them share."""

from dataclasses import dataclass

from sana.report import html
from sana.report.live.live_page import LivePage, Topic


@dataclass(frozen=True)
class About:
    """What every page says of this server: its root, and the address of MLflow if it runs beside it."""

    root: str
    mlflow_url: str = ""
    has_data: bool = False  # the data report of a config


def document(page: LivePage, topic: Topic, about: About) -> str:
    """Return a page that keeps itself up to date."""
    values = {"page": page, "about": about, "kind": topic.kind, "key": topic.key}
    return html.fragment("live/layout.html.j2", **values)


def message(title: str, words: str, about: About) -> str:
    """Return a page that says why there is nothing else to show."""
    part = html.fragment("live/message.html.j2", title=title, words=words)
    return html.fragment("live/layout.html.j2", page=LivePage(title, {"message": part}), about=about, kind="", key="")


def static(name: str) -> str:
    """Return the style or the script of all pages: live.css or live.js."""
    own = html.source(f"live/{name}")
    return f"{html.source('page.css')}\n{own}" if name == "live.css" else own
