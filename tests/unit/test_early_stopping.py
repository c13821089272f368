"""The best step, and when a run is surely past it."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sana.config.training.early_stopping import EarlyStoppingConfig
from sana.data.eval_table import EvalTable
from sana.training.eval_sets import train_probe_rows
from sana.training.hooks.early_stopping import EarlyStopping

SPREAD = (0.1, 0.0, 0.2, -0.1)  # of the samples


def table(losses: Sequence[float]) -> EvalTable:
    return EvalTable(tuple(f"s{n}" for n in range(len(losses))), (0.5,), np.array([[loss] for loss in losses]))


def level(loss: float, noise: float = 0.0) -> EvalTable:
    """Four samples at a level; of `noise` they do not move together."""
    return table([loss + of + noise * (-1) ** n for n, of in enumerate(SPREAD)])


def judged(config: EarlyStoppingConfig, tables: Sequence[EvalTable]) -> tuple[EarlyStopping, list[str]]:
    early = EarlyStopping(config, len(SPREAD), torch.device("cpu"))
    return early, [early.judge(of, 10 * (n + 1)) for n, of in enumerate(tables)]


@pytest.mark.parametrize(
    ("tables", "best", "is_over"),
    [
        ([level(1.0)], 10, False),
        ([level(1.0), level(0.9), level(0.8)], 30, False),
        ([level(1.0), level(0.9), level(0.95), level(0.96)], 20, True),  # twice in a row surely worse
        ([level(1.0), level(0.9), level(0.95), level(0.91, 0.2), level(0.95)], 20, False),  # not sure between them
        ([level(1.0), level(0.9), level(0.95), level(0.85), level(0.9)], 40, False),  # a new best begins again
    ],
)
def test_the_run_is_over_once_it_is_surely_past_the_best(tables: Sequence[EvalTable], best: int, is_over: bool) -> None:
    early, _ = judged(EarlyStoppingConfig(every=10, patience=2), tables)
    assert (early.best_step, early.is_over) == (best, is_over)


def test_without_patience_only_the_best_is_chosen() -> None:
    early, said = judged(EarlyStoppingConfig(patience=None), [level(1.0), *[level(1.1)] * 9])
    assert early.best_step == 10 and not early.is_over and "9 in a row" in said[-1]


def test_what_it_knows_goes_on_from_its_tensors() -> None:
    config, tables = EarlyStoppingConfig(every=10, patience=2), [level(1.0), level(0.9), level(0.95), level(0.96)]
    for at in range(len(tables)):
        before, _ = judged(config, tables[:at])
        after = EarlyStopping(config, len(SPREAD), torch.device("cpu"))
        for name, tensor in after.tensors().items():
            tensor.copy_(before.tensors()[name])
        said = [after.judge(of, 10 * (n + 1)) for n, of in enumerate(tables) if n >= at]
        assert (after.best_step, after.is_over) == (20, True)
        assert said == judged(config, tables)[1][at:]
    after.forget()
    assert after.best_step is None and not after.is_over


def test_the_train_probe_is_spread_evenly() -> None:
    for size, num, rows in ((10, 5, [0, 2, 4, 6, 8]), (3, 8, [0, 1, 2]), (5, 0, [])):
        assert train_probe_rows(range(size), num) == rows  # type: ignore[arg-type]  # only its length is looked at
