"""Config of training, evaluation and sampling."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import Bucket
from sana.config.objective import FlowMatchingConfig, LogitNormalSampling, ObjectiveConfig, TimestepSampling
from sana.config.optimizer import (
    AdamWConfig,
    ConstantSchedule,
    CosineSchedule,
    LrSchedule,
    OptimizerConfig,
    resolve_schedule,
)
from sana.config.section import MAX_SEED, Neutral, Section


class TrainResources(Section):
    num_processes: int = Field(1, ge=1, le=4096, description="ranks started on this machine")
    micro_batch_size: int = Field(
        1, ge=1, le=1024, description="samples per forward pass and rank; the rest is accumulated"
    )
    gradient_checkpointing: bool = Field(True, description="recompute activations: less memory, bit-equal gradients")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where training runs")
    prefetch_batches: int = Field(2, ge=1, le=64, description="micro batches read ahead, each in a thread")
    verify_checksums: bool = Field(True, description="check each sample's digest on every read")
    shard_cache_gib: float = Field(
        0.0,
        ge=0.0,
        le=1e6,
        description="disk budget in GiB, under work_dir/cache/shards, for whole shards of a root on S3; 0: none, each "
        "sample is one range request",
    )
    checkpoint_every: int = Field(500, ge=1, le=10**9, description="steps between checkpoints")
    max_checkpoints: int = Field(
        3, ge=1, le=1000, description="checkpoints kept; the last of a finished run always stays"
    )
    eval_every: int = Field(
        500, ge=0, le=10**9, description="steps between eval losses in the loop; 0: only in the evaluate stage"
    )
    log_every: int = Field(
        10, ge=1, le=10**9, description="steps between lines in metrics.jsonl (which has every step)"
    )
    stall_timeout_s: float = Field(1800.0, gt=0.0, description="end the trainer when it reports nothing for this long")


class TrainConfig(Section):
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of shuffling, noise, noise levels and caption dropout")
    max_steps: int = Field(ge=1, le=10**9, description="optimizer steps; raising it continues the same run")
    global_batch_size: int = Field(ge=1, le=10**9, description="samples per optimizer step, over all ranks")
    learning_rate: float = Field(5e-5, gt=0.0, le=1.0, description="peak learning rate")
    lr_schedule: LrSchedule = Field(ConstantSchedule(), description="the learning rate of each step")
    optimizer: OptimizerConfig = Field(AdamWConfig(), description="the optimizer")
    max_grad_norm: float = Field(0.1, gt=0.0, description="gradients are clipped to this norm")
    caption_dropout: float = Field(
        0.1, ge=0.0, le=1.0, description="probability that the null caption replaces a caption"
    )
    ema_decay: float = Field(
        0.9999, ge=0.0, lt=1.0, description="EMA decay, warmed up as min(decay, (1 + n) / (10 + n)); fp32"
    )
    mixed_precision: Literal["fp32", "bf16"] = Field("bf16", description="autocast dtype; master weights stay fp32")
    timestep_sampling: TimestepSampling = Field(LogitNormalSampling(), description="how noise levels are drawn")
    objective: Annotated[ObjectiveConfig, Neutral(FlowMatchingConfig())] = Field(
        FlowMatchingConfig(), description="the training objective"
    )
    text_padding: Annotated[Literal["batch", "fixed"], Neutral("batch")] = Field(
        "batch",
        description="tokens that captions are padded to: as many as the longest of the batch has, or one of a few "
        "fixed lengths, so that compiled code is not compiled again for every batch; other last bits",
    )
    resources: TrainResources = TrainResources()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        schedule = self.lr_schedule
        if isinstance(schedule, CosineSchedule) and schedule.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"lr_schedule.min_learning_rate {schedule.min_learning_rate} is above learning_rate "
                f"{self.learning_rate}; lower it"
            )
        at_once = self.resources.num_processes * self.resources.micro_batch_size
        if self.global_batch_size % at_once:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of num_processes x micro_batch_size = "
                f"{self.resources.num_processes} x {self.resources.micro_batch_size}; "
                f"use {-(-self.global_batch_size // at_once) * at_once}"
            )
        if self.schedule_ends_with_run and schedule.warmup_steps >= self.max_steps:
            raise ValueError(
                f"lr_schedule.warmup_steps {schedule.warmup_steps} leaves no step of {self.max_steps} for the "
                f"{schedule.name}; lower it, or set lr_schedule.decay_steps"
            )
        return self

    @property
    def schedule_ends_with_run(self) -> bool:
        """Whether the learning rate of a step depends on max_steps, so that raising it starts a new run."""
        return resolve_schedule(self.lr_schedule, self.max_steps) != self.lr_schedule

    def trajectory_settings(self) -> dict[str, object]:
        """Return the settings that determine the bytes of every step: all but the number of steps.

        A cosine without `decay_steps` ends with the run, so it includes the number of steps.
        """
        settings = {**self.hashed(), "lr_schedule": resolve_schedule(self.lr_schedule, self.max_steps).hashed()}
        settings.pop("max_steps")
        return settings


class EvaluateConfig(Section):
    num_sigmas: int = Field(8, ge=1, le=1000, description="noise levels: midpoints of equal slices of (0, 1)")
    max_samples: int = Field(256, ge=1, le=10**9, description="eval samples used, the first by hash of sample_id")


class SampleResources(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="where sampling runs")


class SampleConfig(Section):
    # the prompts of the file are in `prompts` once the config is loaded: the content is hashed, not the path
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"resources", "prompt_library"})

    prompts: dict[str, str] = Field(min_length=1, description="validation prompt library, nickname: prompt")
    prompt_library: str | None = Field(
        None,
        min_length=1,
        description='JSON file with more prompts, {"nickname": "prompt"} or {"nickname": {"prompt": "..."}}; '
        "added to `prompts` when the config is read",
    )
    negative_prompt: str = Field("", description="what guidance steers away from; empty: the null caption of training")
    bucket: str = Field("81x480x832", description="shape of the videos, frames x height x width")
    num_inference_steps: int = Field(50, ge=1, le=1000, description="sampler steps")
    guidance_scale: float = Field(6.0, ge=1.0, le=100.0, description="classifier-free guidance; 1: off")
    weights: Literal["ema", "live"] = Field("ema", description="which weights are sampled: EMA or live")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the starting noise")
    fps: float = Field(16.0, gt=0.0, le=240.0, description="frame rate of the written mp4")
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

    @property
    def shape(self) -> Bucket:
        return Bucket.parse(self.bucket)
