"""A stage's progress in Prefect's UI, and what becomes of the run when Prefect's server is gone: it goes on."""

import logging
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from sana.pipeline.observers import Event, Observer, WorkStart
from sana.progress import Progress
from sana.wording import without_password
from tasks.lost_server import failure_of_server, let_go

UPDATE_EVERY_S = 2.0  # each update is a call to Prefect's server
REQUEST_S = 5.0  # a server that is silent for so long does not answer; Prefect itself would wait for a minute
PAUSE_S = 60.0  # a server that does not answer is left alone for so long
RETURN_S = 15.0  # at the end of the run: one that is being restarted is waited for

log = logging.getLogger(__name__)


class PrefectProgress(Observer):
    """A ring on the task of the stage that runs, updated every 2 s at most, never in the way.

    States of tasks are made in this process and only told to the server, so nothing but the last state of the flow
    needs it. A server that is gone is one warning; at the end Prefect's client is told not to try for minutes.
    `return_s`: how long one that is gone at the end may take to come back, in seconds; a temporary server never does.
    """

    def __init__(self, return_s: float = RETURN_S) -> None:
        self._return_s = return_s
        self._id: UUID | None = None
        self._next = 0.0
        self._warned = False

    def on_event(self, event: Event) -> None:
        if isinstance(event, WorkStart):  # another task run: it has a ring of its own
            self._id = None
            self._next = 0.0 if not self._warned else self._next

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next and (self._warned or not 0 < progress.total <= progress.done):
            return
        self._next = now + UPDATE_EVERY_S
        percent = 100.0 * progress.done / max(progress.total, 1)
        counts = f"{progress.done} of {progress.total} {progress.unit} " if progress.total else ""
        text = f"{stage}: {counts}{progress.phase or progress.detail}".rstrip()
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: REQUEST_S}):
                if self._id is None:
                    self._id = create_progress_artifact(progress=percent, description=text)  # type: ignore[assignment]
                else:
                    update_progress_artifact(self._id, progress=percent, description=text)
        except httpx.TransportError as error:
            self._next = time.monotonic() + PAUSE_S
            self._warn(error)
        except (httpx.HTTPError, PrefectException) as error:
            log.debug("progress is not shown in Prefect: %s", error)

    def on_run_end(self, error: BaseException | None) -> None:
        """Look whether the server takes the flow's last state; if not, let Prefect's client ask it only once."""
        in_a_hurry = error is not None and not isinstance(error, Exception)  # of a cancel little time is left
        until = time.monotonic() + (0.0 if in_a_hurry else self._return_s)
        while (failure := failure_of_server()) is not None and time.monotonic() < until:
            time.sleep(1.0)
        if failure is not None:
            self._warn(failure)
            let_go()

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            url = without_password(str(PREFECT_API_URL.value()))
            log.warning(
                "the Prefect server at %s does not answer (%s). The run continues without its records there", url, error
            )
        self._warned = True
