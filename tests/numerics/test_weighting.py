"""Weighted losses, offset noise and other noise levels equal their formulas in plain torch: loss and gradient."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.model.transformer import load_transformer, pad
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.registry import build_objective

SHAPE = [3, 16, 2, 4, 6]
CAPTIONS = [philox_normal([length, 16], key=("caption", length)) for length in (3, 7, 5)]


def min_snr(s: float, gamma: float) -> float:
    snr = ((1 - s) / s) ** 2
    return min(snr, gamma) * s**2  # of the clean clip's error, which is s times the velocity's


def bell(s: float) -> float:
    steps = [math.exp(-2 * ((i + 0.5) / 10_000 - 0.5) ** 2) - math.exp(-0.5) for i in range(10_000)]
    return (math.exp(-2 * (s - 0.5) ** 2) - math.exp(-0.5)) / (sum(steps) / 10_000)


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "none": ({}, lambda s: 1.0),
    "min_snr": ({"loss_weighting": {"name": "min_snr"}}, lambda s: min_snr(s, 5.0)),
    "min_snr of 1, huber": (
        {"loss_weighting": {"name": "min_snr", "gamma": 1.0}, "objective": {"name": "huber", "delta": 0.5}},
        lambda s: min_snr(s, 1.0),
    ),
    "cosmap, image to video": (
        {"loss_weighting": {"name": "cosmap"}, "conditions": [{"name": "image_to_video", "probability": 1.0}]},
        lambda s: 2 / (math.pi * (s**2 + (1 - s) ** 2)),
    ),
    "bell, offset, mode": (
        {
            "loss_weighting": {"name": "bell"}, "noise_offset": {"strength": 0.2},
            "timestep_sampling": {"name": "mode", "shift": 1.0},
        },
        bell,
    ),
}  # fmt: skip


def plain_losses(model: Any, batch: MicroBatch, config: TrainConfig, weight: Any) -> torch.Tensor:
    losses = []
    for sample in range(SHAPE[0]):
        x0, noise, sigma = batch.latents[sample], batch.noise[sample], batch.sigma[sample]
        seen, timestep, learned = (1 - sigma) * x0 + sigma * noise, 1000 * sigma[None], slice(None)
        if config.conditions:
            seen[:, 0], learned = x0[:, 0], slice(1, None)
            timestep = (1000 * sigma).repeat(1, 1, SHAPE[2], SHAPE[3] // 2, SHAPE[4] // 2)
            timestep[:, :, 0] = 0
        v = model(seen[None], encoder_hidden_states=CAPTIONS[sample][None], timestep=timestep).sample[0]
        error = (v - (noise - x0))[:, learned]
        squared = error**2
        if config.objective.name == "huber":
            squared = torch.where(error.abs() <= 0.5, error**2, 0.5 * (2 * error.abs() - 0.5))
        losses.append(weight(sigma.item()) * squared.mean())
    return torch.stack(losses)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_plain_rendering(tiny_model: Path, name: str) -> None:
    settings, weight = CASES[name]
    config = TrainConfig(max_steps=1, global_batch_size=3, seed=5, **settings)
    objective = build_objective(config, flow_shift=getattr(config.timestep_sampling, "shift", 3.0))
    latents = philox_normal(SHAPE, key=("x0",))
    captions, mask = pad(CAPTIONS)
    drawn = objective.draw([BatchSlot(4, position, row=0) for position in range(3)], {"latents": latents})
    batch = MicroBatch({"latents": latents, **drawn, "captions": captions, "mask": mask})
    ours, plain = (load_transformer(str(tiny_model)) for _ in range(2))
    losses, expected = objective.loss(ours, batch).per_sample, plain_losses(plain, batch, config, weight)
    torch.testing.assert_close(losses, expected, rtol=2e-6, atol=0)
    losses.mean().backward()
    expected.mean().backward()
    gradient, reference = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in (ours, plain)
    )
    assert reference.norm() > 0 and (gradient - reference).norm() / reference.norm() < 1e-5
