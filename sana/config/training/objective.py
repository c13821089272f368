"""Config of the objective, of noise and noise levels, and of their weights: mostly unions of sections by `name`."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import TOKENS_480P
from sana.config.section import Section, default_member

_SHIFT = "flow shift f: s -> f s / (1 + (f - 1) s)"
Knots = tuple[tuple[float, float], ...]


class _TokenShift(Section):
    reference_tokens: int = Field(
        TOKENS_480P,
        ge=1,
        le=10**9,
        description="tokens of a sample for which the shift is as set; 81x480x832 by default",
    )
    min_shift: float = Field(0.1, gt=0.0, le=100.0, description="the rule's shift is at least this")
    max_shift: float = Field(100.0, gt=0.0, le=100.0, description="the rule's shift is at most this")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_shift > self.max_shift:
            raise ValueError(f"min_shift {self.min_shift:g} is above max_shift {self.max_shift:g}; swap them")
        return self


class SqrtTokenShift(_TokenShift):
    name: Literal["sqrt"] = Field("sqrt", description="the shift grows as the root of the tokens, as in SD3")


class LinearMuTokenShift(_TokenShift):
    name: Literal["linear_mu"] = Field(
        "linear_mu", description="the shift's logarithm is linear in the tokens, as in FLUX, through two points"
    )
    low_tokens: int = Field(1560, ge=1, le=10**9, description="tokens of the other point; 1x480x832 by default")
    low_shift: float = Field(1.0, gt=0.0, le=100.0, description="shift at low_tokens")

    @model_validator(mode="after")
    def _are_two_points(self) -> Self:
        if self.low_tokens >= self.reference_tokens:
            raise ValueError(
                f"low_tokens {self.low_tokens} is not below reference_tokens {self.reference_tokens}; lower it"
            )
        return self


TokenShift = Annotated[SqrtTokenShift | LinearMuTokenShift, Field(discriminator="name"), default_member("sqrt")]


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


class ModeSampling(Section):
    name: Literal["mode"] = Field("mode", description="the mode sampling of SD3, then shifted")
    scale: float = Field(
        1.29,
        ge=-1.0,
        le=1.75,
        description="above 0 the middle levels are drawn more often, below 0 the ends; 0: uniform",
    )
    shift: float = Field(3.0, gt=0.0, le=100.0, description=_SHIFT)


class MixSampling(Section):
    name: Literal["mix"] = Field(
        "mix", description="a mixture of logit_normal and uniform, then shifted: no level is rare"
    )
    uniform_fraction: float = Field(0.1, ge=0.0, le=1.0, description="part of the draws that is uniform")
    mean: float = Field(0.0, ge=-5.0, le=5.0, description="mean of the logit, of the other part")
    std: float = Field(1.0, gt=0.0, le=5.0, description="standard deviation of the logit")
    shift: float = Field(3.0, gt=0.0, le=100.0, description=_SHIFT)


class CubicSampling(Section):
    name: Literal["cubic"] = Field("cubic", description="a density through knots, by monotone cubics, then shifted")
    knots: Knots = Field(
        min_length=2,
        max_length=64,
        description="[sigma, density] of each knot, sigma rising within 0 to 1; nothing is drawn outside of them, and "
        "only ratios of densities count",
    )
    shift: float = Field(1.0, gt=0.0, le=100.0, description=f"{_SHIFT}; 1: the knots are of the levels themselves")

    @field_validator("knots")
    @classmethod
    def _is_a_density(cls, knots: Knots) -> Knots:
        at, density = [sigma for sigma, _ in knots], [value for _, value in knots]
        if at[0] < 0 or at[-1] > 1 or any(b - a < 1e-6 for a, b in pairwise(at)):
            raise ValueError(f"sigmas of knots must rise from 0 at least to 1 at most, not be {at}")
        if min(density) < 0 or max(density) == 0:
            raise ValueError(f"densities of knots must be 0 or more, and one above 0, not {density}")
        return knots


TimestepSampling = Annotated[
    LogitNormalSampling | UniformSampling | CheckpointSampling | ModeSampling | MixSampling | CubicSampling,
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


class NoWeighting(Section):
    name: Literal["none"] = Field("none", description="all noise levels weigh alike, as in the official training")


class MinSnrWeighting(Section):
    name: Literal["min_snr"] = Field(
        "min_snr", description="the clean clip's error weighs min(SNR, gamma): the velocity's min((1 - s)^2, gamma s^2)"
    )
    gamma: float = Field(5.0, gt=0.0, le=1e6, description="highest weight of the clean clip's error")


class CosmapWeighting(Section):
    name: Literal["cosmap"] = Field("cosmap", description="SD3's cosmap: 2 / (pi (1 - 2 s + 2 s^2))")


class BellWeighting(Section):
    name: Literal["bell"] = Field(
        "bell", description="a bell around s = 1/2 that is 0 at both ends, of mean 1 over uniform levels"
    )


LossWeighting = Annotated[
    NoWeighting | MinSnrWeighting | CosmapWeighting | BellWeighting,
    Field(discriminator="name"),
    default_member("none"),
]


class NoiseOffset(Section):
    strength: float = Field(
        gt=0.0, le=1.0, description="standard deviation of what is added to each channel of the noise, all over a clip"
    )
    probability: float = Field(1.0, gt=0.0, le=1.0, description="of a sample to get it")
