"""Config of the optimizer: a union of sections by `name`."""

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
