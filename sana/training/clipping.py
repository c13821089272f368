"""Clipping: what is done with the gradients of the global batch before the optimizer sees them."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.training.parallel.parallel import Parallel
from sana.training.parallel.sharding import local


def clip_gradients(parallel: Parallel, parameters: Collection[nn.Parameter], config: TrainConfig) -> Tensor:
    """Clip in place as `train.gradient_clipping` says; return the norm before, a scalar that is equal on all ranks."""
    if config.gradient_clipping == "norm":
        return parallel.clip(parameters, config.max_grad_norm)
    norm = parallel.grad_norm(parameters)
    if config.max_grad_value is not None:
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_clamp_min_(gradients, -config.max_grad_value)
        torch._foreach_clamp_max_(gradients, config.max_grad_value)
    return norm
