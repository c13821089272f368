"""An optimizer as training uses it: a step at a learning rate, and its state as named tensors of whatever shape."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sana.training.guards.skipped_steps import put_back

STEP = "step"  # torch's name for the number of steps taken, in the state of each parameter

Parameters = Mapping[str, nn.Parameter]


class Optimizer:
    """A torch optimizer over named parameters, whose state exists before the first step.

    A state tensor is named `<parameter>.<name in the optimizer>`, such as `<parameter>.exp_avg`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters) -> None:
        self._optimizer, self._parameters = optimizer, parameters

    def step(self, learning_rate: float, skip: Tensor | None = None) -> None:
        """Take a step along the gradients, and free them; if `skip`, a bool scalar on the device, change nothing.

        What a checkpoint holds is put back then; what it does not hold is set by `set_step`.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if skip is None:
            self._optimizer.step()
        elif getattr(self._optimizer, "_step_supports_amp_scaling", False):
            self._optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # torch's fused kernels look at it
            self._optimizer.step()
        else:
            with put_back(skip, [*self._parameters.values(), *self.state().values()]):
                self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies; the number of steps is not among them."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self._parameters.items()
            for key, tensor in self._optimizer.state[parameter].items()
            if key != STEP
        }

    def set_step(self, step: int) -> None:
        """Set the number of steps taken: decays and bias corrections depend on it."""
        for state in self._optimizer.state.values():
            state[STEP].fill_(step)


def decay_groups(parameters: Parameters, weight_decay: float) -> list[dict[str, Any]]:
    """Return torch's parameter groups: weight decay applies to matrices and kernels.

    Not to biases, norms and modulation tables, as is usual (Loshchilov and Hutter, arXiv 1711.05101; the grouping of
    nanoGPT's `configure_optimizers`).
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        (not_decayed if parameter.ndim < 2 or name.endswith("scale_shift_table") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
