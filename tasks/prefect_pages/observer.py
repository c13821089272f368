"""Pages in Prefect as an observer: one of the flow run, one of each stage beside the ring of its progress."""

import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import UUID

from prefect import runtime

from sana.pipeline.observers import (
    FAILED,
    STOPPED,
    Committed,
    Event,
    Observer,
    RunStart,
    StageEnd,
    StageStart,
    WorkStart,
)
from sana.progress import Progress
from tasks.form_terms import told
from tasks.lost_server import is_gone
from tasks.prefect_pages.markdown import link, text
from tasks.prefect_pages.run_page import run_page
from tasks.prefect_pages.sender import END_S, KILLED_END_S, Page, PageSender, key_of
from tasks.prefect_pages.stages import SeenStage, stage_page, summary
from tasks.report import PAGE as DATA_REPORT
from tasks.run_report import PAGE as RUN_REPORT
from tasks.tracking.tracker import Tracker
from tasks.web_pages import mlflow_page

log = logging.getLogger(__name__)


class PrefectPages(Observer):
    """Follows the stages of a flow run, and keeps its pages. A run waits for Prefect at its end only."""

    def __init__(self, tracker: Tracker, config: str) -> None:
        self._tracker, self._config = tracker, config
        self._sender: PageSender | None = None
        self._seen: dict[str, SeenStage] = {}
        self._links: list[str] = []
        self._error = ""

    def on_run_start(self, start: RunStart) -> None:
        if runtime.flow_run.id is None:  # not within a flow run
            return
        self._run_id = UUID(runtime.flow_run.id)
        self._title, self._store = start.title, start.context.store
        self._links = self._web_links()
        self._sender = PageSender()
        self._put_run(_running())

    def on_event(self, event: Event) -> None:
        if self._sender is None:
            return
        match event:
            case StageStart():
                task_run = runtime.task_run.id
                self._seen.pop(event.stage, None)  # tried again, it is the last one
                self._seen[event.stage] = SeenStage(event.stage, UUID(task_run) if task_run else None)
            case WorkStart():
                self._seen[event.stage].started_at = time.monotonic()
                self._put_run(_running())
            case Committed():
                self._seen[event.stage].artifact = event.artifact
                self._seen[event.stage].state = event.state
            case StageEnd():
                seen = self._seen[event.stage]
                seen.state = event.state
                if event.error is not None and event.state in (FAILED, STOPPED):
                    seen.error = told(event.error)
                self._put_stage(replace(seen))
                self._put_run(_running())
            case _:
                pass

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        seen = self._seen.get(stage)
        if seen and progress.total and (seen.progress is None or progress.done > progress.before):
            seen.progress = progress

    def on_run_end(self, error: BaseException | None) -> None:
        if self._sender is None:
            return
        is_killed = error is not None and not isinstance(error, Exception)
        state = STOPPED if is_killed else "completed" if error is None else FAILED
        if error is not None:
            self._error = told(error)
        self._links = self._web_links() if not is_killed else self._links
        self._put_run(state)
        left = self._sender.end(0.0 if is_gone() else KILLED_END_S if is_killed else END_S)
        if left and not is_gone():
            log.warning("Prefect's server is slow: %d pages of this run are not shown there", left)

    def _put_stage(self, seen: SeenStage) -> None:
        if self._sender is None or seen.task_run_id is None:
            return
        title, store, links = self._title, self._store, self._links
        made = seen.artifact
        what = f"{seen.state}: {made.counts}" if made else seen.state
        self._sender.put(
            Page(
                key_of(title, seen.name),
                text(f"{seen.name} of {title}, {what}", most=1000),
                lambda: stage_page(seen, title, store, links),
                self._run_id,
                seen.task_run_id,
            )
        )

    def _put_run(self, state: str) -> None:
        if self._sender is None:
            return
        seen: Sequence[SeenStage] = [replace(one) for one in self._seen.values()]
        title, store, links, error = self._title, self._store, self._links, self._error
        page = Page(
            key_of(title, "run"),
            text(f"{title}, {state}{summary(seen)}", most=1000),
            lambda: run_page(title, state, seen, store, links, error),
            self._run_id,
        )
        self._sender.put(page)

    def _web_links(self) -> list[str]:
        """Return links to the run in MLflow and to its reports, where MLflow is a server; else how to see them."""
        page = mlflow_page(self._tracker)
        if page is None:
            return [f"In MLflow and as a page: {text(f'sana ui {shlex.quote(self._config)}')}"]
        reports = {"data report": DATA_REPORT} | ({"run report": RUN_REPORT} if "train" in self._seen else {})
        kept = [link(label, f"{page}/artifacts/{quote(name)}") for label, name in reports.items()]
        return [link("MLflow", page), *kept]


def _running() -> str:
    """Return the state of a run at work: a page that a killed run leaves behind says of when it is."""
    return f"running at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
