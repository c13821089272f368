"""Config of the optimizer: a union of sections by `name`. Where each holds is in `optimizer_support.py`."""

from typing import Annotated, Literal

from pydantic import Field

from sana.config.section import Neutral, Section, default_member

_DECAY = "decoupled weight decay of matrices and kernels"


class AdamWSettings(Section):
    """What AdamW and those that are made of it have."""

    name: str
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="decay of the mean of gradients")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="decay of the mean of their squares")
    epsilon: float = Field(
        1e-10, gt=0.0, le=1.0, description="added to the root of the squares; the official run uses 1e-10"
    )
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description=_DECAY)


class AdamWConfig(AdamWSettings):
    name: Literal["adamw"] = Field("adamw", description="AdamW with decoupled weight decay")


class AdamWBf16Config(AdamWSettings):
    name: Literal["adamw_bf16"] = Field(
        "adamw_bf16", description="AdamW with moments in bf16, which are rounded stochastically, as bf16 weights are"
    )


class OptimiAdamWConfig(AdamWSettings):
    name: Literal["optimi_adamw"] = Field(
        "optimi_adamw", description="torch-optimi's AdamW: Kahan summation carries what bf16 weights round away"
    )


class AdamW8bitConfig(AdamWSettings):
    name: Literal["adamw_8bit"] = Field(
        "adamw_8bit",
        description="torchao's AdamW: moments in 8 bits, by blocks of 256, of tensors from 4096 numbers on",
    )
    epsilon: float = Field(
        1e-8, gt=0.0, le=1.0, description="added to the root of the squares, which 8 bits round to 0"
    )


class AdafactorConfig(Section):
    name: Literal["adafactor"] = Field("adafactor", description="Adafactor: row and column statistics of each matrix")
    beta2_decay: float = Field(-0.8, ge=-5.0, lt=0.0, description="the squares of step t weigh t to this power")
    epsilon: float = Field(
        1e-3, gt=0.0, le=1.0, description="smallest size of a parameter; steps are relative to its size"
    )
    clip_threshold: float = Field(1.0, ge=1.0, le=1e6, description="root mean square to which a step is clipped")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description=_DECAY)
    kernels: Annotated[Literal["last_two", "matrix"], Neutral("last_two")] = Field(
        "last_two",
        description="a convolution's kernel has rows and columns of its last two dimensions, as torch has it, or is a "
        "matrix of outputs and all else, of which next to nothing is kept",
    )


class MuonConfig(AdamWSettings):
    name: Literal["muon"] = Field(
        "muon", description="torch's Muon for matrices and 1x1 convolutions, AdamW for all others at the same rate"
    )
    matrices: str = Field(
        "transformer_blocks.*", min_length=1, description="glob of the names of the matrices that Muon takes"
    )
    momentum: float = Field(0.95, ge=0.0, lt=1.0, description="of Muon: decay of the mean of gradients")
    num_iterations: int = Field(5, ge=1, le=20, description="of Muon: Newton-Schulz iterations")


class ProdigyConfig(AdamWSettings):
    name: Literal["prodigy"] = Field(
        "prodigy", description="Prodigy finds the size of its steps itself: learning_rate is a factor, usually 1"
    )
    epsilon: float = Field(
        1e-8, gt=0.0, le=1.0, description="added to the root of the squares, times the estimated distance"
    )
    initial_distance: float = Field(1e-6, gt=0.0, le=1.0, description="first estimate of the distance to the optimum")
    distance_factor: float = Field(1.0, gt=0.0, le=100.0, description="factor on the estimated distance")


class CameConfig(Section):
    name: Literal["came"] = Field("came", description="CAME: Adafactor's statistics, and those of how sure a step is")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="decay of the mean of steps")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="decay of the mean of squared gradients")
    beta3: float = Field(0.9999, ge=0.0, lt=1.0, description="decay of the mean of squared deviations from the mean")
    clip_threshold: float = Field(1.0, gt=0.0, le=1e6, description="root mean square to which a step is clipped")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description=_DECAY)


class ParameterGroup(Section):
    names: str = Field(min_length=1, max_length=200, description="glob of the names of parameters, such as *.attn2.*")
    learning_rate_factor: float = Field(
        gt=0.0, le=1000.0, description="their learning rate is train.learning_rate x this"
    )


OptimizerConfig = Annotated[
    AdamWConfig
    | AdafactorConfig
    | AdamWBf16Config
    | OptimiAdamWConfig
    | AdamW8bitConfig
    | MuonConfig
    | ProdigyConfig
    | CameConfig,
    Field(discriminator="name"),
    default_member("adamw"),
]
