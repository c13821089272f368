"""The protocols of an objective, and of what it is made of.

An objective draws what a loss needs, predicts, and computes the loss. The one that trains is `VelocityObjective`: an
`ElementLoss` of the velocity's error, `Part`s that change what the model sees and how its errors weigh, and
`Regularizer`s whose losses are added.

Shapes in this module: B samples; a latent is [B, 16, f, h, w].
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar
from sana.training.objectives.step_input import StepInput


class Losses(NamedTuple):
    """The losses of a micro batch; `of_velocity`, float32 [B], is what `per_sample` has without regularizers."""

    per_sample: Tensor  # float32 [B]; the step's loss is their mean over the global batch
    scalars: Mapping[str, Scalar]  # other measurements, by metric name
    of_velocity: Tensor | None = None


class Draws(Protocol):
    """Every random number is drawn here, keyed by its slot, so a restart or another number of ranks changes none."""

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw for the samples of these slots the batch's other tensors, by name, on the CPU, [B, ...].

        `tensors` are those that were read, [B, ...]: `latents` at least. Runs in a prefetch thread.
        """


class Objective(Draws, Protocol):
    """A training goal; it draws `noise` and `sigma` at least."""

    def velocity(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        """Return the velocity predicted from text alone: float32 [B, 16, f, h, w]. The eval loss is measured on it."""

    def loss(self, model: nn.Module, batch: MicroBatch) -> Losses:
        """Return the losses of a batch that is on the model's device; `model` may be wrapped."""


class ElementLoss(Protocol):
    """The loss of each element of the velocity's error."""

    def __call__(self, error: Tensor) -> tuple[Tensor, Mapping[str, Scalar]]:
        """Return the losses of `error`, float32 [B, 16, f, h, w], in its shape, and other measurements."""


class Part(Draws, Protocol):
    """Changes a step: what the model sees, or how its errors weigh."""

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:
        """Return the step as it is with this part; called on the device, before the forward pass that learns."""


class Measure(Protocol):
    """Measures the losses of a step, and changes nothing."""

    def measure(self, batch: MicroBatch, per_sample: Tensor) -> Mapping[str, Scalar]:
        """Return measurements, by metric name, of the velocity's losses [B]."""


class Regularizer(Draws, Protocol):
    """A loss of hidden states, which is added to that of the velocity."""

    def watching(self, model: nn.Module, batch: MicroBatch) -> AbstractContextManager[None]:
        """Capture what `loss` needs of the forward pass of `batch` that learns, which runs inside."""

    def loss(self, batch: MicroBatch, step: StepInput) -> Losses:
        """Return what is added to each sample's loss, and other measurements."""
