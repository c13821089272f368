"""The training loop: one, for any number of ranks.

The next step depends on the config, the data and the step's number only: a run that was stopped anywhere and goes on
from a checkpoint, on another number of ranks or with another micro batch size, is the same run.
"""

import logging
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from sana.config.pipeline import Config
from sana.data.epoch import Cursor
from sana.data.loader import Prefetcher, Reader
from sana.errors import SanaError
from sana.progress import Progress, Report
from sana.training import metrics as m
from sana.training.batch import MicroBatch, Share, Slot, losses_of, prepare
from sana.training.evaluation import EvalTable, evaluate_model
from sana.training.optimizer import learning_rate_at, set_learning_rate
from sana.training.ranks import StopFlag
from sana.training.state import TrainState
from sana.training.trajectory import Trajectory

SIGN_OF_LIFE_S = 2.0  # between reports while evaluating
NAMED_SAMPLES = 8  # of a bad batch, in the message

_log = logging.getLogger(__name__)


class Done(NamedTuple):
    """What one step left behind; its tensors stay on the device until the window is flushed."""

    step: int  # steps done, this one included
    means: Tensor  # float32 [2]: this rank's share of the global batch's mean loss and mean sigma
    grad_norm: Tensor  # float32 scalar, equal on all ranks
    learning_rate: float
    data_wait_s: float


class Trainer:
    """Trains `transformer`, float32 master weights, in place. `trajectory` and `report` are used on rank 0 only.

    Raises:
        ConfigError: the global batch does not divide among the ranks.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        transformer: nn.Module,
        *,
        reader: Reader,
        eval_reader: Reader,
        flow_shift: float,
        trajectory: Trajectory,
        report: Report,
    ) -> None:
        self.config, self.resources = config.train, config.train.resources
        self.accelerator, self.trajectory, self.report = accelerator, trajectory, report
        self.stop = StopFlag(accelerator.num_processes)
        self.transformer = transformer.train()
        self.wrapped = accelerator.prepare_model(transformer)
        self.state = TrainState(transformer, self.config)
        self.samples = reader.samples
        self.cursor = Cursor(
            self.samples.bucket_codes,
            self.samples.passes,
            seed=self.config.seed,
            batch_size=self.config.global_batch_size,
        )
        self.share = Share(
            self.config.global_batch_size,
            self.resources.micro_batch_size,
            rank=accelerator.process_index,
            num_ranks=accelerator.num_processes,
        )
        self.prepare = partial(prepare, reader=reader, config=self.config, flow_shift=flow_shift)
        self.measure = partial(
            evaluate_model,
            accelerator,
            transformer,
            eval_reader,
            config.evaluate,
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
        slots = self.share.slots(self.cursor, self.state.step, self.config.max_steps)
        with Prefetcher(self.prepare, slots, depth=self.resources.prefetch_batches) as batches:
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
        """Rank 0 alone reads checkpoints, so ranks cannot disagree on one; the others get its tensors."""
        facts = [0, -1]
        if self.accelerator.is_main_process:
            self.evaluated_step = self.trajectory.restore(self.state)
            facts = [self.state.step, self.evaluated_step]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(facts)
            self.state.broadcast()
        self.state.at(facts[0])
        self.evaluated_step = facts[1]
        self._write([], "from the start" if self.state.step == 0 else f"going on from step {self.state.step}")

    def _train_step(self, batches: Prefetcher[list[Slot], MicroBatch]) -> None:
        """Take one optimizer step on the mean loss of the global batch."""
        if not self.window:
            self.window_started = time.perf_counter()
        step, data_wait_s = self.state.step, 0.0
        means = torch.zeros(2, device=self.accelerator.device)
        for micro in reversed(range(self.share.num_micro_batches)):
            asked = time.perf_counter()
            batch = next(batches)
            data_wait_s += time.perf_counter() - asked
            # ranks exchange gradients once a step, with the last micro batch
            with self.accelerator.no_sync(self.wrapped) if micro else nullcontext():
                means += self._backward(batch.to(self.accelerator.device))
        grad_norm = self.accelerator.clip_grad_norm_(self.transformer.parameters(), self.config.max_grad_norm)
        learning_rate = learning_rate_at(step, self.config)
        set_learning_rate(self.state.optimizer, learning_rate)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.state.ema.update(step)
        self.state.step = step + 1
        self.window.append(Done(step + 1, means, grad_norm.detach(), learning_rate, data_wait_s))

    def _backward(self, batch: MicroBatch) -> Tensor:
        """Add a micro batch to the gradients; return its share of the step's mean loss and mean sigma."""
        with self.accelerator.autocast():
            loss = losses_of(self.wrapped, batch).sum() / self.config.global_batch_size
        # the exchange averages over ranks; what is wanted is the sum of their shares
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return torch.stack([loss.detach(), batch.sigma.sum() / self.config.global_batch_size])

    def _flush(self) -> None:
        """Bring the window's numbers to the host, which is its only sync, and write and report them."""
        if not self.window:
            return
        means = self.accelerator.reduce(torch.stack([done.means for done in self.window]), reduction="sum")
        norms = torch.stack([done.grad_norm for done in self.window])
        numbers = torch.cat([means, norms[:, None]], dim=1).cpu().tolist()
        step_s = (time.perf_counter() - self.window_started) / len(self.window)
        bad = m.first_not_finite(numbers)
        if bad is not None:
            raise self._not_finite(self.window[bad].step, *numbers[bad])
        rows = [
            {
                m.STEP: done.step,
                m.TRAIN_LOSS: loss,
                m.GRAD_NORM: norm,
                m.LEARNING_RATE: done.learning_rate,
                m.EPOCH: done.step / self.cursor.num_batches,
                m.SIGMA_MEAN: sigma,
                m.STEP_S: step_s,
                m.DATA_WAIT_S: done.data_wait_s,
            }
            for done, (loss, sigma, norm) in zip(self.window, numbers, strict=True)
        ]
        self.window.clear()
        left = timedelta(seconds=round(step_s * (self.config.max_steps - self.state.step)))
        self._write(rows, f"loss {rows[-1][m.TRAIN_LOSS]:.4f}, {1 / step_s:.2f} steps/s, {left} left")

    def _not_finite(self, step: int, loss: float, sigma: float, norm: float) -> SanaError:
        names = [self.samples.sample_id(int(row)) for row in self.cursor.batch(step - 1)[:NAMED_SAMPLES]]
        more = self.config.global_batch_size - len(names)
        return SanaError(
            f"step {step}: loss {loss:g}, gradient norm {norm:g}, mean sigma {sigma:g}; all must be finite. "
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
        self._flush()  # refuses numbers that are not finite, so no such weights are ever saved
        if self.accelerator.is_main_process:
            self.trajectory.save(self.state, self.cursor)

    def _write(self, rows: list[dict[str, float]], message: str) -> None:
        self.last_report = time.perf_counter()
        if self.accelerator.is_main_process:
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
