"""The exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def decay_at(num_updates: int, decay: float) -> float:
    """Return `min(decay, (1 + n) / (10 + n))` for the update after `n` earlier ones: 0.1 at first.

    The warm-up of TensorFlow's `tf.train.ExponentialMovingAverage` (argument `num_updates`), also in diffusers'
    `EMAModel.get_decay`: without it the initial weights would dominate for 1 / (1 - decay) steps.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class Ema:
    """The EMA weights, float32, on the device of the parameters that learn: `shadow <- d shadow + (1 - d) weights`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._live = parameters
        self.shadow: dict[str, Tensor] = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._live.items()
        }

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Move towards the live weights, after `num_updates` earlier updates (that is, optimizer steps)."""
        weight = 1.0 - decay_at(num_updates, self._decay)
        live = [parameter.to(torch.float32) for parameter in self._live.values()]
        torch._foreach_lerp_(list(self.shadow.values()), live, weight)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the EMA weights; afterwards the live ones again, bit for bit.

        Needs no more memory than one tensor. Parameters must be float32, as master weights are.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._live.items():
            live = parameter.clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name].copy_(live)
