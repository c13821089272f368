"""`train.method` full: the transformer's own weights learn."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from sana.config.training.optimization.parameter_names import frozen_names
from sana.model.transformer import read_transformer, save_transformer_config


class FullTransformer:
    """The weights of the transformer learn, but those that `train.frozen` names; checkpoints hold all of them.

    The export is a whole checkpoint in diffusers layout.
    """

    component = "transformer"
    weights_file = "diffusion_pytorch_model.safetensors"  # diffusers' name

    def __init__(self, transformer: nn.Module, frozen: Collection[str] = ()) -> None:
        self.model = transformer
        self.parameters: Mapping[str, nn.Parameter]
        self.fixed: Mapping[str, Tensor]
        self.parameters, self.fixed = split_frozen(dict(transformer.named_parameters()), frozen)
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


def split_frozen(
    parameters: Mapping[str, nn.Parameter], frozen: Collection[str]
) -> tuple[Mapping[str, nn.Parameter], Mapping[str, nn.Parameter]]:
    """Return what learns and what does not, which then needs no gradient; `frozen` are the globs of `train.frozen`.

    Raises:
        ConfigError: a glob matches nothing, or nothing is left to learn.
    """
    names = frozen_names(frozen, parameters)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in names)
    learned = {name: parameter for name, parameter in parameters.items() if name not in names}
    return learned, {name: parameter for name, parameter in parameters.items() if name in names}
