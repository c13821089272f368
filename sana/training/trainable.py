"""What learns: which tensors of the model, how a checkpoint is loaded into it, and how it is exported.

Optimizer, EMA, checkpoints, export, evaluate and sample know the model through this alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from sana.model.transformer import save_transformer_config


class Trainable(Protocol):
    """A model, and the part of it that learns."""

    model: nn.Module  # the bare model, not its distributed wrapper
    parameters: Mapping[str, nn.Parameter]  # those that learn, by the names they have in checkpoints; perhaps shards
    component: str  # of the pipeline: the folder that an export has new files in
    weights_file: str  # and the name of its tensors there

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the live or EMA weights of a checkpoint into the model."""

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Write the component's files but its tensors to an empty folder; returns the tensors that it has then."""


class FullTransformer:
    """All weights of the transformer learn; the export is a whole checkpoint in diffusers layout."""

    component = "transformer"
    weights_file = "diffusion_pytorch_model.safetensors"  # diffusers' name

    def __init__(self, transformer: nn.Module) -> None:
        self.model = transformer
        self.parameters: Mapping[str, nn.Parameter] = dict(transformer.named_parameters())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all weights. Raises RuntimeError: a tensor is missing, unknown or of another shape."""
        self.model.load_state_dict(tensors)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Write config.json; the tensors are those of the model, those that learned being `weights`."""
        save_transformer_config(self.model, folder)
        state = self.model.state_dict()
        return {name: weights.get(name, tensor).to(tensor.dtype) for name, tensor in state.items()}
