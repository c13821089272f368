"""A stage's progress in Prefect's UI."""

import logging
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from sana.pipeline.observers import Event, Observer, WorkStart
from sana.progress import Progress

UPDATE_EVERY_S = 2.0  # each update is a call to Prefect's server

log = logging.getLogger(__name__)


class PrefectProgress(Observer):
    """A ring on the task of the stage that runs, updated every 2 s at most, never in the way."""

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._next = 0.0

    def on_event(self, event: Event) -> None:
        if isinstance(event, WorkStart):  # another task run: it has a ring of its own
            self._id, self._next = None, 0.0

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next and progress.done < progress.total:
            return
        self._next = now + UPDATE_EVERY_S
        percent = 100.0 * progress.done / max(progress.total, 1)
        text = f"{stage}: {progress.done} of {progress.total} {progress.unit} {progress.detail}".rstrip()
        try:
            if self._id is None:
                self._id = create_progress_artifact(progress=percent, description=text)  # type: ignore[assignment]
            else:
                update_progress_artifact(self._id, progress=percent, description=text)
        except (httpx.HTTPError, PrefectException) as error:
            log.debug("progress is not shown in Prefect: %s", error)
