"""Progress of long work, as data: the terminal, Prefect and MLflow each show it in their own way."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True)
class Progress:
    """How far one stage is, `done` of `total` in `unit`; `metrics` are the rows that came since the last report.

    Of several workers each says how far it is itself: `worker` is its number, and `counts` what it did of what.
    """

    done: int
    total: int
    unit: str
    detail: str = ""
    metrics: tuple[Mapping[str, float], ...] = field(default=())
    worker: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A report that nobody reads, for plans and tests."""


# Who watches a run from inside its process: called with (stage, state, progress). The command line's bars do.
listeners: list[Callable[[str, str, Progress | None], None]] = []


def publish(stage: str, state: str, progress: Progress | None = None) -> None:
    """Tell every listener that a stage is `running` (with how far), or `completed`, `cached` or `failed`."""
    for listener in listeners:
        listener(stage, state, progress)


REFUSED = "refused"  # in `counts`, beside the groups


class Summed:
    """Adds up what several workers report: a Report that passes on one sum, with rate and time left of the group.

    `totals` is the work at hand by group (of samples: their bucket), of which a worker's `detail` names the one it is
    at; `before` of all was done when it began.
    """

    def __init__(self, report: Report, totals: Mapping[str, int], *, before: int) -> None:
        self._report, self._totals, self._before = report, totals, before
        self._last: dict[int, Progress] = {}
        self._started: float | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._started is None:
            self._started = now
        self._last[progress.worker] = progress
        todo = sum(self._totals.values())
        # two may have done the same part: it is there once
        done = min(sum(last.done for last in self._last.values()), todo)
        counts: Counter[str] = Counter()
        for last in self._last.values():
            counts.update(last.counts)
        group, rate = progress.detail, done / max(now - self._started, 1e-9)
        detail = ""
        if group and done:
            of = self._totals[group]
            here = min(counts[group], of)
            left = timedelta(seconds=round((of - here) / rate))
            detail = f"{group} {here}/{of}, {rate:.3g} clips/s, {left} left, {counts[REFUSED]} refused"
        self._report(Progress(self._before + done, self._before + todo, progress.unit, detail))
