"""Progress of long work, as data: each observer of a run shows it in its own way."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sana.record import Record


@dataclass(frozen=True)
class CheckpointSaved(Record):
    """A checkpoint is committed: `key` is that of its index in the store."""

    step: int  # optimizer steps done
    key: str
    kind: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True)
class ValidationDone(Record):
    """Videos of the prompts were made while training, or `error`, one line, says why they were not."""

    step: int  # optimizer steps done
    weights: str  # "ema" or "live"
    videos: Mapping[str, str]  # by nickname, with shape and seed where there are several: keys in the store
    seconds: float
    error: str = ""
    record: str = ""  # key of what the store has of it
    kind: Literal["validation"] = "validation"


@dataclass(frozen=True)
class PreviewReady(Record):
    """A picture of a video that is being made, after `sampler_step` of `num_sampler_steps`."""

    step: int  # optimizer steps done
    prompt: str  # its nickname
    sampler_step: int
    num_sampler_steps: int
    picture: str  # its key in the store, or the path of a local file
    kind: Literal["preview"] = "preview"


Happening = CheckpointSaved | ValidationDone | PreviewReady


@dataclass(frozen=True)
class Progress(Record):
    """How far one stage is, `done` of `total` in `unit`; `metrics` are the rows that came since the last report.

    `happened` is what else came about since the last report; each reaches the observers of the run as an event.

    `total` is 0 while nothing is counted yet. Of several workers each says how far it is itself: `worker` is its
    number, and `counts` what it did of what.
    """

    done: int
    total: int
    unit: str
    detail: str = ""
    metrics: tuple[Mapping[str, float], ...] = field(default=())
    worker: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    phase: str = ""  # what it is busy with while it counts nothing, such as "loading the model"
    before: int = 0  # of `done`, what earlier runs had done
    happened: tuple[Happening, ...] = field(default=())

    def to_line(self) -> bytes:
        """Write one line of a progress file, which `from_line` reads."""
        return self.to_json(indent=None)

    @classmethod
    def from_line(cls, line: str, *, where: str) -> "Progress":
        """Read one line of a progress file, named `where` in errors. Raises SanaError when it is not one."""
        return cls.from_json(line, where=where, repair_hint="run again")


Report = Callable[[Progress], None]


def noop(progress: Progress) -> None:
    """A report that nobody reads, for plans and tests."""


REJECTED = "rejected"  # in `counts`, beside the groups


class Continued:
    """A Report for workers that are given only what is missing of `total`: what is there already counts as done.

    What the first worker was not given, earlier runs had done; what a later one is not given, the ones before it did.
    """

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total = report, total
        self._before: int | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.total:
            there = self._total - progress.total
            self._before = there if self._before is None else self._before
            progress = replace(progress, done=there + progress.done, total=self._total, before=self._before)
        self._report(progress)


class Summed:
    """Adds up what several workers report: a Report that passes on one sum.

    `totals` is the work at hand by group (of samples: their bucket), of which a worker's `detail` names the one it is
    at. The first to report may count what was done before it. A phase is passed on while all workers are in one.
    """

    def __init__(self, report: Report, totals: Mapping[str, int]) -> None:
        self._report, self._totals = report, totals
        self._last: dict[int, Progress] = {}

    def __call__(self, progress: Progress) -> None:
        if not progress.total:  # no worker yet: it is being started
            self._last.clear()
            self._report(progress)
            return
        self._last[progress.worker] = progress
        total = sum(self._totals.values())
        # two may have done the same part: it counts once
        done = min(sum(last.done for last in self._last.values()), total)
        counts: Counter[str] = Counter()
        for last in self._last.values():
            counts.update(last.counts)
        group, detail = progress.detail, ""
        if group in self._totals and done < total:
            of = self._totals[group]
            detail = f"{group} {min(counts[group], of)}/{of}, {counts[REJECTED]} rejected"
        phase = progress.phase if all(last.phase for last in self._last.values()) else ""
        self._report(Progress(done, total, progress.unit, detail, phase=phase))


class Pace:
    """The rate of counted work from `done` on, and the time that is left at that rate. Times are of a monotonic clock.

    The rate is over the last WINDOW_S seconds, or since the work began; never over a burst.
    """

    WINDOW_S = 60.0
    MIN_S = 1.0  # no rate before

    def __init__(self, now: float, done: int = 0) -> None:
        self._points: deque[tuple[float, int]] = deque([(now, done)])

    def add(self, done: int, now: float) -> None:
        """Note how much is done by now. Until the first is done, the time does not count; nor after work was lost."""
        if done <= self._points[0][1] or done < self._points[-1][1]:
            self._points = deque([(now, done)])
        elif done > self._points[-1][1]:
            self._points.append((now, done))
            while len(self._points) > 2 and self._points[1][0] <= now - self.WINDOW_S:
                self._points.popleft()

    def per_s(self, now: float) -> float | None:
        """Return the rate, or None while there is none to tell. It falls when the next report is overdue."""
        (first_at, first), (last_at, last) = self._points[0], self._points[-1]
        if last <= first:
            return None
        interval = (last_at - first_at) / (len(self._points) - 1)
        elapsed = max(last_at, now - interval) - first_at
        return (last - first) / elapsed if elapsed >= self.MIN_S else None

    def left_s(self, total: int, now: float) -> float | None:
        """Return the seconds until `total` is done, or None while there is no rate."""
        rate = self.per_s(now)
        if rate is None:
            return None
        last_at, last = self._points[-1]
        return max((total - last) / rate - (now - last_at), 0.0)
