"""The optimizer's step in the backward pass: each parameter's as soon as its gradient is whole, which is then freed.

So there is one gradient at a time, or those of one compiled block, in place of all of them. Where parameters do not
depend on each other in a step, and no norm over all of them scales it, that is the same step, bit for bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sana.training.optimizers.optimizer import Optimizer, Parameters


class GradientRelease:
    """Takes the steps of `optimizer` by hooks on its parameters; `max_grad_value` clips each number of a gradient.

    There must be one backward pass a step. One that fails in the middle leaves some parameters a step ahead: such a run
    goes on from its last checkpoint.
    """

    def __init__(self, optimizer: Optimizer, parameters: Parameters, *, max_grad_value: float | None) -> None:
        self._optimizer, self._max_grad_value = optimizer, max_grad_value
        self._norms: dict[nn.Parameter, Tensor] = {}
        optimizer.split()
        for parameter in parameters.values():
            parameter.register_post_accumulate_grad_hook(self._step)  # type: ignore[no-untyped-call]

    def begin(self, learning_rate: float) -> None:
        """Begin a step at this learning rate, before its backward pass."""
        self._norms.clear()
        self._optimizer.set_learning_rate(learning_rate)

    def grad_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the norm of the gradients that these parameters had in this step, before clipping."""
        norms = [self._norms[parameter] for parameter in parameters if parameter in self._norms]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    @torch.no_grad()
    def _step(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter) and parameter.grad is not None
        # as for all of them at once, which has the same bits
        self._norms[parameter] = torch._foreach_norm([parameter.grad], 2.0, dtype=torch.float32)[0]
        if self._max_grad_value is not None:
            # a copy: the rest of the backward pass may still need this memory, of which the gradient is a view
            parameter.grad = parameter.grad.clamp(-self._max_grad_value, self._max_grad_value)
        self._optimizer.step_one(parameter)
