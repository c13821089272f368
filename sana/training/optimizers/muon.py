"""Muon (Jordan and others, 2024), torch's own, for the matrices of the blocks; AdamW for all other parameters.

A 1x1 convolution is a matrix too, and most of this model's are such. A step is scaled as in "Muon is Scalable for LLM
Training" (arXiv 2502.16982), to the size of one of AdamW, so that both have one learning rate and one weight decay.
"""

import torch
from torch import Tensor, nn

from sana.config.training.optimizer import MuonConfig
from sana.config.training.parameter_names import muon_matrices
from sana.training.optimizers.adamw import torch_adamw
from sana.training.optimizers.optimizer import Optimizer, Parameters, Setup, decay_groups

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
