"""The one thread that reads a root, for however many look at it: pages are made once, and made again while watched."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

from sana.errors import SanaError
from sana.report.live.live_page import NOTICE, LivePage, Topic
from sana.store_errors import StoreError
from sana.wording import duration

_log = logging.getLogger(__name__)

MAX_PAGES = 64  # kept, of those that were looked at last
MAX_WATCHERS = 128
# What a page may fail by. Those that SanaError and OSError leave are mistakes of ours, or a record that means to cause
# one: they are told to the one who asked, and the thread goes on for the others.
_FAULTS = (SanaError, OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)
PATIENCE_S = 4.0  # so long a page that there is already is not shown instead of a new one


class TooManyWatchersError(SanaError):
    """So many pages are open that no more are kept up to date."""


class PageSource(Protocol):
    """Where pages come from; it is called from one thread, and may keep what it read."""

    def refresh(self) -> None:
        """Look at storage again. Raises SanaError or OSError: it does not answer."""

    def page(self, topic: Topic) -> LivePage:
        """Make a page of what was read. Raises as `refresh`, and LookupError: there is nothing of that name."""

    def notice(self, trouble: str) -> str:
        """Return the markup that says why what is shown may be old; "" where there is no trouble."""


class Watcher:
    """Who looks at a page: `wake` is called from the reader's thread when there may be something new."""

    def __init__(self, topic: Topic, wake: Callable[[], None]) -> None:
        self.topic, self.wake = topic, wake
        self.page: LivePage | None = None


class RootReader:
    """Reads a root every `interval_s` seconds while somebody looks, and not at all while nobody does."""

    def __init__(self, source: PageSource, *, interval_s: float) -> None:
        self._source, self._interval_s = source, interval_s
        self._changed = threading.Condition()
        self._asked: dict[Topic, Future[LivePage]] = {}
        self._watchers: set[Watcher] = set()
        self._pages: OrderedDict[Topic, LivePage] = OrderedDict()  # of this thread alone
        self._read_at = 0.0  # monotonic; 0: never
        self._trouble, self._failed_at = "", 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="root-reader", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; watchers are woken a last time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.wake()
        self._thread.join()

    @property
    def is_closed(self) -> bool:
        """Whether nothing new will come."""
        return self._closed

    def get(self, topic: Topic, timeout_s: float = 120.0) -> LivePage:
        """Return a page, made of what was read at most one interval ago; an older one while storage is slow.

        Raises:
            LookupError: there is no such run or training.
            SanaError, OSError: storage does not answer, and nothing was read of this page before.
            TimeoutError: it did not come in time.
        """
        with self._changed:
            answer = self._asked.setdefault(topic, Future())
            self._changed.notify()
        try:
            return answer.result(min(timeout_s, PATIENCE_S))
        except FutureTimeoutError:
            kept = self._pages.get(topic)
            return self._old(kept) if kept is not None else answer.result(timeout_s)

    def _old(self, page: LivePage) -> LivePage:
        """Return a page with a notice of how old it is, if it has none."""
        if page.parts.get(NOTICE):
            return page
        read = duration(time.monotonic() - self._read_at)
        said = f"This was read {read} ago: storage is slow to answer, and what is new comes by itself."
        return LivePage(page.title, {**page.parts, NOTICE: self._source.notice(said)})

    def check_room(self) -> None:
        """Raises TooManyWatchersError: one more would be too many."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} pages are open already: close some")

    def watch(self, watcher: Watcher) -> None:
        """Keep a watcher up to date from now on. Raises TooManyWatchersError."""
        with self._changed:
            self.check_room()
            self._watchers.add(watcher)
            self._changed.notify()

    def forget(self, watcher: Watcher) -> None:
        """End what `watch` began."""
        with self._changed:
            self._watchers.discard(watcher)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_needed, self._wait_s())
                if self._closed:
                    for answer in self._asked.values():
                        answer.cancel()
                    return
                asked, self._asked = self._asked, {}
                watchers = list(self._watchers)
            if not (asked or watchers):
                continue
            is_new = time.monotonic() - self._read_at >= self._interval_s
            if is_new:
                self._refresh()
            self._answer(asked)
            if is_new or any(watcher.page is None for watcher in watchers):
                self._tell(watchers)

    def _is_needed(self) -> bool:
        return self._closed or bool(self._asked) or any(watcher.page is None for watcher in self._watchers)

    def _wait_s(self) -> float | None:
        if not self._watchers:
            return None
        return max(0.0, self._read_at + self._interval_s - time.monotonic())

    def _refresh(self) -> None:
        try:
            self._source.refresh()
        except _FAULTS as error:
            if not self._trouble:
                self._failed_at = time.time()
                _log.warning("the page cannot read its root: %s", error)
            since = time.strftime("%H:%M:%S UTC", time.gmtime(self._failed_at))
            is_away = isinstance(error, OSError | StoreError)
            what = "Storage does not answer" if is_away else "What is there cannot be read"
            self._trouble = f"{what} since {since}, so this may be old: {error}"
        else:
            self._trouble = ""
        self._read_at = time.monotonic()
        self._made: set[Topic] = set()

    def _answer(self, asked: Mapping[Topic, "Future[LivePage]"]) -> None:
        for topic, answer in asked.items():
            try:
                page = self._page(topic)
            except _FAULTS as error:
                answer.set_exception(error)
            else:
                answer.set_result(page)

    def _tell(self, watchers: list[Watcher]) -> None:
        for watcher in watchers:
            try:
                page = self._page(watcher.topic)
            except _FAULTS as error:
                _log.debug("no page %s: %s", watcher.topic, error)
                page = watcher.page or LivePage("", {})
            if page is not watcher.page:
                watcher.page = page
                watcher.wake()

    def _page(self, topic: Topic) -> LivePage:
        """Return the page of a topic as of the last reading; an old one where storage fails meanwhile."""
        before = self._pages.get(topic)
        if before is None or topic not in self._made:
            try:
                made, trouble = self._source.page(topic), self._trouble
            except (SanaError, OSError) as error:
                if before is None:
                    raise
                made, trouble = before, self._trouble or f"This may be old: {error}"
            page = LivePage(made.title, {**made.parts, NOTICE: self._source.notice(trouble)})
            self._made.add(topic)
            self._pages[topic] = before if page == before and before is not None else page
        self._pages.move_to_end(topic)
        while len(self._pages) > MAX_PAGES:
            self._pages.popitem(last=False)
        return self._pages[topic]
