"""Prodigy (Mishchenko and Defazio, arXiv 2306.06101), of pytorch-optimizer: AdamW that estimates its step size.

It keeps the weights from before the first step, and three more tensors of their size.
"""

import torch
from torch import Tensor

from sana.config.training.optimization.optimizer import ProdigyConfig
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups

NUMBERS = ("d", "d_max", "d_numerator")  # of all parameters together, in each group there
_PREFIX = "prodigy"  # of their names in the state


class _Prodigy(Optimizer):
    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters, initial: float) -> None:
        super().__init__(optimizer, parameters)
        values = {"d": initial, "d_max": initial, "d_numerator": 0.0}
        self._numbers = {key: torch.tensor([values[key]], dtype=torch.float64) for key in NUMBERS}

    def _take(self) -> None:
        super()._take()
        for key, number in self._numbers.items():
            number.fill_(float(self._optimizer.param_groups[0][key]))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves; `prodigy.d` and the like are of all parameters together."""
        return super().state() | {f"{_PREFIX}.{key}": number for key, number in self._numbers.items()}

    def set_step(self, step: int) -> None:
        """Set the number of steps taken, and what was estimated by then, from the state."""
        estimates = {key: number.item() for key, number in self._numbers.items()}
        for group in self._optimizer.param_groups:
            sum_ = torch.tensor([estimates["d_numerator"]], device=group["params"][0].device)
            group |= {STEP: step + 1, "d": estimates["d"], "d_max": estimates["d_max"], "d_numerator": sum_}


def build(config: ProdigyConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return it over all parameters, with its state, as before the first step."""
    from pytorch_optimizer import Prodigy  # an extra package, checked when the config is loaded

    optimizer = Prodigy(
        decay_groups(parameters, config.weight_decay, setup.factors),
        betas=(config.beta1, config.beta2),
        d0=config.initial_distance,
        d_coef=config.distance_factor,
        eps=config.epsilon,
        foreach=False,  # it would make temporary copies of all weights
    )
    for parameter in parameters.values():
        # what Prodigy itself would put there at the first step
        zeros = {key: torch.zeros_like(parameter).detach() for key in ("s", "exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {**zeros, "p0": parameter.detach().clone()}
    built = _Prodigy(optimizer, parameters, config.initial_distance)
    built.set_step(0)
    return built
