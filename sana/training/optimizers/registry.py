"""The optimizers by their name in the config."""

from collections.abc import Callable
from typing import Any

from sana.config.training.train import TrainConfig
from sana.training.optimizers import adafactor, adamw
from sana.training.optimizers.optimizer import Optimizer, Parameters

# each takes its own section of the config
OPTIMIZERS: dict[str, Callable[[Any, Parameters], Optimizer]] = {
    "adamw": adamw.build,
    "adafactor": adafactor.build,
}


def build_optimizer(config: TrainConfig, parameters: Parameters) -> Optimizer:
    """Return the optimizer that the config names, over these parameters, as before the first step."""
    return OPTIMIZERS[config.optimizer.name](config.optimizer, parameters)
