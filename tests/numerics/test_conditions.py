"""Training with a condition equals its formula written out in plain torch: loss to 1e-6, gradient to 1e-5."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.model.transformer import load_transformer, pad
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.registry import build_objective

SHAPE = [3, 16, 5, 4, 6]
CAPTIONS = [philox_normal([length, 16], key=("caption", length)) for length in (3, 7, 5)]
CASES: dict[str, list[dict[str, Any]]] = {
    "image_to_video": [{"name": "image_to_video", "probability": 1.0}],
    "prefix": [{"name": "extend", "probability": 1.0, "min_latent_frames": 1, "max_latent_frames": 4}],
    "suffix": [{"name": "extend", "probability": 1.0, "side": "suffix", "min_latent_frames": 2}],
    "inpaint": [{"name": "inpaint", "probability": 1.0, "max_boxes": 2, "frames": "run"}],
    "outpaint": [{"name": "inpaint", "probability": 1.0, "learn": "outside"}],
    # at this step the three samples draw two of them, and text to video
    "mixed": [
        {"name": "image_to_video", "probability": 0.3},
        {"name": "extend", "probability": 0.3},
        {"name": "inpaint", "probability": 0.2},
    ],
}


def drawn_batch(conditions: list[dict[str, Any]], step: int) -> tuple[Any, MicroBatch]:
    config = TrainConfig(max_steps=1, global_batch_size=3, conditions=conditions, seed=5)
    objective = build_objective(config, flow_shift=3.0)
    latents = philox_normal(SHAPE, key=("x0",))
    slots = [BatchSlot(step, position, row=0) for position in range(SHAPE[0])]
    captions, mask = pad(CAPTIONS)
    drawn = objective.draw(slots, {"latents": latents})
    return objective, MicroBatch({"latents": latents, **drawn, "captions": captions, "mask": mask})


def plain_loss(model: SanaVideoTransformer3DModel, batch: MicroBatch) -> list[torch.Tensor]:
    """One sample after another, token by token, as the papers of each condition have it; no code of ours."""
    losses = []
    frames, height, width = SHAPE[2:]
    for sample in range(SHAPE[0]):
        x0, noise, sigma = batch.latents[sample], batch.noise[sample], batch.sigma[sample]
        given = batch.tensors["clean"][sample, 0]
        seen = (1 - sigma) * x0 + sigma * noise
        timesteps = torch.zeros(1, 1, frames, height // 2, width // 2)
        for f in range(frames):
            for h in range(height):
                for w in range(width):
                    if given[f, h, w]:
                        seen[:, f, h, w] = x0[:, f, h, w]
                    else:
                        timesteps[0, 0, f, h // 2, w // 2] = 1000 * sigma
        caption = CAPTIONS[sample][None]
        v = model(seen[None], encoder_hidden_states=caption, timestep=timesteps).sample[0]
        errors = ((v - (noise - x0)) ** 2)[:, ~given]
        losses.append(errors.sum() / errors.numel())
    return losses


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_plain_rendering(tiny_model: Path, name: str) -> None:
    objective, batch = drawn_batch(CASES[name], step=9)
    expected = {0, 2, 3} if name == "mixed" else {1}
    assert set(batch.tensors["condition"].tolist()) == expected
    ours, plain = (load_transformer(str(tiny_model)) for _ in range(2))
    losses, expected = objective.loss(ours, batch), plain_loss(plain, batch)
    torch.testing.assert_close(losses.per_sample, torch.stack(expected), rtol=1e-6, atol=0)
    losses.per_sample.mean().backward()
    torch.stack(expected).mean().backward()
    gradient, reference = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in (ours, plain)
    )
    assert gradient.shape == reference.shape and reference.norm() > 0
    assert (gradient - reference).norm() / reference.norm() < 1e-5


def test_a_sample_without_a_condition_is_text_to_video_to_the_last_digits(tiny_model: Path) -> None:
    """Its timesteps are per token all the same: plain ones would change bits with what shares the micro batch."""
    objective, batch = drawn_batch([{"name": "image_to_video", "probability": 1e-9}], step=0)
    assert batch.tensors["condition"].tolist() == [0, 0, 0] and not batch.tensors["clean"].any()
    text_alone = build_objective(TrainConfig(max_steps=1, global_batch_size=3, seed=5), flow_shift=3.0)
    model = load_transformer(str(tiny_model))
    with torch.no_grad():
        worst = (objective.loss(model, batch).per_sample / text_alone.loss(model, batch).per_sample - 1).abs().max()
    print(f"a timestep per token against one per sample: {worst:.1e}")
    assert worst < 2e-6


def test_the_eval_loss_is_that_of_text_to_video(tiny_model: Path) -> None:
    objective, batch = drawn_batch(CASES["image_to_video"], step=0)
    text_alone = build_objective(TrainConfig(max_steps=1, global_batch_size=3), flow_shift=3.0)
    model = load_transformer(str(tiny_model))
    with torch.no_grad():
        assert torch.equal(objective.velocity(model, batch), text_alone.velocity(model, batch))
