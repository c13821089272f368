"""Training with rollout equals its formula in plain torch: loss and gradient, in fp32 and under autocast."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.model.transformer import load_transformer, pad
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.registry import build_objective
from sana.training.objectives.rollout import LEVELS, NUM_STEPS
from sana.training.objectives.step_input import noised

SHAPE = [4, 16, 3, 4, 6]
CAPTIONS = [philox_normal([length, 16], key=("caption", length)) for length in (3, 7, 5, 4)]
IMAGE_TO_VIDEO = {"conditions": [{"name": "image_to_video", "probability": 0.5}]}


def drawn_batch(rollout: dict[str, Any], **settings: Any) -> tuple[Any, MicroBatch]:
    config = TrainConfig(max_steps=9, global_batch_size=4, seed=5, rollout=rollout, **settings)
    objective = build_objective(config, flow_shift=3.0)
    latents = philox_normal(SHAPE, key=("x0",))
    captions, mask = pad(CAPTIONS)
    drawn = objective.draw([BatchSlot(3, position, row=0) for position in range(4)], {"latents": latents})
    return objective, MicroBatch({"latents": latents, **drawn, "captions": captions, "mask": mask})


def plain_losses(model: Any, batch: MicroBatch, sampler: str) -> list[torch.Tensor]:
    """One sample after another: Euler's and Heun's steps written out."""
    losses = []
    for sample in range(SHAPE[0]):
        x0, noise = batch.latents[sample], batch.noise[sample]
        levels = batch.tensors[LEVELS][sample][: batch.tensors[NUM_STEPS][sample] + 1].float()
        given = (
            batch.tensors["clean"][sample] if "clean" in batch.tensors else torch.zeros(1, *SHAPE[2:], dtype=torch.bool)
        )

        def asked(
            x: torch.Tensor, s: torch.Tensor, sample: int = sample, x0: torch.Tensor = x0, given: torch.Tensor = given
        ) -> torch.Tensor:
            timestep = 1000 * s.view(1)
            if "clean" in batch.tensors:
                timestep = (1000 * s) * (~given[None, :, :, ::2, ::2]).float()
            seen = torch.where(given, x0, x)
            return model(seen[None], encoder_hidden_states=CAPTIONS[sample][None], timestep=timestep).sample[0]

        x = (1 - levels[0]) * x0 + levels[0] * noise
        with torch.no_grad():
            for a, b in zip(levels[:-1], levels[1:], strict=True):
                v = asked(x, a)
                if sampler == "heun":
                    v = (v + asked(x + (b - a) * v, b)) / 2
                x = x + (b - a) * v
        error = ((asked(x, levels[-1]) - (noise - x0)) ** 2)[~given.expand(SHAPE[1:])]
        losses.append(error.mean())
    return losses


def gradient_of(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [("euler", {}), ("heun", IMAGE_TO_VIDEO), ("euler", {**IMAGE_TO_VIDEO, "text_padding": "fixed"})],
)
def test_loss_and_gradient_equal_the_plain_rendering(tiny_model: Path, sampler: str, settings: dict[str, Any]) -> None:
    rollout = {"max_step_offset": 3, "probability_end": 0.7, "num_inference_steps": 10, "sampler": sampler}
    objective, batch = drawn_batch(rollout, **settings)
    steps = batch.tensors[NUM_STEPS].tolist()
    assert 0 in steps and max(steps) > 1
    ours, plain = (load_transformer(str(tiny_model)).train() for _ in range(2))
    losses = objective.loss(ours, batch)
    expected = torch.stack(plain_losses(plain, batch, sampler))
    torch.testing.assert_close(losses.per_sample, expected, rtol=5e-6, atol=0)
    assert losses.scalars["train/rollout_fraction"].value == sum(step > 0 for step in steps) / 4
    rolled = [loss for loss, step in zip(expected.tolist(), steps, strict=True) if step]
    total, number = losses.scalars["train/loss_rollout"].value.tolist()
    assert number == len(rolled) and total == pytest.approx(sum(rolled), rel=1e-5)
    losses.per_sample.mean().backward()
    expected.mean().backward()
    gradient, reference = gradient_of(ours), gradient_of(plain)
    assert reference.norm() > 0 and (gradient - reference).norm() / reference.norm() < 1e-5
    assert ours.training


def test_under_autocast_every_weight_still_gets_its_gradient(tiny_model: Path) -> None:
    """autocast keeps casts of weights: one that was made without gradients must not reach the pass that learns."""
    objective, batch = drawn_batch({"max_step_offset": 2, "probability_end": 1.0, "num_inference_steps": 10})
    ours, plain = (load_transformer(str(tiny_model)) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(ours, batch).per_sample.mean()
    loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        objective.loss(plain, batch).per_sample.mean().backward()
    have = {name for name, p in ours.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert have == {name for name, p in plain.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert len(have) > 20
    torch.testing.assert_close(gradient_of(ours), gradient_of(plain), rtol=1e-2, atol=1e-4)


def test_a_samples_rollout_depends_on_nothing_that_shares_its_micro_batch(tiny_model: Path) -> None:
    objective, batch = drawn_batch(
        {"max_step_offset": 3, "probability_end": 1.0, "num_inference_steps": 10, "sampler": "dpm"}
    )
    model = load_transformer(str(tiny_model))
    rollout = objective.parts[0]
    seen = []
    for places in (slice(0, 4), slice(1, 2), slice(1, 3)):
        part = MicroBatch({name: tensor[places] for name, tensor in batch.tensors.items()})
        seen.append(rollout.change(model, part, noised(part)).x_t)
    assert torch.equal(seen[0][1:2], seen[1]) and torch.equal(seen[0][1:3], seen[2])
