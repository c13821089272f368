"""The loss-spike alarm: a loss far above those of the steps before. It changes nothing in training."""

import statistics
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

WINDOW_STEPS = 100  # steps that make the running level
MIN_STEPS = 20  # no alarm before: the level is not known yet
_TO_STD = 1.4826  # median absolute deviations of a normal distribution in one standard deviation
_LEAST_SPREAD = 0.01  # of the median: losses that hardly differ are no reason for alarms


class Spike(NamedTuple):
    """A loss above its level; `deviation` is in robust standard deviations."""

    loss: float
    level: float
    deviation: float


class LossSpikes:
    """Compares each loss with the median of the WINDOW_STEPS before it, in robust standard deviations.

    These are 1.4826 median absolute deviations, so that neither noisy losses nor a few earlier spikes hide one.
    A threshold of 0 is off.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._before: deque[float] = deque(maxlen=WINDOW_STEPS)

    def remember(self, losses: Iterable[float]) -> None:
        """Take the losses of steps before a restart into the level."""
        self._before.extend(losses)

    def look(self, loss: float) -> Spike | None:
        """Add a step's loss to the level; return a Spike if it is far above the steps before."""
        spike = self._compared(loss) if self._threshold > 0 and len(self._before) >= MIN_STEPS else None
        self._before.append(loss)
        return spike

    def _compared(self, loss: float) -> Spike | None:
        level = statistics.median(self._before)
        if loss <= level:  # spares the second median, of most steps
            return None
        spread = _TO_STD * statistics.median([abs(before - level) for before in self._before])
        deviation = (loss - level) / max(spread, _LEAST_SPREAD * abs(level), 1e-12)
        return Spike(loss, level, deviation) if deviation > self._threshold else None
