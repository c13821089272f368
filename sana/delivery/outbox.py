"""An outbox: notifications on their way to one target, which may be slow, hang or be gone. The caller never waits."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from sana.config.delivery.notifications import LEVELS
from sana.delivery.notification import Notification
from sana.delivery.transports import DeliveryError, Transport

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0  # between tries of one notification, doubled each time
MIN_TRY_S = 0.05

QUEUE_FULL = "the queue was full"
RUN_ENDED = "the run ended before"


@dataclass(frozen=True)
class Delivered:
    """What became of the notifications of one target."""

    sent: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason

    @property
    def num_dropped(self) -> int:
        return self.dropped.total()


class Waiting:
    """Notifications in order, at most `size`: beyond it the oldest of those that matter least is dropped."""

    def __init__(self, size: int) -> None:
        self._size, self._added = size, 0
        self._by_weight: dict[tuple[int, bool], deque[tuple[int, Notification]]] = {}

    def __len__(self) -> int:
        return sum(len(some) for some in self._by_weight.values())

    def add(self, note: Notification) -> bool:
        """Add one; False when one, this or another, was dropped."""
        # what is kept rather than others: by level, and what is no progress
        weight = (LEVELS.index(note.level), note.event not in ("progress", "preview"))
        self._by_weight.setdefault(weight, deque()).append((self._added, note))
        self._added += 1
        if len(self) <= self._size:
            return True
        self._take(min(self._by_weight))
        return False

    def pop(self) -> Notification:
        """Take the oldest."""
        return self._take(min(self._by_weight, key=lambda weight: self._by_weight[weight][0][0]))

    def _take(self, weight: tuple[int, bool]) -> Notification:
        _, note = self._by_weight[weight].popleft()
        if not self._by_weight[weight]:
            del self._by_weight[weight]
        return note


class Outbox:
    """Delivers to one target, in order, from a thread of its own. Nothing raises.

    Each try has its time limit, also where its connection does not heed one; while one hangs there is no other.
    """

    def __init__(
        self, transport: Transport, *, name: str, queue_size: int, timeout_s: float, max_tries: int = 1
    ) -> None:
        self.name = name
        self._transport, self._timeout_s, self._max_tries = transport, timeout_s, max_tries
        self._waiting = Waiting(queue_size)
        self._at_work: Notification | None = None
        self._changed = threading.Condition()
        self._ends_at: float | None = None  # monotonic time
        self._sent, self._dropped = 0, Counter[str]()
        self._hanging: threading.Thread | None = None
        self._thread: threading.Thread | None = None  # started by the first notification

    def put(self, note: Notification) -> None:
        """Take a notification to deliver; never waits."""
        with self._changed:
            if self._ends_at is not None:
                self._dropped[RUN_ENDED] += 1
                return
            if not self._waiting.add(note):
                self._dropped[QUEUE_FULL] += 1
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"notify {self.name}", daemon=True)
                if not _started(thread):
                    return  # the next one tries again; what waits is counted at the end
                self._thread = thread
            self._changed.notify_all()

    def end(self, timeout_s: float) -> None:
        """Take no more, and give what is waiting this much time. Returns at once; `result` waits."""
        with self._changed:
            self._ends_at = time.monotonic() + timeout_s
            self._changed.notify_all()

    def result(self) -> Delivered:
        """Wait until all is delivered, or the time that `end` gave is over; return what became of it."""
        if self._thread is not None:
            self._thread.join(max(self._left_s(), 0.0) + MIN_TRY_S)
        with self._changed:
            left = len(self._waiting) + (self._at_work is not None)
            return Delivered(self._sent, self._dropped + Counter({RUN_ENDED: left}))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not len(self._waiting) and self._ends_at is None:
                    self._changed.wait()
                if not len(self._waiting) or self._left_s() <= 0:
                    return
                self._at_work = self._waiting.pop()
            failure = self._deliver(self._at_work)
            with self._changed:
                self._at_work = None
                if failure is None:
                    self._sent += 1
                else:
                    self._dropped[failure] += 1

    def _deliver(self, note: Notification) -> str | None:
        """Try until it is taken; returns why it was not."""
        pause_s = FIRST_PAUSE_S
        for tries_left in reversed(range(self._max_tries)):
            failure = self._try(note, max(min(self._timeout_s, self._left_s()), MIN_TRY_S))
            if failure is None:
                return None
            if failure.permanent or not tries_left or not self._pause(max(pause_s, failure.retry_after_s)):
                return str(failure)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        raise AssertionError("the last try returns")

    def _try(self, note: Notification, limit_s: float) -> DeliveryError | None:
        """Send it once, in a thread that is left alone when it hangs."""
        if self._hanging is not None:
            self._hanging.join(limit_s)
            if self._hanging.is_alive():
                return DeliveryError("it does not answer in time")
            self._hanging = None
        result: list[DeliveryError | None] = []

        def attempt() -> None:
            try:
                self._transport.send(note, limit_s)
            except DeliveryError as error:
                result.append(error)
            else:
                result.append(None)

        thread = threading.Thread(target=attempt, name=f"a try to notify {self.name}", daemon=True)
        if not _started(thread):
            return DeliveryError("this machine starts no more threads")
        thread.join(limit_s)
        if result:
            return result[0]
        if not thread.is_alive():  # a bug of the transport, whose traceback is in the log
            return DeliveryError("it cannot be sent; the log says why", permanent=True)
        self._hanging = thread
        self._transport.abort()
        return DeliveryError("it does not answer in time")

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try, a second at most where the run ends; False when no time is left for one."""
        until = time.monotonic() + seconds
        with self._changed:
            while (left_s := until - time.monotonic()) > 0 and self._ends_at is None:
                self._changed.wait(left_s)
            if self._ends_at is not None and (left_s := min(left_s, FIRST_PAUSE_S, self._left_s())) > 0:
                self._changed.wait(left_s)
        return self._left_s() > 0

    def _left_s(self) -> float:
        """Seconds until it must end."""
        return float("inf") if self._ends_at is None else self._ends_at - time.monotonic()


def _started(thread: threading.Thread) -> bool:
    """Start a thread; False where the machine has none left."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True
