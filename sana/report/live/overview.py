"""The first page: what is trained here now, and all trainings of the root as a table to sort and filter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sana.report import html
from sana.report.live.committed import Committed, TrainingRow
from sana.report.live.live_page import Topic

PAGE_ROWS = 50
SORTS: dict[str, tuple[str, Callable[[TrainingRow], float | str]]] = {
    "age": ("finished", lambda row: -row.created_at),
    "loss": ("eval loss", lambda row: row.evaluated.mean if row.evaluated else float("inf")),
    "steps": ("steps", lambda row: -row.step),
    "size": ("size", lambda row: -row.num_bytes),
    "method": ("method", lambda row: row.method),
}


@dataclass(frozen=True)
class Slice:
    """The rows of one page of a table, and where it stands."""

    rows: Sequence[TrainingRow]
    num_found: int
    num_all: int
    page: int
    num_pages: int


def parts(committed: Committed, topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of the page."""
    found = chosen(committed.trainings, topic)
    table = html.fragment("live/trainings.html.j2", found=found, topic=topic, sorts=SORTS)
    return f"Trainings - {committed.store.root}", {"trainings": table}


def chosen(rows: Sequence[TrainingRow], topic: Topic) -> Slice:
    """Return the rows that the query string asks for: `find` words that are all in it, `sort`, `down`, `page`."""
    words = topic.choice("find").lower().split()
    found = [row for row in rows if all(word in _text(row) for word in words)]
    sort = topic.choice("sort", "age")
    key = SORTS.get(sort, SORTS["age"])[1]
    found.sort(key=key, reverse=topic.choice("order") == "reverse")
    num_pages = max(1, -(-len(found) // PAGE_ROWS))
    asked = topic.choice("page", "1")
    page = min(num_pages, max(1, int(asked))) if asked.isdecimal() and len(asked) < 9 else 1
    return Slice(found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS], len(found), len(rows), page, num_pages)


def _text(row: TrainingRow) -> str:
    return f"{row.fingerprint} {row.trajectory} {row.method} {row.data}".lower()
