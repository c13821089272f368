"""The first page: what runs now, and all trainings of the root as a table to sort and filter."""

from collections.abc import Sequence

from sana.report import html
from sana.report.live.committed import TrainingEntry
from sana.report.live.live_page import Topic
from sana.report.live.run_index import LIVE, RunIndex
from sana.report.live.tables import Column, chosen

MAX_RUNNING = 12
STATES = ("running", "silent", "killed", "completed", "failed", "stopped", "unfinished")
SORTS: dict[str, Column[TrainingEntry]] = {
    "age": Column("age", lambda row: -row.created_at),
    "loss": Column("eval loss", lambda row: float("inf") if row.loss is None else row.loss),
    "steps": Column("steps", lambda row: -row.step),
    "size": Column("size", lambda row: -row.num_bytes),
    "title": Column("config", lambda row: row.title.lower()),
    "method": Column("method", lambda row: row.method),
    "data": Column("data", lambda row: row.data),
}


def parts(rows: Sequence[TrainingEntry], runs: RunIndex, topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of the page."""
    found = chosen(rows, topic, sorts=SORTS, text=_text, state=lambda row: row.state)
    running = [row for row in runs.rows if row.state in LIVE][:MAX_RUNNING]
    values = {"found": found, "topic": topic, "sorts": SORTS, "states": STATES, "num_runs": len(runs.rows)}
    return "Trainings", {
        "head": html.fragment("live/overview_head.html.j2"),
        "running": html.fragment("live/running.html.j2", running=running),
        "trainings": html.fragment("live/trainings.html.j2", **values),
    }


def _text(row: TrainingEntry) -> str:
    return f"{row.title} {row.fingerprint} {row.trajectory} {row.method} {row.data}"
