"""Flow matching with the Huber loss: squared errors up to delta, linear beyond, so that outliers weigh less."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana.config.training.objective import HuberConfig
from sana.training.metrics import Scalar

LINEAR_FRACTION = "train/huber_linear_fraction"  # of all elements of the global batch: errors beyond delta


@dataclass(frozen=True)
class Huber:
    """Twice the loss of Huber (1964), which for a large delta is the squared error."""

    delta: float

    def __call__(self, error: Tensor) -> tuple[Tensor, Mapping[str, Scalar]]:
        losses = 2 * nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)
        linear = (error.detach().abs() > self.delta).float().mean()
        return losses, {LINEAR_FRACTION: Scalar(linear, "mean")}


def build(config: HuberConfig) -> Huber:
    """Return the loss of its section of the config."""
    return Huber(config.delta)
