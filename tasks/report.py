"""The data report of a flow run: kept on the pipeline's run in MLflow, beside its lineage."""

import logging
import time
from collections.abc import Mapping

from sana.context import Context
from sana.errors import SanaError
from sana.pipeline.observers import FAILED, STOPPED, Committed, Event, Observer, RunStart, StageEnd, StageStart
from sana.report.states import StageState
from tasks.tracking.tracker import Tracker

PAGE = "data_report.html"
_TAG = "sana.report"  # when the page on the run was made, seconds since 1970

log = logging.getLogger(__name__)


class DataReport(Observer):
    """Follows the state of each stage that the run comes to, and keeps the page of them at the end."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._start: RunStart | None = None
        self._states: dict[str, StageState] = {}

    def on_run_start(self, start: RunStart) -> None:
        self._start = start

    def on_event(self, event: Event) -> None:
        match event:
            case StageStart():
                self._states.pop(event.stage, None)  # tried again, it is the last one
                self._states[event.stage] = StageState(event.stage, "not run")
            case Committed():
                self._states[event.stage] = StageState(event.stage, event.state, event.artifact)
            case StageEnd() if event.state in (FAILED, STOPPED):
                artifact = self._states[event.stage].artifact  # committed, it may have failed on its rejects
                self._states[event.stage] = StageState(event.stage, "failed", artifact, str(event.error))
            case _:
                pass

    def on_run_end(self, error: BaseException | None) -> None:
        if self._start and (error is None or isinstance(error, Exception)):  # of a cancel little time is left
            record_report(self._tracker, self._start.context, self._start.title, list(self._states.values()))


def record_report(tracker: Tracker, context: Context, title: str, states: list[StageState]) -> None:
    """Make the page and keep it on the pipeline's run; what is cached and has a page is left alone.

    An index: whatever goes wrong here is a warning, never the end of a run.
    """
    run_id = tracker.run_id
    if run_id is None or not any(state.artifact for state in states):
        return
    tags: Mapping[str, str] | None = tracker.try_to(lambda client: client.get_run(run_id).data.tags)
    if tags is None or (_TAG in tags and all(state.state == "cached" for state in states)):
        return
    # here and not above: a flow that finds all cached draws nothing
    from sana.report.page import data_report

    now = time.time()
    try:
        page = data_report(context, title, states, now=now)
    except (SanaError, OSError) as error:
        log.warning("no data report: %s", error)
        return
    tracker.try_to(lambda client: client.log_text(run_id, page, PAGE))
    tracker.try_to(lambda client: client.set_tag(run_id, _TAG, f"{now:.0f}"))
