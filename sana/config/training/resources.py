"""Config of training that changes its speed, its memory and what is saved, and no address."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from sana.config.section import Section
from sana.config.training.offload import GroupOffload

_ShareOrWord = Literal["auto", "recompute_all"] | Annotated[float, Field(ge=0, le=1)]


def _share_or_word(value: Any) -> Literal["auto", "recompute_all"] | float:
    """Check `activation_memory` as a whole: a union would name a mistake twice. Accepts a number in text, as -s has."""
    if value in ("auto", "recompute_all"):
        return value  # type: ignore[no-any-return]  # one of these
    try:
        share = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{value!r} is neither auto nor recompute_all nor a share from 0 to 1")
    return share


class TrainResources(Section):
    num_processes: int = Field(1, ge=1, le=4096, description="ranks started on this machine")
    micro_batch_size: int = Field(
        1, ge=1, le=1024, description="samples per forward pass and rank; the rest is accumulated"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="compile the transformer's blocks: faster steps after a first one that takes a minute, other last "
        "bits; auto: on a GPU, without offload",
    )
    activation_memory: Annotated[
        Literal["auto", "recompute_all"] | float,
        PlainValidator(_share_or_word, json_schema_input_type=_ShareOrWord),
    ] = Field(
        "auto",
        description="what is kept of the forward pass for the backward pass: as much as fits (auto), nothing but the "
        "blocks' inputs (recompute_all), or a share of it, 0 to 1, of compiled blocks; 1 keeps all",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where training runs")
    ema_device: Literal["auto", "cpu"] = Field(
        "auto",
        description="where the EMA weights are: beside the weights, or in the host's memory, which saves 4 bytes a "
        "parameter of a GPU's (7.7 GiB of the published model) and updates them while the next step runs",
    )
    sharding: Literal["none", "full", "hybrid"] = Field(
        "none",
        description="weights, gradients, optimizer state and EMA: whole on every rank (none); FSDP2: each rank a part "
        "of them (full), or each machine a copy in parts (hybrid, HSDP). No effect with one rank",
    )
    offload: GroupOffload = GroupOffload()
    fused_backward: bool = Field(
        False,
        description="step each weight in the backward pass, as soon as its gradient is there, and free the gradient: "
        "up to 4 bytes a parameter less (2 of bf16 weights), the same bits. Not with a norm over all gradients",
    )
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
    checkpoint_every_minutes: float = Field(
        0.0, ge=0.0, le=1e6, description="also a checkpoint when the last is this many minutes old; 0: by steps alone"
    )
    checkpoint_in_background: bool = Field(
        True,
        description="copy the state to the host's memory and write it while training continues; false: training waits, "
        "and the host needs no memory for the copy",
    )
    max_checkpoints: int = Field(
        3, ge=1, le=1000, description="newest checkpoints kept; the last of a finished run always stays"
    )
    keep_best_checkpoints: int = Field(
        0,
        ge=0,
        le=1000,
        description="checkpoints kept for the lowest eval loss of their EMA weights, beside the newest; then each "
        "evaluated step is saved",
    )
    milestone_every: int = Field(
        0, ge=0, le=10**9, description="steps between checkpoints that are saved and never removed; 0: none"
    )
    export_merged: bool = Field(
        True,
        description="also export the base model with the trained adapter merged in, which loads by itself, also where "
        "no adapter does: 4 bytes a parameter (7.7 GiB of the published model) for each finished training; of full "
        "training no effect",
    )
    check_exports: bool = Field(
        True,
        description="before the training is committed, stock diffusers loads each export in a process of its own and "
        "must compute what was trained, or the stage fails",
    )
    eval_every: int = Field(
        500, ge=0, le=10**9, description="steps between eval losses in the loop; 0: only in the evaluate stage"
    )
    train_probe_samples: int = Field(
        8,
        ge=0,
        le=10**6,
        description="train samples, evenly spaced, whose loss is measured with each eval loss, on the same grid and by "
        "the EMA weights: far below the eval loss, the model knows them by heart; 0: none",
    )
    log_every: int = Field(
        10, ge=1, le=10**9, description="steps between lines in metrics.jsonl (which has every step)"
    )
    loss_spike_threshold: float = Field(
        10.0,
        ge=0.0,
        le=1e6,
        description="warn of a loss that is more than so many robust standard deviations above the median of the 100 "
        "steps before; it changes nothing in training. 0: no warning",
    )
    rendezvous_timeout_s: float = Field(
        1800.0,
        ge=1.0,
        le=604_800.0,
        description="how long a rank waits for the others at the start; who is missing is told every 30 s",
    )
    stall_timeout_s: float = Field(
        1800.0, gt=0.0, le=1e7, description="end the trainer when it reports nothing for this long"
    )

    @model_validator(mode="after")
    def _sharding_holds(self) -> Self:
        if self.sharding != "none" and self.ema_device == "cpu":
            raise ValueError(
                f"ema_device cpu is for whole EMA weights; with sharding {self.sharding} each rank holds its part of "
                "them only, on its device; set ema_device to auto"
            )
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.keep_best_checkpoints and not self.eval_every:
            raise ValueError(
                f"keep_best_checkpoints {self.keep_best_checkpoints} needs eval losses in the loop, but eval_every is "
                "0; set eval_every, or keep_best_checkpoints to 0"
            )
        return self

    @model_validator(mode="after")
    def _share_needs_compiled_blocks(self) -> Self:
        share = self.activation_memory
        if self.compile == "never" and not isinstance(share, str) and 0.0 < share < 1.0:
            raise ValueError(
                f"activation_memory {share:g} needs compiled blocks, and compile is never: only torch's compiler "
                "keeps a share; use auto, recompute_all or 1"
            )
        return self
