"""Masked loss: of a part of the samples the error counts inside their mask only, or outside with a smaller weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana import metrics as m
from sana.config.training.masks import MaskedLossConfig
from sana.model.random import philox_uniform
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar
from sana.training.objectives.step_input import StepInput

LOSS_MASK = "loss_mask"  # the name of the tensor: fp16 [B, 1, f, h, w] in [0, 1], of the stage encode_masks
_LOOKS_INSIDE = "looks_inside_mask"  # bool [B]


@dataclass(frozen=True)
class MaskedLoss:
    """Weighs each element of a sample's loss by its mask; which samples, is drawn by (seed, step, position)."""

    config: MaskedLossConfig
    seed: int

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        drawn = torch.cat([philox_uniform([1], key=slot.key(self.seed, "masked_loss")) for slot in slots])
        return {_LOOKS_INSIDE: drawn < self.config.probability}

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:  # noqa: ARG002
        return step.weighing(self._weight(batch))

    def measure(self, batch: MicroBatch, per_sample: Tensor) -> Mapping[str, Scalar]:  # noqa: ARG002
        """Return what masks leave of the samples."""
        covered = self._weight(batch).flatten(1).mean(1)
        return {
            m.MASK_COVERED: Scalar(covered.mean(), "mean"),
            m.MASK_EMPTY: Scalar((covered == 0).float().mean(), "mean"),
        }

    def _weight(self, batch: MicroBatch) -> Tensor:
        """Return the weights of a batch: float32 [B, 1, f, h, w]."""
        outside = self.config.outside_weight
        inside = outside + (1 - outside) * batch.tensors[LOSS_MASK].float()
        return torch.where(batch.tensors[_LOOKS_INSIDE].view(-1, 1, 1, 1, 1), inside, 1.0)
