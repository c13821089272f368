"""`train.method` full: the transformer's own weights learn."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from sana.model.transformer import read_transformer, save_transformer_config


class FullTransformer:
    """All weights of the transformer learn; the export is a whole checkpoint in diffusers layout."""

    component = "transformer"
    weights_file = "diffusion_pytorch_model.safetensors"  # diffusers' name

    def __init__(self, transformer: nn.Module) -> None:
        self.model = transformer
        self.parameters: Mapping[str, nn.Parameter] = dict(transformer.named_parameters())
        self.weights_metadata: Mapping[str, str] = {"format": "pt"}  # as diffusers writes it, and looks for it

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all weights. Raises RuntimeError: a tensor is missing, unknown or of another shape."""
        self.model.load_state_dict(tensors)

    def read_export(self, folder: Path) -> Mapping[str, Tensor]:
        """Read the weights of the transformer in a folder in diffusers layout."""
        return read_transformer(folder)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Write config.json; the tensors are those of the model, those that learned being `weights`."""
        save_transformer_config(self.model, folder)
        state = self.model.state_dict()
        return {name: weights.get(name, tensor).to(tensor.dtype) for name, tensor in state.items()}
