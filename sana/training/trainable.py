"""What learns: which tensors of the model, how a checkpoint is loaded into it, and how it is exported.

Optimizer, EMA, checkpoints, export, evaluate and sample know the model through this alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from sana.model.pipeline import export_pipeline


class Trainable(Protocol):
    """A model, and the part of it that learns."""

    model: nn.Module  # the bare model, not its distributed wrapper
    parameters: Mapping[str, nn.Parameter]  # those that learn, by the names they have in checkpoints

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the live or EMA weights of a checkpoint into the model."""

    def export(self, base: str, folder: Path) -> None:
        """Write what was learned to an empty folder, as users load it. `base` is the model before training."""


class FullTransformer:
    """All weights of the transformer learn; the export is a whole checkpoint in diffusers layout."""

    def __init__(self, transformer: nn.Module) -> None:
        self.model = transformer
        self.parameters: Mapping[str, nn.Parameter] = dict(transformer.named_parameters())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all weights. Raises RuntimeError: a tensor is missing, unknown or of another shape."""
        self.model.load_state_dict(tensors)

    def export(self, base: str, folder: Path) -> None:
        """Write the pipeline `base` with the current weights."""
        export_pipeline(base, folder, transformer=self.model)
