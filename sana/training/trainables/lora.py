"""`train.method` lora: an adapter beside the transformer's weights learns, float32; the weights stay."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sana.config.training.adapter_names import adapter_targets
from sana.config.training.method import LoraMethod
from sana.config.training.train import TrainConfig
from sana.model.adapters.lora_layers import (
    PREFIX,
    WEIGHTS_FILE,
    add_lora,
    fill_lora,
    load_lora,
    lora_metadata,
    read_lora,
)
from sana.model.adapters.quantized_layers import quantize_layers
from sana.training.trainables.full_transformer import split_frozen


class LoraTransformer:
    """The matrices of a LoRA learn; checkpoints hold them alone, and the export is PEFT's file of them.

    With `train.mixed_precision` bf16 the weights of linear layers and convolutions, which stay, are kept in bf16:
    autocast rounds them so for each product anyway, so that no bit of a loss depends on it.
    """

    component = ""  # the adapter's file alone
    weights_file = WEIGHTS_FILE

    def __init__(self, transformer: nn.Module, config: TrainConfig) -> None:
        assert isinstance(config.method, LoraMethod)
        self.model, self._method = transformer, config.method
        shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
        targets = adapter_targets(config.method, shapes)
        adapter = add_lora(
            transformer, config.method, targets, seed=config.seed, store=partial(_store_base, config=config)
        )
        self.parameters: Mapping[str, nn.Parameter]
        self.fixed: Mapping[str, Tensor]
        self.parameters, self.fixed = split_frozen(adapter, config.frozen)
        self.weights_metadata: Mapping[str, str] = lora_metadata(config.method, targets)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the adapter. Raises ValueError: a tensor is missing, unknown or of another shape."""
        fill_lora({**self.parameters, **self.fixed}, tensors)

    def read_export(self, folder: Path) -> Mapping[str, Tensor]:
        """Read an adapter from PEFT's file in a folder. Raises SanaError: it is none, or of another scale."""
        return read_lora(folder / WEIGHTS_FILE, self._method)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Return the adapter's tensors, float32, by the names that stock diffusers loads."""
        del folder  # all that loaders ask for is in the file of the tensors
        return {PREFIX + name: weights[name].to(torch.float32) for name in sorted(weights)}


def _store_base(transformer: nn.Module, config: TrainConfig) -> None:
    """Store weights that do not learn as `train.base_weights` and `train.mixed_precision` say, in place."""
    if config.base_weights != "plain":
        quantize_layers(transformer, config.base_weights)
    if config.mixed_precision == "bf16":
        for module in transformer.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):  # those in 8 bits have no parameters
                for parameter in module.parameters():
                    parameter.data = parameter.data.to(torch.bfloat16)


def with_adapter(
    transformer: nn.Module, config: TrainConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype
) -> nn.Module:
    """Put a trained adapter beside a transformer's weights, in place, of `dtype`; returns it, for sampling.

    Weights that are to be stored in 8 bits come as float32, as training quantises them.
    """
    assert isinstance(config.method, LoraMethod)
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}

    def store(model: nn.Module) -> None:
        if config.base_weights != "plain":
            quantize_layers(model, config.base_weights)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)

    targets = adapter_targets(config.method, shapes)
    load_lora(transformer, config.method, tensors, targets=targets, dtype=dtype, store=store)
    return transformer.eval()
