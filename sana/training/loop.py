"""The training loop: one, for any number of ranks.

The next step depends on the config, the data and the step's number only: a run that was stopped anywhere and goes on
from a checkpoint, on another number of ranks or with another micro batch size, is the same run.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
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
from sana.training.checkpoint_manager import Found, Trajectory
from sana.training.distributed import StopFlag
from sana.training.evaluation import EvalTable, evaluate_model
from sana.training.objectives.objective import Objective
from sana.training.parallel import Parallel
from sana.training.schedules import learning_rate_at
from sana.training.state import TrainState
from sana.training.trainable import Trainable

SIGN_OF_LIFE_S = 2.0  # between reports while evaluating
NAMED_SAMPLES = 8  # of a bad batch, in the message

_log = logging.getLogger(__name__)


class Done(NamedTuple):
    """What one step left behind."""

    step: int  # steps done, this one included
    scalars: dict[str, m.Scalar]  # they stay on the device until the window is flushed
    numbers: dict[str, float]  # known on the host


class Trainer:
    """Trains what is `trainable`, float32 master weights, in place. `trajectory` and `report` are used on rank 0 only.

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
        trajectory: Trajectory,
        report: Report,
    ) -> None:
        self.config, self.resources = config.train, config.train.resources
        self.parallel, self.trainable, self.objective = parallel, trainable, objective
        self.trajectory, self.report = trajectory, report
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
        self.measure = partial(
            evaluate_model,
            parallel,
            trainable.model,
            objective,
            eval_reader,
            config.evaluate,
            text_padding=self.config.text_padding,
            on_round=self._after_eval_round,
        )
        self.window: list[Done] = []
        self.window_started = self.last_report = time.perf_counter()
        self.evaluated_step = -1

    def run(self) -> bool:
        """Train up to max_steps, from the newest checkpoint if there is one; False when `stop` ended it before.

        Either way the state of the last step is a checkpoint afterwards.

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
        found = self.trajectory.restore() if self.parallel.is_main else Found()
        step, self.evaluated_step = self.parallel.from_main([found.step, found.evaluated_step])
        self.state.restore(self.parallel, found.parts, step)
        self._write([], "from the start" if step == 0 else f"going on from step {step}")

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        """Take one optimizer step on the mean loss of the global batch."""
        if not self.window:
            self.window_started = time.perf_counter()
        step, data_wait_s = self.state.step, 0.0
        scalars: dict[str, m.Scalar] = {}
        for micro in reversed(range(self.partition.num_micro_batches)):
            asked = time.perf_counter()
            batch = next(batches)
            data_wait_s += time.perf_counter() - asked
            with self.parallel.gradients(self.model, exchanged=micro == 0):
                self._backward(batch.to(self.parallel.device), scalars)
        grad_norm = self.parallel.clip(self.trainable.parameters.values(), self.config.max_grad_norm)
        learning_rate = learning_rate_at(step, self.config)
        self.state.optimizer.step(learning_rate)
        self.state.ema.update(step)
        self.state.step = step + 1
        scalars[m.GRAD_NORM] = m.Scalar(grad_norm, "equal")
        numbers = {m.LEARNING_RATE: learning_rate, m.DATA_WAIT_S: data_wait_s}
        self.window.append(Done(step + 1, scalars, numbers))

    def _backward(self, batch: MicroBatch, scalars: dict[str, m.Scalar]) -> None:
        """Add a micro batch to the gradients, and what it measured to the step's scalars."""
        with self.parallel.autocast():
            losses = self.objective.loss(self.model, batch)
            share = losses.per_sample.sum() / self.config.global_batch_size
        self.parallel.backward(share)
        measured = {m.TRAIN_LOSS: m.Scalar(share, "sum"), **losses.scalars}
        m.gather(scalars, measured, part=len(batch) / self.config.global_batch_size)

    def _flush(self) -> None:
        """Bring the window's numbers to the host, which is its only sync, and write and report them."""
        if not self.window:
            return
        numbers = m.to_host([done.scalars for done in self.window], self.parallel.sum)
        step_s = (time.perf_counter() - self.window_started) / len(self.window)
        bad = m.first_not_finite(numbers)
        if bad is not None:
            raise self._not_finite(self.window[bad].step, numbers[bad])
        rows = [
            {m.STEP: done.step, m.EPOCH: done.step / self.cursor.num_batches, m.STEP_S: step_s}
            | measured
            | done.numbers
            for done, measured in zip(self.window, numbers, strict=True)
        ]
        self.window.clear()
        left = timedelta(seconds=round(step_s * (self.config.max_steps - self.state.step)))
        self._write(rows, f"loss {rows[-1][m.TRAIN_LOSS]:.4f}, {1 / step_s:.2f} steps/s, {left} left")

    def _not_finite(self, step: int, numbers: dict[str, float]) -> SanaError:
        names = [self.samples.sample_id(int(row)) for row in self.cursor.batch(step - 1)[:NAMED_SAMPLES]]
        more = self.config.global_batch_size - len(names)
        told = [f"{name.rpartition('/')[2].replace('_', ' ')} {number:g}" for name, number in numbers.items()]
        return SanaError(
            f"step {step}: {', '.join(told)}; all must be finite. "
            f"Samples: {', '.join(names)}{f' and {more} more' if more else ''}. Training stopped; no checkpoint has "
            "this step. Lower train.learning_rate or lengthen train.lr_schedule.warmup_steps, or look at these samples"
        )

    def _evaluate(self) -> bool:
        """Measure live and averaged weights, once per step; False when a stop was asked for meanwhile."""
        if self.evaluated_step == self.state.step:
            return True
        self._flush()
        started = time.perf_counter()
        live = averaged = self.measure()
        if live is not None and self.state.step > 0:  # before the first step both are the same weights
            with self.state.ema.swapped_in():
                averaged = self.measure()
        if live is None or averaged is None:
            return False
        self.evaluated_step = self.state.step
        row = {m.STEP: self.state.step, **_eval_metrics(live, averaged), m.EVAL_S: time.perf_counter() - started}
        self._write([row], f"eval loss {live.mean():.4f}, of averaged weights {averaged.mean():.4f}")
        return True

    def _after_eval_round(self, done: int, total: int) -> bool:
        if time.perf_counter() - self.last_report > SIGN_OF_LIFE_S:
            self._write([], f"eval: {done} of {total} samples")
        return not self.stop.agreed()

    def _save(self) -> None:
        self._flush()  # rejects numbers that are not finite, so no such weights are ever saved
        snapshot = self.state.snapshot(self.parallel)
        if self.parallel.is_main:
            self.trajectory.save(snapshot, self.cursor)

    def _write(self, rows: list[dict[str, float]], message: str) -> None:
        self.last_report = time.perf_counter()
        if self.parallel.is_main:
            _log.info("step %d of %d: %s", self.state.step, self.config.max_steps, message)
            self.trajectory.write(rows)
            self.report(Progress(self.state.step, self.config.max_steps, "steps", message, tuple(rows)))


def _eval_metrics(live: EvalTable, averaged: EvalTable) -> dict[str, float]:
    numbers = {
        m.EVAL_LOSS_LIVE: live.mean(),
        m.EVAL_LOSS_EMA: averaged.mean(),
        m.EVAL_STDERR_LIVE: live.stderr(),
        m.EVAL_STDERR_EMA: averaged.stderr(),
    }
    return {name: value for name, value in numbers.items() if value is not None}
