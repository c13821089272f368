"""Metrics of any number of steps in bounded memory: each name's numbers in bins of steps, with mean, least and most.

A million rows are read once, segment by segment; what is drawn of them are some thousand bins, and no spike is lost.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
from numpy.typing import NDArray

from sana.metrics import STEP, Row, parse_rows

MAX_BINS = 2048
_MANY_BYTES = 2**18
Floats = NDArray[np.float64]


class BinnedMetric:
    """One metric by step. A bin is `width` steps wide: 1 up to step MAX_BINS, then doubled as often as it takes."""

    def __init__(self) -> None:
        self.width = 1
        self._sums, self._counts = np.zeros(MAX_BINS), np.zeros(MAX_BINS, np.int64)
        self._least, self._most = np.full(MAX_BINS, np.inf), np.full(MAX_BINS, -np.inf)

    def add(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take numbers in, of any steps from 0 on; one that is not finite is a gap."""
        self.add_numbers(np.asarray(steps, np.int64), np.asarray(values, np.float64))

    def add_numbers(self, at: NDArray[np.int64], numbers: Floats) -> None:
        """The same with arrays."""
        kept = np.isfinite(numbers) & (at >= 0)
        at, numbers = at[kept], numbers[kept]
        if not at.size:
            return
        while at.max() // self.width >= MAX_BINS:
            self._double()
        places = at // self.width
        np.add.at(self._sums, places, numbers)
        np.add.at(self._counts, places, 1)
        np.minimum.at(self._least, places, numbers)
        np.maximum.at(self._most, places, numbers)

    def _double(self) -> None:
        self.width *= 2
        half = MAX_BINS // 2
        for bins, joined, empty in (
            (self._sums, self._sums.reshape(half, 2).sum(1), 0.0),
            (self._counts, self._counts.reshape(half, 2).sum(1), 0),
            (self._least, self._least.reshape(half, 2).min(1), np.inf),
            (self._most, self._most.reshape(half, 2).max(1), -np.inf),
        ):
            bins[:half], bins[half:] = joined, empty

    def copy(self) -> "BinnedMetric":
        """Return another that begins with the same numbers."""
        made = BinnedMetric()
        made.width, made._sums, made._counts = self.width, self._sums.copy(), self._counts.copy()
        made._least, made._most = self._least.copy(), self._most.copy()
        return made

    @property
    def last(self) -> float | None:
        """The mean of the last bin: of few steps, the last number."""
        means = self.means()[1]
        return float(means[-1]) if means.size else None

    def means(self) -> tuple[Floats, Floats]:
        """Return the middle step and the mean of each bin that has numbers, float64 [bins] each, in order."""
        [places] = np.nonzero(self._counts)
        return (places * self.width + (self.width - 1) / 2).astype(np.float64), self._sums[places] / self._counts[
            places
        ]

    def extremes(self) -> tuple[Floats, Floats]:
        """Return steps and numbers of a line through the least and the most of each bin, float64 [2 bins] each.

        Of bins that are one step wide, the numbers themselves.
        """
        x, y = self.means()
        if self.width == 1:
            return x, y
        [places] = np.nonzero(self._counts)
        return np.repeat(x, 2), np.stack([self._least[places], self._most[places]], 1).reshape(-1)


class BinnedRows:
    """All metrics of a training, by name. Rows come in the order of their steps."""

    def __init__(self) -> None:
        self.metrics: dict[str, BinnedMetric] = {}
        self.num_rows, self.last_step = 0, 0

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows in; a row without a step is passed over."""
        columns: dict[str, tuple[list[int], list[float]]] = {}
        for row in rows:
            if STEP not in row:
                continue
            step = int(row[STEP])
            self.num_rows, self.last_step = self.num_rows + 1, max(self.last_step, step)
            for name, value in row.items():
                if name != STEP:
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(value)
        for name, (steps, values) in columns.items():
            self.metrics.setdefault(name, BinnedMetric()).add(steps, values)

    def add_segment(self, data: bytes) -> None:
        """Take in the lines of a segment, as `parse_rows` reads them; many are read as columns, ten times as fast.

        Raises:
            ValueError: it is damaged.
        """
        columns = _columns(data) if len(data) > _MANY_BYTES else None
        if columns is None:
            self.add(parse_rows(data))
            return
        steps = columns.pop(STEP)
        self.num_rows, self.last_step = self.num_rows + len(steps), max(self.last_step, int(steps.max()))
        for name, values in columns.items():
            self.metrics.setdefault(name, BinnedMetric()).add_numbers(steps, values)

    def with_rows(self, rows: Iterable[Row]) -> "BinnedRows":
        """Return these and some more: of steps that come after the last one here."""
        made = BinnedRows()
        made.metrics = {name: metric.copy() for name, metric in self.metrics.items()}
        made.num_rows, made.last_step = self.num_rows, self.last_step
        made.add(row for row in rows if row.get(STEP, 0) > self.last_step)
        return made


def _columns(data: bytes) -> "dict[str, NDArray[Any]] | None":
    """Return the numbers of lines by name, NaN where a line has none; None: some line is no such row, or not of JSON's
    own numbers, which do not include those that are not finite.
    """
    whole = data[: data.rfind(b"\n") + 1]  # an incomplete last line was left by a kill
    try:
        table = pj.read_json(pa.BufferReader(whole))
    except pa.ArrowInvalid:
        return None
    kinds = {field.name: field.type for field in table.schema}
    steps = kinds.pop(STEP, None)
    if steps != pa.int64() or table[STEP].null_count or not len(table):
        return None
    if any(kind not in (pa.int64(), pa.float64(), pa.null()) for kind in kinds.values()):
        return None
    numbers = {name: table[name].cast(pa.float64()).to_numpy() for name in kinds}
    return {STEP: table[STEP].to_numpy(), **numbers}
