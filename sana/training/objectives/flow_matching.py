"""Flow matching: the plain mean squared error of the predicted velocity (see `sana/model/objective.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sana.config.training.objective import FlowMatchingConfig
from sana.model.objective import flow_matching_loss, noise_latents, timesteps_of, velocity_target
from sana.model.transformer import predict
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import SIGMA_MEAN, Scalar
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.objective import Losses


@dataclass(frozen=True)
class FlowMatching:
    """The objective `flow_matching`."""

    noise: NoisePolicy

    def draw(self, slots: Sequence[BatchSlot], latents: Tensor) -> dict[str, Tensor]:
        return self.noise.draw(slots, latents)

    def velocity(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        return predict_velocity(model, batch)

    def loss(self, model: nn.Module, batch: MicroBatch) -> Losses:
        losses = flow_matching_loss(self.velocity(model, batch), velocity_target(batch.latents, batch.noise))
        return Losses(losses, {SIGMA_MEAN: Scalar(batch.sigma.mean(), "mean")})


def predict_velocity(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Return the velocity that the model predicts at the batch's noise levels: float32 [B, 16, f, h, w]."""
    noisy = noise_latents(batch.latents, batch.noise, batch.sigma)
    return predict(model, noisy, timesteps_of(batch.sigma), batch.captions, batch.mask)


def build(_: FlowMatchingConfig, noise: NoisePolicy) -> FlowMatching:
    """Return the objective of its section of the config."""
    return FlowMatching(noise)
