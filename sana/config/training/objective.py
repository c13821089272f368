"""Config of the objective and of the noise levels. Each is a union of sections by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from sana.config.section import Section, default_member

_SHIFT = "flow shift f: s -> f s / (1 + (f - 1) s)"


class LogitNormalSampling(Section):
    name: Literal["logit_normal"] = Field("logit_normal", description="the sigmoid of a normal draw, then shifted")
    mean: float = Field(0.0, ge=-5.0, le=5.0, description="mean of the logit")
    std: float = Field(1.0, gt=0.0, le=5.0, description="standard deviation of the logit")
    shift: float = Field(3.0, gt=0.0, le=100.0, description=_SHIFT)


class UniformSampling(Section):
    name: Literal["uniform"] = Field("uniform", description="a uniform draw, then shifted")
    shift: float = Field(3.0, gt=0.0, le=100.0, description=_SHIFT)


class CheckpointSampling(Section):
    name: Literal["checkpoint"] = Field(
        "checkpoint", description="a uniform draw, shifted as the scheduler that ships with the checkpoint says"
    )


TimestepSampling = Annotated[
    LogitNormalSampling | UniformSampling | CheckpointSampling,
    Field(discriminator="name"),
    default_member("logit_normal"),
]


class FlowMatchingConfig(Section):
    name: Literal["flow_matching"] = Field(
        "flow_matching", description="mean squared error of the predicted velocity, noise - clean"
    )


class HuberConfig(Section):
    name: Literal["huber"] = Field("huber", description="flow matching with the Huber loss: outliers weigh less")
    delta: float = Field(1.0, gt=0.0, le=1e6, description="error from which on the loss grows linearly")


ObjectiveConfig = Annotated[
    FlowMatchingConfig | HuberConfig, Field(discriminator="name"), default_member("flow_matching")
]
