"""All runs of a root as a table, and the page of one: its stages, events, error and config."""

import time

from sana.report import html
from sana.report.live.live_page import Topic
from sana.report.live.run_index import RunIndex, RunRow, row_of, shown_stages
from sana.report.live.tables import Column, chosen
from sana.runs.listing import Run

STATES = ("running", "silent", "killed", "completed", "failed", "stopped")
SORTS: dict[str, Column[RunRow]] = {
    "age": Column("age", lambda row: -row.started_at),
    "title": Column("config", lambda row: row.title.lower()),
    "host": Column("machine", lambda row: row.host),
    "time": Column("time", lambda row: -row.seconds),
}


def list_parts(runs: RunIndex, topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of the list."""
    found = chosen(runs.rows, topic, sorts=SORTS, text=_text, state=lambda row: row.state)
    values = {"found": found, "topic": topic, "sorts": SORTS, "states": STATES, "num_unread": runs.num_unread}
    return "Runs", {"runs": html.fragment("live/runs.html.j2", **values)}


def run_parts(runs: RunIndex, topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of a run's page. Raises LookupError: there is no such run."""
    run, now = runs.run(topic.key), time.time()
    row = row_of(run, now)
    return f"{row.title} - run", {
        "head": html.fragment("live/run_head.html.j2", row=row, run=run, links=links_of(run)),
        "stages": stages_part(run, now),
        "events": events_part(run),
        "config": html.fragment("live/config.html.j2", text=run.started.config, about="the whole config of this run"),
    }


def stages_part(run: Run, now: float) -> str:
    """Return how far each stage of a run is."""
    return html.fragment("live/stages.html.j2", stages=shown_stages(run, now))


def events_part(run: Run | None) -> str:
    """Return what happened last in a run, the newest first."""
    events = run.status.events[::-1] if run is not None and run.status is not None else ()
    return html.fragment("live/events.html.j2", events=events)


def links_of(run: Run) -> dict[str, str]:
    """Return the pages of a run elsewhere that a browser may open: a link of another kind is left out."""
    found = run.status.links if run.status is not None else {}
    return {name: link for name, link in found.items() if link.startswith(("http://", "https://"))}


def _text(row: RunRow) -> str:
    return f"{row.title} {row.run_id} {row.host} {row.trajectory} {row.fingerprint} {row.stage}"
