"""torchao's AdamW with moments in 8 bits (Dettmers and others, arXiv 2110.02861): codes, and a scale per 256 of them.

Tensors of less than 4096 numbers, or whose size is no multiple of 256, have moments in the parameter's dtype. bf16
weights are rounded stochastically: what is drawn depends on the seed and the step's number only.
"""

from typing import Any

import torch
from torch import Tensor
from torch.compiler import set_stance

from sana.config.training.optimization.optimizer import AdamW8bitConfig
from sana.runtime.worker_process import unhide_torchao
from sana.training.optimizers.adamw import MOMENTS
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups

_SEED_OF_STEP = 0x9E3779B97F4A7C15  # odd: seeds of different steps differ


class _AdamW8bit(Optimizer):
    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters, seed: int) -> None:
        super().__init__(optimizer, parameters)
        self._seed, self._step = seed, 0
        self._devices = {p.device.index for p in parameters.values() if p.is_cuda}
        # torchao compiles a step for each shape; that pays on a GPU only
        on_gpu = all(parameter.is_cuda for parameter in parameters.values())
        self._stance = "default" if on_gpu else "force_eager"

    def _set_rate(self, group: dict[str, Any], learning_rate: float) -> None:
        group["lr"].fill_(learning_rate)

    def _take(self) -> None:
        self._step += 1
        with torch.random.fork_rng(sorted(self._devices)), set_stance(self._stance):
            torch.manual_seed((self._seed + self._step * _SEED_OF_STEP) % 2**63)
            self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves: of a moment in 8 bits the plain ones that it is made of."""
        return {name: tensor for key, found in super().state().items() for name, tensor in _plain(key, found)}

    def set_step(self, step: int) -> None:
        """Set the number of steps taken: bias corrections and what is drawn depend on it."""
        super().set_step(step)
        self._step = step


def build(config: AdamW8bitConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return it over all parameters, with its state: zeros, as before the first step."""
    unhide_torchao()
    from torchao.optim import AdamW8bit  # an extra package, checked when the config is loaded

    optimizer = AdamW8bit(
        decay_groups(parameters, config.weight_decay, setup.factors),
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        bf16_stochastic_round=True,  # of bf16 weights only
    )
    for parameter in parameters.values():
        # what torchao itself would put there at the first step: the first moment has a sign
        optimizer.state[parameter] = {STEP: torch.tensor(0.0)} | {
            moment: optimizer._new_buffer(parameter.detach(), moment == MOMENTS[0]) for moment in MOMENTS
        }
    return _AdamW8bit(optimizer, parameters, setup.seed)


def _plain(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return the plain tensors that a tensor is made of, by names; of a plain one itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [(name, tensor)]
    return [(f"{name}.{part}", getattr(tensor, part)) for part in flatten()[0]]
