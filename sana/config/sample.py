"""Config of sampling: the prompts, and how their videos are made."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import Bucket
from sana.config.encode import VaePrecision
from sana.config.offload import FrozenGroupOffload
from sana.config.section import MAX_SEED, Neutral, Section


class SampleResources(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where sampling runs")
    offload: FrozenGroupOffload = FrozenGroupOffload()  # of the transformer


class SampleConfig(Section):
    # images are in the recipe of the stage by their content; the prompts of the file are in `prompts` once the config
    # is loaded: the content is hashed, not the path
    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {"resources", "prompt_library", "images", "preview_every", "preview_weights"}
    )

    prompts: dict[str, str] = Field(min_length=1, description="validation prompt library, nickname: prompt")
    prompt_library: str | None = Field(
        None,
        min_length=1,
        description='JSON file with more prompts, {"nickname": "prompt"} or {"nickname": {"prompt": "..."}}; '
        "added to `prompts` when the config is read",
    )
    images: dict[str, str] = Field(
        {},
        max_length=1000,
        description="local picture that a prompt's video begins with, nickname: path (image to video); cut to the "
        "shape of bucket around its centre",
    )
    negative_prompt: str = Field("", description="what guidance steers away from; empty: the null caption of training")
    bucket: str = Field("81x480x832", description="shape of the videos, frames x height x width")
    num_inference_steps: int = Field(50, ge=1, le=1000, description="sampler steps")
    guidance_scale: float = Field(6.0, ge=1.0, le=100.0, description="classifier-free guidance; 1: off")
    weights: Literal["ema", "live"] = Field("ema", description="which weights are sampled: EMA or live")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the starting noise")
    fps: float = Field(16.0, gt=0.0, le=240.0, description="frame rate of the written mp4")
    vae_precision: Annotated[VaePrecision, Neutral("tf32")] = Field(
        "tf32",
        description="what the VAE decodes in: float32 with TF32 convolutions on a GPU (on a CPU tf32 is fp32), strict "
        "fp32, or bf16. The transformer computes in train.mixed_precision",
    )
    vae_tiling: Annotated[bool, Neutral(False)] = Field(
        False,
        description="decode in spatial tiles of 256 pixels, which overlap: less memory, more time, other pixels; no "
        "effect on videos of at most 256 x 256",
    )
    preview_every: int = Field(
        0,
        ge=0,
        le=1000,
        description="sampler steps between pictures of what a video becomes, in work_dir/previews and MLflow; 0: none. "
        "They change no video",
    )
    preview_weights: str | None = Field(
        None,
        min_length=1,
        description="taew2_1 weights of TAEHV, .safetensors or .pth, by which previews are decoded; unset: a linear "
        "map of latents to colours, fitted on encoded clips",
    )
    resources: SampleResources = SampleResources()

    @field_validator("prompts")
    @classmethod
    def _nicknames(cls, prompts: dict[str, str]) -> dict[str, str]:
        bad = [name for name in prompts if not name or not all(c.isalnum() or c in "_-<>" for c in name)]
        if bad:
            raise ValueError(f"nickname {bad[0]!r} names a file: use letters, digits, _ and - only")
        return prompts

    @field_validator("bucket")
    @classmethod
    def _shape(cls, name: str) -> str:
        return str(Bucket.parse(name))

    @model_validator(mode="after")
    def _images_are_of_prompts(self) -> Self:
        unknown = [name for name in self.images if name not in self.prompts]
        if unknown:
            raise ValueError(
                f"images has {unknown[0]}, the nickname of no prompt; sample.prompts has {', '.join(self.prompts)}"
            )
        if any("://" in path for path in self.images.values()):
            remote = next(path for path in self.images.values() if "://" in path)
            raise ValueError(f"images has {remote}, which is not local; fetch it, and name the file")
        if self.images and self.shape.num_frames == 1:
            raise ValueError(
                f"images are the first frames of videos, and bucket {self.bucket} has one frame, which leaves nothing "
                "to make; use a longer bucket"
            )
        return self

    @property
    def shape(self) -> Bucket:
        return Bucket.parse(self.bucket)
