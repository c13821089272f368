"""The training loop: one, for any number of ranks.

The next step depends on the config, the data and the step's number only: a run that was stopped anywhere and resumes
from a checkpoint, on another number of ranks or with another micro batch size, is the same run.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch

from sana import metrics as m
from sana.config.pipeline import Config
from sana.costs.learned import training_passes
from sana.costs.transformer import TransformerSizes
from sana.data.loading.loader import Reader
from sana.progress import Happening, Progress, Report
from sana.training.batch import MicroBatch, RankPartition, cursor_of, prepare, read_ahead
from sana.training.checkpoints.checkpoint import NothingToResumeError
from sana.training.checkpoints.checkpoint_manager import CheckpointManager, ResumePoint
from sana.training.compute.blocks import BlockCompute
from sana.training.gauges.matmul_peak import matmul_peak_flops
from sana.training.gauges.throughput import Throughput
from sana.training.gauges.window_gauges import WindowGauges
from sana.training.guards.loss_spikes import WINDOW_STEPS
from sana.training.hooks.eval_loss import EvalLoss
from sana.training.hooks.hook import Hook
from sana.training.ledger.sample_ledger import SampleLedger
from sana.training.objectives.objective import Objective
from sana.training.parallel.distributed import StopFlag
from sana.training.parallel.parallel import Parallel
from sana.training.state import TrainState
from sana.training.step_window import NotFiniteError, StepWindow
from sana.training.train_step import TrainStep
from sana.training.trainables.trainable import Trainable
from sana.wording import in_units

REPORT_EVERY_S = 1.0

_log = logging.getLogger(__name__)


class Trainer:
    """Trains what is `trainable`, float32 master weights, in place. `report` is used on rank 0 only.

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
        compute: BlockCompute,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.config, self.resources = config.train, config.train.resources
        self.parallel, self.trainable, self.objective = parallel, trainable, objective
        self.checkpoints, self.report, self.compute = checkpoints, report, compute
        checkpoints.compute = compute.settings
        if compute.blocks is not None:
            compute.blocks.on_new_shape = self._say_compiling
        self.eval_loss = EvalLoss(config, objective, eval_reader, reader)
        self.hooks = (self.eval_loss, *hooks)
        self.stop = StopFlag(parallel.num_ranks)
        trainable.model.train()
        self.model = parallel.wrap(trainable)
        self.state = TrainState(trainable, self.config)
        self.eval_loss.prepare(self)
        self.train_step = TrainStep(
            self.config, parallel, self.model, self.state, objective, keeps_casts=compute.keeps_casts
        )
        self.samples = reader.samples
        self.cursor = cursor_of(self.config, self.samples)
        self.partition = RankPartition(
            self.config.global_batch_size,
            self.resources.micro_batch_size,
            rank=parallel.rank,
            num_ranks=parallel.num_ranks,
        )
        self.prepare = partial(prepare, reader=reader, config=self.config, draw=objective.draw)
        self.state.ledger = SampleLedger(len(self.samples), len(self.samples.buckets))
        self.window = StepWindow(
            self.config,
            self.cursor,
            self.samples,
            parallel.sum,
            gauges=self._gauges(),
            warns=parallel.is_main,
            ledger=self.state.ledger,
            rank=parallel.rank,
        )
        self.last_report = time.perf_counter()
        self.evaluated_step = -1
        self.resumed_step = 0
        self.ends_early = False  # a hook says that the run is over
        self.must_resume = False  # the model has no weights yet
        self.started = time.perf_counter()  # of reading the checkpoint
        self.last_losses = ""  # as they were measured last, for reports

    def _gauges(self) -> WindowGauges:
        transformer_config = self.trainable.model.config
        assert isinstance(transformer_config, Mapping)  # diffusers' own
        dtype = torch.bfloat16 if self.config.mixed_precision == "bf16" else torch.float32
        parallel = self.parallel
        peak = matmul_peak_flops(parallel.device, dtype, parallel.autocast) if parallel.is_main else None
        throughput = Throughput(
            transformer_config,
            self.cursor,
            self.samples,
            batch_size=self.config.global_batch_size,
            num_ranks=parallel.num_ranks,
            peak_flops=peak,
            passes=training_passes(self.config, TransformerSizes.of(transformer_config)),
        )
        return WindowGauges(throughput, parallel.device)

    def run(self) -> bool:
        """Train up to max_steps, from the newest checkpoint if there is one; False when `stop` ended it before.

        True also where a hook ended it early.

        Either way the last step then has a checkpoint.

        Raises:
            SanaError: a loss or gradient was not finite, or a stored sample is damaged.
        """
        self.started = time.perf_counter()
        self._restore()
        for hook in self.hooks:
            hook.before_training(self)
        slots = self.partition.slots(self.cursor, self.state.step, self.config.max_steps)
        batches = read_ahead(self.prepare, slots, self.parallel.device, num_ahead=self.resources.prefetch_batches)
        with self.checkpoints, closing(batches):
            while True:
                stopping = self.stop.agreed()
                for hook in self.hooks:
                    stopping = stopping or not hook.before_step(self)
                finished = self.ends_early or self.state.step == self.config.max_steps
                if stopping or finished or self.checkpoints.clock.is_due(self.state.step):
                    self.save()
                if stopping or finished:
                    self.checkpoints.finish(partial(self.say, "saving a checkpoint"))
                    self.say()
                    return finished
                self._train_step(batches)
                self.checkpoints.raise_error()
                if self.is_due(self.resources.log_every):
                    self.flush()

    def is_due(self, every: int) -> bool:
        """Whether what is done every so many steps, 0 for never, is due after the steps done."""
        return every > 0 and self.state.step % every == 0

    def _restore(self) -> None:
        found = self.checkpoints.restore(self._say_reading) if self.parallel.is_main else ResumePoint()
        values = [found.step, found.evaluated_step, found.optimizer_steps_before]
        step, self.evaluated_step, steps_before = self.parallel.broadcast(values)
        if step:
            self.state.optimizer_steps_before = self.checkpoints.optimizer_steps_before = steps_before
        elif self.must_resume:
            raise NothingToResumeError("no checkpoint is whole")
        self.state.restore(self.parallel, found.parts, step)
        self.checkpoints.resume(step, self.state)
        self.resumed_step = step
        if self.parallel.is_main:
            self.window.remember(self.checkpoints.metrics.last_values(m.TRAIN_LOSS, WINDOW_STEPS))
        loaded = f": loaded {found.loaded}" if found.loaded else ""
        resuming = f"resuming from step {step}{loaded}{self._computed_otherwise()}"
        self.write([], "from the start" if step == 0 else resuming)

    def _computed_otherwise(self) -> str:
        """Return what is computed in another way than before, which changes the last bits from here on."""
        before = self.checkpoints.newest.compute if self.checkpoints.newest else None
        changed = self.compute.settings.differences(before) if before else []
        return f"; other last bits from here: {', '.join(changed)}" if changed else ""

    def _say_reading(self, done: int, total: int) -> None:
        if time.perf_counter() - self.last_report > REPORT_EVERY_S or done == total:
            rate = done / max(time.perf_counter() - self.started, 1e-3)
            self.say(f"loading {in_units(total)}, {in_units(int(rate))}/s")

    def _say_compiling(self) -> None:
        """Say why nothing seems to go on: on a GPU a graph takes minutes, and seconds where the cache has it."""
        if self.parallel.is_main:
            _log.info("step %d of %d: compiling blocks for a new shape", self.state.step, self.config.max_steps)
        self.say("compiling blocks")

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        self.window.step_begins()
        self.window.add(self.train_step.take(batches, self.partition.num_micro_batches))
        if time.perf_counter() - self.last_report > REPORT_EVERY_S:
            self.say()

    def flush(self) -> None:
        """Write and report what was measured since the last flush."""
        try:
            rows = self.window.flush()
        except NotFiniteError as error:
            self.say(at=error.step)  # where it failed, not how far it went on
            raise
        if rows:
            if self.compute.blocks:
                rows[-1][m.COMPILED_GRAPHS] = float(self.compute.blocks.num_graphs)
                self.compute.blocks.check()
            losses = [row[m.TRAIN_LOSS] for row in rows if m.TRAIN_LOSS in row]
            self.last_losses = f"loss {losses[-1]:.4f}" if losses else "skipped, the loss is not finite"
            if self.window.spike:
                self.last_losses, self.window.spike = f"{self.last_losses} ({self.window.spike})", ""
            rate = f"{rows[-1][m.STEP_S]:.3g} s per step, {rows[-1][m.SAMPLES_PER_S]:.3g} samples/s"
            self.write(rows, f"{self.last_losses}, {rate}")

    def after_eval_round(self, done: int, total: int) -> bool:
        """Say how far an evaluation is; False: a stop was requested, on all ranks alike."""
        if time.perf_counter() - self.last_report > REPORT_EVERY_S:
            self.say(f"evaluating sample {done} of {total}")
        return not self.stop.agreed()

    def save(self) -> None:
        """Save a checkpoint, unless this step has one; it is complete once `checkpoints.finish` returns. Collective."""
        self.flush()  # rejects numbers that are not finite, so no such weights are ever saved
        waiting = partial(self.say, "saving the checkpoint before")
        self.checkpoints.save(self.state, self.parallel, self.cursor, while_waiting=waiting)

    def write(self, rows: list[dict[str, float]], message: str) -> None:
        """Append rows of metrics, and say and report the message; rank 0 does."""
        if self.parallel.is_main:
            _log.info("step %d of %d: %s", self.state.step, self.config.max_steps, message)
            self.checkpoints.write(rows)
        self.say("", rows)

    def say(
        self,
        phase: str = "",
        rows: Sequence[dict[str, float]] = (),
        *,
        at: int | None = None,
        happened: Sequence[Happening] = (),
    ) -> None:
        """Report how far it is: the steps that were asked of the device, and the losses that were measured last.

        `at` is another step to be told: that at which the run ended. Checkpoints are told of beside what `happened`.
        """
        self.last_report = time.perf_counter()
        if self.parallel.is_main:
            step, total = self.state.step if at is None else at, self.config.max_steps
            said = Progress(step, total, "steps", self.last_losses, tuple(rows), phase=phase, before=self.resumed_step)
            self.report(replace(said, happened=(*self.checkpoints.take_saved(), *happened)))
