"""Laws of the learning rate and of AdamW's state."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sana.config.training.train import TrainConfig
from sana.training.optimizers.adamw import MOMENTS
from sana.training.optimizers.optimizer import decay_groups
from sana.training.optimizers.registry import build_optimizer
from sana.training.schedules import learning_rate_at

pytestmark = pytest.mark.timeout(60)


def of(name: str = "constant", max_steps: int = 100, **settings: Any) -> TrainConfig:
    return config(max_steps=max_steps, lr_schedule={"name": name, "warmup_steps": 10, **settings})


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"max_steps": 100, "global_batch_size": 1, "learning_rate": 1.0, **settings})


def test_warm_up_starts_above_zero_and_ends_at_the_peak() -> None:
    rates = [learning_rate_at(step, of()) for step in range(30)]
    assert rates[0] == 0.1
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[9:]) == {1.0}


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert learning_rate_at(0, of(warmup_steps=0)) == 1.0


def test_cosine_falls_to_the_minimum_and_stays() -> None:
    cosine = of("cosine", decay_steps=20, min_learning_rate=0.2)
    rates = [learning_rate_at(step, cosine) for step in range(200)]
    assert rates[9] == 1.0
    assert all(later < earlier for earlier, later in zip(rates[9:29], rates[10:30], strict=True))
    assert rates[19] == pytest.approx(0.6)  # halfway
    assert rates[29:] == pytest.approx([0.2] * 171)
    assert rates[14] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_max_steps_does_not_change_a_rate_of_an_explicit_schedule() -> None:
    short, long = (of("cosine", steps, decay_steps=20) for steps in (50, 5000))
    assert [learning_rate_at(step, short) for step in range(50)] == [learning_rate_at(step, long) for step in range(50)]


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"name": "constant"}, partial(transformers.get_constant_schedule_with_warmup, num_warmup_steps=10)),
        ({"name": "cosine", "decay_steps": 20},
         partial(transformers.get_cosine_schedule_with_warmup, num_warmup_steps=10, num_training_steps=30)),
        ({"name": "linear", "decay_steps": 20},
         partial(transformers.get_linear_schedule_with_warmup, num_warmup_steps=10, num_training_steps=30)),
        ({"name": "polynomial", "decay_steps": 20, "power": 2.5, "min_learning_rate": 0.1},
         partial(transformers.get_polynomial_decay_schedule_with_warmup, num_warmup_steps=10, num_training_steps=30,
                 power=2.5, lr_end=0.1)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_rates_are_those_of_transformers(settings: dict, reference: Callable) -> None:
    """Theirs is counted from 0 and ours from 1: step 0 there has the rate 0, and is no step here."""
    factor = reference(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)).lr_lambdas[0]
    # past its end transformers' cosine rises again, and ours stays
    steps = range(30) if settings["name"] == "cosine" else range(50)
    ours = [learning_rate_at(step, of(**settings)) for step in steps]
    assert ours == pytest.approx([factor(step + 1) for step in steps], rel=1e-12, abs=1e-15)


def test_sine_is_a_wave_from_the_peak() -> None:
    sine = of("sine", period_steps=8, min_learning_rate=0.2)
    rates = [learning_rate_at(step, sine) for step in range(60)]
    expected = [0.2 + 0.8 * (1 + math.cos(2 * math.pi * t / 8)) / 2 for t in range(1, 51)]
    assert rates[9:] == pytest.approx([1.0, *expected], rel=1e-12)
    assert min(rates[10:]) == pytest.approx(0.2) and max(rates[10:]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_one_that_falls_ends_with_the_run_unless_it_has_an_end(name: str) -> None:
    assert of(name).schedule_ends_with_run and not of(name, decay_steps=5).schedule_ends_with_run
    assert learning_rate_at(99, of(name, min_learning_rate=0.3)) == pytest.approx(0.3)
    assert learning_rate_at(5000, of(name, decay_steps=5, min_learning_rate=0.3)) == pytest.approx(0.3)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model.register_parameter("scale_shift_table", nn.Parameter(torch.zeros(6, 3)))
    groups = decay_groups(dict(model.named_parameters()), 0.5)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "scale_shift_table": 0.0, "0.weight": 0.5, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip


ADAMW = {"name": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}
ADAFACTOR = {"name": "adafactor", "epsilon": 1e-2, "clip_threshold": 1.5, "beta2_decay": -0.7}


@pytest.mark.parametrize(
    ("settings", "optimizer", "moments"),
    [
        (ADAMW, partial(torch.optim.AdamW, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0), MOMENTS),
        (ADAFACTOR, partial(torch.optim.Adafactor, beta2_decay=-0.7, eps=(None, 1e-2), d=1.5), ("row_var", "col_var")),
    ],
    ids=["adamw", "adafactor"],
)
def test_state_made_beforehand_is_the_state_torch_would_make(
    settings: dict, optimizer: Callable[..., torch.optim.Optimizer], moments: tuple[str, ...]
) -> None:
    ours, theirs = (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = build_optimizer(config(optimizer=settings), dict(ours.named_parameters()))
    plain = optimizer(theirs.parameters(), lr=0.25)
    for _ in range(3):
        plain.zero_grad()
        for model in (ours, theirs):
            model(torch.ones(2, 4)).square().sum().backward()
        mine.step(0.25)
        plain.step()
    assert torch.equal(ours[0].weight, theirs[0].weight) and torch.equal(ours[0].bias, theirs[0].bias)
    state = mine.state()
    assert {name for name in state if name.startswith("0.weight")} == {f"0.weight.{moment}" for moment in moments}
    assert all(torch.equal(state[f"0.weight.{moment}"], plain.state[theirs[0].weight][moment]) for moment in moments)
    assert all(name.rpartition(".")[0] in dict(ours.named_parameters()) for name in state)
