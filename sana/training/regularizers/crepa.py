"""CREPA: hidden states of one block are aligned with an image encoder's features of the same and neighbouring frames.

    L = -w(t) mean_b 1/F sum_f [ s(f, f) + sum_d exp(-d / tau) ( s(f, f + d) + s(f, f - d) ) ]
    s(f, g) = mean over patches of cos(P(h_f), y_g); neighbours before the first or after the last frame are left out

h are the block's output, averaged in two dimensions to the grid of the features y; P is the projector. (Hwang et al.,
"Cross-Frame Representation Alignment for Fine-Tuning Video Diffusion Models", 2025.)

Shapes in this module: B samples; F latent frames; a grid of R x C features, of E numbers; D numbers of a hidden state.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sana.bucket import PATCH
from sana.config.training.crepa import (
    CosineWeight,
    CrepaConfig,
    LinearWeight,
    PolynomialWeight,
)
from sana.data.loading.loader import FEATURES
from sana.model.features.area_pool import area_pool
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar
from sana.training.objectives.objective import Losses
from sana.training.objectives.step_input import StepInput
from sana.training.regularizers.projector import Projector

WEIGHT = "crepa_weight"  # name of a tensor
LOSS = "train/crepa_loss"  # what is added to the velocity's loss: -w(t) x the alignment, neighbours included
SIMILARITY = "train/crepa_similarity"  # mean cosine of projected hidden states and features of the same frame
WEIGHT_NOW = "train/crepa_weight"  # w(t) of this step; absent, as the other two, after the cut-off


class Crepa:
    """Captures the output of `block` in the forward pass that learns, and aligns it by `projector`."""

    def __init__(self, config: CrepaConfig, block: nn.Module, projector: Projector) -> None:
        self._config, self._block, self._projector = config, block, projector
        self._hidden: Tensor | None = None  # [B, tokens, D]

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `crepa_weight`, float32 [B]; nothing in steps after the cut-off."""
        weights = [weight_at(slot.step, self._config) for slot in slots]
        return {} if None in weights else {WEIGHT: torch.tensor(weights, dtype=torch.float32)}

    @contextmanager
    def watching(self, model: nn.Module, batch: MicroBatch) -> Iterator[None]:  # noqa: ARG002 - a Regularizer's
        """Capture within it; not after it, where the backward pass may compute the block again."""
        if WEIGHT not in batch.tensors:
            yield
            return
        hook = self._block.register_forward_hook(self._capture)
        try:
            yield
        finally:
            hook.remove()

    def _capture(self, _block: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._hidden = output

    def loss(self, batch: MicroBatch, step: StepInput) -> Losses:  # noqa: ARG002 - a Regularizer's
        """Return what is added to each sample's loss, float32 [B]."""
        if WEIGHT not in batch.tensors:
            # ranks exchange the gradient of every parameter, so there is one: of zeros
            nothing = self._projector(torch.zeros(1, self._projector.norm_weight.numel(), device=batch.sigma.device))
            return Losses(torch.zeros_like(batch.sigma) + 0.0 * nothing.sum(), {})
        hidden, self._hidden = self._hidden, None
        assert hidden is not None
        features, weights = batch.tensors[FEATURES].float(), batch.tensors[WEIGHT]
        _, _, frames, height, width = batch.latents.shape
        tokens = hidden.float().view(len(batch), frames, height // PATCH, width // PATCH, -1)
        with torch.autocast(hidden.device.type, enabled=False):
            projected = self._projector(area_pool(tokens, (features.shape[2], features.shape[3])))
            alignment, own = align(projected, features, self._config)
        added = -weights * alignment
        return Losses(
            added,
            {
                LOSS: Scalar(added.mean(), "mean"),
                SIMILARITY: Scalar(own.mean(), "mean"),
                WEIGHT_NOW: Scalar(weights.mean(), "mean"),
            },
        )


def align(projected: Tensor, features: Tensor, config: CrepaConfig) -> tuple[Tensor, Tensor]:
    """Return the alignment, neighbours included, and that of each frame with its own features: float32 [B] each.

    `projected` and `features` are float32 [B, F, R, C, E].
    """
    states, features = (nn.functional.normalize(one, dim=-1) for one in (projected, features))
    num_frames = states.shape[1]
    own = _similarities(states, features).mean(1)
    alignment = own
    for distance in _distances(config):
        if distance >= num_frames:
            break
        later = _similarities(states[:, :-distance], features[:, distance:])
        earlier = _similarities(states[:, distance:], features[:, :-distance])
        nearness = math.exp(-distance / config.temporal_decay)
        alignment = alignment + nearness * (later.sum(1) + earlier.sum(1)) / num_frames
    return alignment, own


def _similarities(states: Tensor, features: Tensor) -> Tensor:
    """Return the mean cosine over patches of each frame: [B, frames]; both are of length 1."""
    return (states * features).sum(-1).mean((2, 3))


def _distances(config: CrepaConfig) -> range:
    """Return the distances of neighbours, ascending."""
    farthest = config.adjacent_distance
    return range(1 if config.cumulative_neighbors else max(1, farthest), farthest + 1)


def weight_at(step: int, config: CrepaConfig) -> float | None:
    """Return w of step `step`, counted from 0, as learning rates are made; None from the cut-off on."""
    if config.is_over(step):
        return None
    schedule = config.schedule
    if step < schedule.warmup_steps:
        return config.weight * (step + 1) / schedule.warmup_steps
    if not isinstance(schedule, LinearWeight | CosineWeight | PolynomialWeight):
        return config.weight
    left = 1 - min(1.0, (step - schedule.warmup_steps + 1) / schedule.decay_steps)
    return schedule.end_weight + (config.weight - schedule.end_weight) * _SHAPES[schedule.name](left, schedule)


# by the schedule's name: (part of the fall that is left, its section) -> part of the height that is left
_SHAPES: dict[str, Callable[[float, Any], float]] = {
    "linear": lambda left, _: left,
    "cosine": lambda left, _: (1 - math.cos(math.pi * left)) / 2,
    "polynomial": lambda left, schedule: math.pow(left, schedule.power),
}
