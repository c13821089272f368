"""What learns: which tensors of the model, how trained ones are put into it, and what is made of them for others.

The optimizer, the average, checkpoints, export, evaluate and sample know the model through this alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from sana.model.pipeline import export_pipeline


class Trainable(Protocol):
    """A model, and the part of it that learns."""

    model: nn.Module  # what is called to predict: bare, not the wrapper of distributed training
    parameters: Mapping[str, nn.Parameter]  # those that learn, by the names they have in checkpoints

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors of a checkpoint, live or averaged, into the model."""

    def export(self, base: str, folder: Path) -> None:
        """Write what was learned to an empty folder, as others load it. `base` is the checkpoint it began with."""


class FullTransformer:
    """All weights of the transformer learn; a whole checkpoint in diffusers layout comes out."""

    def __init__(self, transformer: nn.Module) -> None:
        self.model = transformer
        self.parameters: Mapping[str, nn.Parameter] = dict(transformer.named_parameters())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all weights. Raises RuntimeError: a tensor is missing, unknown or of another shape."""
        self.model.load_state_dict(tensors)

    def export(self, base: str, folder: Path) -> None:
        """Write the pipeline `base` with the weights of now."""
        export_pipeline(base, folder, transformer=self.model)
