"""Markdown pages on their way to Prefect's server: from a thread of its own, so that the run never waits for them."""

import logging
import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from sana.errors import SanaError

PAUSE_S = 30.0  # a server that does not take a page is left alone for so long
REQUEST_S = 10.0
END_S, KILLED_END_S = 5.0, 1.0  # that the end of a run waits for pages to be sent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """A page of a flow run, or of one of its task runs. `make` is called in the sender's thread."""

    key: str  # lower-case letters, digits and dashes
    description: str
    make: Callable[[], str]
    flow_run_id: UUID
    task_run_id: UUID | None = None


def key_of(title: str, what: str) -> str:
    """Return the key of a page of a config's runs: Prefect takes lower-case letters, digits and dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "config"
    return f"{slug}-{re.sub(r'[^a-z0-9]+', '-', what.lower())}"


class PageSender:
    """Sends the newest state of each page. A page that is put again replaces what Prefect has of it."""

    def __init__(self) -> None:
        self._waiting: dict[str, Page] = {}  # by key, the oldest first
        self._ids: dict[str, UUID | None] = {}
        self._changed = threading.Condition()
        self._ends = False
        self._busy = False
        # with the settings of the flow run, which threads do not inherit
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._send_all,), name="prefect-pages", daemon=True)
        self._thread.start()

    def put(self, page: Page) -> None:
        """Let a page be sent, or what waits of it be replaced; returns at once."""
        with self._changed:
            self._waiting[page.key] = page
            self._changed.notify_all()

    def end(self, timeout_s: float) -> int:
        """Wait at most so long until all is sent; returns the number of pages that are not."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while (self._waiting or self._busy) and self._thread.is_alive() and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())
            left = len(self._waiting) + self._busy
            self._ends = True
            self._waiting.clear()
            self._changed.notify_all()
        return left

    def _send_all(self) -> None:
        while (page := self._next()) is not None:
            sent = False
            try:
                limits = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: REQUEST_S}
                with temporary_settings(limits), get_client(sync_client=True) as client:
                    self._send(client, page)
                sent = True
            except httpx.TransportError as error:
                log.debug("Prefect does not take the page %s: %s", page.key, error)
            except (httpx.HTTPError, PrefectException, SanaError, OSError, RuntimeError) as error:
                log.debug("no page %s: %s", page.key, error)
                sent = True  # nor will it the next time
            with self._changed:
                if not sent and not self._ends:
                    self._waiting.setdefault(page.key, page)
                self._busy = False
                self._changed.notify_all()
                if not sent:
                    self._changed.wait_for(lambda: self._ends, PAUSE_S)

    def _next(self) -> Page | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._ends)
            if self._ends:
                return None
            self._busy = True
            return self._waiting.pop(next(iter(self._waiting)))

    def _send(self, client: SyncPrefectClient, page: Page) -> None:
        markdown = page.make()
        if page.key not in self._ids:
            self._ids[page.key] = _id_of_earlier(client, page)
        known = self._ids[page.key]
        if known is not None:
            client.update_artifact(known, ArtifactUpdate(data=markdown, description=page.description))
            return
        made = client.create_artifact(
            ArtifactCreate(
                key=page.key,
                type="markdown",
                description=page.description,
                data=markdown,
                flow_run_id=page.flow_run_id,
                task_run_id=page.task_run_id,
            )
        )
        self._ids[page.key] = made.id


def _id_of_earlier(client: SyncPrefectClient, page: Page) -> UUID | None:
    """Return the id of the page of this flow run before it was retried; a retried stage has another task run."""
    if page.task_run_id is not None:
        return None
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[page.flow_run_id]), key=ArtifactFilterKey(any_=[page.key])
        )
    )
    return found[0].id if found else None
