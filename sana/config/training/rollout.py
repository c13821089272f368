"""Config of rollout (scheduled sampling): how often, over how many steps, x_t is where the model itself comes to."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from sana.config.section import Section

_DRAWS = 1000  # that a mean is taken over


class RolloutConfig(Section):
    max_step_offset: int = Field(
        ge=1, le=1000, description="most steps of the sampler that a sample is rolled out over; each is a forward pass"
    )
    strategy: Literal["uniform", "biased_early", "biased_late"] = Field(
        "uniform", description="how many: any alike, few more often (biased_early), or many more often (biased_late)"
    )
    probability_start: float = Field(0.0, ge=0.0, le=1.0, description="of a sample to be rolled out, at start_step")
    probability_end: float = Field(0.5, ge=0.0, le=1.0, description="and once the ramp is over")
    start_step: int = Field(0, ge=0, le=10**9, description="optimizer steps before the ramp, without rollout")
    ramp_steps: int = Field(0, ge=0, le=10**9, description="optimizer steps of the ramp; 0: probability_end at once")
    ramp_shape: Literal["linear", "cosine"] = Field("linear", description="of the ramp")
    sampler: Literal["euler", "heun", "dpm"] = Field(
        "euler",
        description="what integrates: euler; heun, two forward passes a step; or DPM-Solver++ (2M), as samples are",
    )
    num_inference_steps: int = Field(50, ge=1, le=1000, description="steps of the sampler's table, from noise to clean")
    shift: float = Field(8.0, gt=0.0, le=100.0, description="flow shift of the table; 8: the published scheduler's")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.max_step_offset > self.num_inference_steps:
            raise ValueError(
                f"max_step_offset {self.max_step_offset} is above num_inference_steps {self.num_inference_steps}, "
                "which is the whole way from noise; lower it"
            )
        if max(self.probability_start, self.probability_end) == 0:
            raise ValueError("probability_start and probability_end are 0, so no sample is rolled out; raise one")
        return self

    def num_steps(self, uniform: float) -> int:
        """Return how many steps a uniform draw from (0, 1) stands for: 1 to max_step_offset."""
        if self.strategy == "biased_early":
            uniform = uniform**2
        elif self.strategy == "biased_late":
            uniform = 1 - (1 - uniform) ** 2
        return 1 + int(uniform * self.max_step_offset)

    def mean_passes(self, max_steps: int) -> float:
        """Return the forward passes that a sample has beside its own, on average over a run; a little fewer are taken,
        as near pure noise there are fewer steps above.
        """
        draws = [(i + 0.5) / _DRAWS for i in range(_DRAWS)]
        steps = sum(self.num_steps(draw) for draw in draws) / _DRAWS
        probability = sum(self.probability_at(int(draw * max_steps)) for draw in draws) / _DRAWS
        return probability * steps * (2 if self.sampler == "heun" else 1)

    def probability_at(self, step: int) -> float:
        """Return the probability in the step after `step` optimizer steps."""
        if step < self.start_step:
            return 0.0
        done = min((step - self.start_step) / self.ramp_steps, 1.0) if self.ramp_steps else 1.0
        if self.ramp_shape == "cosine":
            done = 0.5 * (1 - math.cos(math.pi * done))
        return self.probability_start + (self.probability_end - self.probability_start) * done
