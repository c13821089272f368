"""The part of the objective that tells an adapter's dropout which samples come."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sana.model.adapters.keyed_dropout import KeyedDropout
from sana.model.random import philox_integers
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.step_input import StepInput

_KEYS = "adapter_dropout_keys"


class AdapterDropout:
    """Draws a key for each sample, by seed, step and position in the global batch: the same on any number of ranks."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def draw(self, slots: Sequence[BatchSlot], _tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw the keys: int64 [B, 2], of 32 bits each."""
        keys = [philox_integers([2], bits=32, key=slot.key(self._seed, "adapter_dropout")) for slot in slots]
        return {_KEYS: torch.stack(keys)}

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:
        """Give each layer's dropout its keys; the step stays as it is."""
        for module in model.modules():
            if isinstance(module, KeyedDropout):
                module.set_keys(batch.tensors[_KEYS])
        return step
