"""What a linear guess of the velocity from x_t alone costs: a model of these latents must be better.

Element by element and channel by channel, for x_t = (1 - s) x0 + s eps and the velocity v = eps - x0, with x0 of
variance q and eps of variance 1, independent of it: Cov(v, x_t) = s - (1 - s) q, Var(x_t) = (1 - s)^2 q + s^2,
Var(v) = 1 + q. The best a x_t + b costs Var(v) - Cov^2 / Var(x_t) = q / ((1 - s)^2 q + s^2). For q = 1, which latents
have over the data that the VAE was normalised on, this is 2 at s = 1/2.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MEAN_SHIFT = 0.75  # root mean square of the channels' means, of which unit statistics have 0
SCALE_SHIFT = 0.5  # root mean square of log2 of the channels' standard deviations, of which unit statistics have 0


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and variance of each channel, over all elements of some latents."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]

    @property
    def mean_shift(self) -> float:
        """Root mean square of the channels' means."""
        return math.sqrt(math.fsum(mean * mean for mean in self.mean) / len(self.mean))

    @property
    def scale_shift(self) -> float:
        """Root mean square of log2 of the channels' standard deviations; of a constant channel that of 2^-10."""
        logs = [max(0.5 * math.log2(variance), -10.0) if variance > 0 else -10.0 for variance in self.variance]
        return math.sqrt(math.fsum(log * log for log in logs) / len(logs))

    @property
    def is_shifted(self) -> bool:
        """Whether they are far from those of a model's own latents."""
        return self.mean_shift > MEAN_SHIFT or self.scale_shift > SCALE_SHIFT


def statistics_of(latents: Iterable[Tensor]) -> LatentStatistics:
    """Return the statistics of latents, each float [16, f, h, w], in float64; one latent is held at a time."""
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for latent in latents:
        elements = latent.double().flatten(1)
        count += elements.shape[1]
        total, squares = total + elements.sum(1), squares + elements.square().sum(1)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0.0)
    return LatentStatistics(tuple(mean.tolist()), tuple(variance.tolist()))


def linear_guess_loss(sigma: float, variances: Sequence[float] = (1.0,)) -> float:
    """Return the mean squared error of the best linear guess at a noise level, the mean over channels."""
    errors = [q / ((1 - sigma) ** 2 * q + sigma**2) for q in variances]
    return math.fsum(errors) / len(errors)
