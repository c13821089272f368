"""Padding captions to fixed lengths changes the last bits of a loss and of its gradients, and nothing else."""

from pathlib import Path

import pytest
import torch

from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.model.tiny_model import CAPTION_CHANNELS
from sana.model.transformer import load_transformer
from sana.training.batch import MicroBatch, pad_captions
from sana.training.objectives.registry import build_objective

pytestmark = pytest.mark.timeout(60)
SHAPE = [3, 16, 2, 8, 12]


def test_fixed_lengths_give_the_same_loss_and_gradient(tiny_model: Path) -> None:
    model = load_transformer(str(tiny_model))
    objective = build_objective(TrainConfig(max_steps=1, global_batch_size=1), flow_shift=3.0)
    captions = [philox_normal([length, CAPTION_CHANNELS], key=("caption", length)).bfloat16() for length in (3, 70, 11)]
    losses, gradients = {}, {}
    for padding in ("batch", "fixed"):
        drawn = {"noise": philox_normal(SHAPE, key=("noise",)), "sigma": torch.tensor([0.2, 0.5, 0.9])}
        batch = MicroBatch({"latents": philox_normal(SHAPE, key=("x0",)), **drawn, **pad_captions(captions, padding)})
        assert batch.captions.shape[1] == {"batch": 70, "fixed": 128}[padding]
        model.zero_grad()
        losses[padding] = objective.loss(model, batch).per_sample
        losses[padding].mean().backward()
        gradients[padding] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses["fixed"], losses["batch"], rtol=1e-6, atol=0)
    difference = (gradients["fixed"] - gradients["batch"]).norm() / gradients["batch"].norm()
    print(f"relative difference of the gradient {difference:.1e}")
    assert difference < 1e-5
