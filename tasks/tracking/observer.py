"""MLflow as an observer: when which call of the tracker is made."""

from collections.abc import Mapping, Sequence

from sana.pipeline.observers import CACHED, Committed, Event, Observer, RunStart, StageEnd, WorkEvent, WorkStart
from sana.progress import PreviewReady, ValidationDone
from tasks.tracking.pictures import Pictures
from tasks.tracking.pipeline_view import PipelineView
from tasks.tracking.stage_run import StageRun
from tasks.tracking.tracker import Tracker


class TrackingObserver(Observer):
    """Opens the pipeline's run with the run, and a stage's with its work."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._pictures = Pictures(tracker)
        self._view = PipelineView(tracker)
        self._working: StageRun | None = None  # the stage that has work to do

    def on_run_start(self, start: RunStart) -> None:
        self._tracker.title = start.title
        self._tracker.__enter__()
        self._view.start()

    def on_metrics(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:  # noqa: ARG002
        if self._working is not None:
            self._working.log_metrics(rows)
            self._view.rows(rows)

    def on_event(self, event: Event) -> None:
        if isinstance(event, WorkStart | Committed) and event.stage == "train":
            self._view.trains(event.recipe)
        match event:
            case WorkStart():
                self._working = self._tracker.stage(event.recipe, event.inputs).__enter__()
            case Committed():
                stage_run = self._working or self._tracker.stage(event.recipe, event.inputs)
                stage_run.finished(event.artifact, "Cached" if event.state == CACHED else "Completed")
                self._view.committed(event.artifact, stage_run.run_id())
                if event.state != CACHED and (run_id := stage_run.run_id()):
                    self._pictures.finish(run_id, event.artifact)
            case WorkEvent(what=ValidationDone(record=record)) if self._working is not None and record:
                if run_id := self._working.run_id():
                    self._pictures.show(run_id, record)
            case WorkEvent(what=PreviewReady() as ready) if self._working is not None:
                if run_id := self._working.run_id():
                    self._pictures.show_preview(run_id, ready)
            case StageEnd() if self._working is not None:
                stage_run, self._working = self._working, None
                self._pictures.wait(timeout_s=2.0)
                stage_run.__exit__(type(event.error) if event.error else None, event.error, None)
            case _:
                pass

    def on_run_end(self, error: BaseException | None) -> None:
        self._view.end(error)
        self._tracker.__exit__(type(error) if error else None, error, None)
