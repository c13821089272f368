"""CREPA equals its formula written out in plain torch: loss, gradients of model and projector; its weight."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu.sizes import TINY
from sana.config.training.crepa import CrepaConfig
from sana.config.training.train import TrainConfig
from sana.model.features.area_pool import area_pool
from sana.model.features.dinov2 import FeatureEncoder
from sana.model.random import philox_normal, philox_uniform
from sana.model.transformer import load_transformer, pad
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.registry import build_objective
from sana.training.regularizers.crepa import LOSS, SIMILARITY, WEIGHT_NOW, Crepa, weight_at
from sana.training.regularizers.projector import add_projector
from sana.training.synthetic import SyntheticTraining
from sana.training.trainables.full_transformer import FullTransformer

SIZE, WIDTH = 7, 24  # numbers of a feature, and of a hidden state of the tiny model
CASES: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {  # settings, latent frames, grid of features
    "adjacent": ({}, 5, (2, 3)),
    "whole cells only": ({"block_index": 1, "temporal_decay": 0.5, "weight": 2.0}, 3, (4, 6)),
    "cells cut through tokens": ({"adjacent_distance": 2, "temporal_decay": 3.0}, 5, (3, 4)),
    "all neighbours": ({"adjacent_distance": 3, "cumulative_neighbors": True}, 4, (2, 3)),
    "farther than the clip": ({"adjacent_distance": 9, "cumulative_neighbors": True}, 3, (2, 3)),
    "itself alone": ({"adjacent_distance": 0}, 3, (2, 3)),
    "one frame": ({}, 1, (2, 3)),
}  # fmt: skip


def drawn_batch(crepa: CrepaConfig, frames: int, grid: tuple[int, int], model: Any, projector: Any) -> tuple[Any, Any]:
    config = TrainConfig(max_steps=1, global_batch_size=2, seed=5)
    regularizer = Crepa(crepa, model.transformer_blocks[crepa.block_index], projector)
    objective = build_objective(config, flow_shift=3.0, regularizers=[regularizer])
    latents = philox_normal([2, 16, frames, 8, 12], key=("x0",))  # 4 x 6 tokens
    features = philox_normal([2, frames, *grid, SIZE], key=("features",)).half()
    read = {"latents": latents, "features": features}
    captions, mask = pad([philox_normal([length, 16], key=("caption", length)) for length in (3, 7)])
    drawn = objective.draw([BatchSlot(3, position, row=0) for position in range(2)], read)
    return objective, MicroBatch({**read, **drawn, "captions": captions, "mask": mask})


def plain_pool(values: Tensor, cells: int, dim: int) -> Tensor:
    """Average along a dimension over equal cells: each position is cut into as many pieces as there are cells."""
    pieces = values.repeat_interleave(cells, dim)
    return pieces.unflatten(dim, (cells, values.shape[dim])).mean(dim + 1)


def plain_similarity(hidden: Tensor, feature: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """Mean cosine over patches of one frame's hidden states [4, 6, D] and another's features [R, C, E]."""
    pooled = plain_pool(plain_pool(hidden, feature.shape[0], 0), feature.shape[1], 1)
    return torch.cosine_similarity(linear(norm(pooled)), feature, dim=-1).mean()


def plain_loss(model: Any, batch: MicroBatch, crepa: CrepaConfig, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    seen: list[Tensor] = []
    hook = model.transformer_blocks[crepa.block_index].register_forward_hook(lambda *args: seen.append(args[2]))
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    x_t = (1 - sigma) * batch.latents + sigma * batch.noise
    velocity = model(
        x_t, encoder_hidden_states=batch.captions, timestep=1000 * batch.sigma, encoder_attention_mask=batch.mask
    ).sample
    hook.remove()
    flow = (velocity - (batch.noise - batch.latents)).square().mean((1, 2, 3, 4))
    frames = batch.latents.shape[2]
    distances = range(1, crepa.adjacent_distance + 1) if crepa.cumulative_neighbors else [crepa.adjacent_distance]
    aligned = []
    for sample in range(2):
        hidden = seen[0][sample].view(frames, 4, 6, WIDTH)
        features = batch.tensors["features"][sample].float()
        total = torch.zeros(())
        for f in range(frames):
            total = total + plain_similarity(hidden[f], features[f], norm, linear)
            for d in distances:
                for g in {f - d, f + d} - {f}:
                    if 0 <= g < frames:
                        total = total + math.exp(-d / crepa.temporal_decay) * plain_similarity(
                            hidden[f], features[g], norm, linear
                        )
        aligned.append(total / frames)
    return flow - crepa.weight * torch.stack(aligned)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_formula(tiny_model: Path, case: str) -> None:
    changed, frames, grid = CASES[case]
    crepa = CrepaConfig(**{"block_index": 0, **changed})
    norm, linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SIZE)
    model, plain = (load_transformer(str(tiny_model)).train() for _ in range(2))
    trainable = FullTransformer(model)
    projector = add_projector(trainable, WIDTH, SIZE, seed=5)
    with torch.no_grad():
        projector.norm_weight.copy_(philox_normal([WIDTH], key=("scale",)))
        projector.norm_bias.copy_(philox_normal([WIDTH], key=("shift",)))
        own = (projector.norm_weight, projector.norm_bias, projector.weight, projector.bias)
        for mine, its in zip(own, (norm.weight, norm.bias, linear.weight, linear.bias), strict=True):
            its.copy_(mine)
    objective, batch = drawn_batch(crepa, frames, grid, model, projector)
    found = objective.loss(model, batch)
    expected = plain_loss(plain, batch, crepa, norm, linear)
    torch.testing.assert_close(found.per_sample, expected, rtol=1e-5, atol=1e-6)
    found.per_sample.mean().backward()
    expected.mean().backward()
    for mine, its in zip(own, (norm.weight, norm.bias, linear.weight, linear.bias), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-6)
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}
    learned_beside = {f"crepa_projector.{name}" for name, _ in projector.named_parameters()}
    assert trainable.parameters.keys() - wanted.keys() == learned_beside
    for name, gradient in wanted.items():
        torch.testing.assert_close(trainable.parameters[name].grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert set(found.scalars) >= {LOSS, SIMILARITY, WEIGHT_NOW}
    assert model.state_dict().keys() == plain.state_dict().keys(), "the model's state dict is the model's"
    model.load_state_dict(plain.state_dict())


SIDES = [((30, 52), (15, 26)), ((39, 39), (20, 20)), ((2, 3), (5, 7)), ((4, 6), (3, 4))]


@pytest.mark.parametrize(("sides", "grid"), SIDES)
def test_cells_cover_all_positions_alike(sides: tuple[int, int], grid: tuple[int, int]) -> None:
    values = philox_normal([2, *sides, 3], key=("values",))
    pooled = area_pool(values, grid)
    expected = plain_pool(plain_pool(values, grid[0], 1), grid[1], 2)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled.mean((1, 2)), values.mean((1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [2, 2, 2, 2, 2, 2]),
        ({"warmup_steps": 2}, [1, 2, 2, 2, 2, 2]),
        ({"name": "linear", "decay_steps": 4}, [1.5, 1, 0.5, 0, 0, 0]),
        ({"name": "linear", "decay_steps": 2, "end_weight": 1.0, "warmup_steps": 1}, [2, 1.5, 1, 1, 1, 1]),
        ({"name": "cosine", "decay_steps": 2}, [1, 0, 0, 0, 0, 0]),
        ({"name": "polynomial", "decay_steps": 4, "power": 2.0}, [1.125, 0.5, 0.125, 0, 0, 0]),
    ],
)
def test_the_weight_of_each_step(schedule: dict[str, Any], expected: list[float]) -> None:
    config = CrepaConfig(weight=2.0, schedule=schedule, cutoff_step=6)
    assert [weight_at(step, config) for step in range(6)] == pytest.approx(expected, abs=1e-12)
    assert weight_at(6, config) is None and weight_at(7, config) is None


def test_a_measurement_of_fewer_blocks_takes_it_in(tmp_path: Path) -> None:
    """As `sana calibrate` does, whose first trials have a few of the model's blocks."""
    plain = TINY.train_config({"compile": "never", "activation_memory": 1.0})
    config = TrainConfig.model_validate({**plain.model_dump(), "crepa": {"block_index": 10}})
    training = SyntheticTraining(config, TINY.transformer, work_dir=tmp_path, bucket=TINY.bucket, num_layers=1)
    taken = training.take(training.batches(TINY.bucket, TINY.caption_tokens))
    assert LOSS in taken.scalars and "crepa_projector.weight" in training.state.parameters


@pytest.mark.gpu
def test_a_gpu_makes_the_features_that_a_cpu_makes(tiny_encoder: Path) -> None:
    frames = (255 * philox_uniform([5, 32, 64, 3], key=("frames",))).to(torch.uint8)
    found = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "tf32"), ("cuda", "bf16")):
        encoder = FeatureEncoder.load(
            str(tiny_encoder), revision=None, precision=precision, device=torch.device(device)
        )
        found[device, precision] = encoder.encode(frames, size=(28, 56), grid=(1, 2), at_once=2).cpu()
    for (device, precision), features in found.items():
        bound = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}[precision]
        assert (features - found["cpu", "fp32"]).abs().max() < bound, (device, precision)
