"""Progress of long work, as data: each observer of a run shows it in its own way."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sana.record import Record


@dataclass(frozen=True)
class Progress(Record):
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

    def to_line(self) -> bytes:
        """Write one line of a progress file, which `from_line` reads."""
        return self.to_json(indent=None)

    @classmethod
    def from_line(cls, line: str, *, where: str) -> "Progress":
        """Read one line of a progress file, named `where` in errors. Raises SanaError when it is not one."""
        return cls.from_json(line, where=where, remedy="run again")


Report = Callable[[Progress], None]


def noop(progress: Progress) -> None:
    """A report that nobody reads, for plans and tests."""


REJECTED = "rejected"  # in `counts`, beside the groups


class Summed:
    """Adds up what several workers report: a Report that passes on one sum, with rate and time left of the group.

    `totals` is the work at hand by group (of samples: their bucket), of which a worker's `detail` names the one it is
    at. The first to report may count what was done before it.
    """

    def __init__(self, report: Report, totals: Mapping[str, int]) -> None:
        self._report, self._totals = report, totals
        self._last: dict[int, Progress] = {}
        self._from: tuple[float, int] | None = None  # when the first report came, and what was done by then

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        self._last[progress.worker] = progress
        total = sum(self._totals.values())
        # two may have done the same part: it counts once
        done = min(sum(last.done for last in self._last.values()), total)
        started, before = self._from = self._from or (now, done)
        counts: Counter[str] = Counter()
        for last in self._last.values():
            counts.update(last.counts)
        group, rate = progress.detail, (done - before) / max(now - started, 1e-9)
        detail = ""
        if group and rate > 0:
            of = self._totals[group]
            here = min(counts[group], of)
            left = timedelta(seconds=round((of - here) / rate))
            detail = f"{group} {here}/{of}, {rate:.3g} clips/s, {left} left, {counts[REJECTED]} rejected"
        self._report(Progress(done, total, progress.unit, detail))


def in_units(num_bytes: float) -> str:
    """Write a number of bytes as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}" if unit != "B" else f"{num_bytes:.0f} B"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
