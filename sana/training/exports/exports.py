"""All exports of a training: of full training a checkpoint, of an adapter its files and what it is merged into.

    model/pytorch_lora_weights.safetensors      PEFT's layout, which diffusers and `train.init_from` read
    model/comfyui/<FILE>                        ComfyUI's layout
    model/merged/                               the base model with the adapter merged in, in diffusers layout

What is written besides PEFT's layout is made from what that file says, its alpha and layers among it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sana.artifact import FileInfo
from sana.costs.parameter_shapes import parameter_shapes
from sana.costs.transformer import TransformerSizes
from sana.model.adapters.layouts import Adapter, adapter_of, comfyui_tensors, settings_of, why_not_comfyui
from sana.model.adapters.merge import merge_into
from sana.model.model_resolver import local_checkpoint
from sana.model.transformer import load_transformer, save_transformer_config
from sana.runtime.specs import ModelSource
from sana.store import Store
from sana.training.exports.model_export import FOLDER, export_model, store_tensors
from sana.training.trainables.trainable import Trainable

COMFYUI_FILE = "comfyui/sana_video_lora.safetensors"
MERGED = "merged/"
_METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Exports:
    """What was exported: the files by their names in the artifact; and what was not, with the reason, by layout."""

    files: Mapping[str, FileInfo]
    not_exported: Mapping[str, str] = field(default_factory=dict)


def export_all(
    store: Store,
    folder: str,
    trainable: Trainable,
    weights: Mapping[str, Tensor],
    *,
    model: ModelSource,
    work_dir: Path,
    merged: bool,
) -> Exports:
    """Store what was learned, below the key `folder`; `merged`: of an adapter, also the model that it makes.

    Raises:
        FileNotFoundError: the base model is not in diffusers layout.
        SanaError: what the root has of the base model is damaged.
    """
    base = local_checkpoint(model.path, revision=model.revision)
    files = export_model(store, folder, trainable, weights, base=base, work_dir=work_dir)
    if trainable.component:
        return Exports(files)
    tensors = trainable.export(weights, work_dir)
    settings = settings_of(trainable.weights_metadata)
    sizes: Any = trainable.model.config  # its layers may be stored in another way than the base model's
    shapes = parameter_shapes(TransformerSizes.of(dict(sizes)))
    adapter = adapter_of(tensors, settings, shapes, where=trainable.weights_file)
    not_exported = {}
    if (why := why_not_comfyui(adapter)) is None:
        key = f"{folder}/{COMFYUI_FILE}"
        info = store_tensors(store, key, comfyui_tensors(adapter), metadata=_METADATA, staging=work_dir)
        files[FOLDER + COMFYUI_FILE] = info
    else:
        not_exported["comfyui"] = why
    if merged:
        whole = MergedTransformer(model, adapter)
        files |= export_model(store, folder, whole, {}, base=base, work_dir=work_dir, below=MERGED)
    else:
        not_exported["merged"] = "train.resources.export_merged is false; `sana lora merge` makes it"
    return Exports(dict(sorted(files.items())), not_exported)


class MergedTransformer:
    """A model's own transformer with an adapter merged in: float32, 4 bytes a parameter."""

    component = "transformer"
    weights_file = "diffusion_pytorch_model.safetensors"
    weights_metadata: Mapping[str, str] = _METADATA

    def __init__(self, model: ModelSource, adapter: Adapter, *, scale: float = 1.0) -> None:
        self._model, self._adapter, self._scale = model, adapter, scale

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Write config.json to the folder; returns the merged weights. The base's are read again: training rounds."""
        del weights  # all are the base's and the adapter's
        transformer: Any = load_transformer(self._model.path, revision=self._model.revision)
        save_transformer_config(transformer, folder)
        found: Mapping[str, Tensor] = transformer.state_dict()
        merge_into(found, self._adapter, scale=self._scale)
        return found
