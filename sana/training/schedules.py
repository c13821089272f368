"""The learning rate of a step: a pure function of the config and the step, so that nothing is to be restored."""

import math
from collections.abc import Callable
from typing import Any

from sana.config.optimizer import ConstantSchedule, CosineSchedule, within
from sana.config.train import TrainConfig


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step`, counted from 0.

    `peak * min(1, (step + 1) / warmup_steps)`: the first step learns already, step `warmup_steps - 1` is at the peak.
    What follows is the schedule's.
    """
    schedule = within(config.lr_schedule, config.max_steps)
    if step < schedule.warmup_steps:
        return config.learning_rate * (step + 1) / schedule.warmup_steps
    return SCHEDULES[schedule.name](schedule, step - schedule.warmup_steps, config.learning_rate)


def _constant(_schedule: ConstantSchedule, _step: int, peak: float) -> float:
    return peak


def _cosine(schedule: CosineSchedule, step: int, peak: float) -> float:
    """Half a period down to `min_learning_rate` over `decay_steps`, where it stays."""
    assert schedule.decay_steps is not None  # within() has set it
    part = min(1.0, (step + 1) / schedule.decay_steps)
    low = schedule.min_learning_rate
    return low + (peak - low) * (1 + math.cos(math.pi * part)) / 2


# by the name that the config calls it: (its section, steps since the warm-up, peak) -> learning rate
SCHEDULES: dict[str, Callable[[Any, int, float], float]] = {"constant": _constant, "cosine": _cosine}
