"""Parameters that learn beside the transformer and are no part of it: a projector of its hidden states.

Shapes in this module: D numbers of a hidden state, E numbers of a feature.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sana.config.training.crepa import PROJECTOR
from sana.model.random import philox_uniform
from sana.training.trainables.trainable import Trainable

T = TypeVar("T")


class Projector(nn.Module):
    """LayerNorm(D) and Linear(D, E), float32 whatever autocast says.

    It is a child of the transformer, so that ranks exchange its gradients as all others, and yet no part of its state
    dict: what is loaded into the transformer, or exported of it, is the transformer.
    """

    def __init__(self, hidden_size: int, feature_size: int, *, seed: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden_size)  # as torch's Linear
        self.norm_weight = nn.Parameter(torch.ones(hidden_size))
        self.norm_bias = nn.Parameter(torch.zeros(hidden_size))
        uniform = philox_uniform([feature_size, hidden_size], key=("crepa", seed, "weight"))
        self.weight = nn.Parameter((2 * uniform - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(feature_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Project [..., D] to float32 [..., E]."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            normalised = nn.functional.layer_norm(
                hidden_states.float(), self.norm_weight.shape, self.norm_weight, self.norm_bias
            )
            return nn.functional.linear(normalised, self.weight, self.bias)

    def state_dict(self, *_args: Any, destination: Any = None, **_kwargs: Any) -> Any:
        """Add nothing to a state dict."""
        return {} if destination is None else destination

    def _load_from_state_dict(self, *_args: Any, **_kwargs: Any) -> None:
        """Take nothing from a state dict, and miss nothing in it."""


def add_projector(trainable: Trainable, hidden_size: int, feature_size: int, *, seed: int) -> Projector:
    """Put a projector beside what learns, in place: optimizer, EMA and checkpoints have its parameters too."""
    projector = Projector(hidden_size, feature_size, seed=seed)
    trainable.model.add_module(PROJECTOR, projector)
    own = {f"{PROJECTOR}.{name}": parameter for name, parameter in projector.named_parameters()}
    trainable.parameters = {**trainable.parameters, **own}
    return projector


def without_projector(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of a checkpoint that are the model's."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{PROJECTOR}.")}
