"""The eval loss while training: of live and EMA weights, every `train.resources.eval_every` steps."""

import time
from typing import TYPE_CHECKING

from sana.training import metrics as m
from sana.training.evaluation import EvalTable

if TYPE_CHECKING:
    from sana.training.loop import Trainer


class EvalLoss:
    """Evaluates once per step, also where a resumed run stands."""

    def before_training(self, trainer: "Trainer") -> None:
        """Nothing is prepared."""

    def before_step(self, trainer: "Trainer") -> bool:
        """Evaluate live and EMA weights if it is time; False when a stop was requested meanwhile."""
        if not trainer.is_due(trainer.resources.eval_every) or trainer.evaluated_step == trainer.state.step:
            return True
        trainer.flush()
        trainer.say("evaluating")
        started, step = time.perf_counter(), trainer.state.step
        live = ema = trainer.evaluate()
        if live is not None and step > 0:  # before the first step both are the same weights
            with trainer.state.ema.swapped_in():
                ema = trainer.evaluate()
        if live is None or ema is None:
            return False
        live.require_finite("live", f"after step {step}, ")
        ema.require_finite("EMA", f"after step {step}, ")
        trainer.evaluated_step = step
        row = {m.STEP: step, **_metrics(live, ema), m.EVAL_S: time.perf_counter() - started}
        trainer.last_losses = f"eval loss {live.mean():.4f}, of EMA weights {ema.mean():.4f}"
        trainer.write([row], trainer.last_losses)
        return True


def _metrics(live: EvalTable, ema: EvalTable) -> dict[str, float]:
    numbers = {
        m.EVAL_LOSS_LIVE: live.mean(),
        m.EVAL_LOSS_EMA: ema.mean(),
        m.EVAL_STDERR_LIVE: live.stderr(),
        m.EVAL_STDERR_EMA: ema.stderr(),
    }
    return {name: value for name, value in numbers.items() if value is not None}
