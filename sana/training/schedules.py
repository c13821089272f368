"""The learning rate of a step: a pure function of the config and the step, so a resumed run has nothing to restore."""

import math
from collections.abc import Callable
from typing import Any

from sana.config.training.optimization.schedule import (
    ConstantSchedule,
    CosineSchedule,
    FallingSchedule,
    LinearSchedule,
    PolynomialSchedule,
    SineSchedule,
    resolve_schedule,
)
from sana.config.training.train import TrainConfig


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step`, counted from 0.

    `peak * min(1, (step + 1) / warmup_steps)`: the first step is above 0, step `warmup_steps - 1` at the peak.
    The schedule's own function takes over from there.
    """
    schedule = resolve_schedule(config.lr_schedule, config.max_steps)
    if step < schedule.warmup_steps:
        return config.learning_rate * (step + 1) / schedule.warmup_steps
    return SCHEDULES[schedule.name](schedule, step - schedule.warmup_steps, config.learning_rate)


def _constant(_schedule: ConstantSchedule, _step: int, peak: float) -> float:
    return peak


def _cosine(schedule: CosineSchedule, step: int, peak: float) -> float:
    """Half a period down to `min_learning_rate` over `decay_steps`, where it stays."""
    part = _part(schedule, step)
    low = schedule.min_learning_rate
    return low + (peak - low) * (1 + math.cos(math.pi * part)) / 2


def _linear(schedule: LinearSchedule, step: int, peak: float) -> float:
    low = schedule.min_learning_rate
    return low + (peak - low) * (1 - _part(schedule, step))


def _polynomial(schedule: PolynomialSchedule, step: int, peak: float) -> float:
    low = schedule.min_learning_rate
    return low + (peak - low) * math.pow(1 - _part(schedule, step), schedule.power)


def _sine(schedule: SineSchedule, step: int, peak: float) -> float:
    """A sine from its crest on: down to `min_learning_rate` in half a period, and up again."""
    low = schedule.min_learning_rate
    phase = math.pi / 2 + 2 * math.pi * (step + 1) / schedule.period_steps
    return low + (peak - low) * (1 + math.sin(phase)) / 2


def _part(schedule: FallingSchedule, step: int) -> float:
    """Return the part of the fall that is done after a step: above 0, and at most 1."""
    assert schedule.decay_steps is not None  # resolve_schedule() has set it
    return min(1.0, (step + 1) / schedule.decay_steps)


# by its name in the config: (its section, steps since the warm-up, peak) -> learning rate
SCHEDULES: dict[str, Callable[[Any, int, float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "polynomial": _polynomial,
    "sine": _sine,
}
