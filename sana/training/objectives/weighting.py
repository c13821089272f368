"""How much a sample's loss weighs by its noise level s.

Shapes in this module: B samples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sana.config.training.objective import MinSnrWeighting
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.step_input import StepInput

Weight = Callable[[Tensor], Tensor]  # of noise levels in (0, 1), elementwise

_BELL_END = math.exp(-0.5)
_BELL_MEAN = math.sqrt(0.5 * math.pi) * math.erf(math.sqrt(0.5)) - _BELL_END


def min_snr(sigma: Tensor, gamma: float) -> Tensor:
    """Return `min((1 - s)^2, gamma s^2)`: Min-SNR (Hang et al. 2023, arXiv 2303.09556) for a flow's velocity.

    There the clean clip's error weighs min(SNR, gamma). A flow has SNR = ((1 - s) / s)^2, and x0 = x_t - s v, so the
    error of x0 is s^2 that of v. (`min(SNR, gamma) / (SNR + 1)` is the same for the v of a diffusion, where alpha^2 +
    sigma^2 = 1; in a flow they are alpha + sigma = 1.)
    """
    return torch.minimum((1 - sigma).square(), gamma * sigma.square())


def cosmap(sigma: Tensor) -> Tensor:
    """Return `2 / (pi (1 - 2 s + 2 s^2))` (Esser et al. 2024, arXiv 2403.03206, equation 21)."""
    return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))


def bell(sigma: Tensor) -> Tensor:
    """Return `exp(-2 (s - 1/2)^2)` less its value at the ends, over its mean (DiffSynth-Studio; Automodel's bsmntw)."""
    return (torch.exp(-2 * (sigma - 0.5).square()) - _BELL_END) / _BELL_MEAN


def _min_snr(config: MinSnrWeighting) -> Weight:
    return partial(min_snr, gamma=config.gamma)


# by the name of its section of the config; `none` has no weight
WEIGHTS: Mapping[str, Callable[[Any], Weight]] = {
    "min_snr": _min_snr,
    "cosmap": lambda _: cosmap,
    "bell": lambda _: bell,
}


@dataclass(frozen=True)
class WeightingPart:
    """Multiplies the loss of each sample by the weight of its noise level."""

    weight: Weight

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002 - a Part's
        return {}

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:  # noqa: ARG002 - a Part's
        return step.weighing_samples(self.weight(step.sigma))
