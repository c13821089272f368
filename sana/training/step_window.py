"""The steps since the last log line: their scalars stay on the device until the window is flushed, the only sync."""

import logging
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sana import metrics as m
from sana.config.training.train import TrainConfig
from sana.data.loading.epoch import Cursor
from sana.data.loading.loader import Samples
from sana.errors import SanaError
from sana.training.gauges.throughput import CountedStep
from sana.training.gauges.window_gauges import WindowGauges
from sana.training.guards.loss_spikes import LossSpikes
from sana.training.ledger.sample_ledger import SampleLedger
from sana.training.metrics import to_host
from sana.training.train_step import StepMetrics
from sana.wording import first_of

NAMED_SAMPLES = 8  # of a bad batch, in the message
NAMED_STEPS = 5  # of skipped ones, in the message

_log = logging.getLogger(__name__)


class NotFiniteError(SanaError):
    """A loss or gradient that is not finite ended the run at `step`."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class StepWindow:
    """Collects what steps measured; `cursor` and `samples` tell which samples a step had.

    One rank `warns`: of skipped steps and of loss spikes.
    """

    def __init__(
        self,
        config: TrainConfig,
        cursor: Cursor,
        samples: Samples,
        sum_over_ranks: Callable[[Tensor], Tensor],
        *,
        gauges: WindowGauges,
        warns: bool,
        ledger: SampleLedger | None = None,
        rank: int = 0,
    ) -> None:
        self._ledger, self._rank = ledger, rank
        self._cursor, self._samples, self._sum = cursor, samples, sum_over_ranks
        self._log_level = logging.WARNING if warns else logging.DEBUG
        self._gauges = gauges
        self._max_skipped = config.max_skipped_steps
        self._spikes = LossSpikes(config.resources.loss_spike_threshold)
        self._skipped: list[str] = []  # as they are named in the message
        self._steps: list[StepMetrics] = []
        self._started = time.perf_counter()
        self.spike = ""  # of the last flush, to be shown

    def remember(self, losses: Iterable[float]) -> None:
        """Take in the losses of steps before a restart: with them a new one is compared."""
        self._spikes.remember(losses)

    def step_begins(self) -> None:
        """Start the clock of the window with its first step."""
        if not self._steps:
            self._started = time.perf_counter()

    def add(self, step: StepMetrics) -> None:
        """Add what a step measured."""
        self._steps.append(step)

    def flush(self) -> list[dict[str, float]]:
        """Move the scalars to the host, and return a row of each step; collective, and empty if no step was taken.

        The row of a skipped step lacks the numbers that are not finite.

        Raises:
            NotFiniteError: a number is not finite and its step was not skipped, or one more step was than may be; names
                the steps and their samples.
        """
        if not self._steps:
            return []
        numbers = to_host([step.scalars for step in self._steps], self._sum)
        seconds = time.perf_counter() - self._started
        step_s = seconds / len(self._steps)
        rows = [
            {m.STEP: step.step, m.EPOCH: self._cursor.epochs(step.step), m.STEP_S: step_s}
            | self._judged(step.step, measured)
            | step.numbers
            for step, measured in zip(self._steps, numbers, strict=True)
        ]
        self._note_samples()
        rows[-1] |= self._gauges.read([CountedStep(step.step, step.caption_tokens) for step in self._steps], seconds)
        self._steps.clear()
        return rows

    def _note_samples(self) -> None:
        """Tell the ledger what each sample of these steps cost: one collective, and every rank is told of all."""
        steps = [(step.step, step.samples) for step in self._steps if step.samples is not None]
        if self._ledger is None or not steps:
            return
        mine = torch.stack([samples for _, samples in steps])
        size = len(self._cursor.batch(steps[0][0] - 1))
        everyone = mine.new_zeros(*mine.shape[:2], size)
        begin = self._rank * mine.shape[2]
        everyone[..., begin : begin + mine.shape[2]] = mine
        # each number is one rank's plus zeros, so this sum rounds nothing
        for (step, _), (sigmas, losses) in zip(steps, self._sum(everyone).cpu().numpy(), strict=True):
            rows = self._cursor.batch(step - 1)
            self._ledger.add(rows, int(self._samples.bucket_codes[rows[0]]), sigmas, losses)

    def _judged(self, step: int, numbers: dict[str, float]) -> dict[str, float]:
        """Return a step's numbers without those that made it be skipped, and with what the alarm says of its loss."""
        bad = m.not_finite(numbers)
        skipped = bool(self._max_skipped and {m.TRAIN_LOSS, m.GRAD_NORM} & set(bad))
        if bad and not skipped:
            raise self._not_finite(step, numbers)
        if skipped:
            self._skipped.append(f"step {step} ({self._named(step)})")
            num_skipped = int(numbers[m.SKIPPED_STEPS])
            said = (
                f"step {step}: {_measured(numbers)}; it is skipped, {num_skipped} of at most {self._max_skipped} so far"
            )
            if num_skipped > self._max_skipped:
                raise self._too_many(step, num_skipped)
            _log.log(self._log_level, "%s. Samples: %s", said, self._named(step))
            return {name: number for name, number in numbers.items() if name not in bad}
        spike = self._spikes.look(numbers[m.TRAIN_LOSS])
        if spike is None:
            return numbers
        self.spike = f"loss {spike.loss:.4g} at step {step} is far above its level of {spike.level:.4g}"
        _log.log(self._log_level, "%s (%.0f robust std). Samples: %s", self.spike, spike.deviation, self._named(step))
        return numbers | {m.LOSS_SPIKE: spike.deviation}

    def _named(self, step: int) -> str:
        return first_of(self._names(step), len(self._cursor.batch(step - 1)))

    def _names(self, step: int) -> list[str]:
        return [self._samples.sample_id(int(row)) for row in self._cursor.batch(step - 1)[:NAMED_SAMPLES]]

    def _not_finite(self, step: int, numbers: dict[str, float]) -> NotFiniteError:
        return NotFiniteError(
            step,
            f"step {step}: {_measured(numbers)}; all must be finite. "
            f"Samples: {self._named(step)}. Training stopped; no checkpoint has "
            "this step. Lower train.learning_rate or lengthen train.lr_schedule.warmup_steps, or look at these "
            f"samples: sana inspect CONFIG {self._names(step)[0]}",
        )

    def _too_many(self, step: int, num_skipped: int) -> NotFiniteError:
        shown = self._skipped[-NAMED_STEPS:]
        earlier = num_skipped - len(shown)
        return NotFiniteError(
            step,
            f"{num_skipped} steps had a loss or gradient that is not finite, train.max_skipped_steps is "
            f"{self._max_skipped}: {'; '.join(shown)}{f'; and {earlier} before' if earlier else ''}. Training stopped; "
            f"no checkpoint has step {step}. Look at the samples, sana inspect CONFIG {self._names(step)[0]}, or lower "
            "train.learning_rate",
        )


def _measured(numbers: dict[str, float]) -> str:
    unsaid = (m.SKIPPED_STEPS, f"{m.GRAD_NORM}_")  # the norms of groups are parts of one that is said
    shown = {name: number for name, number in numbers.items() if not name.startswith(unsaid)}
    return ", ".join(f"{name.rpartition('/')[2].replace('_', ' ')} {number:g}" for name, number in shown.items())
