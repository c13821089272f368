"""An optimizer as training uses it: a step at a learning rate, and its state as named tensors of whatever shape."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sana.training.guards.skipped_steps import put_back

STEP = "step"  # torch's name for the number of steps taken, in the state of each parameter
FACTOR = "learning_rate_factor"  # of a parameter group

Parameters = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class Setup:
    """What an optimizer needs beside its own section: the seed of its rounding, and the factors by parameter name."""

    seed: int = 0
    factors: Mapping[str, float] = field(default_factory=dict)  # those that are not 1


class Optimizer:
    """A torch optimizer over named parameters, whose state exists before the first step.

    A state tensor is named `<parameter>.<name in the optimizer>`, such as `<parameter>.exp_avg`. `unsaved` are names
    of entries that the next step does not depend on.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Parameters, *, unsaved: Collection[str] = ()
    ) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        self._unsaved = {STEP, *unsaved}
        self._group_of: dict[nn.Parameter, dict[str, Any]] = {}  # of one parameter each, after `split`

    def step(self, learning_rate: float, skip: Tensor | None = None) -> None:
        """Take a step along the gradients, and free them; if `skip`, a bool scalar on the device, change nothing.

        What a checkpoint holds is put back then; what it does not hold is set by `set_step`.
        """
        self.set_learning_rate(learning_rate)
        if skip is None:
            self._take()
        elif getattr(self._optimizer, "_step_supports_amp_scaling", False):
            self._optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # torch's fused kernels look at it
            self._take()
        else:
            with put_back(skip, [*self._parameters.values(), *self.state().values()]):
                self._take()
        self._optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set it for the next step, times the factor of each parameter."""
        for group in self._optimizer.param_groups:
            self._set_rate(group, learning_rate * group[FACTOR])

    def split(self) -> None:
        """Give each parameter a group of its own, so that `step_one` may take its step; `step` does the same as before.

        What a group counts, it then counts for its parameter alone.
        """
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                own = {key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items()}
                self._group_of[parameter] = {**own, "params": [parameter]}
        self._optimizer.param_groups = list(self._group_of.values())

    def step_one(self, parameter: nn.Parameter) -> None:
        """Take the step of one parameter along its gradient, at the learning rate that was set, and free the gradient.

        When each parameter had its turn, that is one `step`.
        """
        every = self._optimizer.param_groups
        self._optimizer.param_groups = [self._group_of[parameter]]
        try:
            self._take()
        finally:
            self._optimizer.param_groups = every
        parameter.grad = None

    def _set_rate(self, group: dict[str, Any], learning_rate: float) -> None:
        group["lr"] = learning_rate

    def _take(self) -> None:
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies; the number of steps is not among them."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self._parameters.items()
            for key, tensor in self._optimizer.state[parameter].items()
            if key not in self._unsaved
        }

    def set_step(self, step: int) -> None:
        """Set the number of steps taken, after the state was filled: decays and bias corrections depend on it."""
        for state in self._optimizer.state.values():
            state[STEP].fill_(step)


def decay_groups(
    parameters: Parameters, weight_decay: float, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return torch's parameter groups: weight decay applies to matrices and kernels.

    Not to biases, norms and modulation tables, as is usual (Loshchilov and Hutter, arXiv 1711.05101; the grouping of
    nanoGPT's `configure_optimizers`). Parameters with a factor of their own on the learning rate are apart.
    """
    found: dict[tuple[float, float], list[nn.Parameter]] = {(weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in parameters.items():
        decays = parameter.ndim >= 2 and not name.endswith(("scale_shift_table", "lora_magnitude_vector"))
        key = (weight_decay if decays else 0.0, (factors or {}).get(name, 1.0))
        found.setdefault(key, []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, FACTOR: factor}
        for (decay, factor), members in found.items()
        if members
    ]
