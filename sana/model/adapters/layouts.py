"""The layouts that files of adapters have, read into one form and written from it; no peft.

    PEFT       transformer.X.lora_A.weight, .lora_B.weight, .lora_magnitude_vector; alpha in the file's header
    ComfyUI    diffusion_model.X.lora_A.weight, .lora_B.weight (or lora_down, lora_up), X.alpha
    kohya      lora_unet_X with _ for each dot, .lora_down.weight, .lora_up.weight, .alpha

X is the name of a layer in diffusers. PEFT's own files (base_model.model.X, adapter_config.json beside) are read too.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sana.config.training.adapter_names import Shapes
from sana.errors import SanaError
from sana.wording import first_of

METADATA = "lora_adapter_metadata"  # where diffusers looks for an adapter's settings in a file
FILE_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # of diffusers and of PEFT, in a folder
COMFYUI_PREFIX = "diffusion_model."
PEFT_PREFIX = "transformer."

_PREFIXES = ("base_model.model.", "model.diffusion_model.", COMFYUI_PREFIX, PEFT_PREFIX)
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_")  # of kohya and OneTrainer: dots are underscores
_ENDS = {
    "a": ("lora_A.weight", "lora_A.default.weight", "lora_down.weight", "lora.down.weight"),
    "b": ("lora_B.weight", "lora_B.default.weight", "lora_up.weight", "lora.up.weight"),
    "magnitude": (
        "lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default",
        "lora_magnitude_vector.default.weight",
    ),
    "alpha": ("alpha",),
}  # fmt: skip
_PART_OF = {f".{end}": part for part, ends in _ENDS.items() for end in ends}
_NAMED = 3  # keys in an error


@dataclass(frozen=True)
class AdapterLayer:
    """What an adapter has beside one layer: its weight W is to act as W + scale B A."""

    a: Tensor  # [rank, inputs, *kernel]
    b: Tensor  # [outputs, rank, 1, ...]
    scale: float
    magnitude: Tensor | None = None  # of DoRA: the lengths of the rows, in one dimension or more

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def alpha(self) -> float:
        return self.scale * self.rank


Adapter = Mapping[str, AdapterLayer]  # by layer


def read_adapter(path: Path, shapes: Shapes) -> dict[str, AdapterLayer]:
    """Read an adapter from a file, or from a folder with one under a name of FILE_NAMES; `shapes` are the base model's.

    Raises:
        SanaError: there is none, it is damaged, has keys of no layout that is known, or is of another model.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in FILE_NAMES if (path / name).is_file()]
        if not found:
            raise SanaError(f"{path} holds none of {', '.join(FILE_NAMES)}; name the adapter's file itself")
        file = found[0]
    if not file.is_file():
        raise SanaError(f"there is no adapter {file}; name a safetensors file, or a folder that holds {FILE_NAMES[0]}")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
        settings = _settings(file, metadata)
    except (OSError, SafetensorError, ValueError) as error:
        raise SanaError(f"{file} cannot be read as a safetensors file of an adapter: {error}") from error
    return adapter_of(tensors, settings, shapes, where=str(file))


def adapter_of(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], shapes: Shapes, *, where: str
) -> dict[str, AdapterLayer]:
    """Return an adapter from the tensors of a file and PEFT's settings, {} where there are none; `where` names it.

    Where neither a tensor nor a setting says alpha, it is the rank, as all loaders take it.

    Raises:
        SanaError: keys are of no layout that is known, of no layer of the model, or of another shape.
    """
    parts = _by_layer(tensors, shapes, where)
    if not parts:
        raise SanaError(f"{where} holds no tensor of an adapter")
    return {layer: _layer(layer, parts[layer], settings, shapes[f"{layer}.weight"], where) for layer in sorted(parts)}


def settings_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return PEFT's settings of the transformer's adapter in a safetensors header; {} where it has none.

    Raises:
        ValueError: what stands there is no JSON object.
    """
    found = _json_object(metadata.get(METADATA, "{}"), where=METADATA)
    return {name.removeprefix(PEFT_PREFIX): value for name, value in found.items()}


def peft_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Return the tensors of a file in PEFT's layout; their scale is in its header."""
    found = {}
    for name, layer in adapter.items():
        found[f"{PEFT_PREFIX}{name}.lora_A.weight"] = layer.a
        found[f"{PEFT_PREFIX}{name}.lora_B.weight"] = layer.b
        if layer.magnitude is not None:
            found[f"{PEFT_PREFIX}{name}.lora_magnitude_vector"] = layer.magnitude
    return found


