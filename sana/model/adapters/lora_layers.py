"""LoRA layers put into the transformer: peft's own, as the stock loaders of diffusers put them. The door to peft.

Parameters of the adapter have the names of PEFT's files here, `transformer_blocks.0.attn1.to_q.lora_A.weight`; in the
model they are `...to_q.lora_A.default.weight`, and the layer's own weight is `...to_q.base_layer.weight`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sana.config.training.adapter_names import MAGNITUDE, A, B
from sana.config.training.method import LoraMethod
from sana.errors import SanaError
from sana.model.adapters.dora_magnitude import DoraMagnitude, row_lengths
from sana.model.adapters.keyed_dropout import KeyedDropout
from sana.model.random import philox_uniform

PREFIX = "transformer."  # of the names in files, which may hold adapters of other components
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
_METADATA = "lora_adapter_metadata"  # where diffusers looks for the adapter's settings in a file
_ADAPTER = "default"  # peft's name of the one adapter
# peft's layer names of what it calls otherwise in files
_PARTS = {A: "lora_A", B: "lora_B", MAGNITUDE: "lora_magnitude_vector"}


def add_lora(
    transformer: nn.Module,
    method: LoraMethod,
    targets: Sequence[str],
    *,
    seed: int,
    store: Callable[[nn.Module], None],
) -> dict[str, nn.Parameter]:
    """Put an adapter beside the layers `targets`, in place; returns its parameters, which alone require a gradient.

    They are float32 whatever the layer's weights are. A is drawn from U(-1, 1) / sqrt(inputs), as peft does, by the
    seed and the layer's name; B is zeros, so that the model computes what it did. DoRA's magnitudes are the lengths of
    the rows of the weights. `store` is called before, to store the model's own weights as they are to be: peft makes A
    and B of the class of a layer, which must be torch's own.
    """
    inject_adapter_in_model(_peft_config(method, targets), transformer, adapter_name=_ADAPTER)
    store(transformer)
    parameters: dict[str, nn.Parameter] = {}
    for target in targets:
        layer = _lora_layer(transformer, target)
        a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        a.data, b.data = _initial_a(f"{target}.{A}", a.shape, seed), torch.zeros(b.shape)
        if method.dropout:
            layer.lora_dropout[_ADAPTER] = KeyedDropout(method.dropout, target)
        if method.use_dora:
            lengths = row_lengths(layer.get_base_layer().weight, a, b, 0.0)
            layer.lora_magnitude_vector[_ADAPTER] = DoraMagnitude(nn.Parameter(lengths))
        parameters |= _parameters_of(layer, target)
    transformer.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return parameters


def load_lora(
    transformer: nn.Module,
    method: LoraMethod,
    tensors: Mapping[str, Tensor],
    *,
    targets: Sequence[str],
    dtype: torch.dtype,
    store: Callable[[nn.Module], None],
) -> None:
    """Put a trained adapter beside the layers, in the dtype of the model, as stock diffusers loads it.

    Raises:
        ValueError: tensors are missing, unknown or of another shape.
    """
    parameters = add_lora(transformer, method, targets, seed=0, store=store)
    fill_lora(parameters, tensors)
    for parameter in parameters.values():
        parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def fill_lora(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into an adapter's parameters. Raises ValueError: some are missing, unknown or of another shape."""
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    wrong = [n for n in sorted({*tensors, *shapes}) if n not in tensors or tuple(tensors[n].shape) != shapes.get(n)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors of the adapter do not fit train.method (rank, targets, use_dora), first {wrong[0]}: "
            f"found {tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else 'none'}, needed {shapes.get(wrong[0])}"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def lora_metadata(method: LoraMethod, targets: Sequence[str]) -> dict[str, str]:
    """Return the metadata of a safetensors file of the adapter: its scale and layers, as diffusers writes them."""
    settings = {PREFIX + key: value for key, value in _peft_config(method, targets).to_dict().items()}
    settings[f"{PREFIX}target_modules"] = sorted(targets)  # peft keeps a set, in whatever order
    return {"format": "pt", _METADATA: json.dumps(settings, indent=2, sort_keys=True)}


def read_lora(path: Path, method: LoraMethod) -> dict[str, Tensor]:
    """Read an adapter of the transformer from a file in PEFT's layout, to the CPU, by its names in training.

    Raises:
        SanaError: it cannot be read, or what it says of alpha / rank is not what `method` has.
    """
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise SanaError(f"train.init_from: no adapter can be read from {path}: {error}") from error
    found = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    rank = settings.get(f"{PREFIX}r", method.rank)
    alpha = settings.get(f"{PREFIX}lora_alpha", rank)  # diffusers takes rank where a file says nothing
    if alpha / rank != method.scale:
        raise SanaError(
            f"train.init_from: the adapter in {path} has alpha {alpha:g} and rank {rank}, and train.method has alpha "
            f"{method.resolved_alpha:g} and rank {method.rank}: A and B would mean something else; set train.method "
            "to what the file has"
        )
    return found


def _peft_config(method: LoraMethod, targets: Sequence[str]) -> Any:
    alpha = method.resolved_alpha
    return LoraConfig(
        r=method.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]  # it takes any number
        target_modules=list(targets),
        use_dora=method.use_dora,
    )


def _lora_layer(transformer: nn.Module, name: str) -> Any:
    """Return peft's layer of this name, which is untyped."""
    layer = transformer.get_submodule(name)
    assert isinstance(layer, LoraLayer)
    return layer


def _parameters_of(layer: LoraLayer, name: str) -> dict[str, nn.Parameter]:
    """Return an adapter's parameters beside one layer, by their names in files."""
    found = {}
    for part, attribute in _PARTS.items():
        modules = getattr(layer, attribute)
        if _ADAPTER in modules:
            found[f"{name}.{part}"] = modules[_ADAPTER].weight
    return found


def _initial_a(name: str, shape: Sequence[int], seed: int) -> Tensor:
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (2 * philox_uniform(list(shape), key=("adapter", seed, name)) - 1) * bound
