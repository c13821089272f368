"""Metrics on their way to a tracker that may be slow or down: the caller never waits."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sana.metrics import OF_ONE_SIGMA, STEP

INTERVAL_S = 10.0
EAGER_POINTS = 500  # so many are sent at once, without waiting for the interval
BATCH_POINTS = 1000  # what MLflow takes in one call


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time_ms` is Unix time, milliseconds."""

    name: str
    value: float
    step: int
    time_ms: int


def points_of(rows: Iterable[Mapping[str, float | None]]) -> list[Point]:
    """Unfold rows such as `{"step": 3, "train/loss": 0.5}`; None, and what is of one noise level, is left out."""
    now_ms = int(time.time() * 1000)
    return [
        Point(name, float(value), int(row[STEP] or 0), now_ms)
        for row in rows
        for name, value in row.items()
        if name != STEP and not name.startswith(OF_ONE_SIGMA) and isinstance(value, int | float)
    ]


class MetricShipper:
    """Sends points in batches from a thread of its own, each (metric, step) once.

    `logged` gets the steps that the tracker has already, or returns None when it does not answer; `send` returns
    whether the points arrived. Both are called in the thread only. What could not be sent stays for the next try.
    """

    def __init__(
        self, logged: Callable[[], set[tuple[str, int]] | None], send: Callable[[Sequence[Point]], bool]
    ) -> None:
        self._logged = logged
        self._send = send
        self._sent: set[tuple[str, int]] | None = None
        self._waiting: list[Point] = []
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def add(self, rows: Iterable[Mapping[str, float | None]]) -> None:
        """Queue rows; returns at once."""
        with self._news:
            self._waiting += points_of(rows)
            if len(self._waiting) >= EAGER_POINTS:
                self._news.notify()

    def close(self, timeout_s: float) -> int:
        """Send what is left, for at most `timeout_s` seconds; returns how many points were not sent."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(timeout_s)
        return len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._news:
                if not self._closing:
                    self._news.wait(INTERVAL_S)
                closing = self._closing
            arrived = self._ship()
            # at the end a tracker that does not answer is not tried twice
            if closing and (not arrived or not self._waiting):
                return

    def _ship(self) -> bool:
        """Send all that is waiting; False as soon as the tracker does not take it."""
        while self._waiting:
            if self._sent is None:
                self._sent = self._logged()
            if self._sent is None:
                return False
            batch = self._waiting[:BATCH_POINTS]
            # the last value wins where a step was measured twice since the last look
            fresh = {(p.name, p.step): p for p in batch if (p.name, p.step) not in self._sent}
            if fresh and not self._send(list(fresh.values())):
                return False
            self._sent |= fresh.keys()
            with self._news:
                del self._waiting[: len(batch)]
        return True
