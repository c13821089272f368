"""What learns: which tensors of the model, how a checkpoint is loaded into it, and how it is exported.

Optimizer, EMA, checkpoints, export, evaluate and sample know the model through this alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Trainable(Protocol):
    """A model, and the part of it that learns."""

    model: nn.Module  # the bare model, not its distributed wrapper
    parameters: Mapping[str, nn.Parameter]  # those that learn, by the names they have in checkpoints; perhaps shards
    fixed: Mapping[str, Tensor]  # what does not learn and nothing but checkpoints holds, by names; perhaps shards
    component: str  # of the pipeline: the folder that an export has new files in; "": the export is these files alone
    weights_file: str  # and the name of its tensors there
    weights_metadata: Mapping[str, str]  # of that safetensors file

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the live or EMA weights of a checkpoint into the model."""

    def read_export(self, folder: Path) -> Mapping[str, Tensor]:
        """Read from an export in a local folder what `load` loads.

        Raises:
            SanaError: it holds none, or one that this trainable cannot go on with.
        """

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Write the component's files but its tensors to an empty folder; returns the tensors that it has then."""
