"""Muon (Jordan and others, 2024), torch's own, for the matrices of the blocks; AdamW for all other parameters.

A 1x1 convolution is a matrix too, and most of this model's are such. A step is scaled as in "Muon is Scalable for LLM
Training" (arXiv 2502.16982), to the size of one of AdamW, so that both have one learning rate and one weight decay.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sana.config.training.optimization.optimizer import MuonConfig
from sana.config.training.optimization.parameter_names import muon_matrices
from sana.training.optimizers.adamw import torch_adamw
from sana.training.optimizers.optimizer import Optimizer, Parameters, Setup, decay_groups
from sana.training.parallel.sharding import local, part_of, whole

MOMENTUM = "momentum_buffer"  # torch's name


class _Muon(Optimizer):
    """Muon over matrices, and AdamW over the others; `flat` are the matrices as Muon takes them, by name."""

    def __init__(
        self, muon: torch.optim.Optimizer, others: Optimizer | None, matrices: Parameters, flat: Parameters
    ) -> None:
        super().__init__(muon, flat)
        self._others, self._matrices, self._flat = others, matrices, flat

    def step(self, learning_rate: float, skip: Tensor | None = None) -> None:
        """Take a step along the gradients, and free them; if `skip`, change nothing."""
        for name, flat in self._flat.items():
            weight = self._matrices[name]
            flat.data = weight.data.view(flat.shape)  # again at each step: a weight's memory may have moved
            flat.grad = None if weight.grad is None else weight.grad.view(flat.shape)
            weight.grad = None
        super().step(learning_rate, skip)
        if self._others is not None:
            self._others.step(learning_rate, skip)

    def _take(self) -> None:
        if not any(isinstance(flat, DTensor) for flat in self._flat.values()):
            super()._take()
            return
        for group in self._optimizer.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    _step_of_shards(matrix, self._optimizer.state[matrix][MOMENTUM], group)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies."""
        return super().state() | (self._others.state() if self._others is not None else {})

    def set_step(self, step: int) -> None:
        """Set the number of steps taken, which AdamW depends on; Muon does not."""
        if self._others is not None:
            self._others.set_step(step)


def build(config: MuonConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return both over all parameters, with their states: zeros, as before the first step.

    Raises:
        ConfigError: no matrix has a name that `matrices` matches.
    """
    names = muon_matrices(config, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    chosen = {name: parameters[name] for name in names}
    flat = {name: nn.Parameter(p.detach().view(p.shape[0], -1)) for name, p in chosen.items()}
    muon = torch.optim.Muon(
        decay_groups(flat, config.weight_decay, setup.factors),
        momentum=config.momentum,
        ns_steps=config.num_iterations,
        adjust_lr_fn="match_rms_adamw",
    )
    for parameter in flat.values():
        muon.state[parameter] = {MOMENTUM: torch.zeros_like(parameter).detach()}
    rest = {name: parameter for name, parameter in parameters.items() if name not in chosen}
    others = Optimizer(torch_adamw(config, rest, setup), rest) if rest else None
    return _Muon(muon, others, chosen, flat)


@torch.no_grad()
def _step_of_shards(matrix: DTensor, momentum: DTensor, group: dict[str, Any]) -> None:
    """Take torch's step on this rank's rows: it is made of the whole matrix, on every rank alike. Collective."""
    gradient = cast(DTensor, matrix.grad)
    mean = momentum.lerp_(gradient, 1 - group["momentum"])
    update = nn.Parameter(torch.zeros(matrix.shape, dtype=matrix.dtype, device=matrix.device))
    update.grad = whole(gradient.lerp(mean, group["momentum"]))
    # without momentum and decay: the orthogonal matrix alone, times the learning rate
    settings = {name: group[name] for name in ("lr", "ns_steps", "ns_coefficients", "eps", "adjust_lr_fn")}
    torch.optim.Muon([update], **settings, momentum=0.0, nesterov=False, weight_decay=0.0).step()  # type: ignore[no-untyped-call]
    local(matrix).mul_(1 - group["lr"] * group["weight_decay"]).add_(part_of(update, matrix))
