"""The masked loss: its formula and gradient, who looks inside, and what is measured."""

from typing import Any

import pytest
import torch
from torch import nn

from sana import metrics as m
from sana.config.training.masks import MaskedLossConfig
from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal, philox_uniform
from sana.training.batch import BatchSlot, MicroBatch, pad_captions
from sana.training.objectives.masked_loss import LOSS_MASK, MaskedLoss
from sana.training.objectives.registry import build_objective

SHAPE = [4, 16, 3, 4, 6]


class Half(nn.Module):
    """Predicts its input times a number that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (self.factor * noisy,)


def masks() -> torch.Tensor:
    """Soft; whole; empty; one element."""
    weights = philox_uniform([4, 1, *SHAPE[2:]], key=("mask",)).half()
    weights[1], weights[2], weights[3] = 1.0, 0.0, 0.0
    weights[3, 0, 1, 2, 3] = 0.25
    return weights


def drawn(config: dict[str, Any], element_loss: str = "flow_matching") -> tuple[Any, MicroBatch]:
    settings = {"max_steps": 1, "global_batch_size": 4, "masked_loss": config, "objective": {"name": element_loss}}
    objective = build_objective(TrainConfig.model_validate(settings), flow_shift=3.0)
    tensors = {"latents": philox_normal(SHAPE, key=("x0",)), LOSS_MASK: masks()}
    made = objective.draw([BatchSlot(3, position, row=position) for position in range(4)], tensors)
    return objective, MicroBatch({**tensors, **made, **pad_captions([torch.ones(2, 4)] * 4, "batch")})


@pytest.mark.parametrize("element_loss", ["flow_matching", "huber"])
@pytest.mark.parametrize(
    "config", [{}, {"outside_weight": 0.1}, {"probability": 0.5}, {"probability": 0.3, "outside_weight": 0.9}]
)
def test_loss_and_gradient_are_those_of_the_formula(config: dict[str, Any], element_loss: str) -> None:
    objective, batch = drawn(config, element_loss)
    model = Half()
    found = objective.loss(model, batch)
    (gradient,) = torch.autograd.grad(found.per_sample.sum(), model.factor)

    factor = torch.tensor(0.5, requires_grad=True, dtype=torch.float64)
    sigma = batch.sigma.double().view(-1, 1, 1, 1, 1)
    x0, noise, outside = batch.latents.double(), batch.noise.double(), config.get("outside_weight", 0.0)
    error = factor * ((1 - sigma) * x0 + sigma * noise) - (noise - x0)
    losses = error.square()
    if element_loss == "huber":
        losses = torch.where(error.abs() <= 1, losses, 2 * error.abs() - 1)
    expected = []
    for sample in range(4):
        uniform = philox_uniform([1], key=BatchSlot(3, sample, 0).key(0, "masked_loss")).item()
        mask = batch.tensors[LOSS_MASK][sample].double()
        weight = outside + (1 - outside) * mask if uniform < config.get("probability", 1.0) else torch.ones_like(mask)
        weight = weight.expand_as(losses[sample])
        expected.append((weight * losses[sample]).sum() / weight.sum() if weight.any() else losses.new_zeros(()))
    torch.testing.assert_close(found.per_sample.double(), torch.stack(expected), rtol=1e-5, atol=1e-7)
    (right,) = torch.autograd.grad(torch.stack(expected).sum(), factor)
    torch.testing.assert_close(gradient.double(), right.double(), rtol=1e-4, atol=1e-6)


def test_what_is_measured() -> None:
    objective, batch = drawn({})
    scalars = objective.loss(Half(), batch).scalars
    assert scalars[m.MASK_EMPTY].value == 0.25
    assert scalars[m.MASK_COVERED].value == pytest.approx(masks().float().mean().item(), rel=1e-5)
    kept = drawn({"outside_weight": 0.1})
    assert kept[0].loss(Half(), kept[1]).scalars[m.MASK_EMPTY].value == 0.0


def test_who_looks_inside_depends_on_the_position_alone_and_has_its_share() -> None:
    part = MaskedLoss(MaskedLossConfig(probability=0.3), seed=5)
    slots = [BatchSlot(7, position, row=0) for position in range(3000)]
    (together,) = part.draw(slots, {}).values()
    alone = torch.cat([next(iter(part.draw([slot._replace(row=9)], {}).values())) for slot in slots[:50]])
    assert torch.equal(together[:50], alone)
    assert together.float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_off_nothing_is_drawn_measured_or_weighed() -> None:
    objective = build_objective(TrainConfig(max_steps=1, global_batch_size=1), flow_shift=3.0)
    assert not objective.parts and not objective.measures
    assert "masked_loss" not in TrainConfig(max_steps=1, global_batch_size=1).hashed()
