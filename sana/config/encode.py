"""Config of the model to start from and of the stages that encode captions, latents and features."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.section import HashedAs, Neutral, Section
from sana.config.training.offload import FrozenGroupOffload


class ModelConfig(Section):
    path: str = Field(
        min_length=1,
        description="Hugging Face model id (owner/name) or a local folder, in diffusers layout",
    )
    revision: str = Field("main", description="branch, tag or commit of a hub model; unused for a folder")


class EncodeCaptionsResources(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where the text encoder runs")
    offload: FrozenGroupOffload = FrozenGroupOffload()
    texts_per_part: int = Field(1024, ge=1, le=1_000_000, description="texts per committed part")


class EncodeCaptionsConfig(Section):
    template: Literal["video", "image", "none"] = Field(
        "video",
        description="prompt template before a caption: diffusers' for video, the official training's for images, none",
    )
    image_template: Annotated[Literal["video", "image", "none"] | None, Neutral(None)] = Field(
        None, description="template before the captions of clips in buckets of one frame; unset: `template`"
    )
    max_tokens: int = Field(300, ge=8, le=1024, description="tokens kept of a caption, as the pipeline does")
    dtype: Literal["bf16", "fp32"] = Field("bf16", description="dtype of the text encoder and of what is stored")
    batch_size: int = Field(1, ge=1, le=256, description="captions per forward pass; batches change the last bits")
    padding: Literal["pipeline", "short"] = Field(
        "pipeline",
        description="tokens a caption is padded to while it is encoded: as many as the pipeline does, or the next "
        "multiple of 64: about twice as fast, with other last bits. Stored embeddings have no padding",
    )
    resources: EncodeCaptionsResources = EncodeCaptionsResources()


VaePrecision = Literal["tf32", "fp32", "bf16"]


class EncodeLatentsResources(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where the VAE runs")
    samples_per_part: int = Field(64, ge=1, le=100_000, description="samples per committed part")
    shard_mib: int = Field(128, ge=1, le=4096, description="size in MiB at which a shard is closed")
    num_workers: int = Field(1, ge=1, le=64, description="processes on this machine, each with a VAE of its own")
    decode_threads: int = Field(
        2,
        ge=1,
        le=64,
        description="threads of each process that decode videos ahead of the VAE; memory holds as many "
        "windows and one batch",
    )
    remote_workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="runs of `worker_deployment`, each on its own machine, that encode a part of the samples; 0: only "
        "this machine",
    )
    worker_deployment: str = Field(
        "encode-worker/encode-worker",
        pattern="^[^/]+/[^/]+$",
        description="flow and deployment that remote_workers starts",
    )
    stall_timeout_s: float = Field(
        1800.0, gt=0.0, le=1e7, description="end the processes when none reports progress for this long"
    )


class EncodeLatentsConfig(Section):
    dtype: Literal["fp16", "bf16", "fp32"] = Field(
        "fp16", description="dtype latents are stored in: fp16 keeps 73.6 dB of normalised latents, bf16 55.6 dB"
    )
    # tf32 has the address that float32 had when torch chose, and on a GPU torch chose TF32
    vae_precision: Annotated[VaePrecision, HashedAs("vae_dtype", {"tf32": "fp32", "fp32": "fp32_strict"})] = Field(
        "tf32",
        description="what the VAE computes in: float32 with TF32 convolutions on a GPU (on a CPU tf32 is fp32), strict "
        "fp32, which takes 3.4 times as long on a GPU, or bf16, which drifts",
    )
    tiling: bool = Field(False, description="encode in spatial tiles: less memory, other bytes")
    batch_size: int = Field(1, ge=1, le=64, description="windows per forward pass, 1 or even; changes the last bits")
    compile: Annotated[bool, Neutral(False)] = Field(
        False,
        description="compile the VAE's encoder: faster, with other last bits (4e-7 on a CPU); a minute or two for the "
        "first window of each size, unless work_dir/cache has it. Not with tiling",
    )
    resources: EncodeLatentsResources = EncodeLatentsResources()

    @field_validator("batch_size")
    @classmethod
    def _place_changes_no_bit(cls, batch_size: int) -> int:
        # measured with AVX-512: the last of 3, 5 or 7 windows has latents 1.2e-7 off those it has in another place
        if batch_size > 1 and batch_size % 2:
            raise ValueError(
                f"{batch_size} is odd: on some CPUs a window's last bits would depend on its place in the "
                f"batch; use {batch_size - 1} or {batch_size + 1}"
            )
        return batch_size

    @model_validator(mode="after")
    def _tiles_are_not_compiled(self) -> Self:
        if self.compile and self.tiling:  # tiles at the edges have sizes of their own: dozens of graphs a bucket
            raise ValueError("compile: true does not go with tiling: true; choose one")
        return self


class EncodeFeaturesResources(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where the encoder runs")
    samples_per_part: int = Field(16, ge=1, le=100_000, description="samples per committed part")
    shard_mib: int = Field(256, ge=1, le=4096, description="size in MiB at which a shard is closed")
    num_workers: int = Field(1, ge=1, le=64, description="processes on this machine, each with an encoder of its own")
    decode_threads: int = Field(
        2, ge=1, le=64, description="threads of each process that decode videos ahead of the encoder"
    )
    stall_timeout_s: float = Field(
        1800.0, gt=0.0, le=1e7, description="end the processes when none reports progress for this long"
    )


class EncodeFeaturesConfig(Section):
    # the encoder enters a hash by the digest of its files: the stage's recipe has it
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"resources", "encoder", "revision"})

    encoder: str = Field(
        "facebook/dinov2-giant",
        min_length=1,
        description="a DINOv2 of transformers: Hugging Face id (owner/name, such as facebook/dinov2-base) or a local "
        "folder; used only with train.crepa",
    )
    revision: str = Field("main", description="branch, tag or commit of a hub encoder; unused for a folder")
    short_side: int = Field(
        420,
        ge=14,
        le=1400,
        multiple_of=14,
        description="pixels of the shorter side of a frame for the encoder; the longer side keeps the aspect. 420 is "
        "30 patches, as a side of 480 pixels has tokens in the transformer",
    )
    tokens_per_cell: int = Field(
        2,
        ge=1,
        le=16,
        description="tokens of the transformer, 16 pixels each, on a side of a cell of the grid that features are "
        "averaged to: 2 is 15x26 for 480x832, 25 MB a window of 81 frames by the default encoder; 1 is four times that",
    )
    precision: Literal["tf32", "fp32", "bf16"] = Field(
        "tf32", description="what the encoder computes in: float32 with TF32 on a GPU, strict fp32, or bf16"
    )
    frames_per_batch: int = Field(8, ge=1, le=1024, description="frames per forward pass; changes the last bits")
    resources: EncodeFeaturesResources = EncodeFeaturesResources()
