"""Flow matching with the Huber loss: squared errors up to delta, linear beyond, so that outliers weigh less."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana.config.training.objective import HuberConfig
from sana.model.objective import velocity_target
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import SIGMA_MEAN, Scalar
from sana.training.objectives.flow_matching import predict_velocity
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.objective import Losses

LINEAR_FRACTION = "train/huber_linear_fraction"  # of all elements of the global batch: errors beyond delta


@dataclass(frozen=True)
class Huber:
    """The objective `huber`."""

    noise: NoisePolicy
    delta: float

    def draw(self, slots: Sequence[BatchSlot], latents: Tensor) -> dict[str, Tensor]:
        return self.noise.draw(slots, latents)

    def velocity(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        return predict_velocity(model, batch)

    def loss(self, model: nn.Module, batch: MicroBatch) -> Losses:
        """Twice the loss of Huber (1964), which for a large delta is the mean squared error."""
        error = self.velocity(model, batch) - velocity_target(batch.latents, batch.noise)
        losses = 2 * nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)
        linear = (error.detach().abs() > self.delta).float().mean()
        return Losses(
            losses.flatten(1).mean(1),
            {SIGMA_MEAN: Scalar(batch.sigma.mean(), "mean"), LINEAR_FRACTION: Scalar(linear, "mean")},
        )


def build(config: HuberConfig, noise: NoisePolicy) -> Huber:
    """Return the objective of its section of the config."""
    return Huber(noise, config.delta)
