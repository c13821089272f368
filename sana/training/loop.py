"""The training loop: one, for any number of ranks.

The next step depends on the config, the data and the step's number only: a run that was stopped anywhere and resumes
from a checkpoint, on another number of ranks or with another micro batch size, is the same run.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from sana.config.pipeline import Config
from sana.data.loading.epoch import Cursor
from sana.data.loading.loader import Reader
from sana.errors import SanaError
from sana.progress import Progress, Report
from sana.runtime.threads import in_threads
from sana.training import metrics as m
from sana.training.batch import MicroBatch, RankPartition, prepare
from sana.training.checkpoint_manager import CheckpointManager, ResumePoint
from sana.training.distributed import StopFlag
from sana.training.evaluation import EvalTable, evaluate_model
from sana.training.objectives.objective import Objective
from sana.training.parallel import Parallel
from sana.training.schedules import learning_rate_at
from sana.training.state import TrainState
from sana.training.trainable import Trainable
from sana.wording import first_of

REPORT_EVERY_S = 1.0
NAMED_SAMPLES = 8  # of a bad batch, in the message

_log = logging.getLogger(__name__)


class StepMetrics(NamedTuple):
    """What one step measured."""

    step: int  # steps done, this one included
    scalars: dict[str, m.Scalar]  # on the device until the window is flushed
    numbers: dict[str, float]  # on the host


class Trainer:
    """Trains what is `trainable`, float32 master weights, in place. `checkpoints` and `report` are used on rank 0 only.

    Raises:
        ConfigError: the global batch does not divide among the ranks.
    """

    def __init__(
        self,
        config: Config,
        parallel: Parallel,
        trainable: Trainable,
        objective: Objective,
        *,
        reader: Reader,
        eval_reader: Reader,
        checkpoints: CheckpointManager,
        report: Report,
    ) -> None:
        self.config, self.resources = config.train, config.train.resources
        self.parallel, self.trainable, self.objective = parallel, trainable, objective
        self.checkpoints, self.report = checkpoints, report
        self.stop = StopFlag(parallel.num_ranks)
        trainable.model.train()
        self.model = parallel.wrap(trainable)
        self.state = TrainState(trainable, self.config)
        self.samples = reader.samples
        self.cursor = Cursor(
            self.samples.bucket_codes,
            self.samples.draws_per_epoch,
            seed=self.config.seed,
            batch_size=self.config.global_batch_size,
        )
        self.partition = RankPartition(
            self.config.global_batch_size,
            self.resources.micro_batch_size,
            rank=parallel.rank,
            num_ranks=parallel.num_ranks,
        )
        self.prepare = partial(prepare, reader=reader, config=self.config, draw=objective.draw)
        self.evaluate = partial(
            evaluate_model,
            parallel,
            trainable.model,
            objective,
            eval_reader,
            config.evaluate,
            text_padding=self.config.text_padding,
            on_round=self._after_eval_round,
        )
        self.window: list[StepMetrics] = []
        self.window_started = self.last_report = time.perf_counter()
        self.evaluated_step = -1
        self.resumed_step = 0
        self.last_losses = ""  # as they were measured last, for reports

    def run(self) -> bool:
        """Train up to max_steps, from the newest checkpoint if there is one; False when `stop` ended it before.

        Either way the last step then has a checkpoint.

        Raises:
            SanaError: a loss or gradient was not finite, or a stored sample is damaged.
        """
        self._restore()
        slots = self.partition.slots(self.cursor, self.state.step, self.config.max_steps)
        depth = self.resources.prefetch_batches
        with closing(in_threads(self.prepare, slots, num_threads=depth, num_ahead=depth)) as batches:
            while True:
                stopping = self.stop.agreed()
                if not stopping and self._is_due(self.resources.eval_every):
                    stopping = not self._evaluate()
                finished = self.state.step == self.config.max_steps
                if stopping or finished or self._is_due(self.resources.checkpoint_every):
                    self._save()
                if stopping or finished:
                    return finished
                self._train_step(batches)
                if self._is_due(self.resources.log_every):
                    self._flush()

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _restore(self) -> None:
        found = self.checkpoints.restore() if self.parallel.is_main else ResumePoint()
        step, self.evaluated_step = self.parallel.broadcast([found.step, found.evaluated_step])
        self.state.restore(self.parallel, found.parts, step)
        self.resumed_step = step
        self._write([], "from the start" if step == 0 else f"resuming from step {step}")

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        """Take one optimizer step on the mean loss of the global batch."""
        if not self.window:
            self.window_started = time.perf_counter()
        step, data_wait_s = self.state.step, 0.0
        scalars: dict[str, m.Scalar] = {}
        for micro in reversed(range(self.partition.num_micro_batches)):
            wait_started = time.perf_counter()
            batch = next(batches)
            data_wait_s += time.perf_counter() - wait_started
            with self.parallel.gradients(self.model, exchanged=micro == 0):
                self._backward(batch.to(self.parallel.device), scalars)
        grad_norm = self.parallel.clip(self.trainable.parameters.values(), self.config.max_grad_norm)
        learning_rate = learning_rate_at(step, self.config)
        self.state.optimizer.step(learning_rate)
        self.state.ema.update(step)
        self.state.step = step + 1
        scalars[m.GRAD_NORM] = m.Scalar(grad_norm, "equal")
        numbers = {m.LEARNING_RATE: learning_rate, m.DATA_WAIT_S: data_wait_s}
        self.window.append(StepMetrics(step + 1, scalars, numbers))
        if time.perf_counter() - self.last_report > REPORT_EVERY_S:
            self.say()

    def _backward(self, batch: MicroBatch, scalars: dict[str, m.Scalar]) -> None:
        """Add a micro batch's gradients, and its scalars to the step's."""
        with self.parallel.autocast():
            losses = self.objective.loss(self.model, batch)
            partial_loss = losses.per_sample.sum() / self.config.global_batch_size
        self.parallel.backward(partial_loss)
        measured = {m.TRAIN_LOSS: m.Scalar(partial_loss, "sum"), **losses.scalars}
        m.accumulate(scalars, measured, part=len(batch) / self.config.global_batch_size)

    def _flush(self) -> None:
        """Move the window's scalars to the host, which is its only sync, and write and report them."""
        if not self.window:
            return
        numbers = m.to_host([step.scalars for step in self.window], self.parallel.sum)
        step_s = (time.perf_counter() - self.window_started) / len(self.window)
        bad = m.first_not_finite(numbers)
        if bad is not None:
            raise self._not_finite(self.window[bad].step, numbers[bad])
        rows = [
            {m.STEP: step.step, m.EPOCH: step.step / self.cursor.num_batches, m.STEP_S: step_s}
            | measured
            | step.numbers
            for step, measured in zip(self.window, numbers, strict=True)
        ]
        self.window.clear()
        self.last_losses = f"loss {rows[-1][m.TRAIN_LOSS]:.4f}"
        self._write(rows, f"{self.last_losses}, {step_s:.3g} s per step")

    def _not_finite(self, step: int, numbers: dict[str, float]) -> SanaError:
        names = [self.samples.sample_id(int(row)) for row in self.cursor.batch(step - 1)[:NAMED_SAMPLES]]
        measured = [f"{name.rpartition('/')[2].replace('_', ' ')} {number:g}" for name, number in numbers.items()]
        return SanaError(
            f"step {step}: {', '.join(measured)}; all must be finite. "
            f"Samples: {first_of(names, self.config.global_batch_size)}. Training stopped; no checkpoint has "
            "this step. Lower train.learning_rate or lengthen train.lr_schedule.warmup_steps, or look at these "
            f"samples: sana inspect CONFIG {names[0]}"
        )

    def _evaluate(self) -> bool:
        """Evaluate live and EMA weights, once per step; False when a stop was requested meanwhile."""
        if self.evaluated_step == self.state.step:
            return True
        self._flush()
        self.say("evaluating")
        started = time.perf_counter()
        live = ema = self.evaluate()
        if live is not None and self.state.step > 0:  # before the first step both are the same weights
            with self.state.ema.swapped_in():
                ema = self.evaluate()
        if live is None or ema is None:
            return False
        self.evaluated_step = self.state.step
        row = {m.STEP: self.state.step, **_eval_metrics(live, ema), m.EVAL_S: time.perf_counter() - started}
        self.last_losses = f"eval loss {live.mean():.4f}, of EMA weights {ema.mean():.4f}"
        self._write([row], self.last_losses)
        return True

    def _after_eval_round(self, done: int, total: int) -> bool:
        if time.perf_counter() - self.last_report > REPORT_EVERY_S:
            self.say(f"evaluating sample {done} of {total}")
        return not self.stop.agreed()

    def _save(self) -> None:
        self._flush()  # rejects numbers that are not finite, so no such weights are ever saved
        snapshot = self.state.snapshot(self.parallel)
        if self.parallel.is_main:
            newest = self.checkpoints.newest
            if self.state.step != (newest.step if newest else 0):
                self.say("saving a checkpoint")
            self.checkpoints.save(snapshot, self.cursor)
            self.say()

    def _write(self, rows: list[dict[str, float]], message: str) -> None:
        if self.parallel.is_main:
            _log.info("step %d of %d: %s", self.state.step, self.config.max_steps, message)
            self.checkpoints.write(rows)
        self.say("", rows)

    def say(self, phase: str = "", rows: Sequence[dict[str, float]] = ()) -> None:
        """Report how far it is: the steps that were asked of the device, and the losses that were measured last."""
        self.last_report = time.perf_counter()
        if self.parallel.is_main:
            step, total = self.state.step, self.config.max_steps
            said = Progress(step, total, "steps", self.last_losses, tuple(rows), phase=phase, before=self.resumed_step)
            self.report(said)


def _eval_metrics(live: EvalTable, ema: EvalTable) -> dict[str, float]:
    numbers = {
        m.EVAL_LOSS_LIVE: live.mean(),
        m.EVAL_LOSS_EMA: ema.mean(),
        m.EVAL_STDERR_LIVE: live.stderr(),
        m.EVAL_STDERR_EMA: ema.stderr(),
    }
    return {name: value for name, value in numbers.items() if value is not None}
