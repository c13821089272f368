"""Config of CREPA: hidden states of one block are aligned with an image encoder's features of neighbouring frames."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sana.config.section import Section, default_member

PROJECTOR = "crepa_projector"  # what learns beside the model; how names of its parameters begin in checkpoints
PROJECTOR_NAMES = tuple(f"{PROJECTOR}.{name}" for name in ("norm_weight", "norm_bias", "weight", "bias"))


class ConstantWeight(Section):
    name: Literal["constant"] = Field("constant", description="`weight`, after the warm-up")
    warmup_steps: int = Field(0, ge=0, le=10**9, description="steps over which the weight grows to its peak")


class _FallingWeight(ConstantWeight):
    decay_steps: int = Field(ge=1, le=10**9, description="steps it falls for, after the warm-up")
    end_weight: float = Field(0.0, ge=0.0, le=1000.0, description="where it ends, and stays")


class LinearWeight(_FallingWeight):
    name: Literal["linear"] = Field("linear", description="a straight line down, after the warm-up")  # type: ignore[assignment]


class CosineWeight(_FallingWeight):
    name: Literal["cosine"] = Field("cosine", description="half a period of a cosine down, after the warm-up")  # type: ignore[assignment]


class PolynomialWeight(_FallingWeight):
    name: Literal["polynomial"] = Field(  # type: ignore[assignment]
        "polynomial", description="a power of the steps left, after the warm-up"
    )
    power: float = Field(1.0, gt=0.0, le=10.0, description="the power; 1 is linear, above 1 falls fastest at first")


WeightSchedule = Annotated[
    ConstantWeight | LinearWeight | CosineWeight | PolynomialWeight,
    Field(discriminator="name"),
    default_member("constant"),
]


class CrepaConfig(Section):
    block_index: int = Field(
        10, ge=0, le=1000, description="the block whose output is aligned, from 0; the published model has 20 blocks"
    )
    weight: float = Field(0.5, gt=0.0, le=1000.0, description="peak weight of the loss beside that of the velocity")
    adjacent_distance: int = Field(
        1, ge=0, le=1000, description="latent frames to the neighbours that a frame is aligned with too; 0: none"
    )
    temporal_decay: float = Field(
        1.0, gt=0.0, le=1e6, description="tau: a neighbour at distance d counts exp(-d / tau), the frame itself 1"
    )
    cumulative_neighbors: bool = Field(
        False, description="neighbours at all distances from 1 to adjacent_distance, not at that distance alone"
    )
    schedule: WeightSchedule = Field(ConstantWeight(), description="the weight of each step, by `name`")
    cutoff_step: int | None = Field(
        None, ge=1, le=10**9, description="optimizer steps after which it is off, and costs no time; unset: never"
    )

    def is_over(self, step: int) -> bool:
        """Whether it is off in step `step`, counted from 0."""
        return self.cutoff_step is not None and step >= self.cutoff_step

    @model_validator(mode="after")
    def _falls(self) -> Self:
        end = getattr(self.schedule, "end_weight", 0.0)  # constant has none
        if end > self.weight:
            raise ValueError(f"schedule.end_weight {end:g} is above weight {self.weight:g}; lower it")
        return self
