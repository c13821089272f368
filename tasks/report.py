"""The data report of a flow run: kept on the pipeline's run in MLflow, beside its lineage."""

import logging
import time
from collections.abc import Mapping

from sana.artifact import Artifact
from sana.context import Context
from sana.errors import SanaError
from sana.report.states import StageState
from tasks.tracking import Tracker

PAGE = "data_report.html"
_TAG = "sana.report"  # when the page on the run was made, seconds since 1970

log = logging.getLogger(__name__)


class StageBook:
    """How the stages of a flow run stand: each is opened when its task asks storage, and closed with its artifact."""

    def __init__(self) -> None:
        self._states: dict[str, StageState] = {}
        self._open: str | None = None

    def start(self, stage: str) -> None:
        self._states.pop(stage, None)
        self._states[stage] = StageState(stage, "not run")
        self._open = stage

    def committed(self, stage: str, state: str, artifact: Artifact) -> None:
        self._states[stage] = StageState(stage, state.lower(), artifact)

    def done(self) -> None:
        self._open = None

    def states(self, error: BaseException | None) -> list[StageState]:
        """Return all stages that were reached; the one that `error` came out of has failed, committed or not."""
        found = dict(self._states)
        if error is not None and self._open is not None:
            found[self._open] = StageState(self._open, "failed", found[self._open].artifact, str(error))
        return list(found.values())


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
