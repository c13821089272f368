"""What a training config costs on one rank, from the model's sizes: memory of a step, and its FLOPs."""

from collections.abc import Callable

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.memory import MASTER_BYTES, Precision, TrainingMemory, TrainingSetting, training_memory
from sana.costs.transformer import KERNEL, TEMPORAL_KERNEL, TransformerSizes

_PRECISION: dict[str, Precision] = {"fp32": "fp32", "tf32": "fp32", "bf16": "autocast"}


def optimizer_bytes(name: str, sizes: TransformerSizes) -> int:
    """Return the bytes of an optimizer's state; of one that is not known, as many as AdamW's."""
    return _OPTIMIZERS.get(name, _adamw)(sizes)


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

    `on_gpu`: EMA weights in the host's memory take none of the device's.
    """
    resources = config.resources
    micro = micro_batch_size or resources.micro_batch_size
    return TrainingSetting(
        precision=_PRECISION[config.mixed_precision],
        micro_batch_size=micro,
        kept=kept_activations(config) if kept is None else kept,
        accumulates=config.global_batch_size > micro * (num_ranks or resources.num_processes),
        optimizer_bytes=optimizer_bytes(config.optimizer.name, sizes),
        caption_tokens=caption_tokens,
        has_ema=not (on_gpu and resources.ema_device == "cpu"),
    )


def kept_activations(config: TrainConfig) -> float:
    """Return the share of the blocks' activations that a config keeps for the backward pass."""
    return 0.0 if config.resources.gradient_checkpointing else 1.0


def activation_levels(config: TrainConfig) -> tuple[float, ...]:
    """Return the shares of activations that a config can be told to keep, the least first."""
    return (0.0, 1.0)


def with_activations(config: TrainConfig, *, kept: float, micro_batch_size: int, global_batch_size: int) -> TrainConfig:
    """Return a config that keeps this share of the activations, with these batches, on one rank."""
    resources = config.resources.model_copy(
        update={"gradient_checkpointing": kept < 1.0, "micro_batch_size": micro_batch_size, "num_processes": 1}
    )
    return config.model_copy(update={"resources": resources, "global_batch_size": global_batch_size})


def how_to_keep(kept: float) -> str:
    """Return the setting that keeps this share of the activations, as it is written after -s."""
    return f"train.resources.gradient_checkpointing={'false' if kept == 1.0 else 'true'}"


def estimate_training(
    config: TrainConfig, sizes: TransformerSizes, bucket: Bucket, *, caption_tokens: int, on_gpu: bool
) -> TrainingMemory:
    """Return the memory of a step under a config on samples of one bucket."""
    setting = training_setting(config, sizes, caption_tokens=caption_tokens, on_gpu=on_gpu)
    return training_memory(sizes, bucket, setting)


def _adamw(sizes: TransformerSizes) -> int:
    """Two moments of each parameter."""
    return 2 * MASTER_BYTES * sizes.num_parameters


def _adafactor(sizes: TransformerSizes) -> int:
    """Rows and columns of the last two dimensions: of a 1 x 1 kernel that is twice the kernel, of a matrix little."""
    d, h = sizes.width, sizes.hidden
    kernels = 2 * (2 * h * d + h * d) + (TEMPORAL_KERNEL + 1) * d * d + 2 * h * 2 * (KERNEL // 3)
    matrices = 8 * 2 * d + 6 + d  # of the two attentions, and the modulation
    vectors = 4 * h + 12 * d  # biases and norms, whose squares are kept whole
    return MASTER_BYTES * sizes.num_layers * (kernels + matrices + vectors)


_OPTIMIZERS: dict[str, Callable[[TransformerSizes], int]] = {"adamw": _adamw, "adafactor": _adafactor}
