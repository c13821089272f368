"""Histograms that lose nothing: what is beyond the last edge is counted in the last bin."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]); with `open_end` the last bin also has all that is beyond."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    open_end: bool
    median: float
    maximum: float

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def histogram(values: ArrayLike, *, bins: int = 24, whole: bool = False) -> Histogram | None:
    """Count finite values of 0 or more in about `bins` bins of a round width from 0 or the least; None for no value.

    The bins end at the 99th percentile where the tail is long. `whole`: values are integers, no bin is narrower
    than 1.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not found.size:
        return None
    low, high, most = float(found.min()), float(np.percentile(found, 99)), float(found.max())
    open_end = most > 1.5 * high > 0
    top = high if open_end else most
    if low < 0.5 * top:
        low = 0.0
    width = nice_step((top - low) / bins, at_least=1.0 if whole else 0.0)
    first = math.floor(low / width)
    number = max(1, math.floor(top / width) - first + 1)
    edges = np.round(np.arange(first, first + number + 1) * width, 9)
    counts, _ = np.histogram(np.minimum(found, edges[-1] - width / 2), edges)  # of the last edge: into the last bin
    return Histogram(edges, counts.astype(np.int64), open_end, float(np.median(found)), most)


def nice_step(least: float, *, at_least: float = 0.0) -> float:
    """Return the smallest of 1, 2, 2.5 or 5 times a power of ten that is not less than `least`."""
    least = max(least, at_least)
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * s for s in _STEPS if power * s >= least * (1 - 1e-9))
    return float(math.ceil(step)) if at_least >= 1.0 else step
