"""The run report of a flow run that trained: kept on the pipeline's run in MLflow and on that of the training."""

import logging
import time
from collections.abc import Mapping

from sana.artifact import Artifact, Recipe
from sana.errors import SanaError
from sana.pipeline.observers import CACHED, Committed, Event, Observer, RunStart, WorkStart
from tasks.tracking.tracker import Tracker

PAGE = "run_report.html"
_TAG = "sana.run_report"  # when the page on the run was made, seconds since 1970
_TRAIN = "train"

log = logging.getLogger(__name__)


class RunReport(Observer):
    """Notes what the stages commit, and keeps the page of the training at the end, also when it failed."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._start: RunStart | None = None
        self._train: tuple[Recipe, Mapping[str, Artifact]] | None = None
        self._artifacts: dict[str, Artifact] = {}
        self._is_new = False

    def on_run_start(self, start: RunStart) -> None:
        self._start = start

    def on_event(self, event: Event) -> None:
        match event:
            case WorkStart() | Committed():
                if event.stage == _TRAIN:
                    self._train = event.recipe, event.inputs
                if isinstance(event, Committed):
                    self._artifacts[event.stage] = event.artifact
                    self._is_new = self._is_new or event.state != CACHED
            case _:
                pass

    def on_run_end(self, error: BaseException | None) -> None:
        if self._start is None or self._train is None or not (error is None or isinstance(error, Exception)):
            return  # nothing was trained; or of a cancel little time is left
        self._keep(self._start, *self._train, error)

    def _keep(
        self, start: RunStart, recipe: Recipe, inputs: Mapping[str, Artifact], error: BaseException | None
    ) -> None:
        """Make the page and keep it; what is cached and has one is left alone. Trouble is a warning."""
        parent = self._tracker.run_id
        if parent is None:
            return
        tags: Mapping[str, str] | None = self._tracker.try_to(lambda client: client.get_run(parent).data.tags)
        if tags is None or (_TAG in tags and error is None and not self._is_new):
            return
        # here and not above: a flow that finds all cached draws nothing
        from sana.pipeline.training_subject import subject_of
        from sana.report.training.page import training_report
        from sana.report.training.verdict import Ending

        ending = Ending("completed") if error is None else Ending("failed", str(error) or type(error).__name__)
        now = time.time()
        try:
            subject = subject_of(start.context, start.title, self._artifacts, ending=ending, recipe=recipe)
            page = training_report(subject, now=now) if subject else ""
        except (SanaError, OSError) as trouble:
            log.warning("no run report: %s", trouble)
            return
        training = self._tracker.stage(recipe, inputs).run_id()
        for run_id in (parent, training):
            if run_id is not None:
                self._log(run_id, page)
        self._tracker.try_to(lambda client: client.set_tag(parent, _TAG, f"{now:.0f}"))

    def _log(self, run_id: str, page: str) -> None:
        self._tracker.try_to(lambda client: client.log_text(run_id, page, PAGE))
