"""Tables that a query string sorts, filters and pages through, so that ten thousand rows are no long page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sana.report.live.live_page import Topic

Row = TypeVar("Row")
PAGE_ROWS = 50
Key = Callable[[Row], float | str]


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A way to sort: what it is called, and by what; the least comes first."""

    words: str
    key: Callable[[Row], float | str]


@dataclass(frozen=True)
class Slice(Generic[Row]):
    """The rows of one page of a table, and where it stands."""

    rows: Sequence[Row]
    num_found: int
    num_all: int
    page: int
    num_pages: int
    sort: str


def chosen(
    rows: Sequence[Row],
    topic: Topic,
    *,
    sorts: Mapping[str, Column[Row]],
    text: Callable[[Row], str],
    state: Callable[[Row], str],
) -> Slice[Row]:
    """Return the rows that a query string asks for.

    `find`: words that are all in a row's text. `state`: one of a row's states. `sort`: a name of `sorts`, else the
    first; `order=reverse`. `page`: from 1; what is no page is the nearest one.
    """
    words = topic.choice("find").lower().split()
    wanted = topic.choice("state")
    found = [
        row for row in rows if (not wanted or state(row) == wanted) and (not words or _has(text(row).lower(), words))
    ]
    sort = topic.choice("sort") if topic.choice("sort") in sorts else next(iter(sorts))
    found.sort(key=sorts[sort].key, reverse=topic.choice("order") == "reverse")
    num_pages = max(1, -(-len(found) // PAGE_ROWS))
    asked = topic.choice("page", "1")
    page = min(num_pages, max(1, int(asked))) if asked.isdecimal() and len(asked) < 9 else 1
    return Slice(found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS], len(found), len(rows), page, num_pages, sort)


def _has(text: str, words: Sequence[str]) -> bool:
    return all(word in text for word in words)
