"""The page of a flow run that is one piece of work and no pipeline: validation, or the part of an encode worker."""

import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect import runtime

from sana.pipeline.observers import COMPLETED, FAILED, STOPPED
from sana.progress import Progress, Report
from tasks.form_terms import told
from tasks.lost_server import is_gone
from tasks.prefect_pages.markdown import joined, table, text, trouble
from tasks.prefect_pages.sender import END_S, KILLED_END_S, Page, PageSender, key_of
from tasks.prefect_pages.stages import SeenStage


@dataclass
class Work:
    """What the page says of the work. `numbers` are (what, how much); `more` makes further parts of the page."""

    what: str  # such as "validation"
    config: str  # its path
    report: Report
    seen: SeenStage
    numbers: list[tuple[str, object]] = field(default_factory=list)
    more: Callable[[], Sequence[str]] = tuple  # called by the thread that sends the page; each part is markdown


@contextmanager
def page_of_work(config: str, what: str, report: Report) -> Iterator[Work]:
    """Keep the page of the flow run at work, if there is one: running, then completed or how it failed.

    `report` hears the progress that is reported to the work's own `report`, of which the page has counts and rate.
    """
    seen = SeenStage(what, None, started_at=time.monotonic())

    def heard(progress: Progress) -> None:
        if progress.total and (seen.progress is None or progress.done > progress.before):
            seen.progress = progress
        report(progress)

    work = Work(what, config, heard, seen)
    if runtime.flow_run.id is None:  # not within a flow run
        yield work
        return
    sender, run_id = PageSender(), UUID(runtime.flow_run.id)
    sender.put(_page(work, "running", run_id))
    try:
        yield work
    except BaseException as error:
        is_killed = not isinstance(error, Exception | CancelledError)
        seen.error = told(error)
        sender.put(_page(work, STOPPED if is_killed else FAILED, run_id))
        sender.end(0.0 if is_gone() else KILLED_END_S if is_killed else END_S)
        raise
    sender.put(_page(work, COMPLETED, run_id))
    sender.end(0.0 if is_gone() else END_S)


def _page(work: Work, state: str, run_id: UUID) -> Page:
    """Render what is known now; what `more` reads is read when the page is sent."""
    seen, more, title = work.seen, work.more, Path(work.config).stem
    numbers = [*work.numbers, ("done", seen.counts), ("rate", seen.rate)]
    numbers += [("took", f"{time.monotonic() - (seen.started_at or 0.0):.1f} s")] if state != "running" else []
    rows = [[text(label), text(value)] for label, value in numbers if value != ""]
    head = joined(
        [
            f"# {text(work.what)} of {text(title)}: {text(state)}",
            trouble(seen.error),
            table(["what", "how much"], rows, numbers=["how much"]) if rows else "",
        ]
    )
    description = text(f"{work.what} of {title}, {state}", most=1000)
    return Page(key_of(title, work.what), description, lambda: joined([head.rstrip(), *more()]), run_id)
