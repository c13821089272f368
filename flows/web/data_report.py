"""The data report of the page's config, made when somebody asks for it and something was committed since."""

import threading
import time
from pathlib import Path

from sana.context import Context
from sana.pipeline.plan import committed
from sana.report.page import data_report
from sana.report.states import StageState

_FRESH_S = 10.0  # so long it is not even looked whether something was committed


class DataReport:
    """Makes one page at a time: it may open videos for their thumbnails."""

    def __init__(self, context: Context, title: str = "") -> None:
        self._context = context
        self._title = title or Path(context.store.root).name
        self._lock = threading.Lock()
        self._made_of: list[tuple[str, str, str]] = []
        self._page, self._looked_at = "", 0.0

    def page(self) -> str:
        """Return the page, whichever stages are committed. Raises SanaError or OSError: storage does not answer."""
        with self._lock:
            if not self._page or time.monotonic() - self._looked_at > _FRESH_S:
                states = committed(self._context)
                made_of = [_named(state) for state in states]
                if made_of != self._made_of or not self._page:
                    self._page = data_report(self._context, self._title, states, now=time.time())
                    self._made_of = made_of
                self._looked_at = time.monotonic()
            return self._page


def _named(state: StageState) -> tuple[str, str, str]:
    return state.name, state.artifact.fingerprint if state.artifact is not None else "", state.why
