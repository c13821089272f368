"""The progress of a run as it is shown: bars where there is a terminal, lines in a pipe or log. Both say the same."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from flows.display.show import eval_lines
from flows.display.stage_view import RUNNING, StageView
from flows.display.wrapping import rows_of
from sana.pipeline.observers import (
    CACHED,
    COMPLETED,
    FAILED,
    STOPPED,
    Committed,
    Event,
    Observer,
    StageEnd,
    StageStart,
    WorkStart,
)
from sana.progress import Progress, Report

LINE_EVERY_S = 30.0  # of a stage at work, where there is no terminal
_TICK_S = 1.0
_ECHO = 2  # columns that a terminal's ^C takes: at the edge it would break the line that is drawn again
_DOTS, _FRAMES_PER_S = "\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f", 8
_STYLES = {RUNNING: "", FAILED: "bold red", STOPPED: "yellow"}


class RunDisplay(Observer):
    """Shows each stage, while it is entered: its state, counts, one rate with ETA or the time it took.

    A stage that failed is told as failed when the run ends: before, it may be tried again.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.views: dict[str, StageView] = {}
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._said_at: dict[str, float] = {}
        self._has_bars = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(self, console=self._console, refresh_per_second=4) if self._has_bars else None
        self._over = threading.Event()
        self._unsaid: list[str] = []

    def __enter__(self) -> "RunDisplay":
        if self._live is not None:
            self._live.start()
        else:
            threading.Thread(target=self._tick_on, name="progress-lines", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with self._changing():
            for view in self.views.values():
                if view.state == RUNNING:  # no stage of a run, or one that heard of no end
                    self._end(view, _state_after(error))
            self._tell_broken()
        if self._live is not None:
            self._live.stop()

    def reporter(self, name: str, *, with_unit: bool = False) -> Report:
        """Return a report that shows the progress of work that is no stage of a run, `with_unit` a bar for each."""

        def report(progress: Progress) -> None:
            shown = f"{name} {progress.unit}" if with_unit else name
            self.on_stage_progress(shown, progress)
            if progress.total and progress.done >= progress.total:
                with self._changing():
                    self._end(self.views[shown], COMPLETED)

        return report

    def on_event(self, event: Event) -> None:
        with self._changing():
            match event:
                case StageStart():
                    self._tell_broken(tried_again=event.stage)
                    if (view := self.views.get(event.stage)) is not None:
                        view.try_again(self._clock())
                        self._said_at[event.stage] = self._clock()
                    else:
                        self._view(event.stage).phase = "looking it up"
                case WorkStart():
                    self._start(event.stage).inputs = event.inputs
                case Committed():
                    view = self._view(event.stage)
                    view.artifact, view.committed_at = event.artifact, self._clock()
                    if event.stage == "evaluate" and event.state != CACHED:
                        self._say(eval_lines(event.artifact))
                case StageEnd():
                    self._end(self._view(event.stage), event.state)

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        with self._changing():
            view = self.views.get(stage) or self._start(stage)
            had_done = view.progress.done if view.progress else 0
            view.hear(progress, self._clock())
            # later, what is done before a worker starts was done by other machines in this run
            if view.resumed() and not had_done:
                self._say(f"{stage}: {view.resumed()}")

    def on_run_end(self, error: BaseException | None) -> None:  # noqa: ARG002
        with self._changing():
            self._tell_broken()

    def tick(self) -> None:
        """Say how far a stage is that was not heard of for long: for where there is no terminal."""
        with self._changing():
            now = self._clock()
            for name, view in self.views.items():
                if view.state == RUNNING and now - self._said_at[name] >= LINE_EVERY_S:
                    self._line(name, view.running_line(now))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a row for each stage: what does not fit into the width is cut off its note, never off its counts."""
        with self._lock:
            now, views = self._clock(), list(self.views.values())
            cells = [(view.name, view.counts(), self._time(view, now)) for view in views]
            widths = [max([len(row[column]) for row in cells], default=0) for column in range(3)]
            frames = "|/-\\" if options.ascii_only else _DOTS
            spinner = (f"{frames[int(now * _FRAMES_PER_S) % len(frames)]} ", "cyan")
            width = options.max_width - _ECHO
            length = next((size for size in (16, 8) if 4 + sum(widths) + 3 + size + 12 <= width), 0)
            for view, (name, counts, time_) in zip(views, cells, strict=True):
                bar = _bar(view, length, ascii_only=options.ascii_only).append(" " if length else "")
                row = Text.assemble(
                    spinner if view.state == RUNNING else _sign(view),
                    f" {name:{widths[0]}} ",
                    bar,
                    f"{counts:{widths[1]}} ",
                    (f"{time_:{widths[2]}}", _STYLES.get(view.state, "cyan")),
                )
                left = width - row.cell_len - 2
                if left >= 4 and view.note():
                    note = Text(f"  {view.note()}", style="dim")
                    note.truncate(left + 2, overflow="ellipsis")
                    row.append_text(note)
                row.rstrip()
                row.no_wrap, row.overflow = row.cell_len <= width, "fold"
                yield row

    def _time(self, view: StageView, now: float) -> str:
        attempt = f"attempt {view.attempt} " if view.attempt > 1 and not view.is_done else ""
        return f"{attempt}{'' if view.state == RUNNING else f'{view.state} '}{view.time(now, with_unit=False)}".rstrip()

    def _view(self, stage: str) -> StageView:
        if stage not in self.views:
            self.views[stage] = StageView(stage, self._clock())
            self._said_at[stage] = self._clock()
        return self.views[stage]

    def _start(self, stage: str) -> StageView:
        view = self._view(stage)
        view.start(self._clock())
        self._line(stage, f"{stage}: started{f', attempt {view.attempt}' if view.attempt > 1 else ''}")
        return view

    def _end(self, view: StageView, state: str) -> None:
        if view.state == state:
            return
        view.end(state, self._clock())
        if view.is_done:
            self._line(view.name, view.end_line())

    def _tell_broken(self, *, tried_again: str = "") -> None:
        """Say which stages failed, once: that they are not tried again is known when another or none begins."""
        for name, view in self.views.items():
            if view.is_broken and self._said_at[name] < float("inf"):
                self._line(name, view.end_line(tried_again=name == tried_again))
                self._said_at[name] = float("inf")

    def _line(self, stage: str, text: str) -> None:
        """Write a line where there are no bars."""
        self._said_at[stage] = self._clock()
        if not self._has_bars:
            self._say(text)

    def _say(self, text: str) -> None:
        self._unsaid.append(text)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change views, and then print what is to be said: not within the lock, which drawing waits for."""
        with self._lock:
            yield
            unsaid, self._unsaid = self._unsaid, []
        width = self._console.width if self._has_bars else 0
        for row in (row for text in unsaid for row in rows_of(text, width)):
            self._console.print(row, highlight=False, markup=False, soft_wrap=True)

    def _tick_on(self) -> None:
        while not self._over.wait(_TICK_S):
            try:
                self.tick()
            except OSError:  # nobody reads any more, which is for the run's own thread to find
                return


def _state_after(error: BaseException | None) -> str:
    if error is None:
        return COMPLETED
    return FAILED if isinstance(error, Exception) else STOPPED


def _sign(view: StageView) -> tuple[str, str]:
    if view.is_done:
        return "ok", "green"
    return ("x ", "bold red") if view.state == FAILED else ("! ", "yellow")


def _bar(view: StageView, length: int, *, ascii_only: bool) -> Text:
    """Draw the fraction that is done, full only when all is; of a stage that counts nothing, when it ended well."""
    fraction = view.fraction if view.fraction is not None else float(view.is_done)
    filled = int(fraction * length)
    done, missing = ("#", "-") if ascii_only else ("\u2501", "\u2500")
    style = "green" if view.is_done else _STYLES[view.state] or "cyan"
    return Text.assemble((done * filled, style), (missing * (length - filled), "dim"))
