"""Config of the learning rate over steps: a union of sections by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from sana.config.section import Section, default_member


class _Schedule(Section):
    name: str
    warmup_steps: int = Field(500, ge=0, le=10**9, description="steps of linear warm-up from 0")


class FallingSchedule(_Schedule):
    """One that falls once, over `decay_steps` after the warm-up, and then stays."""

    decay_steps: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="steps it falls for after the warm-up; unset: to max_steps, which then starts a new run",
    )
    min_learning_rate: float = Field(0.0, ge=0.0, le=1.0, description="where it ends, and stays")


class ConstantSchedule(_Schedule):
    name: Literal["constant"] = Field("constant", description="the peak, after the warm-up")


class CosineSchedule(FallingSchedule):
    name: Literal["cosine"] = Field("cosine", description="a half period of a cosine down, after the warm-up")


class LinearSchedule(FallingSchedule):
    name: Literal["linear"] = Field("linear", description="a straight line down, after the warm-up")


class PolynomialSchedule(FallingSchedule):
    name: Literal["polynomial"] = Field("polynomial", description="a power of the steps left, after the warm-up")
    power: float = Field(1.0, gt=0.0, le=10.0, description="the power; 1 is linear, above 1 falls fastest at first")


class SineSchedule(_Schedule):
    name: Literal["sine"] = Field("sine", description="a wave from the peak to the minimum and back, without end")
    period_steps: int = Field(ge=2, le=10**9, description="steps from one peak to the next, after the warm-up")
    min_learning_rate: float = Field(0.0, ge=0.0, le=1.0, description="the lowest point of the wave")


LrSchedule = Annotated[
    ConstantSchedule | CosineSchedule | LinearSchedule | PolynomialSchedule | SineSchedule,
    Field(discriminator="name"),
    default_member("constant"),
]


def resolve_schedule(schedule: LrSchedule, max_steps: int) -> LrSchedule:
    """Return the schedule of a run of `max_steps`: one without `decay_steps` ends with the run."""
    if not isinstance(schedule, FallingSchedule) or schedule.decay_steps is not None:
        return schedule
    return schedule.model_copy(update={"decay_steps": max_steps - schedule.warmup_steps})
