"""Config of sampling: the prompts, and how their videos are made."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import TEMPORAL_STRIDE, Bucket
from sana.config.encode import VaePrecision
from sana.config.section import MAX_SEED, Neutral, Section
from sana.config.training.offload import FrozenGroupOffload

Keep = Literal["prefix", "suffix", "around_mask"]


class SampleResources(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where sampling runs")
    offload: FrozenGroupOffload = FrozenGroupOffload()  # of the transformer


class GivenVideoConfig(Section):
    """A video of which a prompt's video is given a part."""

    prompt: str = Field(min_length=1, description="nickname of the prompt whose video is given a part of this one")
    path: str = Field(min_length=1, description="the local video; cut to the shape of bucket around its centre")
    keep: Keep = Field(
        "prefix",
        description="what is given. prefix: its last `frames` are the first ones of the video that is made. suffix: of "
        "its first frames, as many as the bucket has, the last `frames`; what is before them is made. around_mask: all "
        "of these but the white of `mask`",
    )
    frames: int | None = Field(
        None, ge=1, le=10**6, description="frames that are given: of a prefix 4k + 1, of a suffix 4k"
    )
    mask: str | None = Field(
        None, min_length=1, description="local picture, of keep around_mask: its white is made, in all frames"
    )

    @model_validator(mode="after")
    def _says_what_is_kept(self) -> Self:
        if (self.keep == "around_mask") != (self.mask is not None):
            raise ValueError(f"keep {self.keep} {'has no' if self.mask else 'needs a'} mask; set one of the two")
        if (self.keep == "around_mask") != (self.frames is None):
            raise ValueError(
                f"keep {self.keep} {'needs' if self.frames is None else 'has no'} frames; set one of the two"
            )
        rest = 1 if self.keep == "prefix" else 0
        if self.frames is not None and self.frames % TEMPORAL_STRIDE != rest:
            nearest = self.frames - (self.frames - rest) % TEMPORAL_STRIDE
            raise ValueError(
                f"frames {self.frames} of a {self.keep} must be 4k{' + 1' if rest else ''}, as latent frames are; "
                f"use {max(nearest, rest or TEMPORAL_STRIDE)}"
            )
        if remote := next((path for path in (self.path, self.mask or "") if "://" in path), None):
            raise ValueError(f"{remote} is not local; fetch it, and name the file")
        return self


class SampleConfig(Section):
    # images and videos are in the recipe of the stage by their content; the prompts of the file are in `prompts` once
    # the config is loaded: the content is hashed, not the path
    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {"resources", "prompt_library", "images", "videos", "preview_every", "preview_weights"}
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
    videos: tuple[GivenVideoConfig, ...] = Field(
        (), max_length=1000, description="videos that others are made from: continued, begun or inpainted; one a prompt"
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

    @model_validator(mode="after")
    def _videos_are_of_prompts(self) -> Self:
        names = [given.prompt for given in self.videos]
        for place, given in enumerate(self.videos):
            if given.prompt not in self.prompts:
                raise ValueError(
                    f"videos.{place}.prompt is {given.prompt}, the nickname of no prompt; sample.prompts has "
                    f"{', '.join(self.prompts)}"
                )
            if given.prompt in self.images or names.count(given.prompt) > 1:
                raise ValueError(f"prompt {given.prompt} has two of images and videos to be made from; remove one")
            if (given.frames or 0) >= self.shape.num_frames:
                raise ValueError(
                    f"videos.{place}.frames {given.frames} leaves nothing to make of bucket {self.bucket}; give fewer "
                    "frames, or use a longer bucket"
                )
        return self

    @property
    def shape(self) -> Bucket:
        return Bucket.parse(self.bucket)
