"""Clipping, learning rate, optimizer and EMA together, in all pairs: as the libraries' own, step by step."""

import math
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sana.config.training.train import TrainConfig
from sana.training.clipping import clip_gradients
from sana.training.parallel.parallel import Parallel
from sana.training.schedules import learning_rate_at
from sana.training.state import TrainState
from tests.optimizer_cases import SETTINGS, gradients, library, module

pytestmark = pytest.mark.timeout(60)

PEAK, WARMUP, FALL, LOW, STEPS = 1e-2, 2, 4, 1e-3, 5
# of a weight and of an EMA weight, in learning rates; Muon iterates in bf16, whose roundings follow the last bits
TOLERANCE = {"muon": 0.02}
TOLERANCE_OF_OTHERS = 1e-4

OPTIMIZERS = ["adamw", "adafactor", "optimi_adamw", "muon", "prodigy", "came"]
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"decay_steps": FALL},
    "linear": {"decay_steps": FALL},
    "polynomial": {"decay_steps": FALL, "power": 2.0, "min_learning_rate": LOW},
    "sine": {"period_steps": 6, "min_learning_rate": LOW},
}
CLIPPINGS: list[dict[str, Any]] = [
    {"max_grad_norm": 0.7},
    {"gradient_clipping": "value", "max_grad_value": 0.02},
    {"gradient_clipping": "none"},
]
PAIRS = [
    (name, schedule, CLIPPINGS[(i % len(SCHEDULES) + i // len(SCHEDULES)) % len(CLIPPINGS)], [0.9, 0.3][i % 2])
    for i, (name, schedule) in enumerate(product(OPTIMIZERS, SCHEDULES))
]


def expected_rate(schedule: str) -> Callable[[int], float]:
    """The learning rate of a step counted from 1, by transformers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    total = {"num_warmup_steps": WARMUP, "num_training_steps": WARMUP + FALL}
    if schedule == "constant":
        made = transformers.get_constant_schedule_with_warmup(optimizer, WARMUP)
    elif schedule == "cosine":
        made = transformers.get_cosine_schedule_with_warmup(optimizer, **total)
    elif schedule == "linear":
        made = transformers.get_linear_schedule_with_warmup(optimizer, **total)
    elif schedule == "polynomial":
        made = transformers.get_polynomial_decay_schedule_with_warmup(optimizer, **total, lr_end=LOW, power=2.0)
    else:
        return lambda step: (
            PEAK * step / WARMUP
            if step <= WARMUP
            else LOW + (PEAK - LOW) * (1 + math.cos(2 * math.pi * (step - WARMUP) / 6)) / 2
        )
    return lambda step: PEAK * made.lr_lambdas[0](step)


def clip(parameters: dict[str, nn.Parameter], clipping: dict[str, Any]) -> None:
    found = [p.grad for p in parameters.values() if p.grad is not None]
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in found))
    for gradient in found:
        if "max_grad_value" in clipping:
            gradient.copy_(gradient.clamp(-0.02, 0.02))
        elif "max_grad_norm" in clipping:
            assert norm > 0.7, "so that it clips"
            gradient.mul_(0.7 / norm)


@pytest.mark.parametrize(("name", "schedule", "clipping", "decay"), PAIRS)
def test_an_update_is_the_libraries_own(name: str, schedule: str, clipping: dict, decay: float) -> None:
    config = TrainConfig(
        max_steps=STEPS, global_batch_size=1, learning_rate=PEAK, mixed_precision="fp32", ema_decay=decay,
        optimizer={"name": name, **SETTINGS[name]}, resources={"device": "cpu"},
        lr_schedule={"name": schedule, "warmup_steps": WARMUP, **SCHEDULES[schedule]}, **clipping,
    )  # fmt: skip
    ours, theirs = (dict(module().named_parameters()) for _ in range(2))
    trainable: Any = SimpleNamespace(parameters=ours, fixed={}, model=nn.Identity())
    state, parallel = TrainState(trainable, config), Parallel.open(config)
    update, rate = library(name, theirs), expected_rate(schedule)
    average = {key: parameter.detach().clone() for key, parameter in theirs.items()}
    for step in range(STEPS):
        gradients(ours, step)
        gradients(theirs, step)
        clip_gradients(parallel, list(ours.values()), config)
        state.advance(learning_rate_at(step, config))
        clip(theirs, clipping)
        update(rate(step + 1))
        ema = min(decay, (1 + step) / (10 + step))
        for key, parameter in theirs.items():
            average[key].mul_(ema).add_(parameter.detach(), alpha=1 - ema)
            for found, wanted in ((ours[key], parameter), (state.ema.shadow[key], average[key])):
                off = (found.detach() - wanted.detach()).abs().max().item() / PEAK
                assert off < TOLERANCE.get(name, TOLERANCE_OF_OTHERS), (
                    f"step {step + 1}: {key} is {off:.1e} learning rates off"
                )


def test_every_pair_of_optimizer_schedule_and_clipping_is_there() -> None:
    """So a change of one of them cannot hide behind another."""
    kinds = [(name, schedule, CLIPPINGS.index(clipping)) for name, schedule, clipping, _ in PAIRS]
    assert {(name, schedule) for name, schedule, _ in kinds} == set(product(OPTIMIZERS, SCHEDULES))
    assert {(name, clipping) for name, _, clipping in kinds} == set(product(OPTIMIZERS, range(3)))
    assert {(schedule, clipping) for _, schedule, clipping in kinds} == set(product(SCHEDULES, range(3)))
