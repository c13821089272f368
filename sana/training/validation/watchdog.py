"""A watchdog over work that may hang: it says that the work goes on, and gives it up when it takes too long."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

TELL_EVERY_S = 10.0


class Watchdog:
    """A context; `on_timeout` is called in a thread of its own once it has lasted `timeout_s`, and should not return.

    Meanwhile `still_there(seconds)` is called every TELL_EVERY_S: whoever watches for progress must not take long work
    for a trainer that hangs. What hangs while it holds Python's lock stops this thread too, and the launcher's own
    time limit then ends it.
    """

    def __init__(
        self, timeout_s: float, *, still_there: Callable[[float], None], on_timeout: Callable[[], None]
    ) -> None:
        self._timeout_s, self._still_there, self._on_timeout = timeout_s, still_there, on_timeout
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="validation watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        started = time.monotonic()
        while (left := self._timeout_s - (time.monotonic() - started)) > 0:
            if self._done.wait(min(left, TELL_EVERY_S)):
                return
            self._still_there(time.monotonic() - started)
        self._on_timeout()
