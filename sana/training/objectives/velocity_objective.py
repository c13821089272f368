"""The objective that trains: flow matching, with what the config adds to it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor, nn

from sana.data.loading.loader import LATENTS
from sana.metrics import SIGMA_MEAN
from sana.model.objective import velocity_target
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.objective import ElementLoss, Losses, Measure, Part, Regularizer
from sana.training.objectives.step_input import mean_over_elements, noised, predict_step


@dataclass(frozen=True)
class VelocityObjective:
    """The element loss of the predicted velocity's error; parts change a step in their order."""

    noise: NoisePolicy
    element_loss: ElementLoss
    parts: Sequence[Part] = ()
    regularizers: Sequence[Regularizer] = ()
    measures: Sequence[Measure] = ()

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        drawn = self.noise.draw(slots, tensors[LATENTS])
        for part in (*self.parts, *self.regularizers):
            drawn |= part.draw(slots, {**tensors, **drawn})
        return drawn

    def velocity(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        return predict_step(model, batch, noised(batch))

    def loss(self, model: nn.Module, batch: MicroBatch) -> Losses:
        step = noised(batch)
        for part in self.parts:
            step = part.change(model, batch, step)
        with ExitStack() as watching:
            for regularizer in self.regularizers:
                watching.enter_context(regularizer.watching(model, batch))
            velocity = predict_step(model, batch, step)
        losses, scalars = self.element_loss(velocity - velocity_target(batch.latents, batch.noise))
        of_velocity = per_sample = mean_over_elements(losses, step)
        measured = {SIGMA_MEAN: Scalar(batch.sigma.mean(), "mean"), **scalars}
        for one in self.measures:
            measured |= one.measure(batch, per_sample)
        for regularizer in self.regularizers:
            added = regularizer.loss(batch, step)
            per_sample, measured = per_sample + added.per_sample, {**measured, **added.scalars}
        return Losses(per_sample, measured, of_velocity)
