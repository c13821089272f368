"""The optimizers by their name in the config."""

from collections.abc import Callable
from typing import Any

from sana.config.training.optimization.optimizer_support import check_package
from sana.config.training.optimization.parameter_names import learning_rate_factors
from sana.config.training.train import TrainConfig
from sana.training.optimizers import adafactor, adamw, adamw_8bit, adamw_bf16, came, muon, optimi_adamw, prodigy
from sana.training.optimizers.optimizer import Optimizer, Parameters, Setup

# each takes its own section of the config
OPTIMIZERS: dict[str, Callable[[Any, Parameters, Setup], Optimizer]] = {
    "adamw": adamw.build,
    "adafactor": adafactor.build,
    "adamw_bf16": adamw_bf16.build,
    "optimi_adamw": optimi_adamw.build,
    "adamw_8bit": adamw_8bit.build,
    "muon": muon.build,
    "prodigy": prodigy.build,
    "came": came.build,
}


def build_optimizer(config: TrainConfig, parameters: Parameters) -> Optimizer:
    """Return the optimizer that the config names, over these parameters, as before the first step.

    Raises:
        ConfigError: its package is not installed, or names in the config match no parameter.
    """
    check_package(config.optimizer.name)
    setup = Setup(config.seed, learning_rate_factors(config, parameters))
    return OPTIMIZERS[config.optimizer.name](config.optimizer, parameters, setup)
