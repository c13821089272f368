"""Laws of what the model sees in a step: clean latents, timesteps by token, and the weights of errors."""

from typing import Any

import pytest
import torch
from torch import nn

from sana.model.objective import noise_latents
from sana.model.random import philox_normal, philox_uniform
from sana.training.batch import MicroBatch, pad_captions
from sana.training.objectives.step_input import StepInput, mean_over_elements, noised, predict_step

SHAPE = [2, 16, 3, 4, 6]
SIGMA = torch.tensor([0.25, 0.75])


class Seen(nn.Module):
    """Returns its input, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, noisy: torch.Tensor, *, timestep: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        self.timestep = timestep
        return (noisy,)


def batch() -> MicroBatch:
    x0, noise = (philox_normal(SHAPE, key=(name,)) for name in ("x0", "noise"))
    captions = pad_captions([torch.ones(2, 4), torch.ones(3, 4)], "batch")
    return MicroBatch({"latents": x0, "noise": noise, "sigma": SIGMA, **captions})


def first_frame() -> torch.Tensor:
    clean = torch.zeros(2, 1, *SHAPE[2:], dtype=torch.bool)
    clean[1, :, 0] = True
    return clean


def test_clean_tokens_are_seen_clean_at_timestep_0() -> None:
    one, model = batch(), Seen()
    plain = predict_step(model, one, noised(one))
    assert torch.equal(plain, noise_latents(one.latents, one.noise, SIGMA))
    assert torch.equal(model.timestep, 1000 * SIGMA)
    step = StepInput(noised(one).x_t, SIGMA, clean=first_frame())
    seen = predict_step(model, one, step)
    assert torch.equal(seen[0], plain[0])
    assert torch.equal(seen[1, :, 0], one.latents[1, :, 0]) and torch.equal(seen[1, :, 1:], plain[1, :, 1:])
    expected = torch.full((2, 1, 3, 2, 3), 250.0)
    expected[1], expected[1, :, 0] = 750.0, 0.0
    assert torch.equal(model.timestep, expected)


def test_the_mean_is_over_what_is_weighed() -> None:
    losses = philox_normal(SHAPE, key=("losses",)).square()
    step = StepInput(losses, SIGMA)
    assert torch.equal(mean_over_elements(losses, step), losses.flatten(1).mean(1))
    weight = philox_uniform([2, 1, *SHAPE[2:]], key=("weight",))
    expected = (losses * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * 16)
    torch.testing.assert_close(mean_over_elements(losses, step.weighing(weight)), expected)
    kept = torch.stack([losses[0].mean(), losses[1, :, 1:].mean()])
    torch.testing.assert_close(mean_over_elements(losses, StepInput(losses, SIGMA, clean=first_frame())), kept)
    nothing = mean_over_elements(losses.requires_grad_(), step.weighing(torch.zeros_like(weight)))
    assert nothing.tolist() == [0.0, 0.0]
    nothing.sum().backward()
    assert losses.grad is not None and not losses.grad.any()


@pytest.mark.parametrize("times", [1, 2])
def test_weights_multiply(times: int) -> None:
    losses = philox_normal(SHAPE, key=("losses",)).square()
    step = StepInput(losses, SIGMA)
    for _ in range(times):
        step = step.weighing_samples(torch.tensor([2.0, 0.5])).weighing(torch.full([2, 1, *SHAPE[2:]], 0.5))
    expected = losses.flatten(1).mean(1) * torch.tensor([2.0, 0.5]) ** times
    torch.testing.assert_close(mean_over_elements(losses, step), expected)
