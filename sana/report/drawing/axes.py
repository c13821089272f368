"""An axis: from numbers to pixels, and the round numbers that are written along it."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sana.report.formatting import compact
from sana.report.histogram import nice_step

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` lie from pixel `start` to `end`; a logarithmic one has numbers above 0 only."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # all numbers are: no tick is a fraction

    def at(self, values: ArrayLike) -> Floats:
        """Return the pixels of numbers; where a number has no place on this axis, NaN."""
        found = _scaled(np.asarray(values, np.float64), self.log)
        low, high = _scaled(np.array([self.low, self.high]), self.log)
        return np.asarray(self.start + (found - low) / (high - low) * (self.end - self.start), np.float64)

    def ticks(self, wanted: int = 4) -> list[tuple[float, str]]:
        """Return (pixel, text) of about `wanted` round numbers within the axis."""
        numbers = _log_ticks(self.low, self.high, wanted) if self.log else []
        if len(numbers) < 2:
            step = nice_step((self.high - self.low) / wanted, at_least=1.0 if self.whole else 0.0)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            numbers = [step * place for place in range(first, last + 1)]
        finest = min((b - a for a, b in itertools.pairwise(numbers)), default=0.0)
        return [(float(self.at(number)), _words(number, finest)) for number in numbers]


def axis(values: ArrayLike, start: float, end: float, *, log: bool = False, air: float = 0.0) -> Axis:
    """Return the axis of all finite numbers, with `air` (a fraction of its length) beyond the first and last.

    Without a number it is from 0 (1 where logarithmic) to 1 (10); one number stands in the middle.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found) & ((found > 0) | (not log))]
    if not found.size:
        return Axis(1.0, 10.0, start, end, log) if log else Axis(0.0, 1.0, start, end)
    low, high = (float(value) for value in _scaled(np.array([found.min(), found.max()]), log))
    beyond = (high - low) * air
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        beyond = 0.3 if log else (abs(low) or 1.0) * 0.1
    low, high = low - beyond, high + beyond
    whole = bool((found == np.round(found)).all())
    return Axis(10**low, 10**high, start, end, log) if log else Axis(low, high, start, end, whole=whole)


def _scaled(values: Floats, log: bool) -> Floats:
    if not log:
        return np.where(np.isfinite(values), values, np.nan)
    return np.log10(np.where(np.isfinite(values) & (values > 0), values, np.nan))


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return powers of ten, every n-th of them where there are many; 2 and 5 times those where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / (wanted + 1)))
    factors = (1.0,) if last - first > 3 else (1.0, 2.0, 5.0)
    found = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return [number for number in found if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]


def _words(number: float, step: float) -> str:
    """Write a tick with the digits that tell it from the next."""
    if number == 0 or abs(number) < step * 1e-6:
        return "0"
    if abs(number) >= 1e4:
        return compact(number) if number > 0 else f"-{compact(-number)}"
    if abs(number) < 1e-3:
        return f"{number:.3g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 3
    written = f"{number:.{min(digits + 1, 9)}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written
