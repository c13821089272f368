"""Keeps a frame up to date: a screen where there is a terminal, plain lines or JSON lines where there is none."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from flows.watch.frame import WatchDocument
from flows.watch.parts import with_trouble
from flows.watch.screen import draw, numbers_of, stage_line
from sana.errors import SanaError
from sana.wording import without_controls

LINE_EVERY_S = 30.0  # of a run at work, where there is no terminal
_REDRAW_S = 1.0
_LATE_S = 20.0  # after which a reading that has not come is told of


class Reader(Protocol):
    """What a frame is read from."""

    def read(self) -> WatchDocument:
        """Read again. Raises SanaError or OSError: storage does not answer."""


class Feed:
    """Reads in a thread of its own: the screen moves on while storage is away."""

    def __init__(self, reader: Reader, root: str, interval_s: float) -> None:
        self._reader, self._root, self._interval_s = reader, root, interval_s
        self._frame: WatchDocument | None = None
        self._failed_at: float | None = None
        self._asked_at = time.time()
        self._news, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._read_on, name="watch-reader", daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # it is not waited for: storage may be away

    def frame(self, now: float) -> WatchDocument | None:
        """Return what was read last; None before anything was."""
        late_s = now - self._asked_at - self._interval_s
        if late_s < _LATE_S or (self._frame is not None and self._frame.trouble):
            return self._frame
        last = self._frame or WatchDocument(self._root, now, "waiting", "for storage")
        return replace(last, trouble=f"storage has not answered for {late_s:.0f} s, so this may be old")

    def wait(self, seconds: float) -> bool:
        """Wait for news so long; returns whether there are any."""
        came = self._news.wait(seconds)
        self._news.clear()
        return came

    def _read_on(self) -> None:
        while not self._over.is_set():
            self._asked_at = time.time()
            try:
                self._frame, self._failed_at = self._reader.read(), None
            except (SanaError, OSError) as error:
                self._failed_at = self._failed_at or time.time()
                self._frame = with_trouble(self._frame, error, self._root, self._failed_at)
            self._news.set()
            self._over.wait(self._interval_s)


class _Screen:
    """The frame of a feed, drawn for the size that the terminal has by then."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.time()
        frame = self._feed.frame(now) or WatchDocument("", now, "waiting", "for storage")
        yield from draw(frame, options.max_width, console.height, now, ascii_only=options.ascii_only)


def watch_screen(feed: Feed, console: Console) -> None:
    """Show the feed until Ctrl-C; what it showed last is then left in the terminal."""
    screen = _Screen(feed)
    with feed:
        try:
            with Live(screen, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
                while True:
                    live.refresh()
                    feed.wait(_REDRAW_S)
        finally:
            if (last := feed.frame(time.time())) is not None:
                for line in draw(last, console.width, 200, time.time(), ascii_only=console.options.ascii_only):
                    console.print(line)


def watch_frames(feed: Feed) -> Iterator[WatchDocument]:
    """Yield a frame whenever one was read, until the run has ended by itself."""
    with feed:
        while True:
            if feed.wait(_REDRAW_S):
                frame = feed.frame(time.time())
                if frame is not None:
                    yield frame
                    if frame.is_over and not frame.trouble:
                        return


def watch_lines(feed: Feed, say: Callable[[str], None]) -> None:
    """Say what is new, and how far it is every LINE_EVERY_S seconds, until the run has ended by itself."""
    said_at, seen, before = float("-inf"), 0.0, ("", "", "")
    for frame in watch_frames(feed):
        for event in frame.events:
            if event.at > seen:
                place = f" ({event.place})" if event.place else ""
                say(without_controls(f"{_clock(event.at)} {event.stage}: {event.text}{place}"))
        seen = max([seen, *(event.at for event in frame.events)])
        at_work = next((stage.name for stage in reversed(frame.stages) if stage.state == "running"), "")
        state = (frame.run_id, frame.state, f"{at_work}{'?' if frame.trouble else ''}")
        if state != before or time.monotonic() - said_at >= LINE_EVERY_S:
            said_at, before = time.monotonic(), state
            say(line_of(frame))
    if frame.sample:
        say(without_controls(f"{_clock(frame.read_at)} last sample: {frame.sample}"))


def line_of(frame: WatchDocument) -> str:
    """Return one line for a log: the run, its state, what it does, the last numbers."""
    at_work = next((stage for stage in reversed(frame.stages) if stage.state == "running"), None)
    said = f"{at_work.name} {stage_line(at_work)}" if at_work and frame.state == "running" else frame.said
    numbers = ", ".join(f"{name} {text}" for name, text in numbers_of(frame)[:2])
    who = " ".join(part for part in (frame.title, frame.run_id) if part)
    parts = [f"{frame.state}{f': {said}' if said else ''}", numbers, frame.error, frame.trouble]
    told = f"{_clock(frame.read_at)} {who}{': ' if who else ''}{'; '.join(part for part in parts if part)}"
    return without_controls(told)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