def comfyui_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Return the tensors of a file in ComfyUI's layout, alpha among them. Only if `why_not_comfyui` is None."""
    found = {}
    for name, layer in adapter.items():
        found[f"{COMFYUI_PREFIX}{name}.lora_A.weight"] = layer.a
        found[f"{COMFYUI_PREFIX}{name}.lora_B.weight"] = layer.b
        found[f"{COMFYUI_PREFIX}{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    return found


def why_not_comfyui(adapter: Adapter) -> str | None:
    """Return why an adapter is not written in ComfyUI's layout; None: it can be."""
    if any(layer.magnitude is not None for layer in adapter.values()):
        return (
            "ComfyUI divides DoRA's magnitudes by the lengths of the base weight's rows, not of what was trained "
            "(weight_decompose in comfy/weight_adapter/base.py): it would compute another model; use the merged one"
        )
    return None


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    beside = file.with_name("adapter_config.json")  # PEFT's own
    if METADATA not in metadata and beside.is_file():
        return _json_object(beside.read_bytes(), where=beside.name)
    return settings_of(metadata)


def _json_object(text: str | bytes, *, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError: it is none; `where` names it."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{where} is {type(found).__name__}, not a JSON object")  # noqa: TRY004 - as json's own
    return found


def _by_layer(tensors: Mapping[str, Tensor], shapes: Shapes, where: str) -> dict[str, dict[str, Tensor]]:
    layers = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1}
    layers = {layer for layer in layers if f"{layer}.weight" in shapes}
    flat = {layer.replace(".", "_"): layer for layer in layers}
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown, strange = [], []
    for key, tensor in tensors.items():
        split = _split(key)
        if split is None:
            unknown.append(key)
            continue
        name, part = split
        layer = name if name in layers else flat.get(name, "")
        if layer and part in found[layer]:
            raise SanaError(f"{where} has two tensors that are {part} of {layer}, {key} the second; leave one of them")
        if layer:
            found[layer][part] = tensor
        else:
            strange.append(key)
    if unknown:
        raise SanaError(
            f"{where} has keys that are none of a LoRA in PEFT's, ComfyUI's or kohya's layout: "
            f"{first_of(sorted(unknown)[:_NAMED], len(unknown))}{_hint(unknown)}"
        )
    if strange:
        raise SanaError(
            f"{where} is an adapter of another model: this one has no layer for "
            f"{first_of(sorted(strange)[:_NAMED], len(strange))}; name the base model that it was trained on"
        )
    return found


def _split(key: str) -> tuple[str, str] | None:
    """Return (layer, part) of a key of any layout; of kohya's the layer has underscores. None: it is of none."""
    ends = sorted((end for end in _PART_OF if key.endswith(end)), key=len)
    if not ends:
        return None
    name = key.removesuffix(ends[-1])
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for prefix in _FLAT_PREFIXES:
        name = name.removeprefix(prefix)
    return name, _PART_OF[ends[-1]]


def _hint(keys: list[str]) -> str:
    if any(key.endswith("dora_scale") for key in keys):
        return "; programs disagree on what a dora_scale means: take the same DoRA in PEFT's layout, or merged"
    if any(".lokr_" in key or ".hada_" in key for key in keys):
        return "; LoKr and LoHa are no products of two matrices: merge them where they were trained"
    return ""


def _layer(
    layer: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any], weight: tuple[int, ...], where: str
) -> AdapterLayer:
    if "a" not in parts or "b" not in parts:
        raise SanaError(f"{where} is not whole: {layer} lacks {'lora_A' if 'a' not in parts else 'lora_B'}")
    if len(weight) > 2 and weight[1] == 1:
        raise SanaError(f"{where}: {layer} is a grouped convolution, which no product of two small matrices changes")
    for part, tensor in parts.items():
        if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
            raise SanaError(
                f"{where} is damaged, or its training diverged: {part} of {layer} is not of finite real numbers "
                f"({str(tensor.dtype).removeprefix('torch.')}); take an earlier one"
            )
    a, b = parts["a"], parts["b"]
    outputs, *inputs = weight
    rank = len(a) if a.ndim else 0
    needs_a, needs_b = (rank, *inputs), (outputs, rank, *[1] * (len(weight) - 2))
    if not rank or a.numel() != math.prod(needs_a) or b.numel() != math.prod(needs_b):
        raise SanaError(
            f"{where} is an adapter of another model, or damaged: {layer} has lora_A {list(a.shape)} and lora_B "
            f"{list(b.shape)}, and its weight is {list(weight)}; name the base model that it was trained on"
        )
    magnitude = parts.get("magnitude")
    if magnitude is not None and magnitude.numel() != outputs:
        raise SanaError(f"{where}: {layer} has {magnitude.numel()} magnitudes, and its weight {outputs} rows")
    scale = _scale(layer, rank, parts.get("alpha"), settings, where)
    return AdapterLayer(a.reshape(needs_a), b.reshape(needs_b), scale, magnitude)


def _scale(layer: str, rank: int, alpha: Tensor | None, settings: Mapping[str, Any], where: str) -> float:
    """Return what B A is multiplied by."""
    if alpha is not None:
        if alpha.numel() != 1:
            raise SanaError(f"{where}: {layer}.alpha has {alpha.numel()} numbers, needed one")
        return float(alpha) / rank
    try:
        said = _of_pattern(settings.get("rank_pattern"), layer, settings.get("r", rank))
        value = float(_of_pattern(settings.get("alpha_pattern"), layer, settings.get("lora_alpha", rank)))
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise SanaError(f"{where}: its settings of rank and alpha are not as PEFT writes them: {error}") from error
    if not math.isfinite(value):
        raise SanaError(f"{where}: its settings say alpha {value} of {layer}, needed a finite number")
    if said != rank:
        raise SanaError(f"{where}: its header says rank {said} of {layer}, and lora_A has {rank} rows: it is damaged")
    return value / math.sqrt(rank) if settings.get("use_rslora") else value / rank


def _of_pattern(pattern: Any, layer: str, default: Any) -> Any:
    """Return a layer's own value of a setting of PEFT, whose keys are ends of names, or expressions."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key.removeprefix('^')})$", layer):
            return value
    return default
