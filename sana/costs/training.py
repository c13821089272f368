"""What a training config costs on one rank, from the model's sizes: memory of a step, and its FLOPs."""

from typing import Literal

from sana.bucket import Bucket
from sana.config.training.optimization.optimizer import AdafactorConfig
from sana.config.training.train import TrainConfig
from sana.costs.learned import learned_part, partial_optimizer_bytes
from sana.costs.memory import MASTER_BYTES, Precision, TrainingMemory, TrainingSetting, training_memory
from sana.costs.offload import blocks_on_device
from sana.costs.transformer import KERNEL, TEMPORAL_KERNEL, TransformerSizes

_PRECISION: dict[str, Precision] = {"fp32": "fp32", "tf32": "fp32", "bf16": "autocast"}
_EIGHT_BIT = 2 * (1 + 4 / 256)  # bytes: two codes, and the scales of blocks of 256


def optimizer_bytes(config: TrainConfig, sizes: TransformerSizes) -> int:
    """Return the bytes of the optimizer's state; of one that is not known here, as many as AdamW's."""
    learned = learned_part(config, sizes)
    if learned is not None:
        return partial_optimizer_bytes(config, learned.shapes)
    name: str = config.optimizer.name
    parameters = sizes.num_parameters
    per_parameter = {"adamw_bf16": 4.0, "adamw_8bit": _EIGHT_BIT, "prodigy": 16.0}
    if name == "optimi_adamw" and config.weights_dtype == "bf16":
        return 3 * 2 * parameters  # two moments, and what rounding lost
    if name == "muon":  # one moment of its matrices, two of all others
        d, h = sizes.width, sizes.hidden
        matrices = 4 * d * d + 2 * (d + sizes.cross_attention_dim) * sizes.cross_width + 3 * d * h
        return MASTER_BYTES * (2 * parameters - sizes.num_layers * matrices)
    if isinstance(config.optimizer, AdafactorConfig):
        return _factored(sizes, kernels=config.optimizer.kernels)
    if name == "came":
        return MASTER_BYTES * parameters + 2 * _factored(sizes)
    return round(per_parameter.get(name, 2.0 * MASTER_BYTES) * parameters)


def training_setting(
    config: TrainConfig,
    sizes: TransformerSizes,
    *,
    caption_tokens: int,
    on_gpu: bool,
    kept: float | None = None,
    micro_batch_size: int | None = None,
    num_ranks: int | None = None,
) -> TrainingSetting:
    """Return what decides the memory of a step under a config; `kept` and the micro batch may be tried in its place.

    Of sharded training the ranks of this machine are those that share the state.
    `on_gpu`: what is in the host's memory takes none of the device's.
    """
    resources, ranks = config.resources, num_ranks or config.resources.num_processes
    micro = micro_batch_size or resources.micro_batch_size
    return TrainingSetting(
        precision="bf16" if config.weights_dtype == "bf16" else _PRECISION[config.mixed_precision],
        micro_batch_size=micro,
        kept=kept_activations(config, on_gpu=on_gpu) if kept is None else kept,
        compiled=is_compiled(config, on_gpu=on_gpu),
        accumulates=config.global_batch_size > micro * ranks,
        optimizer_bytes=optimizer_bytes(config, sizes),
        caption_tokens=caption_tokens,
        learned=learned_part(config, sizes),
        num_shards=1 if resources.sharding == "none" else ranks,
        # to be able to undo a step; torch's fused AdamW on a GPU skips by itself
        has_spare=config.max_skipped_steps > 0 and not (on_gpu and config.optimizer.name == "adamw"),
        frees_gradients=resources.fused_backward,
        has_ema=not (on_gpu and (resources.ema_device == "cpu" or resources.offload.is_on)),
        by_token=bool(config.conditions),
        blocks_on_device=blocks_on_device(resources.offload),
        has_host_memory=on_gpu,
    )


def is_compiled(config: TrainConfig, *, on_gpu: bool) -> bool:
    """Return whether `train.resources.compile` compiles; `auto` does on a GPU, where it pays, without offload."""
    setting, offloaded = config.resources.compile, config.resources.offload.is_on
    return setting == "always" or (setting == "auto" and on_gpu and not offloaded)


def kept_activations(config: TrainConfig, *, on_gpu: bool) -> float:
    """Return the share of the blocks' activations that a config keeps for the backward pass.

    `auto` keeps what fits: this is the least that it needs on a GPU, and on a CPU, where it keeps all or nothing, all.
    """
    setting = config.resources.activation_memory
    if config.resources.offload.is_on:
        return 0.0
    if isinstance(setting, str):
        return 1.0 if setting == "auto" and not on_gpu else 0.0
    return setting


def activation_levels(config: TrainConfig, *, on_gpu: bool) -> tuple[float, ...]:
    """Return the shares of activations that a config can be told to keep, the least first."""
    if config.resources.offload.is_on:
        return (0.0,)
    return (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if is_compiled(config, on_gpu=on_gpu) else (0.0, 1.0)


def with_activations(config: TrainConfig, *, kept: float, micro_batch_size: int, global_batch_size: int) -> TrainConfig:
    """Return a config that keeps this share of the activations, with these batches, on one rank."""
    resources = config.resources.model_copy(
        update={"activation_memory": kept or "recompute_all", "micro_batch_size": micro_batch_size, "num_processes": 1}
    )
    return config.model_copy(update={"resources": resources, "global_batch_size": global_batch_size})


def how_to_keep(kept: float) -> str:
    """Return the setting that keeps this share of the activations, as it is written after -s."""
    return f"train.resources.activation_memory={f'{kept:g}' if kept else 'recompute_all'}"


def estimate_training(
    config: TrainConfig, sizes: TransformerSizes, bucket: Bucket, *, caption_tokens: int, on_gpu: bool
) -> TrainingMemory:
    """Return the memory of a step under a config on samples of one bucket."""
    setting = training_setting(config, sizes, caption_tokens=caption_tokens, on_gpu=on_gpu)
    return training_memory(sizes, bucket, setting)


def _factored(sizes: TransformerSizes, *, kernels: Literal["last_two", "matrix"] = "last_two") -> int:
    """Rows and columns of the last two dimensions: of a 1 x 1 kernel that is twice the kernel, of a matrix little."""
    d, h = sizes.width, sizes.hidden
    factors = 2 * (2 * h * d + h * d) + (TEMPORAL_KERNEL + 1) * d * d + 2 * h * 2 * (KERNEL // 3)
    if kernels == "matrix":
        factors = (2 * h + d) + (2 * h + KERNEL) + (d + h) + (d + TEMPORAL_KERNEL * d)
    matrices = 8 * 2 * d + 6 + d  # of the two attentions, and the modulation
    vectors = 4 * h + 9 * d  # biases and norms, whose squares are kept whole
    return MASTER_BYTES * sizes.num_layers * (factors + matrices + vectors)
