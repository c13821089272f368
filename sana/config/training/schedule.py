"""Config of the learning rate over steps: a union of sections by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from sana.config.section import Section, default_member


class ConstantSchedule(Section):
    name: Literal["constant"] = Field("constant", description="the peak, after the warm-up")
    warmup_steps: int = Field(500, ge=0, le=10**9, description="steps of linear warm-up from 0")


class CosineSchedule(Section):
    name: Literal["cosine"] = Field("cosine", description="a half period of a cosine down, after the warm-up")
    warmup_steps: int = Field(500, ge=0, le=10**9, description="steps of linear warm-up from 0")
    decay_steps: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="steps the cosine takes after the warm-up; unset: to max_steps, which then starts a new run",
    )
    min_learning_rate: float = Field(0.0, ge=0.0, description="where the cosine ends, and stays")


LrSchedule = Annotated[ConstantSchedule | CosineSchedule, Field(discriminator="name"), default_member("constant")]


def resolve_schedule(schedule: LrSchedule, max_steps: int) -> LrSchedule:
    """Return the schedule of a run of `max_steps`: one without `decay_steps` ends with the run."""
    if isinstance(schedule, ConstantSchedule) or schedule.decay_steps is not None:
        return schedule
    return schedule.model_copy(update={"decay_steps": max_steps - schedule.warmup_steps})
