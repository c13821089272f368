"""What the model sees in a step, and how the error of each element weighs.

Shapes in this module: B samples; a latent is [B, 16, f, h, w], a token of the model covers 2 x 2 of it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sana.bucket import PATCH
from sana.model.objective import noise_latents, timesteps_of
from sana.model.transformer import predict
from sana.training.batch import MicroBatch


@dataclass(frozen=True)
class StepInput:
    """A noised batch.

    x_t: float32 [B, 16, f, h, w], noised at sigma everywhere.
    sigma: float32 [B] in (0, 1).
    clean: bool [B, 1, f, h, w], equal within a token: where the model is given the clean latents, at timestep 0, and
        the loss does not look; None: nowhere.
    weight: float32 [B, 1, f, h, w], of each element's loss, whose mean is divided by the sum of weights; None: all 1.
    sample_weight: float32 [B], by which the losses of samples are multiplied; None: all 1.
    """

    x_t: Tensor
    sigma: Tensor
    clean: Tensor | None = None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None

    def weighing(self, weight: Tensor) -> "StepInput":
        """Return this with weights of elements multiplied by `weight`, float32 [B, 1, f, h, w]."""
        return replace(self, weight=weight if self.weight is None else self.weight * weight)

    def weighing_samples(self, weight: Tensor) -> "StepInput":
        """Return this with weights of samples multiplied by `weight`, float32 [B]."""
        before = self.sample_weight
        return replace(self, sample_weight=weight if before is None else before * weight)


def noised(batch: MicroBatch) -> StepInput:
    """Return the step of flow matching: all of each latent noised at its sigma."""
    return StepInput(noise_latents(batch.latents, batch.noise, batch.sigma), batch.sigma)


def predict_step(model: nn.Module, batch: MicroBatch, step: StepInput) -> Tensor:
    """Return the predicted velocity: float32 [B, 16, f, h, w].

    Where `step.clean`, the model is given the clean latents, and its timestep of that token is 0: timesteps are then
    [B, 1, f, h/2, w/2], as SanaImageToVideoPipeline of diffusers gives them; else [B].
    """
    x_t, timesteps = step.x_t, timesteps_of(step.sigma)
    if step.clean is not None:
        x_t = torch.where(step.clean, batch.latents, x_t)
        of_token = step.clean[..., ::PATCH, ::PATCH]
        timesteps = timesteps.view(-1, 1, 1, 1, 1).expand(of_token.shape).masked_fill(of_token, 0.0)
    return predict(model, x_t, timesteps, batch.captions, batch.mask)


def mean_over_elements(losses: Tensor, step: StepInput) -> Tensor:
    """Return each sample's mean of `losses` [B, 16, f, h, w]: float32 [B].

    Weighted by `step.weight`, without what is clean, and divided by the sum of these weights; a sample whose weights
    are all 0 has the loss 0.
    """
    weight = step.weight
    if step.clean is not None:
        noisy = (~step.clean).float()
        weight = noisy if weight is None else weight * noisy
    if weight is None:
        means = losses.flatten(1).mean(1)
    else:
        total = weight.flatten(1).sum(1)
        of_pixels = (losses.mean(1, keepdim=True) * weight).flatten(1).sum(1)
        means = torch.where(total > 0, of_pixels / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
    return means if step.sample_weight is None else means * step.sample_weight
