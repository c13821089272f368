"""The eval loss while training: of live and EMA weights, every `train.resources.eval_every` steps.

Beside it the losses of data sets that are measured by themselves, with each condition, and of a few train samples.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from sana import metrics as m
from sana.config.pipeline import Config
from sana.config.training.conditions import ConditionConfig
from sana.data.eval_table import EvalTable
from sana.data.loading.loader import Reader
from sana.training.eval_sets import eval_sets, train_probe_rows
from sana.training.evaluation import evaluate_model
from sana.training.hooks.early_stopping import EarlyStopping
from sana.training.objectives.objective import Objective

if TYPE_CHECKING:
    from sana.training.loop import Trainer


class EvalLoss:
    """Evaluates once per step, also where a resumed run stands; and judges by it whether the run is over."""

    def __init__(self, config: Config, objective: Objective, eval_reader: Reader, train_reader: Reader) -> None:
        self._config, self._objective = config, objective
        self._reader, self._train_reader = eval_reader, train_reader
        self._sets = eval_sets(eval_reader.samples, config.evaluate)
        self._probed = train_probe_rows(train_reader.samples, config.train.resources.train_probe_samples)
        self._conditions = config.evaluated_conditions
        self._own_rows = self._sets.own_rows(eval_reader.samples)
        self.early_stopping: EarlyStopping | None = None

    def prepare(self, trainer: "Trainer") -> None:
        """Let the trainer's checkpoints keep what early stopping knows. Before it resumes."""
        config = self._config.train.early_stopping
        if config is not None:
            num_samples, device = len(self._sets.ids[""]), trainer.parallel.device
            self.early_stopping = EarlyStopping(config, num_samples, device)
            trainer.state.further |= self.early_stopping.tensors()

    def before_training(self, trainer: "Trainer") -> None:
        """Protect the checkpoint of the best step, if there is one; forget it if it is gone."""
        early = self.early_stopping
        if early is None or early.best_step is None:
            return
        there = trainer.checkpoints.has_step(early.best_step) if trainer.parallel.is_main else False
        if not trainer.parallel.broadcast([there])[0]:
            trainer.say(f"the checkpoint of step {early.best_step}, the best so far, is gone")
            early.forget()
        trainer.checkpoints.best_step = early.best_step

    def before_step(self, trainer: "Trainer") -> bool:
        """Evaluate if it is time; False when a stop was requested meanwhile."""
        early = self.early_stopping
        is_judged = early is not None and trainer.state.step > 0 and trainer.is_due(early.config.every)
        is_due = trainer.is_due(trainer.resources.eval_every) or is_judged
        if is_due and trainer.evaluated_step != trainer.state.step and not self._evaluate(trainer, is_judged=is_judged):
            return False
        if early is not None and early.is_over and trainer.state.step < self._config.train.max_steps:
            trainer.ends_early = True
        return True

    def _evaluate(self, trainer: "Trainer", *, is_judged: bool) -> bool:
        trainer.flush()
        trainer.say("evaluating")
        started, step = time.perf_counter(), trainer.state.step
        live = ema = self._losses(trainer, self._reader, self._sets.rows)
        given = given_ema = self._conditioned(trainer) if live is not None else None
        probed = None
        if step > 0:  # before the first step both are the same weights
            with trainer.state.ema.swapped_in():
                ema = self._losses(trainer, self._reader, self._sets.rows) if given is not None else None
                given_ema = self._conditioned(trainer) if ema is not None else None
                probed = self._losses(trainer, self._train_reader, self._probed) if given_ema is not None else None
        elif given is not None:
            probed = self._losses(trainer, self._train_reader, self._probed)
        if live is None or ema is None or given is None or given_ema is None or probed is None:
            return False
        for name, table in (("live", live), ("EMA", ema), ("EMA", probed)):
            table.require_finite(name, f"after step {step}, ")
        trainer.evaluated_step = step
        by_condition = {"live": given, "ema": given_ema}
        row = {m.STEP: float(step), **self._metrics(live, ema, probed), **_condition_metrics(by_condition, step)}
        said = f"eval loss {self._sets.of(live).mean():.4f}, of EMA weights {self._sets.of(ema).mean():.4f}"
        judged = ""
        if is_judged and self.early_stopping is not None:
            judged = self.early_stopping.judge(self._sets.of(ema), step)
            trainer.checkpoints.best_step = self.early_stopping.best_step
            row[m.BEST_STEP] = float(self.early_stopping.best_step or 0)
        trainer.last_losses = said
        trainer.write([{**row, m.EVAL_S: time.perf_counter() - started}], said + (f"; {judged}" if judged else ""))
        return True

    def _conditioned(self, trainer: "Trainer") -> dict[str, EvalTable] | None:
        """Return the losses with each condition, without those that apply to no sample; None: a stop was requested."""
        tables = {}
        for label, condition in self._conditions.items():
            table = self._losses(trainer, self._reader, self._own_rows, condition=condition)
            if table is None:
                return None
            if table.sample_ids:
                tables[label] = table
        return tables

    def _losses(
        self,
        trainer: "Trainer",
        reader: Reader,
        rows: "tuple[int, ...] | list[int]",
        *,
        condition: ConditionConfig | None = None,
    ) -> EvalTable | None:
        evaluate = partial(
            evaluate_model, trainer.parallel, trainer.trainable.model, self._objective, reader, self._config.evaluate
        )
        padding = self._config.train.text_padding
        return evaluate(text_padding=padding, on_round=trainer.after_eval_round, rows=rows, condition=condition)

    def _metrics(self, live: EvalTable, ema: EvalTable, probed: EvalTable) -> dict[str, float]:
        numbers: dict[str, float | None] = {}
        for name in ("", *self._sets.separate):
            of_live, of_ema = self._sets.of(live, name), self._sets.of(ema, name)
            if not of_live.sample_ids:
                continue
            numbers |= {
                m.of_dataset(m.EVAL_LOSS_LIVE, name): of_live.mean(),
                m.of_dataset(m.EVAL_LOSS_EMA, name): of_ema.mean(),
                m.of_dataset(m.EVAL_STDERR_LIVE, name): of_live.stderr(),
                m.of_dataset(m.EVAL_STDERR_EMA, name): of_ema.stderr(),
            }
        if probed.sample_ids:
            numbers[m.TRAIN_PROBE_LOSS] = probed.mean()
        for weights, table in (("live", self._sets.of(live)), ("ema", self._sets.of(ema))):
            levels = zip(table.sigmas, table.per_sigma(), strict=True) if table.sample_ids else ()
            numbers |= {m.EVAL_SIGMA_LOSS.format(weights, sigma): mean for sigma, (mean, _) in levels}
        return {name: value for name, value in numbers.items() if value is not None}


def _condition_metrics(by_condition: Mapping[str, Mapping[str, EvalTable]], step: int) -> dict[str, float]:
    """Return the numbers of each condition, by weights. Raises SanaError: one is not finite."""
    numbers: dict[str, float] = {}
    for weights, tables in by_condition.items():
        for label, table in tables.items():
            table.require_finite(weights, f"after step {step}, with {label}, ")
            numbers[m.EVAL_CONDITION_LOSS.format(weights, label)] = table.mean()
            stderr = table.stderr()
            if stderr is not None:
                numbers[m.EVAL_CONDITION_STDERR.format(weights, label)] = stderr
    return numbers
