"""The best step so far by the eval loss of the EMA weights, and whether the run is surely past it.

What it knows is in the checkpoints, so that a run that resumes judges as one that never stopped.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sana.config.training.early_stopping import EarlyStoppingConfig
from sana.data.eval_table import EvalTable, mean_and_stderr

PREFIX = "early_stopping."  # of the names of its tensors in a checkpoint


class EarlyStopping:
    """Judges an evaluation of `num_samples` samples every so many steps; all ranks know the same."""

    def __init__(self, config: EarlyStoppingConfig, num_samples: int, device: torch.device) -> None:
        self.config = config
        self._losses = torch.full([num_samples], math.inf, dtype=torch.float64, device=device)  # of the best step
        self._numbers = torch.tensor([-1, 0], dtype=torch.int64, device=device)  # the best step; worse ones in a row

    def tensors(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint keeps, by name: the tensors themselves."""
        return {f"{PREFIX}losses": self._losses, f"{PREFIX}numbers": self._numbers}

    @property
    def best_step(self) -> int | None:
        """The step of the lowest loss so far; None before the first evaluation."""
        step = int(self._numbers[0])
        return None if step < 0 else step

    @property
    def is_over(self) -> bool:
        """Whether the last evaluations were surely worse than the best one, as many as the patience."""
        return self.config.patience is not None and int(self._numbers[1]) >= self.config.patience

    def forget(self) -> None:
        """Begin again: the best step's checkpoint is gone."""
        self._losses.fill_(math.inf)
        self._numbers.copy_(torch.tensor([-1, 0]))

    def judge(self, table: EvalTable, step: int) -> str:
        """Take an evaluation of the EMA weights after `step` steps into account; returns what it means, in words."""
        losses, best = table.per_sample(), self.best_step
        if best is None:
            self._set_best(losses, step)
            return "the first that is judged"
        pairs = zip(losses, self._losses.tolist(), strict=True)
        difference, stderr = mean_and_stderr([now - before for now, before in pairs])
        by = f"{difference:+.5f}" + ("" if stderr is None else f" \u00b1 {stderr:.5f}")
        if difference < 0:
            self._set_best(losses, step)
            return f"the best so far, {by} against step {best}"
        if difference > self.config.stderrs * (stderr or 0.0):
            self._numbers[1] += 1
            count, patience = int(self._numbers[1]), self.config.patience
            return f"surely worse than step {best}, {by}: {count} in a row" + (f" of {patience}" if patience else "")
        self._numbers[1] = 0
        return f"not surely worse than step {best}, {by}"

    def _set_best(self, losses: Sequence[float], step: int) -> None:
        self._losses.copy_(torch.tensor(losses, dtype=torch.float64))
        self._numbers.copy_(torch.tensor([step, 0]))
