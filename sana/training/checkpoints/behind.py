"""One piece of work at a time behind training: in a thread, its error raised where training asks for it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

IDLE_S = 0.5

_log = logging.getLogger(__name__)


class Behind:
    """Runs work in one thread; the next piece waits for the one before."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._pending: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start a piece of work after the one before; raises what that one raised."""
        self.finish()
        self._pending = self._thread.submit(work)

    def check(self) -> None:
        """Raise what the work raised, if it has ended; never waits."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self, while_waiting: Callable[[], None] | None = None) -> None:
        """Wait for the work; raises what it raised. `while_waiting` is called every IDLE_S seconds."""
        if self._pending is None:
            return
        while while_waiting is not None and not wait([self._pending], IDLE_S).done:
            while_waiting()
        pending, self._pending = self._pending, None
        pending.result()

    def settle(self) -> None:
        """Wait for the work after another error, which matters more: what the work raised is only logged."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            error = pending.exception()  # waits
            if error is not None:
                _log.error("beside the first error: %s", error)

    def close(self) -> None:
        """End the thread, after its work."""
        self._thread.shutdown(wait=True)
