"""The rows that a training measured, as columns: a million of them are a few arrays."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sana import metrics as m
from sana.metrics import Row
from sana.report.drawing.axes import Floats
from sana.report.drawing.thinning import thinned

_MAX_POINTS = 200_000  # of one metric: from there on those are kept that a chart of _COLUMNS shows
_COLUMNS = 10_000
CURVES = (
    m.TRAIN_LOSS,
    m.LOSS_SPIKE,
    m.SKIPPED_STEPS,
    m.GRAD_NORM,
    m.LEARNING_RATE,
    m.STEP_S,
    m.DATA_WAIT_S,
    m.SAMPLES_PER_S,
    m.MFU,
    m.GPU_ALLOCATED_PEAK_GIB,
    m.HOST_PEAK_GIB,
    m.EVAL_LOSS_LIVE,
    m.EVAL_LOSS_EMA,
    m.EVAL_STDERR_LIVE,
    m.EVAL_STDERR_EMA,
    m.TRAIN_PROBE_LOSS,
    m.EVAL_S,
    m.VALIDATION_S,
    m.VALIDATION_FAILED,
    m.BEST_STEP,
)


@dataclass(frozen=True)
class Curve:
    """One metric: steps in order, each once, and its numbers."""

    steps: Floats
    values: Floats

    @property
    def last(self) -> float | None:
        return float(self.values[-1]) if len(self.values) else None


class Numbers:
    """Gathers rows in the order in which they were measured; a step that was done again replaces what it was."""

    def __init__(self) -> None:
        self._steps = {name: array("d") for name in CURVES}
        self._values = {name: array("d") for name in CURVES}
        self._by_sigma: dict[int, dict[float, float]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}  # by attempt: of steps; of evaluations and validations
        self.last_step = 0
        self.num_rows = 0

    def add(self, rows: Iterable[Row], *, attempt: str = "") -> None:
        """Take rows of an attempt; memory stays bounded, whatever their number."""
        steps_s, others_s = self.seconds.get(attempt, (0.0, 0.0))
        for row in rows:
            steps_s += row.get(m.STEP_S, 0.0)
            others_s += row.get(m.EVAL_S, 0.0) + row.get(m.VALIDATION_S, 0.0)
            self.num_rows += 1
            step = row[m.STEP]
            self.last_step = max(self.last_step, int(step))
            for name in CURVES:
                value = row.get(name)
                if value is not None:
                    self._steps[name].append(step)
                    self._values[name].append(value)
            levels = m.of_sigmas(row, "ema") if m.EVAL_LOSS_EMA in row else {}
            if levels:
                self._by_sigma[int(step)] = levels
        self.seconds[attempt] = (steps_s, others_s)
        for name in CURVES:
            if len(self._steps[name]) > _MAX_POINTS:
                self._thin(name)

    def curve(self, name: str) -> Curve:
        """Return one metric, of those in CURVES."""
        steps, values = np.array(self._steps[name], np.float64), np.array(self._values[name], np.float64)
        order = np.argsort(steps, kind="stable")
        last = np.append(steps[order][1:] != steps[order][:-1], True) if len(order) else np.zeros(0, np.bool_)
        return Curve(steps[order][last], values[order][last])

    def by_sigma(self) -> tuple[list[int], list[float], Floats]:
        """Return (steps, noise levels, the EMA weights' eval loss [steps, levels]); NaN where it was not measured."""
        steps = sorted(self._by_sigma)
        levels = sorted({level for found in self._by_sigma.values() for level in found})
        losses = [[self._by_sigma[step].get(level, np.nan) for level in levels] for step in steps]
        return steps, levels, np.array(losses, np.float64).reshape(len(steps), len(levels))

    def _thin(self, name: str) -> None:
        found = self.curve(name)
        kept = np.concatenate(thinned(found.steps, found.values, columns=_COLUMNS))
        self._steps[name] = array("d", found.steps[kept].tolist())
        self._values[name] = array("d", found.values[kept].tolist())
