"""Masked loss: of a part of the samples the error counts inside their mask only, or outside with a smaller weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana.config.training.masks import MaskedLossConfig
from sana.model.random import philox_uniform
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.objectives.step_input import StepInput

LOSS_MASK = "loss_mask"  # the name of the tensor: fp16 [B, 1, f, h, w] in [0, 1], of the stage encode_masks
_LOOKS_INSIDE = "looks_inside_mask"  # bool [B]


@dataclass(frozen=True)
class MaskedLoss:
    """Weighs each element of a sample's loss by its mask; which samples, is drawn by (seed, step, position)."""

    config: MaskedLossConfig
    seed: int

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002 - of the protocol
        drawn = torch.cat([philox_uniform([1], key=slot.key(self.seed, "masked_loss")) for slot in slots])
        return {_LOOKS_INSIDE: drawn < self.config.probability}

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:  # noqa: ARG002 - of the protocol
        outside = self.config.outside_weight
        inside = outside + (1 - outside) * batch.tensors[LOSS_MASK].float()
        looks_inside = batch.tensors[_LOOKS_INSIDE].view(-1, 1, 1, 1, 1)
        return step.weighing(torch.where(looks_inside, inside, 1.0))
