"""Flow matching: the square of the predicted velocity's error (see `sana/model/objective.py`)."""

from collections.abc import Mapping

from torch import Tensor

from sana.config.training.objective import FlowMatchingConfig
from sana.training.metrics import Scalar
from sana.training.objectives.objective import ElementLoss


def squared_error(error: Tensor) -> tuple[Tensor, Mapping[str, Scalar]]:
    """Return the squares; their mean is the loss of flow matching."""
    return error.square(), {}


def build(_: FlowMatchingConfig) -> ElementLoss:
    """Return the loss of its section of the config."""
    return squared_error
