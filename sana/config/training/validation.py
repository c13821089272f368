"""Config of validation while training: which videos are made, how often, and how long they may take. Never hashed."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import Bucket
from sana.config.section import MAX_SEED, Section

MAX_VIDEOS = 1000  # of one validation: prompts x buckets x seeds, of one set of weights


class ValidationConfig(Section):
    """What is unset is as `sample` has it. The negative prompt, the frame rate and the VAE's precision always are."""

    every: int = Field(
        0,
        ge=0,
        le=10**9,
        description="steps between validations, which make videos of the prompts of `sample` with the weights of that "
        "step, after a checkpoint of it; 0: none while training. No bit of the training depends on them",
    )
    at_start: bool = Field(False, description="also before the first step")
    weights: Literal["ema", "live", "both"] = Field("ema", description="which weights make the videos")
    prompts: tuple[str, ...] = Field(
        (), max_length=MAX_VIDEOS, description="nicknames of those of sample.prompts that are used; empty: all"
    )
    buckets: tuple[str, ...] = Field(
        (), max_length=64, description="shapes of the videos, frames x height x width; empty: sample.bucket"
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=MAX_SEED)], ...] = Field(
        (), max_length=64, description="seeds of the starting noise; empty: sample.seed"
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=1000, description="sampler steps; unset: sample.num_inference_steps"
    )
    guidance_scale: float | None = Field(
        None, ge=1.0, le=100.0, description="classifier-free guidance, 1: off; unset: sample.guidance_scale"
    )
    vae_tiling: Literal["auto", "always", "never"] = Field(
        "auto",
        description="decode in overlapping tiles of 256 pixels, which are other pixels: where the whole does not fit "
        "in memory (auto), always or never",
    )
    preview_every: int = Field(
        0, ge=0, le=1000, description="sampler steps between pictures of what a video becomes; 0: none"
    )
    max_kept: int = Field(
        20,
        ge=1,
        le=10**6,
        description="newest validations whose videos stay in the root; MLflow has all",
    )
    timeout_s: float = Field(
        3600.0,
        gt=0.0,
        le=1e7,
        description="how long one validation may take; one that hangs for longer is marked as failed, and the trainer "
        "is ended and started again from the checkpoint before it",
    )

    @field_validator("buckets")
    @classmethod
    def _shapes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Bucket.parse(name)) for name in names)

    @model_validator(mode="after")
    def _no_twins(self) -> Self:
        for name in ("prompts", "buckets", "seeds"):
            values = getattr(self, name)
            if twin := next((value for i, value in enumerate(values) if value in values[:i]), None):
                raise ValueError(f"{name} has {twin} twice; name each once")
        return self
