"""The protocol of an objective: it draws what a loss needs, predicts, and computes the loss."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar


class Losses(NamedTuple):
    """The losses of a micro batch."""

    per_sample: Tensor  # float32 [B]; the step's loss is their mean over the global batch
    scalars: Mapping[str, Scalar]  # other measurements, by metric name


class Objective(Protocol):
    """A training goal. Every random number is drawn in `draw`, keyed by its slot, so a restart changes none."""

    def draw(self, slots: Sequence[BatchSlot], latents: Tensor) -> dict[str, Tensor]:
        """Draw for latents [B, 16, f, h, w] of these slots the batch's other tensors, by name, on the CPU, [B, ...];
        `noise` and `sigma` at least. Runs in a prefetch thread."""

    def velocity(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        """Return the predicted velocity of a batch: float32 [B, 16, f, h, w]. Training and evaluation call it."""

    def loss(self, model: nn.Module, batch: MicroBatch) -> Losses:
        """Return the losses of a batch that is on the model's device; `model` may be wrapped."""
