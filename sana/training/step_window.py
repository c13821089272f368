"""The steps since the last log line: their scalars stay on the device until the window is flushed, the only sync."""

import time
from collections.abc import Callable

from torch import Tensor

from sana.data.loading.epoch import Cursor
from sana.data.loading.loader import Samples
from sana.errors import SanaError
from sana.training import metrics as m
from sana.training.train_step import StepMetrics
from sana.wording import first_of

NAMED_SAMPLES = 8  # of a bad batch, in the message


class StepWindow:
    """Collects what steps measured; `cursor` and `samples` tell which samples a step had."""

    def __init__(self, cursor: Cursor, samples: Samples, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        self._cursor, self._samples, self._sum = cursor, samples, sum_over_ranks
        self._steps: list[StepMetrics] = []
        self._started = time.perf_counter()

    def step_begins(self) -> None:
        """Start the clock of the window with its first step."""
        if not self._steps:
            self._started = time.perf_counter()

    def add(self, step: StepMetrics) -> None:
        """Add what a step measured."""
        self._steps.append(step)

    def flush(self) -> list[dict[str, float]]:
        """Move the scalars to the host, and return a row of each step; collective, and empty if no step was taken.

        Raises:
            SanaError: a number is not finite; names the step and its samples.
        """
        if not self._steps:
            return []
        numbers = m.to_host([step.scalars for step in self._steps], self._sum)
        step_s = (time.perf_counter() - self._started) / len(self._steps)
        bad = m.first_not_finite(numbers)
        if bad is not None:
            raise self._not_finite(self._steps[bad].step, numbers[bad])
        rows = [
            {m.STEP: step.step, m.EPOCH: step.step / self._cursor.num_batches, m.STEP_S: step_s}
            | measured
            | step.numbers
            for step, measured in zip(self._steps, numbers, strict=True)
        ]
        self._steps.clear()
        return rows

    def _not_finite(self, step: int, numbers: dict[str, float]) -> SanaError:
        batch = self._cursor.batch(step - 1)
        names = [self._samples.sample_id(int(row)) for row in batch[:NAMED_SAMPLES]]
        measured = [f"{name.rpartition('/')[2].replace('_', ' ')} {number:g}" for name, number in numbers.items()]
        return SanaError(
            f"step {step}: {', '.join(measured)}; all must be finite. "
            f"Samples: {first_of(names, len(batch))}. Training stopped; no checkpoint has "
            "this step. Lower train.learning_rate or lengthen train.lr_schedule.warmup_steps, or look at these "
            f"samples: sana inspect CONFIG {names[0]}"
        )
