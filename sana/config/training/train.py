"""Config of training: what is learned, from which seed to which step."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.section import MAX_SEED, Neutral, Section
from sana.config.training.conditions import Conditions, check_together
from sana.config.training.conflicts import fused_backward_conflict, offload_conflict
from sana.config.training.crepa import CrepaConfig
from sana.config.training.early_stopping import EarlyStoppingConfig
from sana.config.training.masks import MaskedLossConfig
from sana.config.training.method import BaseWeights, FullMethod, MethodConfig
from sana.config.training.method_conflicts import method_conflict
from sana.config.training.objective import (
    FlowMatchingConfig,
    LogitNormalSampling,
    LossWeighting,
    NoiseOffset,
    NoWeighting,
    ObjectiveConfig,
    TimestepSampling,
    TokenShift,
)
from sana.config.training.optimization.optimizer import AdamWConfig, OptimizerConfig, ParameterGroup
from sana.config.training.optimization.optimizer_support import SUPPORT, names_with
from sana.config.training.optimization.schedule import ConstantSchedule, LrSchedule, resolve_schedule
from sana.config.training.resources import TrainResources
from sana.config.training.rollout import RolloutConfig
from sana.config.training.validation import ValidationConfig


class TrainConfig(Section):
    # what init_from names enters a hash by its digest: the stage's recipe has it
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"resources", "init_from", "base_check", "validation"})

    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of shuffling, noise, noise levels and caption dropout")
    max_steps: int = Field(ge=1, le=10**9, description="optimizer steps; raising it continues the same run")
    global_batch_size: int = Field(ge=1, le=10**9, description="samples per optimizer step, over all ranks")
    method: Annotated[MethodConfig, Neutral(FullMethod())] = Field(FullMethod(), description="what trains")
    learning_rate: float = Field(5e-5, gt=0.0, le=1.0, description="peak learning rate")
    lr_schedule: LrSchedule = Field(ConstantSchedule(), description="the learning rate of each step")
    optimizer: OptimizerConfig = Field(AdamWConfig(), description="the optimizer")
    gradient_clipping: Annotated[Literal["norm", "value", "none"], Neutral("norm")] = Field(
        "norm",
        description="how gradients are clipped: all together to max_grad_norm, each number to max_grad_value, or not",
    )
    max_grad_norm: float = Field(
        0.1, gt=0.0, le=1e9, description="gradients are clipped to this norm, with gradient_clipping norm only"
    )
    max_grad_value: Annotated[float | None, Neutral(None)] = Field(
        None,
        gt=0.0,
        le=1e9,
        description="each number of a gradient is clipped to +- this, with gradient_clipping value only",
    )
    max_skipped_steps: Annotated[int, Neutral(0)] = Field(
        0,
        ge=0,
        le=10**6,
        description="steps that may be skipped because their loss or gradient is not finite; one more stops the run, "
        "with 0 the first. Above 0, it needs memory for a copy of weights and optimizer state, except adamw on a GPU",
    )
    image_every: Annotated[int | None, Neutral(None)] = Field(
        None,
        ge=2,
        le=10**6,
        description="every so many steps the batch is one of pictures, from buckets of one frame, and in all other "
        "steps of videos; unset: both by how many samples they have",
    )
    caption_dropout: float = Field(
        0.1, ge=0.0, le=1.0, description="probability that the null caption replaces a caption"
    )
    ema_decay: float = Field(
        0.9999, ge=0.0, lt=1.0, description="EMA decay, warmed up as min(decay, (1 + n) / (10 + n)); fp32"
    )
    mixed_precision: Literal["fp32", "tf32", "bf16"] = Field(
        "bf16",
        description="what the model computes in: bf16 by autocast; strict fp32; or tf32: float32 with TF32 "
        "convolutions and matrix products on a GPU, on a CPU the same as fp32. The weights themselves: weights_dtype",
    )
    weights_dtype: Annotated[Literal["fp32", "bf16"], Neutral("fp32")] = Field(
        "fp32",
        description="of the weights that learn, and of their gradients; bf16 halves both, and needs an optimizer that "
        "rounds so that small steps add up. EMA weights stay fp32",
    )
    parameter_groups: Annotated[tuple[ParameterGroup, ...], Neutral(())] = Field(
        (), max_length=32, description="parameters with a learning rate of their own; the first that matches counts"
    )
    base_weights: Annotated[BaseWeights, Neutral("plain")] = Field(
        "plain",
        description="what weights that do not learn are stored in, beside an adapter: as they are (in bf16 where they "
        "compute in it); int8 or fp8 with a scale for each output (torchao); or fp8_cast, e4m3 without a scale "
        "(diffusers' layerwise casting). The 8-bit ones are made whole for each product",
    )
    frozen: Annotated[tuple[str, ...], Neutral(())] = Field(
        (),
        max_length=32,
        description="globs of the names of parameters that do not learn, of those that method makes learn, such as "
        "*.attn2.*, or *.lora_A.weight of an adapter; they have no gradient, moments or EMA",
    )
    timestep_sampling: TimestepSampling = Field(LogitNormalSampling(), description="how noise levels are drawn")
    shift_by_tokens: Annotated[TokenShift | None, Neutral(None)] = Field(
        None, description="another flow shift of noise levels for each bucket, by its latent tokens; unset: one for all"
    )
    objective: Annotated[ObjectiveConfig, Neutral(FlowMatchingConfig())] = Field(
        FlowMatchingConfig(), description="the training objective"
    )
    loss_weighting: Annotated[LossWeighting, Neutral(NoWeighting())] = Field(
        NoWeighting(), description="how much a sample's loss weighs by its noise level; the eval loss has no weights"
    )
    noise_offset: Annotated[NoiseOffset | None, Neutral(None)] = Field(
        None, description="offset noise: a number a channel is added to a sample's noise; unset: none"
    )
    rollout: Annotated[RolloutConfig | None, Neutral(None)] = Field(
        None, description="scheduled sampling: some samples begin where the model itself comes to; unset: none"
    )
    conditions: Annotated[Conditions, Neutral(())] = Field(
        (),
        max_length=8,
        description="what samples are given beside their captions, by `name`; at most one each, the rest is text to "
        "video. A data set may have its own",
    )
    masked_loss: Annotated[MaskedLossConfig | None, Neutral(None)] = Field(
        None, description="the loss looks inside the masks of the data sets that have some; unset: everywhere"
    )
    text_padding: Annotated[Literal["batch", "fixed"], Neutral("batch")] = Field(
        "batch",
        description="tokens that captions are padded to: as many as the longest of the batch has, or one of a few "
        "fixed lengths, so that compiled code is not compiled again for every batch; other last bits",
    )
    crepa: Annotated[CrepaConfig | None, Neutral(None)] = Field(
        None,
        description="align hidden states with features that stage encode_features makes; unset: neither is part of "
        "the run",
    )
    init_from: Annotated[str | None, Neutral(None)] = Field(
        None,
        min_length=1,
        description="weights to start from instead of model.path's: FINGERPRINT[@STEP] of an earlier training in this "
        "root (without @STEP its last), or a local folder in diffusers layout, such as an exported model; with method "
        "lora an adapter of an earlier run, or a folder with its pytorch_lora_weights.safetensors",
    )
    init_weights: Annotated[Literal["ema", "live"], Neutral("ema")] = Field(
        "ema", description="which weights of an earlier training init_from takes; the EMA begins with them too"
    )
    init_optimizer: Annotated[bool, Neutral(False)] = Field(
        False, description="also take the optimizer's state, whose decays go on from its step; needs init_weights live"
    )
    early_stopping: Annotated[EarlyStoppingConfig | None, Neutral(None)] = Field(
        None, description="choose the best checkpoint by the eval loss, and end the run once it is surely past it"
    )
    base_check: Literal["warn", "refuse", "off"] = Field(
        "warn",
        description="before the first step, the weights to start from are probed on held-out clips: the loss against "
        "the best linear guess, own captions against permuted ones, timestep scale and instruction against wrong ones; "
        "what fails is a warning, or ends the run",
    )
    validation: ValidationConfig = ValidationConfig()
    resources: TrainResources = TrainResources()

    @field_validator("conditions")
    @classmethod
    def _conditions_together(cls, conditions: Conditions) -> Conditions:
        return check_together(conditions)

    @model_validator(mode="after")
    def _init_is_consistent(self) -> Self:
        if self.init_from is None and (self.init_optimizer or self.init_weights != "ema"):
            raise ValueError("init_weights and init_optimizer say what init_from takes, which is unset; set init_from")
        if self.init_optimizer and self.init_weights != "live":
            raise ValueError(
                "init_optimizer takes the moments of the live weights, but init_weights is ema; set init_weights: live"
            )
        if self.init_optimizer and self.crepa is not None:
            raise ValueError(
                "init_optimizer takes the state of all that learned, and the projector of crepa begins anew; leave "
                "init_optimizer false, or crepa unset"
            )
        is_folder = self.init_from is not None and ("/" in self.init_from or self.init_from.startswith((".", "~")))
        if is_folder and self.init_weights != "ema":
            raise ValueError(
                f"init_from {self.init_from} is a folder, which has one set of weights and no optimizer; leave out "
                "init_weights and init_optimizer, or name FINGERPRINT@STEP"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        schedule = self.lr_schedule
        low = getattr(schedule, "min_learning_rate", 0.0)  # constant has none
        if low > self.learning_rate:
            raise ValueError(
                f"lr_schedule.min_learning_rate {low} is above learning_rate {self.learning_rate}; lower it"
            )
        if (self.gradient_clipping == "value") != (self.max_grad_value is not None):
            raise ValueError(
                "max_grad_value is needed with gradient_clipping value; set train.max_grad_value, such as 0.1"
                if self.max_grad_value is None
                else f"max_grad_value {self.max_grad_value} is the bound of gradient_clipping value, and "
                f"gradient_clipping is {self.gradient_clipping}; remove it, or set train.gradient_clipping to value"
            )
        self._check_optimizer()
        at_once = self.resources.num_processes * self.resources.micro_batch_size
        if self.global_batch_size % at_once:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of num_processes x micro_batch_size = "
                f"{self.resources.num_processes} x {self.resources.micro_batch_size}; "
                f"use {-(-self.global_batch_size // at_once) * at_once}"
            )
        conflict = (
            offload_conflict(self.resources, optimizer=self.optimizer.name, max_skipped_steps=self.max_skipped_steps)
            or fused_backward_conflict(
                self.resources,
                optimizer=self.optimizer.name,
                max_skipped_steps=self.max_skipped_steps,
                gradient_clipping=self.gradient_clipping,
                global_batch_size=self.global_batch_size,
            )
            or method_conflict(
                self.method,
                self.resources,
                optimizer=self.optimizer.name,
                weights_dtype=self.weights_dtype,
                base_weights=self.base_weights,
            )
        )
        if conflict:
            raise ValueError(conflict)
        if self.rollout is not None and self.rollout.start_step >= self.max_steps:
            raise ValueError(
                f"rollout.start_step {self.rollout.start_step} leaves no step of {self.max_steps} to roll out; lower "
                "it, or remove rollout"
            )
        if self.schedule_ends_with_run and schedule.warmup_steps >= self.max_steps:
            raise ValueError(
                f"lr_schedule.warmup_steps {schedule.warmup_steps} leaves no step of {self.max_steps} for the "
                f"{schedule.name}; lower it, or set lr_schedule.decay_steps"
            )
        return self

    def _check_optimizer(self) -> None:
        """Raises ValueError: the optimizer does not hold with another setting."""
        name, support = self.optimizer.name, SUPPORT[self.optimizer.name]
        if self.weights_dtype == "bf16" and not support.bf16_weights:
            raise ValueError(
                f"optimizer.name {name} would round small steps of bf16 weights away; use one of "
                f"{names_with('bf16_weights')}, or set weights_dtype to fp32"
            )
        if self.weights_dtype == "bf16" and self.mixed_precision != "bf16":
            raise ValueError(
                f"weights_dtype bf16 computes in bf16, and mixed_precision is {self.mixed_precision}; "
                "set train.mixed_precision to bf16, or train.weights_dtype to fp32"
            )
        sharding = self.resources.sharding
        if sharding != "none" and not support.fsdp2:
            raise ValueError(
                f"resources.sharding {sharding} gives each rank parts of tensors, for which optimizer.name {name} is "
                f"not made: {support.why_not_fsdp2}; use one of {names_with('fsdp2')}, or set resources.sharding to "
                "none"
            )
        if self.parameter_groups and not support.factors:
            raise ValueError(
                f"optimizer.name {name} estimates one step size for all parameters, so parameter_groups have no "
                f"meaning with it; remove them, or use one of {names_with('factors')}"
            )

    @property
    def schedule_ends_with_run(self) -> bool:
        """Whether the learning rate of a step depends on max_steps, so that raising it starts a new run."""
        return resolve_schedule(self.lr_schedule, self.max_steps) != self.lr_schedule

    def hashed(self) -> dict[str, Any]:
        """Return the settings that change bytes; the bound of the norm is one only where the norm is clipped."""
        settings = super().hashed()
        if self.gradient_clipping != "norm":
            settings.pop("max_grad_norm")
        return settings

    def trajectory_settings(self) -> dict[str, object]:
        """Return the settings that determine the bytes of every step: all but the number of steps.

        A schedule without `decay_steps` ends with the run, so it includes the number of steps.
        """
        settings = {**self.hashed(), "lr_schedule": resolve_schedule(self.lr_schedule, self.max_steps).hashed()}
        settings.pop("max_steps")
        return settings
