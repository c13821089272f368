"""When Prefect's server is gone: its client, which would try for minutes, is told to let go, and the run goes on."""

import os
import threading

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker, emit_events_to_cloud
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

_gone = threading.Event()


def failure_of_server() -> Exception | None:
    """Ask the server of the current settings once; return why it cannot be reached, or None."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        failure = get_client(sync_client=True).api_healthcheck()
    return failure if isinstance(failure, httpx.TransportError) else None


def let_go() -> None:
    """From now on each call to the server is tried once, in every thread, and events are dropped."""
    _gone.set()
    os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "0"
    refresh_global_settings_context()


def is_gone() -> bool:
    """Whether the server was let go."""
    return _gone.is_set()


class _Events(PrefectEventsClient):
    """Prefect's own client of events, which spends 7 s on each that a server that is gone does not take."""

    async def emit(self, event: Event) -> None:
        if not _gone.is_set():
            await super().emit(event)


def use_own_events_client() -> None:
    """Let events be dropped once the server is gone. Call it before the first event, which a flow run sends early."""
    if not emit_events_to_cloud():
        EventsWorker.set_client_override(_Events)
