"""Adafactor (Shazeer and Stern, arXiv 1804.04235), torch's own: of a matrix it keeps a row and a column of squares.

A step is relative to the parameter's own size: at most the learning rate times it, and 1 / sqrt(steps) times it.
"""

import torch

from sana.config.training.optimizer import AdafactorConfig
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups


def build(config: AdafactorConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return Adafactor over all parameters, with its state: zeros, as before the first step."""
    optimizer = torch.optim.Adafactor(
        decay_groups(parameters, config.weight_decay, setup.factors),
        beta2_decay=config.beta2_decay,
        eps=(None, config.epsilon),
        d=config.clip_threshold,
    )
    for parameter in parameters.values():
        # what torch itself would put there at the first step
        state = {STEP: torch.zeros((), dtype=torch.float32)}
        if parameter.ndim > 1:
            *outer, num_rows, num_columns = parameter.shape
            state["row_var"] = parameter.new_zeros(*outer, num_rows, 1)
            state["col_var"] = parameter.new_zeros(*outer, 1, num_columns)
        else:
            state["variance"] = torch.zeros_like(parameter)
        optimizer.state[parameter] = {key: tensor.detach() for key, tensor in state.items()}
    return Optimizer(optimizer, parameters)
