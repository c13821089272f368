"""CAME (Luo and others, arXiv 2307.02047), of pytorch-optimizer: Adafactor's rows and columns, twice, and a mean."""

import torch

from sana.config.training.optimization.optimizer import CameConfig
from sana.training.optimizers.optimizer import Optimizer, Parameters, Setup, decay_groups
from sana.training.parallel.sharding import zeros_beside

_SIZE = "RMS"  # pytorch-optimizer keeps a parameter's size there, to be looked at


class _Came(Optimizer):
    def set_step(self, step: int) -> None:
        """Do nothing: a step of CAME does not depend on how many there were before."""


def build(config: CameConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return it over all parameters, with its state: zeros, as before the first step."""
    from pytorch_optimizer import CAME  # an extra package, checked when the config is loaded

    optimizer = CAME(
        decay_groups(parameters, config.weight_decay, setup.factors),
        lr=0.0,
        betas=(config.beta1, config.beta2, config.beta3),
        clip_threshold=config.clip_threshold,
        foreach=False,  # it would make temporary copies of all weights
    )
    for parameter in parameters.values():
        # what CAME itself would put there at the first step
        state = {"exp_avg": torch.zeros_like(parameter)}
        if CAME.get_options(parameter.shape):
            rows, columns = parameter.shape[:-1], (*parameter.shape[:-2], *parameter.shape[-1:])
            for squares in ("exp_avg_sq", "exp_avg_res"):
                state[f"{squares}_row"] = zeros_beside(parameter, rows)
                # of a matrix the columns are of all rows, which every rank has a part of
                state[f"{squares}_col"] = (
                    parameter.new_zeros(columns) if parameter.ndim == 2 else zeros_beside(parameter, columns)
                )
        else:
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        optimizer.state[parameter] = {**{key: tensor.detach() for key, tensor in state.items()}, _SIZE: 0.0}
    return _Came(optimizer, parameters, unsaved=(_SIZE,))
