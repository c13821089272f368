"""What an objective is: it draws what a sample's loss needs, predicts, and weighs what it predicted."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from sana.training.batch import MicroBatch, Slot
from sana.training.metrics import Scalar


class Losses(NamedTuple):
    per_sample: Tensor  # float32 [B]; the step's loss is their mean over the global batch
    scalars: Mapping[str, Scalar]  # what else was measured, by the metric's name


class Objective(Protocol):
    """A training goal. Every random number is drawn in `draw`, keyed by its slot, so a restart changes none."""

    def draw(self, slots: Sequence[Slot], latents: Tensor) -> dict[str, Tensor]:
        """Draw for latents [B, 16, f, h, w] of these slots what the batch is to carry beside what was read: named
        tensors on the CPU, [B, ...]; `noise` and `sigma` at least. Runs in a prefetch thread."""

    def velocity(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        """Return what the model predicts for a batch: float32 [B, 16, f, h, w]. Training and evaluation call it."""

    def loss(self, model: nn.Module, batch: MicroBatch) -> Losses:
        """Return the losses of a batch that is on the model's device; `model` may be wrapped."""
