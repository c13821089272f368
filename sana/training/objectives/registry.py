"""The objectives by their name in the config."""

from collections.abc import Callable
from typing import Any

from sana.config.training.train import TrainConfig
from sana.training.objectives import flow_matching, huber
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.objective import Objective

# each takes its own section of the config
OBJECTIVES: dict[str, Callable[[Any, NoisePolicy], Objective]] = {
    "flow_matching": flow_matching.build,
    "huber": huber.build,
}


def build_objective(config: TrainConfig, *, flow_shift: float) -> Objective:
    """Return the objective that the config names; `flow_shift` is that of its noise levels."""
    noise = NoisePolicy(config.timestep_sampling, config.seed, flow_shift)
    return OBJECTIVES[config.objective.name](config.objective, noise)
