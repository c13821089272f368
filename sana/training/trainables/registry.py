"""What trains, by its name in `train.method`; and the model with what it learned, for what reads checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.model.transformer import DTYPES, load_transformer, transformer_with
from sana.runtime.specs import ModelSource
from sana.training.trainables.full_transformer import FullTransformer
from sana.training.trainables.trainable import Trainable


def _full(transformer: nn.Module, config: TrainConfig) -> Trainable:
    return FullTransformer(transformer, config.frozen)


def _lora(transformer: nn.Module, config: TrainConfig) -> Trainable:
    from sana.training.trainables.lora import LoraTransformer  # peft needs transformers: seconds, for LoRA alone

    return LoraTransformer(transformer, config)


TRAINABLES: dict[str, Callable[[nn.Module, TrainConfig], Trainable]] = {"full": _full, "lora": _lora}


def build_trainable(transformer: nn.Module, config: TrainConfig) -> Trainable:
    """Return what `train.method` says learns of a SanaVideoTransformer3DModel, on the CPU: as before the first step.

    Raises:
        ConfigError: names in the config match no layer.
    """
    return TRAINABLES[config.method.name](transformer, config)


def load_trainable(model: ModelSource, config: TrainConfig) -> Trainable:
    """Load the model before training, and what learns of it, as training computes. Raises as `build_trainable`."""
    dtype = DTYPES[config.weights_dtype]
    return build_trainable(load_transformer(model.path, revision=model.revision, dtype=dtype), config)


def trained_transformer(
    model: ModelSource, config: TrainConfig, weights: Mapping[str, Tensor], *, dtype: torch.dtype
) -> Any:
    """Return a SanaVideoTransformer3DModel with weights that a checkpoint has, for sampling: all of it of `dtype`."""
    if config.method.name == "full":
        return transformer_with(model.path, weights, revision=model.revision, dtype=dtype)
    from sana.training.trainables.lora import with_adapter  # as above

    loaded = dtype if config.base_weights == "plain" else torch.float32
    transformer = load_transformer(model.path, revision=model.revision, dtype=loaded)
    return with_adapter(transformer, config, weights, dtype=dtype)
