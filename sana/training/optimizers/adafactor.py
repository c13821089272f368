"""Adafactor (Shazeer and Stern, arXiv 1804.04235), torch's own: of a matrix it keeps a row and a column of squares.

A step is relative to the parameter's own size: at most the learning rate times it, and 1 / sqrt(steps) times it.
torch's own knows no sharded tensors, and factors a kernel by its last two dimensions. So for sharded ones, where each
rank steps on its rows with sums over all ranks, and for kernels as matrices the same step is written out here.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sana.config.training.optimization.optimizer import AdafactorConfig
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups
from sana.training.parallel.sharding import local, sum_of_shards, zeros_beside


def build(config: AdafactorConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return Adafactor over all parameters, with its state: zeros, as before the first step."""
    optimizer = torch.optim.Adafactor(
        decay_groups(parameters, config.weight_decay, setup.factors),
        beta2_decay=config.beta2_decay,
        eps=(None, config.epsilon),
        d=config.clip_threshold,
    )
    as_matrices = config.kernels == "matrix"
    for parameter in parameters.values():
        # what torch itself would put there at the first step
        state = {STEP: torch.zeros((), dtype=torch.float32)}
        if parameter.ndim > 1:
            num_all = parameter.shape[1:].numel()
            *outer, rows, columns = (parameter.shape[0], num_all) if as_matrices else parameter.shape
            state["row_var"] = zeros_beside(parameter, (*outer, rows, 1))
            state["col_var"] = zeros_beside(parameter, (*outer, 1, columns), is_whole=not outer)
        else:
            state["variance"] = torch.zeros_like(parameter)
        optimizer.state[parameter] = {key: tensor.detach() for key, tensor in state.items()}
    return _Adafactor(optimizer, parameters, as_matrices=as_matrices)


class _Adafactor(Optimizer):
    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters, *, as_matrices: bool) -> None:
        super().__init__(optimizer, parameters)
        self._as_matrices = as_matrices

    def _take(self) -> None:
        if not self._as_matrices and not any(isinstance(p, DTensor) for p in self._parameters.values()):
            super()._take()
            return
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step(parameter, self._optimizer.state[parameter], group)


@torch.no_grad()
def _step(parameter: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """Take torch's step, on this rank's rows of a sharded parameter. A kernel is a matrix if its state is one's."""
    assert parameter.grad is not None
    weight, gradient = local(parameter), local(parameter.grad)
    tiny = torch.finfo(weight.dtype).eps

    def size(shards: Tensor) -> float:
        """Return the root mean square of a tensor whose shards these are."""
        return math.sqrt(sum_of_shards(shards.square().sum(), parameter).item() / parameter.numel())

    state[STEP] += 1
    step = state[STEP].item()
    moved, scale = step ** group["beta2_decay"], min(group["lr"], step**-0.5)
    scale *= max(group["eps"][1], size(weight))
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    if parameter.ndim > 1:
        rows, columns = local(state["row_var"]), local(state["col_var"])
        gradient = gradient.reshape(-1, columns.shape[-1]) if rows.ndim == 2 else gradient
        squares = gradient.square()
        rows.lerp_(squares.mean(-1, keepdim=True), moved)
        if rows.ndim == 2:  # its rows are on all ranks; of a kernel the first dimension is, which nothing sums over
            of_all = sum_of_shards(torch.cat([squares.sum(0), rows.sum(0)]), parameter) / parameter.shape[0]
            columns.lerp_(of_all[:-1].unsqueeze(0), moved)
            mean_row = of_all[-1:].unsqueeze(0)
        else:
            columns.lerp_(squares.mean(-2, keepdim=True), moved)
            mean_row = rows.mean(-2, keepdim=True)
        estimate = (rows @ columns).div_(mean_row.clamp_(min=tiny))
    else:
        estimate = local(state["variance"]).lerp_(gradient.square(), moved).clone()
    update = estimate.clamp_(min=tiny * tiny).rsqrt_().mul_(gradient)
    weight.add_(update.view(weight.shape), alpha=-scale / max(1.0, size(update) / group["d"]))
