"""Config of the optimizer and of the learning rate. Each is a union of sections by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from sana.config.section import Section, default_member


class AdamWConfig(Section):
    name: Literal["adamw"] = Field("adamw", description="AdamW with decoupled weight decay")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="decay of the mean of gradients")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="decay of the mean of their squares")
    epsilon: float = Field(1e-10, gt=0.0, description="added to the root of the squares; the official run uses 1e-10")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="decoupled weight decay of matrices and kernels")


class AdafactorConfig(Section):
    name: Literal["adafactor"] = Field("adafactor", description="Adafactor: row and column statistics of each matrix")
    beta2_decay: float = Field(-0.8, ge=-5.0, lt=0.0, description="the squares of step t weigh t to this power")
    epsilon: float = Field(1e-3, gt=0.0, description="smallest size of a parameter; steps are relative to its size")
    clip_threshold: float = Field(1.0, ge=1.0, description="root mean square to which a step is clipped")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="decoupled weight decay of matrices and kernels")


OptimizerConfig = Annotated[AdamWConfig | AdafactorConfig, Field(discriminator="name"), default_member("adamw")]


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
