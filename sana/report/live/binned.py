"""Metrics of any number of steps in bounded memory: each name's numbers in bins of steps, with mean, least and most.

A million rows are read once, segment by segment; what is drawn of them are some thousand bins, and no spike is lost.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sana.metrics import STEP, Row

MAX_BINS = 2048
Floats = NDArray[np.float64]


class BinnedMetric:
    """One metric by step. A bin is `width` steps wide: 1 until there are more than MAX_BINS steps, then doubled."""

    def __init__(self) -> None:
        self.width = 1
        self._bins: dict[int, tuple[float, float, float, int]] = {}  # sum, least, most, number

    def add(self, step: int, value: float) -> None:
        """Take one number in; one that is not finite is a gap."""
        if not np.isfinite(value):
            return
        place = step // self.width
        total, least, most, number = self._bins.get(place, (0.0, value, value, 0))
        self._bins[place] = (total + value, min(least, value), max(most, value), number + 1)
        while len(self._bins) > MAX_BINS:
            self._double()

    def _double(self) -> None:
        self.width *= 2
        wider: dict[int, tuple[float, float, float, int]] = {}
        for place, (total, least, most, number) in self._bins.items():
            before = wider.get(place // 2, (0.0, least, most, 0))
            wider[place // 2] = (before[0] + total, min(before[1], least), max(before[2], most), before[3] + number)
        self._bins = wider

    def copy(self) -> "BinnedMetric":
        """Return another that begins with the same numbers."""
        made = BinnedMetric()
        made.width, made._bins = self.width, dict(self._bins)
        return made

    @property
    def last(self) -> float | None:
        """The mean of the last bin: of few steps, the last number."""
        if not self._bins:
            return None
        total, _, _, number = self._bins[max(self._bins)]
        return total / number

    def means(self) -> tuple[Floats, Floats]:
        """Return the middle step and the mean of each bin, float64 [bins] each, in order."""
        places = sorted(self._bins)
        x = [place * self.width + (self.width - 1) / 2 for place in places]
        return np.array(x), np.array([self._bins[p][0] / self._bins[p][3] for p in places])

    def extremes(self) -> tuple[Floats, Floats]:
        """Return steps and numbers of a line through the least and the most of each bin, float64 [2 bins] each.

        Of bins that are one step wide, the numbers themselves.
        """
        x, y = self.means()
        if self.width == 1:
            return x, y
        ends = np.array([self._bins[p][1:3] for p in sorted(self._bins)])
        return np.repeat(x, 2), ends.reshape(-1)


class BinnedRows:
    """All metrics of a training, by name. Rows come in the order of their steps."""

    def __init__(self) -> None:
        self.metrics: dict[str, BinnedMetric] = {}
        self.num_rows, self.last_step = 0, 0

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows in; a row without a step is passed over."""
        for row in rows:
            if STEP not in row:
                continue
            step = int(row[STEP])
            self.num_rows, self.last_step = self.num_rows + 1, max(self.last_step, step)
            for name, value in row.items():
                if name != STEP:
                    self.metrics.setdefault(name, BinnedMetric()).add(step, float(value))

    def with_rows(self, rows: Iterable[Row]) -> "BinnedRows":
        """Return these and some more: of steps that come after the last one here."""
        made = BinnedRows()
        made.metrics = {name: metric.copy() for name, metric in self.metrics.items()}
        made.num_rows, made.last_step = self.num_rows, self.last_step
        made.add(row for row in rows if row.get(STEP, 0) > self.last_step)
        return made
